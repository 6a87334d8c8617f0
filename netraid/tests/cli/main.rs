//! The commands as a person or a script runs them, against a stand-in for netraidd: what they print where, what they ask
//! for, and how they end.

#![allow(clippy::unwrap_used)] // A test that can not go on may panic.

mod fake;
mod units;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use fake::{Asked, Reply, data, knowing, serve};
use netraid::api::document::{Answer, Mirrors, Outcome};
use tempfile::TempDir;

struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

fn program(name: &str) -> &'static str {
    match name {
        "netraid" => env!("CARGO_BIN_EXE_netraid"),
        "mirror_action" => env!("CARGO_BIN_EXE_mirror_action"),
        "mirror_status" => env!("CARGO_BIN_EXE_mirror_status"),
        "mirror_resize" => env!("CARGO_BIN_EXE_mirror_resize"),
        "bitmap" => env!("CARGO_BIN_EXE_bitmap"),
        _ => panic!("{name}"),
    }
}

/// Runs a command line in a folder with a socket.
fn run(folder: &Path, line: &str) -> Told {
    let mut words = line.split(' ');
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(program(words.next().unwrap()))
        .args(words)
        .env("NETRAID_RUN_DIR", folder)
        .env("NETRAID_DEFAULTS_FILE", "/none")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Told {
        code: status.code(),
        out: text(stdout),
        err: text(stderr),
    }
}

/// A daemon with the mirror `data` that carries out each order in this way.
fn daemon(order: Answer) -> (TempDir, Asked) {
    with(data(), order)
}

fn with(mirrors: Mirrors, order: Answer) -> (TempDir, Asked) {
    let folder = tempfile::tempdir().unwrap();
    let asked = serve(folder.path(), knowing(mirrors, order));
    (folder, asked)
}

/// The last order: path and body.
fn order(asked: &Asked) -> (String, String) {
    let asked = asked.lock().unwrap();
    let (method, path, body) = asked.last().unwrap();
    assert_eq!(method, "POST");
    (path.clone(), body.clone())
}

#[test]
fn each_command_gives_its_order() {
    let (folder, asked) = daemon(Answer::done());
    let table = [
        (
            "netraid create data",
            r#"{"order":"create","force":false,"keep":false}"#,
        ),
        (
            "netraid create data --keep",
            r#"{"order":"create","force":false,"keep":true}"#,
        ),
        (
            "netraid extend data server3 --force",
            r#"{"order":"extend","node":"server3","force":true}"#,
        ),
        (
            "netraid unextend data server2",
            r#"{"order":"unextend","node":"server2"}"#,
        ),
        ("netraid delete data", r#"{"order":"delete"}"#),
        ("netraid start data", r#"{"order":"restore"}"#),
        ("netraid start data --force", r#"{"order":"force"}"#),
        ("netraid stop data", r#"{"order":"remove"}"#),
        ("netraid pause data", r#"{"order":"pause","targets":[]}"#),
        (
            "netraid resume data server2",
            r#"{"order":"resume","targets":["server2"]}"#,
        ),
        (
            "netraid fullresync data server2",
            r#"{"order":"full-resync","targets":["server2"]}"#,
        ),
        (
            "netraid resync data --boost --rate 2M",
            r#"{"order":"boost-resync","rate":2097152}"#,
        ),
        (
            "netraid resync data --normal",
            r#"{"order":"normal-resync"}"#,
        ),
        (
            "netraid resolve data --discard server2",
            r#"{"order":"resolve","discard":"server2"}"#,
        ),
        (
            "mirror_action data pause",
            r#"{"order":"pause","targets":[]}"#,
        ),
        (
            "mirror_action data resume server1 server2",
            r#"{"order":"resume","targets":["server2"]}"#,
        ),
        (
            "mirror_action data fullresync server1 server2 server3",
            r#"{"order":"full-resync","targets":["server2","server3"]}"#,
        ),
        ("mirror_action data force server1", r#"{"order":"force"}"#),
    ];
    for (line, body) in table {
        let told = run(folder.path(), line);
        assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{line}");
        assert!(!told.out.is_empty(), "{line}");
        let expected = ("/v1/mirrors/data/orders".to_owned(), body.to_owned());
        assert_eq!(order(&asked), expected, "{line}");
    }
}

#[test]
fn each_outcome_has_its_exit_code_and_says_why_and_what_next() {
    let table = [
        (Outcome::Failed, 1),
        (Outcome::Usage, 2),
        (Outcome::Refused, 3),
        (Outcome::Late, 124),
    ];
    for (outcome, code) in table {
        let answer = Answer::not(outcome, "it is so", Some("netraid explain data".into()));
        let (folder, _) = daemon(answer);
        for name in ["netraid start data", "mirror_action data force"] {
            let told = run(folder.path(), name);
            let program = name.split(' ').next().unwrap();
            let err = format!("{program}: it is so\nhint: netraid explain data\n");
            assert_eq!(
                (told.code, told.out, told.err),
                (Some(code), String::new(), err)
            );
        }
    }
}

#[test]
fn a_dry_run_prints_the_steps_and_says_so_to_the_daemon() {
    let answer = Answer {
        steps: vec!["connect server2".into(), "start\u{1b}[31m it".into()],
        ..Answer::done()
    };
    let (folder, asked) = daemon(answer);
    for line in [
        "netraid start data --dry-run --wait",
        "mirror_action data force --dry-run",
    ] {
        let told = run(folder.path(), line);
        assert_eq!(told.code, Some(0), "{}", told.err);
        assert_eq!(told.out, "connect server2\nstart\\u{1b}[31m it\n");
        assert_eq!(order(&asked).0, "/v1/mirrors/data/orders?dry-run=true");
    }
}

#[test]
fn the_status_is_a_page() {
    let (folder, _) = daemon(Answer::done());
    let told = run(folder.path(), "netraid status");
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
    assert_eq!(
        told.out,
        "data: in service on server1, this node\n  \
         md backend, protocol A, 1 GiB\n  \
         at /dev/md/data\n  \
         256 MiB marked as changed\n  \
         NODE     STATUS         DATA          ADDRESS\n  \
         server1  Source         UpToDate      this node\n  \
         server2  Resyncing 11%  Inconsistent  10.0.0.2:10001\n  \
         server3  -              Diskless      10.0.0.3:10001\n  \
         resync: 11%, 32 MiB copied, 256 MiB to go, 1.5 MiB/s, 2 min 46 s left\n    \
         c-max-rate bounds it at 1.5 MiB/s\n"
    );
    assert_eq!(run(folder.path(), "netraid status data").out, told.out);
}

#[test]
fn json_is_the_daemons_document() {
    let (folder, _) = daemon(Answer::done());
    let document = serde_json::to_string(&data()).unwrap() + "\n";
    for line in [
        "netraid status --json",
        "netraid status data --json",
        "mirror_status --json",
        "mirror_status data --json",
    ] {
        assert_eq!(run(folder.path(), line).out, document, "{line}");
    }
}

#[test]
fn mirror_status_has_the_form_of_datakeeper() {
    let (folder, _) = daemon(Answer::done());
    let resyncing = "[-] server1 -> server2\n    \
         Status: Resynchronizing\n    \
         [=>                      ]   11%\n    \
         Resync Speed: 1573K/sec\n    \
         Type: Asynchronous\n\n\
         Bitmap: 4096 bits (chunks), 1024 dirty (25.0%)\n";
    let told = run(folder.path(), "mirror_status data");
    assert_eq!((told.code, told.out.as_str()), (Some(0), resyncing));
    let all = run(folder.path(), "mirror_status");
    assert_eq!(all.out, format!("Mirror: data\n{resyncing}"));

    let words = [
        ("Target", "Fully Operational"),
        ("Paused", "Paused"),
        (
            "Out of Sync (Wait for Previous Source)",
            "Out of Sync (Wait for Previous Source)",
        ),
        ("Split Brain", "Split Brain"),
    ];
    for (status, shown) in words {
        let mut mirrors = data();
        let mirror = &mut mirrors.mirrors[0];
        (mirror.protocol, mirror.resync, mirror.dirty_bytes) = ("C".into(), None, Some(0));
        mirror.nodes[1].status = status.into();
        mirror.nodes[1].percent = None;
        let (folder, _) = with(mirrors, Answer::done());
        assert_eq!(
            run(folder.path(), "mirror_status data").out,
            format!(
                "[-] server1 -> server2\n    Status: {shown}\n    Type: Synchronous\n\n\
                 Bitmap: 4096 bits (chunks), 0 dirty (0.0%)\n"
            )
        );
    }
}

#[test]
fn events2_says_what_exists_in_the_lines_of_drbd() {
    let (folder, _) = daemon(Answer::done());
    let told = run(
        folder.path(),
        "netraid events data --events2 --now --statistics",
    );
    let peer = "name:data peer-node-id:1 conn-name:server2";
    assert_eq!(
        told.out,
        format!(
            "exists resource name:data role:Primary suspended:no may_promote:no\n\
             exists device name:data volume:0 backing_dev:/dev/sdb1 disk:UpToDate client:no size:1048576\n\
             exists connection {peer} connection:Connected role:Secondary\n\
             exists peer-device {peer} volume:0 replication:SyncSource peer-disk:Inconsistent peer-client:no \
             resync-suspended:no done:11.00 out-of-sync:262144\n\
             exists -\n"
        )
    );
    let told = run(folder.path(), "netraid events --events2 --now --timestamps");
    let years = told.out.lines().all(|line| line.starts_with("20"));
    assert!(years && told.out.lines().count() == 5, "{}", told.out);
    assert_eq!(run(folder.path(), "netraid events --now").code, Some(2));
}

#[test]
fn explain_and_events_are_sentences() {
    let (folder, _) = daemon(Answer::done());
    assert_eq!(
        run(folder.path(), "netraid explain data").out,
        "server1: Source\n  data is in service on server1\n\
         server2: Resyncing\n  server1 copies to it\n  waits for: the end of the resync\n  \
         last resync: 256 MiB that were marked, by the rule target-behind\n\
         server3: not extended to\n  server3 is configured, and no node of the mirror yet\n  \
         to change that: netraid extend data server3\n\
         flag: data_last_owner is set\nflag: data_source names server1\n\
         resync: 11%, 32 MiB copied, 256 MiB to go, 1.5 MiB/s, 2 min 46 s left\n  \
         c-max-rate bounds it at 1.5 MiB/s\n  to change that: netraid resync data --boost\n"
    );
    assert_eq!(
        run(folder.path(), "netraid events data").out,
        "2000-02-29T00:00:00.000Z data in-service: data is in service\n"
    );
}

#[test]
fn an_unknown_tag_is_said_with_what_there_is() {
    let (folder, _) = daemon(Answer::done());
    for line in [
        "netraid status other",
        "netraid explain other",
        "netraid events other",
        "netraid stop other",
        "netraid report other",
        "mirror_status other",
        "mirror_action other pause",
        "mirror_action other pause server1",
        "mirror_resize other",
        "bitmap -X other",
    ] {
        let told = run(folder.path(), line);
        assert_eq!(told.code, Some(2), "{line}: {}", told.err);
        assert!(
            told.err.contains("there is no such mirror"),
            "{line}: {}",
            told.err
        );
        assert!(
            told.err.ends_with("hint: netraid config check\n"),
            "{line}: {}",
            told.err
        );
    }
    for line in [
        "netraid stop ../other",
        "mirror_action data rewind",
        "netraid resolve data",
    ] {
        assert_eq!(run(folder.path(), line).code, Some(2), "{line}");
    }
}

const EACH: [&str; 10] = [
    "netraid status",
    "netraid explain data",
    "netraid events",
    "netraid stop data",
    "netraid extend data server2 --wait",
    "netraid report data",
    "mirror_status",
    "mirror_action data pause",
    "mirror_resize data",
    "bitmap -X data",
];

#[test]
fn without_a_daemon_each_command_says_how_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    for line in EACH {
        let told = run(folder.path(), line);
        assert_eq!(told.code, Some(1), "{line}");
        assert!(
            told.err
                .contains("netraidd is not running: nobody listens at "),
            "{line}"
        );
        assert!(
            told.err.ends_with("hint: systemctl start netraidd\n"),
            "{line}: {}",
            told.err
        );
    }
}

#[test]
fn a_daemon_that_hangs_is_waited_for_no_longer_than_asked() {
    let folder = tempfile::tempdir().unwrap();
    serve(folder.path(), |_, _| Reply::Hang);
    for line in EACH {
        let begin = Instant::now();
        let told = run(folder.path(), &format!("{line} --timeout 1"));
        assert_eq!(told.code, Some(124), "{line}: {}", told.err);
        let took = begin.elapsed();
        assert!(
            took >= Duration::from_millis(900) && took < Duration::from_secs(5),
            "{line}: {took:?}"
        );
    }
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    serve(folder.path(), |_, _| {
        Reply::Say(200, r#"{"schema":"netraid.answer/9"}"#.into())
    });
    for line in EACH {
        let told = run(folder.path(), line);
        assert_eq!(told.code, Some(1), "{line}: {}{}", told.out, told.err);
        assert!(
            told.err.contains("no document of this version"),
            "{line}: {}",
            told.err
        );
    }
}

#[test]
fn waiting_ends_when_the_target_is_in_sync_or_the_time_is_over() {
    let (folder, _) = daemon(Answer::done());
    let told = run(
        folder.path(),
        "netraid extend data server2 --wait --wait-timeout 1",
    );
    assert_eq!(told.code, Some(124));
    assert!(
        told.err.starts_with("server2: Resyncing 10%\n"),
        "{}",
        told.err
    );

    let mut mirrors = data();
    mirrors.mirrors[0].nodes[1].status = "Target".into();
    mirrors.mirrors[0].nodes[1].percent = None;
    let (folder, _) = with(mirrors, Answer::done());
    for line in [
        "netraid extend data server2 --wait",
        "netraid fullresync data --wait",
        "netraid start data --wait",
    ] {
        let told = run(folder.path(), line);
        assert_eq!(told.code, Some(0), "{}", told.err);
        assert!(told.out.ends_with("data is in sync\n"), "{}", told.out);
    }
}

#[test]
fn mirror_action_acts_on_its_own_node_only() {
    let (folder, asked) = daemon(Answer::done());
    let told = run(
        folder.path(),
        "mirror_action data fullresync server2 server1",
    );
    assert_eq!(told.code, Some(3));
    assert!(
        told.err
            .ends_with("hint: on server2: mirror_action data fullresync server2 server1\n"),
        "{}",
        told.err
    );
    let told = run(folder.path(), "mirror_action data pause nobody");
    assert_eq!(told.code, Some(2));
    assert!(
        told.err
            .contains("nobody is not a node of data: server1, server2, server3")
    );
    assert!(
        asked
            .lock()
            .unwrap()
            .iter()
            .all(|(method, ..)| method == "GET")
    );
}

#[test]
fn a_resize_is_one_order_in_bytes_and_says_what_was_done() {
    let (folder, asked) = daemon(Answer {
        steps: vec!["grow the mirror".into()],
        ..Answer::done()
    });
    for line in [
        "mirror_resize -f -s 4096 data",
        "netraid resize data --force --size 4M",
    ] {
        asked.lock().unwrap().clear();
        let told = run(folder.path(), line);
        assert_eq!(told.code, Some(0), "{line}: {}", told.err);
        assert_eq!(told.out, "grow the mirror\ndata is resized\n");
        let asked = asked.lock().unwrap();
        let (_, path, body) = asked.iter().find(|(method, ..)| method == "POST").unwrap();
        assert_eq!(path, "/v1/mirrors/data/orders");
        assert_eq!(
            body, r#"{"order":"resize","size":4194304,"force":true}"#,
            "{line}"
        );
    }
    let told = run(folder.path(), "mirror_resize data --dry-run");
    assert_eq!(told.out, "grow the mirror\n");
    let (_, path, body) = asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(path, "/v1/mirrors/data/orders?dry-run=true");
    assert_eq!(body, r#"{"order":"resize","size":null,"force":false}"#);
}

#[test]
fn what_can_not_be_done_yet_is_refused_by_name() {
    let (folder, _) = daemon(Answer::done());
    for line in [
        "bitmap -c data",
        "bitmap -d data",
        "bitmap -a 256 data",
        "bitmap -x 4096 data",
    ] {
        let told = run(folder.path(), line);
        assert_eq!((told.code, told.out.as_str()), (Some(3), ""), "{line}");
    }
    let told = run(folder.path(), "bitmap -X /dev/sdb1");
    assert_eq!(
        told.out,
        "Mirror: data\nDevice: /dev/sdb1\nSize: 1 GiB\nChunk: 256 KiB\nGeneration: 00000000000000ab\n\
         Bitmap: 4096 bits (chunks), 1024 dirty (25.0%)\n"
    );
}

const CONFIGURED: &str = "tag = \"data\"\nnumber = 0\nbackend = \"md\"\nprotocol = \"A\"\n\
    [[nodes]]\nname = \"server1\"\naddress = \"10.0.0.1\"\ndisk = \"/dev/sdb1\"\nport = 10001\n\
    [[nodes]]\nname = \"server2\"\naddress = \"10.0.0.2\"\ndisk = \"/dev/sdb1\"\nport = 10001\n\
    [[nodes]]\nname = \"server3\"\naddress = \"10.0.0.3\"\ndisk = \"/dev/sdb1\"\nport = 10001\n";

fn configured(text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("netraid.toml"), "node = \"server1\"\n").unwrap();
    std::fs::write(folder.path().join("data.toml"), text).unwrap();
    folder
}

#[test]
fn verify_config_tells_what_differs_and_who_does_not_answer() {
    let (folder, _) = daemon(Answer::done());
    let verify = |folder: &Path, config: &TempDir| {
        let at = config.path().display();
        run(folder, &format!("netraid verify-config --config-dir {at}"))
    };
    let told = verify(folder.path(), &configured(CONFIGURED));
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);

    let other = CONFIGURED.replacen("port = 10001", "port = 10002", 1);
    let told = verify(folder.path(), &configured(&other));
    assert_eq!(told.code, Some(1));
    assert_eq!(
        told.out,
        "data: the address of server1 is 10.0.0.1:10002 in the configuration, and 10.0.0.1:10001 in netraidd: \
         systemctl restart netraidd\n"
    );

    let mut mirrors = data();
    mirrors.mirrors[0].nodes[1].reachable = false;
    let (folder, _) = with(mirrors, Answer::done());
    let told = verify(folder.path(), &configured(CONFIGURED));
    assert_eq!(told.code, Some(1));
    assert_eq!(
        told.out,
        "data: netraidd of server2 does not answer: systemctl status netraidd, there\n"
    );
    let told = verify(folder.path(), &configured("tag = 1\n"));
    assert_eq!(told.code, Some(2));
}

#[test]
fn a_report_has_everything_and_is_printed_without_a_daemon_too() {
    let (folder, _) = daemon(Answer::done());
    let config = configured(CONFIGURED);
    let line = format!(
        "netraid report data --config-dir {}",
        config.path().display()
    );
    let told = run(folder.path(), &line);
    assert_eq!(told.code, Some(0), "{}", told.err);
    for part in [
        "versions",
        "configuration",
        "status",
        "explanation",
        "events",
        "document",
    ] {
        assert!(
            told.out.contains(&format!("== {part}\n")),
            "{part}: {}",
            told.out
        );
    }
    assert!(
        told.out.contains("node server2: address 10.0.0.2"),
        "{}",
        told.out
    );
    let nobody = tempfile::tempdir().unwrap();
    let told = run(nobody.path(), &line);
    assert_eq!(told.code, Some(1));
    assert!(told.out.contains("node server2: address"));
}
