//! Flags on a real file system, made by us and by hand.

use super::*;
use std::fs;

struct Fixture {
    root: tempfile::TempDir,
    flags: FlagFiles,
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let flags = FlagFiles::new(root.path(), Tag::new("datarep-data").unwrap());
    Fixture { root, flags }
}

impl Fixture {
    fn by_hand(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.flags.folder()).unwrap();
        fs::write(self.flags.folder().join(name), content).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.flags.folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

#[test]
fn no_folder_means_no_flags_and_clearing_is_no_error() {
    let here = fixture();
    let state = here.flags.read().unwrap();
    assert!(!state.last_owner && !state.data_corrupt);
    assert_eq!(state.source.unwrap(), None);
    assert_eq!(here.flags.set_last_owner(false).unwrap(), Change::None);
    assert_eq!(here.flags.set_source(None).unwrap(), Change::None);
    assert!(!here.flags.folder().exists());
}

#[test]
fn a_flag_is_set_once_and_cleared_once_under_its_documented_name() {
    let here = fixture();
    assert_eq!(here.flags.set_last_owner(true).unwrap(), Change::Set);
    assert_eq!(here.flags.set_last_owner(true).unwrap(), Change::None);
    assert_eq!(here.flags.set_data_corrupt(true).unwrap(), Change::Set);
    assert_eq!(
        here.flags.set_source(Some(&node("server1"))).unwrap(),
        Change::Set
    );
    assert_eq!(
        here.files(),
        [
            "datarep-data_data_corrupt",
            "datarep-data_last_owner",
            "datarep-data_source"
        ]
    );
    let documented = here
        .root
        .path()
        .join("subsys/scsi/resources/netraid/datarep-data_source");
    assert_eq!(fs::read_to_string(documented).unwrap(), "server1\n");
    assert!(here.flags.last_owner().unwrap() && here.flags.data_corrupt().unwrap());
    assert_eq!(here.flags.set_last_owner(false).unwrap(), Change::Cleared);
    assert_eq!(here.flags.set_last_owner(false).unwrap(), Change::None);
    assert_eq!(here.flags.clear_all().unwrap(), ["source", "data_corrupt"]);
    assert!(here.files().is_empty());
}

#[test]
fn the_source_is_replaced_and_the_name_before_is_told() {
    let here = fixture();
    here.flags.set_source(Some(&node("server1"))).unwrap();
    assert_eq!(
        here.flags.set_source(Some(&node("server1"))).unwrap(),
        Change::None
    );
    let before = "server1".to_owned();
    let change = here.flags.set_source(Some(&node("server2"))).unwrap();
    assert_eq!(change, Change::Replaced { before });
    assert_eq!(here.flags.source().unwrap(), Some(node("server2")));
    assert_eq!(here.flags.set_source(None).unwrap(), Change::Cleared);
}

#[test]
fn what_people_write_by_hand_is_honoured() {
    let here = fixture();
    for text in ["server1", "server1\n", " server1 \r\n", "\nserver1\n\n\t"] {
        here.by_hand("datarep-data_source", text);
        assert_eq!(
            here.flags.source().unwrap(),
            Some(node("server1")),
            "{text:?}"
        );
        assert_eq!(
            here.flags.set_source(Some(&node("server1"))).unwrap(),
            Change::None
        );
    }
    here.by_hand("datarep-data_data_corrupt", "because I say so\n");
    assert!(here.flags.data_corrupt().unwrap());
    assert_eq!(here.flags.set_data_corrupt(true).unwrap(), Change::None);
    std::os::unix::fs::symlink(
        "/nowhere",
        here.flags.folder().join("datarep-data_last_owner"),
    )
    .unwrap();
    assert!(here.flags.last_owner().unwrap());
    assert_eq!(here.flags.set_last_owner(false).unwrap(), Change::Cleared);
    fs::remove_file(here.flags.folder().join("datarep-data_data_corrupt")).unwrap();
    assert!(!here.flags.data_corrupt().unwrap());
}

#[test]
fn a_source_that_names_nobody_is_an_error_that_says_so_and_hides_no_other_flag() {
    let here = fixture();
    for (content, reason) in [
        (
            &b""[..],
            "_source is empty; it must hold the name of the node",
        ),
        (b" \n", "is empty"),
        (b"server1 server2", "has ' ' in it"),
        (b"../../etc/passwd", "has '/' in it"),
        (b"-rf", "starts with '-'"),
        (b"\xff\xfe", "has '\u{fffd}' in it"),
        (&[b'x'; 100_000], "is too long"),
    ] {
        here.by_hand("datarep-data_source", content);
        here.by_hand("datarep-data_last_owner", "");
        let state = here.flags.read().unwrap();
        let error = state.source.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("datarep-data_source"), "{error}");
        assert!(state.last_owner);
        let change = here.flags.set_source(Some(&node("server2"))).unwrap();
        assert!(matches!(change, Change::Replaced { before } if before.len() <= 320));
    }
}

#[test]
fn mirrors_do_not_see_each_others_flags() {
    let here = fixture();
    let other = FlagFiles::new(here.root.path(), Tag::new("datarep").unwrap());
    here.flags.set_last_owner(true).unwrap();
    assert!(!other.last_owner().unwrap());
    assert_eq!(other.clear_all().unwrap(), [] as [&str; 0]);
    assert!(here.flags.last_owner().unwrap());
}

#[test]
fn what_cannot_be_changed_is_an_error_that_names_the_file() {
    let here = fixture();
    fs::create_dir_all(here.flags.folder().join("datarep-data_last_owner")).unwrap();
    let error = here.flags.set_last_owner(false).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot clear") && error.contains("datarep-data_last_owner"),
        "{error}"
    );
    nix::unistd::mkfifo(
        &here.flags.folder().join("datarep-data_source"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    let error = here.flags.source().unwrap_err().to_string();
    assert!(
        error.contains("is empty"),
        "a pipe must not hold us up: {error}"
    );
    here.flags.clear_all().unwrap_err();
    assert_eq!(here.flags.set_source(None).unwrap(), Change::Cleared);
    fs::create_dir_all(here.flags.folder().join("datarep-data_source")).unwrap();
    let error = here.flags.source().unwrap_err().to_string();
    assert!(error.starts_with("cannot read"), "{error}");
}
