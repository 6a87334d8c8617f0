//! Checks on the project itself: which crate may use which, what source files look like, and that the README speaks of
//! things that exist.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netraid_tests::peers;
use netraid_tests::process::run;
use serde_json::Value;

/// The folder of the whole project.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// What cargo says of the members of the workspace.
fn metadata() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let told = run(Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--locked",
            "--offline",
        ])
        .current_dir(root()))
    .ok();
    told.json()["packages"].as_array().unwrap().clone()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// Every file that belongs to the project, by its path from the root.
fn tracked_files() -> Vec<String> {
    let told = run(Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root()));
    assert!(
        told.status.success(),
        "the project's files are those that git knows: {told}"
    );
    let names = told.stdout.split('\0').filter(|name| !name.is_empty());
    // A file may be deleted in the work tree and still be known.
    names
        .filter(|name| root().join(name).is_file())
        .map(str::to_owned)
        .collect()
}

fn rust_files() -> Vec<(String, String)> {
    let names = tracked_files()
        .into_iter()
        .filter(|name| name.ends_with(".rs"));
    names
        .map(|name| (fs::read_to_string(root().join(&name)).unwrap(), name))
        .map(|(text, name)| (name, text))
        .collect()
}

/// Panics with a list of what is wrong.
fn assert_none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Crates of the workspace that each may use, outside its tests.
const ARROWS: [(&str, &[&str]); 10] = [
    ("nbd-protocol", &[]),
    ("linux-sys", &[]),
    ("md-format", &[]),
    ("flags", &[]),
    ("nbd-server", &["nbd-protocol", "linux-sys", "md-format"]),
    ("nbd-client", &["nbd-protocol", "linux-sys", "md-format"]),
    (
        "netraid",
        &[
            "flags",
            "linux-sys",
            "md-format",
            "nbd-protocol",
            "nbd-server",
            "nbd-client",
        ],
    ),
    ("lifekeeper-hooks", &["flags", "netraid"]),
    ("netraid-lab", &["md-format"]),
    (
        "netraid-tests",
        &[
            "flags",
            "linux-sys",
            "nbd-protocol",
            "nbd-server",
            "nbd-client",
            "netraid",
        ],
    ),
];

/// Crates that must not appear: what they would bring into a crate that has none of it.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("md-format", &["tokio", "nix", "libc", "serde", "bytes"]),
    ("nbd-protocol", &["tokio", "nix", "libc"]),
    ("flags", &["tokio"]),
    ("linux-sys", &["tokio"]),
];

/// Names of a package's dependencies outside its tests.
fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().unwrap().iter();
    let normal = all.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
    normal
        .map(|dependency| name(dependency).to_owned())
        .collect()
}

#[test]
fn crates_use_each_other_in_one_direction_only() {
    let packages = metadata();
    let members: BTreeSet<&str> = packages.iter().map(name).collect();
    let known: BTreeSet<&str> = ARROWS.iter().map(|(member, _)| *member).collect();
    assert_eq!(
        members, known,
        "members of the workspace; a new one needs a line in ARROWS"
    );
    let mut wrong = Vec::new();
    for package in &packages {
        let used = dependencies(package);
        let (_, allowed) = ARROWS
            .iter()
            .find(|(member, _)| *member == name(package))
            .unwrap();
        for other in used.iter().filter(|other| members.contains(other.as_str())) {
            if !allowed.contains(&other.as_str()) {
                wrong.push(format!("{} uses {other}", name(package)));
            }
        }
        let forbidden = FORBIDDEN
            .iter()
            .find(|(member, _)| *member == name(package));
        for other in forbidden.into_iter().flat_map(|(_, others)| *others) {
            if used.contains(*other) {
                wrong.push(format!("{} uses {other}", name(package)));
            }
        }
    }
    assert_none("arrows that point the wrong way", wrong);
}

#[test]
fn dependencies_come_from_the_registry_by_version() {
    let mut wrong = Vec::new();
    for package in metadata() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let source = dependency["source"].as_str();
            let own = dependency["path"].is_string();
            if dependency["req"] == "*" && !own {
                wrong.push(format!(
                    "{}: {} without a version",
                    name(&package),
                    name(dependency)
                ));
            }
            if !own && !source.is_some_and(|source| source.starts_with("registry+")) {
                wrong.push(format!(
                    "{}: {} from {source:?}",
                    name(&package),
                    name(dependency)
                ));
            }
        }
    }
    assert_none("dependencies from elsewhere", wrong);
}

#[test]
fn every_source_file_begins_by_saying_what_it_is_for() {
    let silent = rust_files()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "));
    assert_none(
        "files without a first line //!",
        silent.map(|(name, _)| name).collect(),
    );
}

#[test]
fn no_source_file_is_longer_than_600_lines() {
    let long = rust_files()
        .into_iter()
        .map(|(name, text)| (text.lines().count(), name));
    let long = long.filter(|(lines, _)| *lines > 600);
    assert_none(
        "long files",
        long.map(|(lines, name)| format!("{name}: {lines}"))
            .collect(),
    );
}

#[test]
fn unsafe_code_is_in_linux_sys_only() {
    // Written in two parts, since this file is searched as well.
    let signs =
        ["{", "fn", "impl", "extern"].map(|next| format!("{} {next}", concat!("un", "safe")));
    let lifted = format!("allow({}", concat!("un", "safe_code"));
    let mut found = Vec::new();
    for (name, text) in rust_files() {
        if name.starts_with("linux-sys/") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if signs.iter().any(|sign| code.contains(sign)) || code.contains(&lifted) {
                found.push(format!("{name}:{}", number + 1));
            }
        }
    }
    assert_none("unsafe code", found);
}

/// What the on-disk format and the state machine must not reach for: other crates of ours, and the outside world.
const IMPURE: [&str; 14] = [
    "nbd_server",
    "nbd_client",
    "nbd_protocol",
    "linux_sys",
    "flags::",
    "tokio",
    "nix::",
    "crate::raid1",
    "crate::cli",
    "std::fs",
    "std::net",
    "std::thread",
    "Instant",
    "SystemTime",
];

#[test]
fn the_disk_format_and_the_state_machine_know_only_std_and_themselves() {
    let mut found = Vec::new();
    for (name, text) in rust_files() {
        let pure = [
            "md-format/src/",
            "netraid/src/mirror/",
            "netraid/src/mirror.rs",
        ]
        .into_iter()
        .any(|place| name.starts_with(place));
        if !pure || name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| code.contains(*word)) {
                found.push(format!("{name}:{} uses {word}", number + 1));
            }
        }
    }
    assert_none("the outside world in a pure module", found);
}

#[test]
fn no_file_names_a_registry_host_or_a_path_of_somebodys_machine() {
    // Written in parts, since this file is searched as well.
    let signs = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("crates", ".io"),
        concat!("deb.", "debian.org"),
        concat!("py", "pi.org"),
        concat!("registry.", "npmjs"),
    ];
    let mut found = Vec::new();
    // cargo's own file names the registry in its own way.
    for name in tracked_files()
        .into_iter()
        .filter(|name| name != "Cargo.lock")
    {
        // Golden images and the like are not text.
        let Ok(text) = fs::read_to_string(root().join(&name)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for sign in signs.iter().filter(|sign| line.contains(*sign)) {
                found.push(format!("{name}:{}: {sign}", number + 1));
            }
        }
    }
    assert_none("hosts and paths that mean nothing elsewhere", found);
}

/// Lines of the README's shell blocks, without comments.
fn readme_commands() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let lines = blocks
        .flat_map(str::lines)
        .map(|line| line.split(" #").next().unwrap().trim());
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_make_target_that_the_readme_names_exists() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let named = readme
        .match_indices("make ")
        .map(|(index, word)| &readme[index + word.len()..]);
    // In running text only what stands in backquotes or on a line of its own is a command.
    let commands = readme
        .match_indices("make ")
        .map(|(index, _)| index == 0 || matches!(readme.as_bytes()[index - 1], b'`' | b'\n'));
    let mut missing = Vec::new();
    let mut seen = 0;
    for rest in named
        .zip(commands)
        .filter_map(|(rest, command)| command.then_some(rest))
    {
        let target: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
        seen += 1;
        if !makefile
            .lines()
            .any(|line| line.starts_with(&format!("{target}:")))
        {
            missing.push(target);
        }
    }
    assert!(seen >= 2, "the README names make run and make test");
    assert_none("make targets of the README", missing);
}

#[test]
fn every_command_of_the_readme_is_one_of_our_programs_or_make() {
    let packages = metadata();
    let targets = packages
        .iter()
        .flat_map(|package| package["targets"].as_array().unwrap());
    let programs: BTreeSet<&str> = targets
        .filter(|target| target["kind"][0] == "bin")
        .map(name)
        .chain(["make"])
        .collect();
    let unknown = readme_commands().into_iter().filter(|line| {
        let program = line.split_whitespace().next().unwrap_or_default();
        !programs.contains(program)
    });
    assert_none(
        "commands of the README that nothing here provides",
        unknown.collect(),
    );
}

/// Makes sure that a program's help mentions every word in `wanted`.
fn help_mentions<'a>(line: &str, words: &[&str], wanted: impl Iterator<Item = &'a str>) {
    let help = run(Command::new(peers::ours(words[0]))
        .args(&words[1..])
        .arg("--help"))
    .ok()
    .stdout;
    for word in wanted {
        let known = help
            .split(|letter: char| letter.is_whitespace() || letter == ',')
            .any(|text| text == word);
        assert!(
            known,
            "{word} of `{line}` is not in the help of {words:?}:\n{help}"
        );
    }
}

#[test]
fn every_subcommand_and_option_of_the_readme_is_in_the_help_of_its_program() {
    let lines = readme_commands()
        .into_iter()
        .filter(|line| !line.starts_with("make "));
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let plain = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
        let subcommands: Vec<&str> = words[1..].iter().take_while(plain).copied().collect();
        let options = words.iter().copied().filter(|word| word.starts_with("--"));
        help_mentions(&line, &words[..1], subcommands.first().copied().into_iter());
        help_mentions(&line, &[&words[..1], &subcommands].concat(), options);
    }
}

#[test]
fn every_configuration_among_the_examples_is_understood() {
    for name in tracked_files() {
        // Those of netraidd its own tests read.
        let of_server = name.starts_with("examples/") && !name.starts_with("examples/config/");
        if of_server && name.ends_with(".toml") {
            let read = nbd_server::config::Config::read(&root().join(&name));
            read.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn scripts_are_valid_shell() {
    for name in tracked_files() {
        if name.ends_with(".sh") || name == ".ci/run" {
            run(Command::new("bash").arg("-n").arg(root().join(name))).ok();
        }
    }
}
