//! Making, carrying and loading identities.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use netraid::api::identity::{Identity, IdentityError};
use serde_json::Value;
use tempfile::TempDir;

use crate::rig::{Cluster, node};

fn netraid(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netraid"))
        .arg("cert")
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn ends(arguments: &[&str], code: i32, says: &str) {
    let output = netraid(arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(says), "{told}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn init_invite_and_join_make_two_nodes_of_one_cluster() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (one, two, bundle) = (at("one"), at("two"), at("bundle"));
    ends(
        &["init", "--node", "server1", "--tls-dir", &one],
        0,
        "server1",
    );
    ends(
        &["invite", "Server_2", "--out", &bundle, "--tls-dir", &one],
        0,
        "netraid cert join",
    );
    ends(&["join", &bundle, "--tls-dir", &two], 0, "Server_2 now");
    let first = Identity::load(one.as_ref(), &node("server1")).unwrap();
    let second = Identity::load(two.as_ref(), &node("Server_2")).unwrap();
    assert_eq!(first.ca_fingerprint(), second.ca_fingerprint());
    for (path, expected) in [
        (&one, 0o700),
        (&at("one/ca.key"), 0o600),
        (&at("one/node.key"), 0o600),
        (&at("two/node.key"), 0o600),
        (&bundle, 0o600),
    ] {
        assert_eq!(mode(path.as_ref()), expected, "{path}");
    }
    assert!(
        !Path::new(&at("two/ca.key")).exists(),
        "the CA's key stays where it is"
    );
    let names = |folder: &str| fs::read_dir(folder).unwrap().count();
    assert_eq!((names(&one), names(&two)), (4, 3), "no drafts are left");
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (one, two, other) = (at("one"), at("two"), at("other"));
    ends(&["init", "--node", "a", "--tls-dir", &one], 0, "");
    ends(&["init", "--node", "a", "--tls-dir", &other], 0, "");
    ends(
        &["init", "--node", "a", "--tls-dir", &one],
        3,
        &at("one/ca.pem"),
    );
    ends(
        &["invite", "b", "--out", &at("b"), "--tls-dir", &one],
        0,
        "",
    );
    ends(
        &["invite", "b", "--out", &at("b"), "--tls-dir", &one],
        3,
        &at("b"),
    );
    ends(
        &["invite", "a", "--out", &at("a"), "--tls-dir", &one],
        3,
        "own name",
    );
    ends(&["join", &at("b"), "--tls-dir", &two], 0, "b now");
    let before = fs::read(at("two/node.pem")).unwrap();
    ends(&["join", &at("b"), "--tls-dir", &two], 0, "already");
    ends(
        &["join", &at("b"), "--tls-dir", &other],
        3,
        &at("other/ca.pem"),
    );
    ends(
        &["invite", "b", "--out", &at("b2"), "--tls-dir", &one],
        0,
        "",
    );
    ends(
        &["join", &at("b2"), "--tls-dir", &two],
        3,
        &at("two/node.key"),
    );
    assert_eq!(fs::read(at("two/node.pem")).unwrap(), before);
    ends(
        &["invite", "c", "--out", &at("c"), "--tls-dir", &two],
        3,
        "ca.key is not there",
    );
    assert!(!Path::new(&at("c")).exists());
}

#[test]
fn a_join_that_was_cut_short_is_completed_by_the_next() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (one, two) = (at("one"), at("two"));
    ends(&["init", "--node", "a", "--tls-dir", &one], 0, "");
    ends(
        &["invite", "b", "--out", &at("b"), "--tls-dir", &one],
        0,
        "",
    );
    ends(&["join", &at("b"), "--tls-dir", &two], 0, "");
    fs::remove_file(at("two/node.pem")).unwrap();
    ends(&["join", &at("b"), "--tls-dir", &two], 0, "b now");
    Identity::load(two.as_ref(), &node("b")).unwrap();
}

#[test]
fn what_is_no_bundle_or_was_changed_is_refused_and_nothing_is_written() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let one = at("one");
    ends(&["init", "--node", "a", "--tls-dir", &one], 0, "");
    ends(
        &["invite", "b", "--out", &at("b"), "--tls-dir", &one],
        0,
        "",
    );
    ends(
        &["invite", "c", "--out", &at("c"), "--tls-dir", &one],
        0,
        "",
    );
    let (b, c) = (
        fs::read_to_string(at("b")).unwrap(),
        fs::read_to_string(at("c")).unwrap(),
    );
    let key = |bundle: &str| bundle[bundle.find("-----BEGIN PRIVATE").unwrap()..].to_owned();
    for (text, code) in [
        (String::new(), 2),
        ("hello\n".to_owned(), 2),
        (b.replacen("node b", "node ../b", 1), 2),
        (b.replacen("node b", "node c", 1), 1),
        (b.replace(&key(&b), ""), 2),
        (b.replace(&key(&b), &key(&c)), 1),
        (format!("{b}{}", key(&b)), 2),
        ("x".repeat(100_000), 2),
    ] {
        fs::write(at("b"), &text).unwrap();
        ends(&["join", &at("b"), "--tls-dir", &at("two")], code, &at("b"));
        assert!(!Path::new(&at("two")).exists());
    }
    ends(
        &["join", &at("nothing"), "--tls-dir", &at("two")],
        2,
        &at("nothing"),
    );
}

#[test]
fn show_tells_the_node_the_days_and_the_fingerprints() {
    let cluster = Cluster::new();
    let identity = cluster.identity("server1");
    let folder = cluster.tls_dir("server1");
    let output = netraid(&["show", "--json", "--tls-dir", folder.to_str().unwrap()]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "netraid.cert/1");
    assert_eq!(document["nodes"], serde_json::json!(["server1"]));
    assert_eq!(document["ca"]["sha256"], identity.ca_fingerprint());
    assert!((3640..3660).contains(&document["node"]["days_left"].as_i64().unwrap()));
    assert_eq!(document["node"]["warning"], Value::Null);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let valid = identity.validity().unwrap();
    assert!(
        (now - 86400 - 600..=now - 86400).contains(&valid.not_before),
        "from a day ago on"
    );
    let text = netraid(&["show", "--tls-dir", folder.to_str().unwrap()]);
    assert!(String::from_utf8(text.stdout).unwrap().contains("server1"));
    ends(
        &["show", "--tls-dir", "/nowhere"],
        1,
        "/nowhere/node.pem is not there",
    );
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let cluster = Cluster::new();
    let folder = cluster.tls_dir("server1");
    let key = folder.join("node.key");
    for bits in [0o644, 0o640, 0o604, 0o602] {
        fs::set_permissions(&key, fs::Permissions::from_mode(bits)).unwrap();
        let error = Identity::load(&folder, &node("server1")).unwrap_err();
        assert!(matches!(error, IdentityError::KeyNotPrivate { mode, .. } if mode == bits));
        let mends = format!("chmod 0600 {}", key.display());
        assert!(error.to_string().contains(&mends), "{error}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    Identity::load(&folder, &node("server1")).unwrap();
}

#[test]
fn an_identity_of_another_node_another_ca_or_another_key_is_refused() {
    let (cluster, foreign) = (Cluster::new(), Cluster::new());
    cluster.identity("server2");
    let folder = cluster.tls_dir("server2");
    let load = |name: &str| Identity::load(&folder, &node(name)).map(drop);
    let error = load("server1").unwrap_err().to_string();
    assert!(
        error.contains("\"server1\"") && error.contains("\"server2\""),
        "{error}"
    );

    let good = fs::read(folder.join("ca.pem")).unwrap();
    fs::copy(
        foreign.tls_dir("server1").join("ca.pem"),
        folder.join("ca.pem"),
    )
    .unwrap();
    let error = load("server2").unwrap_err().to_string();
    assert!(error.contains("not of this CA"), "{error}");
    fs::write(folder.join("ca.pem"), good).unwrap();

    fs::copy(
        cluster.tls_dir("server1").join("node.key"),
        folder.join("node.key"),
    )
    .unwrap();
    assert!(matches!(
        load("server2"),
        Err(IdentityError::Unusable { .. })
    ));
    fs::remove_file(folder.join("node.key")).unwrap();
    assert!(matches!(load("server2"), Err(IdentityError::Missing(_))));
}
