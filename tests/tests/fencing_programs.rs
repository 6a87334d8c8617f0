//! The programs for `fence-peer` in packaging/fencing, against stubs of ssh and of Pacemaker's tools.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging/fencing")
        .join(name)
}

/// A folder with programs of these names and texts, which come before all others.
struct Stubs(tempfile::TempDir);

impl Stubs {
    fn new(stubs: &[(&str, &str)]) -> Stubs {
        let stubs_of = Stubs(tempfile::tempdir().unwrap());
        for (name, text) in stubs {
            let path = stubs_of.0.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        stubs_of
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn run(&self, name: &str, words: &[&str]) -> Output {
        let path = format!(
            "{}:{}",
            self.0.path().display(),
            std::env::var("PATH").unwrap()
        );
        Command::new(program(name))
            .args(words)
            .env("PATH", path)
            .env("DRBD_RESOURCE", "data")
            .env("DRBD_PEER", "server2")
            .env("NETRAID_NODE", "server1")
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// Runs it; it ends with this code and says this.
    #[track_caller]
    fn ends(&self, name: &str, words: &[&str], code: i32, said: &str) {
        let output = self.run(name, words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

const SSH: &str = "echo \"$*\" >>ssh.log; exit $(cat code)";

fn ssh(code: u8) -> Stubs {
    let stubs = Stubs::new(&[
        ("ssh", SSH),
        (
            "shoot",
            "echo \"$* $DRBD_PEER\" >>shot; exit $(cat shoot.code)",
        ),
    ]);
    fs::write(stubs.path("code"), code.to_string()).unwrap();
    stubs
}

#[test]
fn what_netraid_outdate_ends_with_over_ssh_becomes_drbds_code() {
    for (remote, code, said) in [
        (0, 4, "server2 is outdated"),
        (5, 3, "can't go into service anyway"),
        (20, 3, "can't go into service anyway"),
        (17, 6, "in service, or has newer data"),
        (18, 6, "in service, or has newer data"),
        // netraidd does not run there, or refuses: the mirror may be in service.
        (1, 1, "was not outdated: exit code 1"),
        (3, 1, "was not outdated: exit code 3"),
        (124, 1, "was not outdated: exit code 124"),
        (127, 1, "was not outdated: exit code 127"),
        // ssh does not reach it.
        (255, 1, "nobody knows whether it goes on"),
    ] {
        let stubs = ssh(remote);
        stubs.ends("netraid-fence-peer", &[], code, said);
        assert_eq!(
            stubs.read("ssh.log"),
            "-o BatchMode=yes -o ConnectTimeout=5 server2 netraid outdate data --for server1\n"
        );
    }
}

#[test]
fn who_can_not_be_reached_is_shot_or_taken_for_dead_only_if_that_was_said() {
    let stubs = ssh(255);
    stubs.ends(
        "netraid-fence-peer",
        &["--assume-dead"],
        5,
        "taken for dead",
    );
    let words = [
        "--shoot",
        "shoot --now",
        "--to",
        "admin2:server2",
        "--to",
        "x:server3",
    ];
    fs::write(stubs.path("shoot.code"), "0").unwrap();
    stubs.ends("netraid-fence-peer", &words, 7, "server2 was shot");
    assert_eq!(stubs.read("shot"), "--now server2 server2\n");
    assert!(
        stubs
            .read("ssh.log")
            .ends_with("admin2 netraid outdate data --for server1\n")
    );
    fs::write(stubs.path("shoot.code"), "1").unwrap();
    let words = [&words[..], &["--assume-dead"]].concat();
    stubs.ends("netraid-fence-peer", &words, 1, "was not shot");
    // Who answers is not shot.
    fs::remove_file(stubs.path("shot")).unwrap();
    fs::write(stubs.path("code"), "17").unwrap();
    stubs.ends("netraid-fence-peer", &words, 6, "in service");
    assert_eq!(stubs.read("shot"), "");
}

#[test]
fn words_that_are_no_options_and_a_missing_environment_are_refused() {
    let stubs = ssh(0);
    for (name, words, said) in [
        (
            "netraid-fence-peer",
            &["--shot", "x"][..],
            "--shot is not known",
        ),
        ("netraid-fence-peer", &["--shoot"], "--shoot needs a value"),
        ("netraid-crm-fence-peer", &[], "--rsc has to name"),
        ("netraid-crm-fence-peer", &["--rsc", "a b"], "not allowed"),
        (
            "netraid-crm-fence-peer",
            &["--rsc", "a", "--timeout", "x"],
            "no number",
        ),
    ] {
        stubs.ends(name, words, 2, said);
    }
    for name in ["netraid-fence-peer", "netraid-crm-fence-peer"] {
        let bare = Command::new(program(name))
            .args(["--rsc", "a"])
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(bare.status.code(), Some(2));
    }
    let odd = Command::new(program("netraid-fence-peer"))
        .envs([
            ("DRBD_RESOURCE", "data;reboot"),
            ("DRBD_PEER", "b"),
            ("NETRAID_NODE", "a"),
        ])
        .output()
        .unwrap();
    assert_eq!(odd.status.code(), Some(2));
    assert_eq!(stubs.read("ssh.log"), "");
}

/// A CIB that is a file: it takes a constraint if there is none of that id.
const CIBADMIN: &str = r#"
[ -e down ] && exit 1
case "$1" in
--query) echo '<constraints>'; cat cib 2>/dev/null; echo '</constraints>' ;;
--create) [ -s cib ] && exit 76; printf '%s\n' "$5" >cib ;;
--delete) echo "$5" >deleted; : >cib ;;
esac"#;

/// The cluster as `crm_mon` shows it: the first file of `mon.1`, `mon.2`, ... that is left, the last one for ever.
const CRM_MON: &str = r#"
now=$(ls mon.* | head -n 1)
cat "$now"
[ "$(ls mon.* | wc -l)" -gt 1 ] && rm "$now"
exit 0"#;

fn pacemaker(states: &[(&str, bool)]) -> Stubs {
    let stubs = Stubs::new(&[("cibadmin", CIBADMIN), ("crm_mon", CRM_MON)]);
    for (number, (attributes, stonith)) in states.iter().enumerate() {
        let text = format!(
            "<pacemaker-result>\n <summary><cluster_options stonith-enabled=\"{stonith}\"/></summary>\n <nodes>\n  \
             <node name=\"server1\" id=\"1\" online=\"true\" unclean=\"false\"/>\n  \
             <node name=\"server2\" id=\"2\" {attributes}/>\n </nodes>\n <node_attributes>\n  <node name=\"server2\">\n   \
             <attribute name=\"x\" value=\"1\"/>\n  </node>\n </node_attributes>\n <node_history>\n  \
             <node name=\"server2\"/>\n </node_history>\n</pacemaker-result>\n"
        );
        fs::write(stubs.path(&format!("mon.{number}")), text).unwrap();
    }
    stubs
}

const ONLINE: &str = "online=\"true\" unclean=\"false\"";
const LOST: &str = "online=\"false\" unclean=\"true\"";
const OFF: &str = "online=\"false\" unclean=\"false\"";
const CRM: &str = "netraid-crm-fence-peer";
const RSC: [&str; 4] = ["--rsc", "data-clone", "--timeout", "3"];

#[test]
fn pacemaker_promotes_nobody_but_the_node_that_fenced_until_it_is_unfenced() {
    let stubs = pacemaker(&[(ONLINE, true)]);
    for _ in 0..2 {
        stubs.ends(CRM, &RSC, 4, "server2 can't be promoted");
    }
    let cib = stubs.read("cib");
    for part in [
        "<rsc_location rsc=\"data-clone\" id=\"netraid-fence-data-data-clone\">",
        "role=\"Promoted\" score=\"-INFINITY\"",
        "attribute=\"#uname\" operation=\"ne\"",
        "value=\"server1\"",
    ] {
        assert!(cib.contains(part), "{part} is not in {cib}");
    }
    let unfence = [&RSC[..], &["--unfence"]].concat();
    stubs.ends(CRM, &unfence, 0, "the constraint is gone");
    assert!(
        stubs
            .read("deleted")
            .contains("netraid-fence-data-data-clone")
    );
    stubs.ends(CRM, &unfence, 0, "there is no constraint");
}

#[test]
fn a_peer_that_is_lost_has_to_be_shot_and_without_stonith_nobody_knows() {
    for (states, code, said) in [
        (
            &[(LOST, true), (LOST, true), (OFF, true)][..],
            7,
            "was shot by the cluster",
        ),
        (&[(OFF, true)], 4, "is off"),
        (&[(OFF, false)], 1, "stonith is not enabled"),
        (&[(LOST, true)], 1, "was not shot within 3 s"),
        (&[("pending=\"true\"", true)], 1, "does not know server2"),
    ] {
        pacemaker(states).ends(CRM, &RSC, code, said);
    }
}

#[test]
fn of_two_that_fence_each_other_the_first_one_counts() {
    let stubs = pacemaker(&[(ONLINE, true)]);
    let other = "<rsc_location rsc=\"data-clone\" id=\"netraid-fence-data-data-clone\">\n<rule>\n\
                 <expression attribute=\"#uname\" operation=\"ne\" value=\"server2\"\n \
                 id=\"netraid-fence-data-data-clone-expression\"/></rule></rsc_location>";
    fs::write(stubs.path("cib"), other).unwrap();
    stubs.ends(CRM, &RSC, 6, "only server2 may be promoted");
    let unfence = [&RSC[..], &["--unfence"]].concat();
    stubs.ends(CRM, &unfence, 1, "that of server2, and stays");
    assert_eq!(stubs.read("cib"), other);
    fs::write(stubs.path("down"), "").unwrap();
    stubs.ends(CRM, &RSC, 1, "the cluster does not answer");
}
