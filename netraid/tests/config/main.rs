//! `netraid config check` as a person runs it: what it prints where, and its exit code.

#![allow(clippy::unwrap_used)] // A test that can not go on may panic.

use std::path::Path;
use std::process::{Command, Output};

fn check(arguments: &[&str], variables: &[(&str, &Path)]) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_netraid"))
        .args(["config", "check"])
        .args(arguments)
        .env_remove("NETRAID_CONFIG_DIR")
        .env("NETRAID_DEFAULTS_FILE", "/none")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn example(name: &str) -> String {
    format!("{}/../examples/config/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_right_configuration_is_shown_as_a_table() {
    let (code, out, err) = check(&["--config-dir", &example("two-nodes")], &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        "this is node server1, peers reach it on 10.0.0.1:7800\n\
         MIRROR  NUMBER  BACKEND   NODES AND THEIR PORTS\n\
         data         0  md        server1:10001 server2:10001\n"
    );
}

#[test]
fn programs_get_one_object() {
    let (code, out, _) = check(&["--config-dir", &example("three-nodes"), "--json"], &[]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(document["schema"], "netraid.config-check/1");
    assert_eq!(document["good"], true);
    assert_eq!(document["mirrors"][0]["nodes"][2]["port"], 20001);
    assert_eq!(document["mirrors"][0]["chunk_bytes"], 256 << 10);
}

#[test]
fn all_problems_of_a_wrong_one_are_told_and_the_exit_code_is_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("netraid.toml"), "node = \"a\"\nlisten = 1\n").unwrap();
    std::fs::write(path.join("LK"), "LKDR_NO_FULL_SYNC=\u{1b}[31m\n").unwrap();
    let variables = [
        ("NETRAID_CONFIG_DIR", path),
        ("NETRAID_DEFAULTS_FILE", &path.join("LK")),
    ];
    let (code, out, err) = check(&[], &variables);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let told = err.replace(&*path.to_string_lossy(), "DIR");
    assert_eq!(
        told,
        "DIR/LK:1:1: \"LKDR_NO_FULL_SYNC=\\u{1b}[31m\": 1 or 0 is needed; \
         write LKDR_NO_FULL_SYNC=0 for the default\n\
         DIR/netraid.toml:2:10: listen is of type integer, a list of strings is needed; \
         write for example listen = [\"10.0.0.1:7800\"]\n\
         netraid: 2 problems in the configuration of DIR\n"
    );
    let (code, out, err) = check(&["--json"], &variables);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str()), (Some(2), ""));
    assert_eq!(document["good"], false);
    assert_eq!(document["problems"][1]["line"], 2);
    assert_eq!(document["problems"][1]["column"], 10);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let (code, _, err) = check(&["--config-dir", "/none"], &[]);
    assert_eq!(code, Some(2));
    assert!(
        err.starts_with("/none: the folder of the configuration can't be read: "),
        "{err}"
    );
}

#[test]
fn the_help_teaches_with_an_example() {
    let (code, out, _) = check(&["--help"], &[]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("[[nodes]]") && out.contains("$ netraid config check"),
        "{out}"
    );
}
