//! The scripts as LifeKeeper runs them, against stand-ins for netraidd and for LifeKeeper's own commands.

#![allow(clippy::unwrap_used)] // A test that can not go on may panic.

#[path = "../../../netraid/tests/cli/fake.rs"]
mod fake;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use fake::{Asked, Reply, data, knowing, serve};
use netraid::api::document::{Answer, Mirrors, Outcome};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lifekeeper-hooks");

/// A node with LifeKeeper's folder, and netraidd's.
struct System {
    folder: TempDir,
    asked: Option<Asked>,
}

impl System {
    fn new() -> System {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("lk/bin")).unwrap();
        let system = System {
            folder,
            asked: None,
        };
        for name in ["sendevent", "ins_create", "ins_setstate", "lcdremexec"] {
            system.command(name, "exit 0");
        }
        system
    }

    fn with(mirrors: Mirrors, order: Answer) -> System {
        let mut system = System::new();
        system.asked = Some(serve(system.folder.path(), knowing(mirrors, order)));
        system
    }

    /// One of LifeKeeper's commands, which notes how it was called.
    fn command(&self, name: &str, then: &str) {
        let path = self.folder.path().join("lk/bin").join(name);
        let calls = self.calls_file();
        let text = format!(
            "#!/bin/sh\necho {name} \"$@\" >>{}\n{then}\n",
            calls.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn calls_file(&self) -> PathBuf {
        self.folder.path().join("calls")
    }

    /// How LifeKeeper's commands were called.
    fn calls(&self) -> String {
        fs::read_to_string(self.calls_file()).unwrap_or_default()
    }

    fn orders(&self) -> Vec<String> {
        let asked = self.asked.as_ref().unwrap().lock().unwrap();
        let orders = asked.iter().filter(|(method, ..)| method == "POST");
        orders.map(|(_, _, body)| body.clone()).collect()
    }

    fn run(&self, line: &str) -> (Option<i32>, String) {
        self.run_with(line, &[])
    }

    fn run_with(&self, line: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self
            .command_line(line)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert!(stdout.is_empty());
        (status.code(), String::from_utf8(stderr).unwrap())
    }

    fn command_line(&self, line: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(line.split(' '))
            .env("LKROOT", self.folder.path().join("lk"))
            .env("NETRAID_RUN_DIR", self.folder.path());
        command
    }
}

/// The mirror `data` as a node sees it on which it is out of service.
fn standby() -> Mirrors {
    let mut mirrors = data();
    let mirror = &mut mirrors.mirrors[0];
    mirror.service = "out".into();
    mirror.source = Some("server2".into());
    mirror.nodes[0].member = false;
    mirrors
}

#[test]
fn each_script_gives_its_order_and_logs_that_it_is_done() {
    let system = System::with(data(), Answer::done());
    let table = [
        ("restore -t data -i 1", r#"{"order":"restore"}"#),
        ("remove -t data -i 1", r#"{"order":"remove"}"#),
        ("recover -t data -i 1", r#"{"order":"quick-check"}"#),
        ("delete -t data -i 1", r#"{"order":"delete"}"#),
        ("parents up -t data", r#"{"order":"parents","up":true}"#),
        ("parents down -t data", r#"{"order":"parents","up":false}"#),
    ];
    for (line, order) in table {
        let (code, err) = system.run(line);
        let name = line.split(' ').next().unwrap();
        assert_eq!(code, Some(0), "{line}: {err}");
        assert!(
            err.starts_with(&format!("INFO:dr:{name}:data:104951:")),
            "{err}"
        );
        assert_eq!(err.lines().count(), 1);
        assert_eq!(system.orders().last().unwrap(), order);
    }
    assert_eq!(
        system.run("quickCheck -t data -i 1"),
        (Some(0), String::new())
    );
    assert_eq!(system.calls(), "");
}

#[test]
fn each_outcome_has_its_exit_code_and_a_line() {
    for (outcome, code) in [
        (Outcome::Failed, 1),
        (Outcome::Usage, 2),
        (Outcome::Refused, 3),
        (Outcome::Late, 124),
    ] {
        let answer = Answer::not(outcome, "it is so\nand so", Some("do that".into()));
        let system = System::with(data(), answer);
        for name in ["restore", "remove"] {
            let (ended, err) = system.run(&format!("{name} -t data -i 1"));
            let line = format!("ERROR:dr:{name}:data:104952:it is so and so; do that\n");
            assert_eq!((ended, err), (Some(code), line));
        }
        assert_eq!(system.run("recover -t data -i 1").0, Some(1));
    }
}

#[test]
fn a_script_is_known_by_the_name_of_its_link() {
    let system = System::with(data(), Answer::done());
    let link = system.folder.path().join("remove");
    symlink(PROGRAM, &link).unwrap();
    let ended = Command::new(&link)
        .args(["-t", "data", "-i", "1"])
        .env("NETRAID_RUN_DIR", system.folder.path())
        .output()
        .unwrap();
    assert!(ended.status.success());
    assert_eq!(system.orders(), [r#"{"order":"remove"}"#]);
}

#[test]
fn what_is_not_well_raises_an_event() {
    let answer = Answer::not(Outcome::Refused, "data is not in service", None);
    let system = System::with(data(), answer);
    let (code, err) = system.run("quickCheck -t data -i 1");
    assert_eq!(code, Some(1));
    assert_eq!(system.calls(), "sendevent -C netraid -E recover -n data\n");
    assert!(err.contains("ERROR:dr:quickCheck:data:104952:data is not in service"));
    assert!(err.contains("INFO:dr:quickCheck:data:104955:"));
}

#[test]
fn a_resource_that_lifekeeper_has_out_of_service_is_well() {
    let answer = Answer::not(Outcome::Refused, "data is not in service", None);
    let system = System::with(data(), answer);
    system.command(
        "ins_list",
        r"printf 'server1\001scsi\001netraid\001data\001id\001info\001OSU\001'",
    );
    assert_eq!(system.run("quickCheck -t data -i 1").0, Some(0));
    assert!(!system.calls().contains("sendevent"));
    system.command(
        "ins_list",
        r"printf 'server1\001scsi\001netraid\001data\001id\001info\001ISP\001'",
    );
    assert_eq!(system.run("quickCheck -t data -i 1").0, Some(1));
}

#[test]
fn recover_starts_a_mirror_that_went_out_of_service_and_none_that_was_taken_over() {
    let answer = Answer::not(Outcome::Refused, "no", None);
    let system = System::with(standby(), answer.clone());
    assert_eq!(system.run("recover -t data -i 1").0, Some(1));
    assert_eq!(
        system.orders(),
        [r#"{"order":"quick-check"}"#, r#"{"order":"restore"}"#]
    );
    let system = System::with(data(), answer);
    assert_eq!(system.run("recover -t data -i 1").0, Some(1));
    assert_eq!(system.orders(), [r#"{"order":"quick-check"}"#]);
}

#[test]
fn a_daemon_that_hangs_does_not_keep_a_script_beyond_its_limit() {
    let system = System::new();
    serve(system.folder.path(), |_, _| Reply::Hang);
    for (line, code) in [
        ("remove -t data -i 1", 124),
        ("restore -t data -i 1", 124),
        ("quickCheck -t data -i 1", 1),
        ("recover -t data -i 1", 1),
        ("delete -t data -i 1", 124),
        ("canextend server2 data", 124),
        ("unextend server2 data", 124),
    ] {
        let name = line.split(' ').next().unwrap().to_uppercase();
        let limit = format!("NETRAID_{name}_LIMIT");
        let begin = Instant::now();
        let (ended, err) = system.run_with(line, &[(&limit, "1")]);
        assert_eq!(ended, Some(code), "{line}: {err}");
        let took = begin.elapsed();
        assert!(
            took >= Duration::from_millis(900) && took < Duration::from_secs(4),
            "{line}: {took:?}"
        );
    }
}

#[test]
fn a_command_of_lifekeeper_that_hangs_does_not_either() {
    let system = System::with(standby(), Answer::done());
    system.command("lcdremexec", "sleep 20");
    let begin = Instant::now();
    let (code, err) = system.run_with("extend server2 data", &[("NETRAID_EXTEND_LIMIT", "1")]);
    assert_eq!(code, Some(124), "{err}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_daemon_that_does_not_run_is_a_failure_when_the_time_is_over() {
    let system = System::new();
    let (code, err) = system.run_with("remove -t data -i 1", &[("NETRAID_REMOVE_LIMIT", "1")]);
    assert_eq!(code, Some(1));
    assert!(err.contains("netraidd is not running"), "{err}");
}

#[test]
fn a_daemon_that_is_being_restarted_is_waited_for() {
    let system = System::new();
    let mut script = system.command_line("restore -t data -i 1").spawn().unwrap();
    // It sleeps because it has met nobody; there is nothing else that it could sleep for.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !sleeps(script.id()) {
        assert!(script.try_wait().unwrap().is_none(), "it did not wait");
        assert!(Instant::now() < deadline, "it does not wait");
        thread::yield_now();
    }
    serve(system.folder.path(), knowing(data(), Answer::done()));
    assert!(script.wait().unwrap().success());
}

/// Whether a process waits for something that is no disk.
fn sleeps(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The state follows the name, which is in brackets.
    stat.rsplit(')')
        .next()
        .unwrap()
        .trim_start()
        .starts_with('S')
}

#[test]
fn an_unknown_mirror_is_deleted_already_and_nothing_else() {
    let system = System::with(data(), Answer::done());
    assert_eq!(system.run("delete -t other -i 1").0, Some(0));
    assert_eq!(system.run("unextend server2 other").0, Some(0));
    for line in [
        "restore -t other -i 1",
        "remove -t other -i 1",
        "canextend server2 other",
    ] {
        assert_eq!(system.run(line).0, Some(2), "{line}");
    }
    for line in [
        "remove -i 1",
        "remove -t ../data",
        "parents -t data",
        "nothing",
        "extend server2",
    ] {
        assert_eq!(system.run(line).0, Some(2), "{line}");
    }
}

#[test]
fn create_makes_the_first_leg_and_the_resource_in_service() {
    let mut mirrors = data();
    mirrors.mirrors[0].service = "out".into();
    let system = System::with(mirrors, Answer::done());
    let (code, err) = system.run("create -t data -s intelligent -p /dev/sdb1 -a asynchronous");
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(
        system.orders(),
        [r#"{"order":"create","force":false,"keep":false}"#]
    );
    assert_eq!(
        system.calls(),
        "ins_create -a scsi -r netraid -I INIT_OSU -s INTELLIGENT -t data -i data\nins_setstate -t data -S ISP\n"
    );
    // Again, with the resource there already (4).
    system.command("ins_create", "exit 4");
    assert_eq!(system.run("create -t data").0, Some(0));
    for line in [
        "create -t data -p /dev/sdc1",
        "create -t data -a synchronous",
        "create -t data -s automatic",
    ] {
        assert_eq!(system.run(line).0, Some(2), "{line}");
    }
    assert_eq!(system.run("create -t data -h New").0, Some(3));
}

#[test]
fn extend_tells_the_source_and_makes_the_resource_here() {
    let system = System::with(standby(), Answer::done());
    assert_eq!(system.run("canextend server2 data").0, Some(0));
    assert_eq!(system.calls(), "");
    assert_eq!(system.run("extend server2 data bundle").0, Some(0));
    assert_eq!(
        system.calls(),
        "lcdremexec -e -d server2 -t 180 -- netraid extend data server1\n\
         ins_create -a scsi -r netraid -I INIT_OSU -s INTELLIGENT -t data -i data\n"
    );
    system.command("lcdremexec", "exit 3");
    assert_eq!(system.run("extend server2 data").0, Some(3));
    // The source itself, a system that is no node, and this one.
    let source = System::with(data(), Answer::done());
    for system_name in ["server2", "server9", "server1"] {
        let (code, err) = source.run(&format!("canextend {system_name} data"));
        assert_eq!(code, Some(3), "{err}");
    }
}

#[test]
fn unextend_tells_the_source_and_forgets_the_mirror_here() {
    let mut mirrors = standby();
    mirrors.mirrors[0].nodes[0].member = true;
    let system = System::with(mirrors, Answer::done());
    assert_eq!(system.run("unextend server2 data").0, Some(0));
    assert_eq!(
        system.calls(),
        "lcdremexec -e -d server2 -t 180 -- netraid unextend data server1\n"
    );
    assert_eq!(system.orders(), [r#"{"order":"delete"}"#]);
    assert_eq!(
        system.run("depstoextend server2 data"),
        (Some(0), String::new())
    );
}

fn install(root: &Path, more: &[&str]) -> (Option<i32>, String) {
    let ended = Command::new(PROGRAM)
        .args(["install", "--lkroot"])
        .arg(root)
        .args(more)
        .output()
        .unwrap();
    (
        ended.status.code(),
        String::from_utf8(ended.stdout).unwrap(),
    )
}

#[test]
fn the_installer_lays_the_scripts_out_once_and_replaces_nobody_elses() {
    let root = tempfile::tempdir().unwrap();
    let (code, planned) = install(root.path(), &["--dry-run"]);
    assert_eq!(code, Some(0));
    assert!(fs::read_dir(root.path()).unwrap().next().is_none());
    let (code, done) = install(root.path(), &[]);
    assert_eq!((code, &done), (Some(0), &planned));
    assert_eq!(install(root.path(), &[]), (Some(0), String::new()));
    for path in [
        "subsys/scsi/resources/netraid/actions/restore",
        "subsys/scsi/resources/netraid/actions/remove",
        "subsys/scsi/resources/netraid/actions/quickCheck",
        "subsys/scsi/resources/netraid/actions/delete",
        "subsys/scsi/resources/netraid/netraid/recover",
        "lkadm/subsys/scsi/netraid/bin/canextend",
        "lkadm/subsys/scsi/netraid/bin/create",
    ] {
        let path = root.path().join(path);
        // A link that leads to the program, which knows its name: it misses its arguments.
        let ended = Command::new(&path).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{}", path.display());
        let name = path.file_name().unwrap().to_str().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert!(err.starts_with(&format!("ERROR:dr:{name}:")), "{err}");
    }
    let foreign = root
        .path()
        .join("subsys/scsi/resources/netraid/actions/remove");
    fs::remove_file(&foreign).unwrap();
    fs::write(&foreign, "another kit's").unwrap();
    assert_eq!(install(root.path(), &[]).0, Some(3));
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "another kit's");
    assert_eq!(install(root.path(), &["--force"]).0, Some(0));
    assert!(fs::read_link(&foreign).is_ok());
    assert_eq!(install(&root.path().join("none"), &[]).0, Some(2));
}
