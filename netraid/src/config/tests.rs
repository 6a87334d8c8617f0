//! Whole configurations: what they mean, and what is said of each mistake.

mod protocols;
mod resync;

use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::mirror::decision;
use crate::mirror::machine::Wait;

mod fencing;
mod policies;
mod quorum;

const NODES: &str = "\n[[nodes]]\nname = \"s1\"\naddress = \"10.0.0.1\"\ndisk = \"/dev/b\"\n\
    [[nodes]]\nname = \"s2\"\naddress = \"10.0.0.2\"\ndisk = \"/dev/b\"\n";

fn around() -> Surroundings {
    Surroundings {
        host_name: Some("s1".into()),
        ipv6: true,
        ..Surroundings::default()
    }
}

fn read_within(files: &[(&str, &str)], around: &Surroundings) -> Result<Config, Problems> {
    let source = |wanted: &str| {
        let found = files.iter().find(|(file, _)| *file == wanted);
        found.map(|(file, text)| Source::new(file, text))
    };
    let mirrors: Vec<Source> = files
        .iter()
        .filter(|(file, _)| !["netraid.toml", "LK"].contains(file))
        .map(|(file, text)| Source::new(file, text))
        .collect();
    let (daemon, defaults) = (source("netraid.toml"), source("LK"));
    assemble(
        Path::new("/etc/netraid"),
        daemon.as_ref(),
        &mirrors,
        defaults.as_ref(),
        around,
        Problems::default(),
    )
}

fn read(files: &[(&str, &str)]) -> Result<Config, Problems> {
    read_within(files, &around())
}

/// What is said of a file a.toml, without its name.
fn told(text: &str) -> String {
    let problems = read(&[("a.toml", text)]).unwrap_err().to_string();
    problems.replace("a.toml:", "")
}

fn mirror(tag: &str, number: u8, rest: &str) -> String {
    format!("tag = \"{tag}\"\nnumber = {number}\nbackend = \"md\"\n{rest}")
}

fn node(name: &str, address: &str, disk: &str, rest: &str) -> String {
    format!("[[nodes]]\nname = \"{name}\"\naddress = \"{address}\"\ndisk = \"{disk}\"\n{rest}")
}

#[test]
fn the_least_that_can_be_written_means_the_documented_defaults() {
    let config = read(&[("a.toml", &mirror("a", 7, NODES))]).unwrap();
    let a = &config.mirrors[&Tag::new("a").unwrap()];
    assert_eq!(
        (a.number, a.backend, a.protocol),
        (7, Backend::Md, Protocol::C)
    );
    assert_eq!(
        (a.chunk_bytes, a.bitmap, a.compare),
        (256 << 10, true, false)
    );
    assert_eq!(a.device.as_deref(), Some(Path::new("/dev/md/a")));
    let embedded = mirror("a", 7, NODES).replace("md", "embedded");
    let off = embedded.replacen("[[nodes]]", "csums-alg = \"none\"\n[[nodes]]", 1);
    let embedded = read(&[("a.toml", &embedded)]).unwrap();
    let a_embedded = &embedded.mirrors[&Tag::new("a").unwrap()];
    assert_eq!((&a_embedded.device, a_embedded.compare), (&None, true));
    let off = read(&[("a.toml", &off)]).unwrap();
    assert!(!off.mirrors[&Tag::new("a").unwrap()].compare);
    assert_eq!(a.nodes[1].address.to_string(), "10.0.0.2:7800");
    assert_eq!((a.nodes[0].port, a.nodes[1].port), (10008, 10008));
    assert_eq!(a.nodes[0].priority, None);
    let daemon = config.daemon;
    assert_eq!(daemon.node.as_str(), "s1");
    assert_eq!(daemon.listen, ["[::]:7800".parse().unwrap()]);
    assert_eq!(daemon.run_dir, Path::new("/run/netraid"));
    assert_eq!(
        daemon.state_dir,
        Path::new("/opt/LifeKeeper/subsys/scsi/resources/netraid")
    );
    assert_eq!(daemon.tls_dir, Path::new("/etc/netraid/tls"));
    assert_eq!(daemon.status_listen, None);
    assert_eq!(config.parameters, Parameters::default());
}

#[test]
fn what_is_written_wins_over_surroundings_and_these_over_defaults() {
    let around = Surroundings {
        lkroot: Some("/lk".into()),
        run_dir: Some("/run/x".into()),
        ..Surroundings::default()
    };
    let daemon = |text: &str| {
        read_within(&[("netraid.toml", text)], &around)
            .unwrap()
            .daemon
    };
    let some = daemon("node = \"n\"");
    assert_eq!(some.listen, ["0.0.0.0:7800".parse().unwrap()]);
    assert_eq!(some.run_dir, Path::new("/run/x"));
    assert_eq!(
        some.state_dir,
        Path::new("/lk/subsys/scsi/resources/netraid")
    );
    let all = daemon(
        "node = \"n\"\nlisten = [\"10.0.0.1:1\", \"[fd00::1]:2\"]\nrun_dir = \"/r\"\nstate_dir = \"/s\"\n\
         lkroot = \"/l\"\nstatus_listen = \"[::1]:80\"\ntls_dir = \"/t\"\n",
    );
    assert_eq!(
        all,
        Daemon {
            node: "n".parse().unwrap(),
            listen: vec![
                "10.0.0.1:1".parse().unwrap(),
                "[fd00::1]:2".parse().unwrap()
            ],
            run_dir: "/r".into(),
            state_dir: "/s".into(),
            lkroot: "/l".into(),
            status_listen: Some("[::1]:80".parse().unwrap()),
            tls_dir: "/t".into(),
        }
    );
}

#[test]
fn each_mistake_in_a_file_has_its_line_column_reason_and_remedy() {
    let with = |line: &str| mirror("a", 0, &format!("{line}{NODES}"));
    let table = [
        ("chunks = 1", "4:1: unknown key \"chunks\"; write chunk"),
        (
            "colour = 1",
            "4:1: unknown key \"colour\"; known here are tag, number, backend, device, protocol, sndbuf-size, \
             on-congestion, congestion-fill, chunk, bitmap, csums-alg, data-integrity-alg, verify-rate, nodes, \
             on-io-error, io-error-limit, after-sb-0pri, after-sb-1pri, after-sb-2pri, rr-conflict, always-asbp, handlers, \
             resync-rate, c-plan-ahead, c-fill-target, c-delay-target, c-min-rate, c-max-rate, resync-after, \
             quorum, on-no-quorum, fencing",
        ),
        (
            "  chunk = 100",
            "4:11: chunk 100 is not a power of two (KiB); \
             write chunk = 128, or leave it out for LKDR_CHUNK_SIZE",
        ),
        (
            "chunk = 0",
            "4:9: chunk is out of range, a whole number from 4 to 1048576 is needed; write for example chunk = 256",
        ),
        (
            "chunk = -4",
            "4:9: chunk is out of range, a whole number from 4 to 1048576 is needed; write for example chunk = 256",
        ),
        (
            "chunk = \"256\"",
            "4:9: chunk is of type string, a whole number from 4 to 1048576 is needed; \
             write for example chunk = 256",
        ),
        (
            "device = \"md/a\"",
            "4:10: device \"md/a\" is not a path from the root without \"..\"; \
             write for example device = \"/run/netraid/data.nbd\"",
        ),
        (
            "protocol = \"c\"",
            "4:12: protocol \"c\" is not known; write \"C\" or \"A\" or \"B\"",
        ),
        (
            "sndbuf-size = 1048576",
            "4:15: sndbuf-size has no meaning for the kernel's RAID1, which bounds writes, not bytes; \
             set LKDR_ASYNC_LIMIT, or write backend = \"embedded\"",
        ),
        (
            "bitmap = 'none'\nprotocol = 'A'",
            "5:12: protocol A needs the write-intent bitmap to know what is on the way; \
             write bitmap = \"internal\", or protocol = \"C\"",
        ),
        (
            "bitmap = true",
            "4:10: bitmap is of type boolean, a string is needed; write for example bitmap = \"internal\"",
        ),
        (
            "csums-alg = \"blake3\"",
            "4:13: csums-alg \"blake3\" is not built for backend \"md\": the kernel copies all that its bitmap marks; \
             write backend = \"embedded\", or leave csums-alg out",
        ),
        (
            "data-integrity-alg = \"crc32\"",
            "4:22: data-integrity-alg \"crc32\" is not built for backend \"md\": the kernel's nbd client knows no checksums; \
             write backend = \"embedded\", or leave data-integrity-alg out",
        ),
        (
            "on-io-error = \"pass-through\"",
            "4:15: on-io-error \"pass-through\" is not built for backend \"md\": the kernel gives a leg up with its \
             first failed write; write \"detach\", which is what it does, or backend = \"embedded\"",
        ),
        (
            "io-error-limit = 3",
            "4:18: io-error-limit is not built for backend \"md\": the kernel gives a leg up with its first failed \
             write; write backend = \"embedded\", or leave io-error-limit out",
        ),
        (
            "on-io-error = \"call-local-io-error\"",
            "4:15: on-io-error \"call-local-io-error\" has no program to call; \
             write handlers.local-io-error, a line for the shell, or \"detach\"",
        ),
        (
            "csums-alg = \"md5\"",
            "4:13: csums-alg \"md5\" is not known; write \"blake3\" or \"none\"",
        ),
        (
            "number = 1",
            "4:1: duplicate key; TOML is needed here, see https://toml.io",
        ),
    ];
    for (line, expected) in table {
        assert_eq!(told(&with(line)), expected, "{line}");
    }
}

#[test]
fn mistakes_in_the_keys_that_are_needed_are_told() {
    let table = [
        (
            "",
            "1:1: backend is missing; write for example backend = \"md\"\n\
             1:1: nodes is missing; write for example [[nodes]] with name, address and disk\n\
             1:1: number is missing; write for example number = 0\n\
             1:1: tag is missing; write for example tag = \"data\"",
        ),
        (
            &format!("tag = \"b\"\nnumber = 256\nbackend = \"raid5\"{NODES}"),
            "1:7: tag \"b\" is not the name of this file; write \"a\", or call the file b.toml\n\
             2:10: number is out of range, a whole number from 0 to 255 is needed; write for example number = 0\n\
             3:11: backend \"raid5\" is not known; write \"md\" or \"embedded\"",
        ),
        (
            &format!(
                "tag = \"../x\"\nnumber = 0x0f\nbackend = \"embedded\"\nsndbuf-size = 9{NODES}"
            ),
            "1:7: tag \"../x\" has '/' in it; letters, digits, '.', '_' and '-' are possible; \
             write at most 64 letters, digits, '.', '_' and '-', for example \"data\"\n\
             4:15: sndbuf-size is out of range, a whole number from 65536 to 268435456 is needed; \
             write for example sndbuf-size = 10485760",
        ),
        (
            "tag = \"a\nnumber = 0",
            "1:9: invalid basic string, expected `\"`; TOML is needed here, see https://toml.io",
        ),
        (
            "tag = \"a\"\nnumber = 0\nbackend = \"md\"\nnodes = []",
            "1:1: there is no node; write a [[nodes]] for each node",
        ),
        (
            "tag = \"a\"\nnumber = 0\nbackend = \"md\"\nnodes = [1]",
            "4:10: nodes is of type integer, a list of tables is needed; \
             write for example [[nodes]] with name, address and disk",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(told(text), expected, "{text}");
    }
}

#[test]
fn mistakes_in_nodes_are_told() {
    let s1 = node("s1", "10.0.0.1", "/dev/b", "priority = 1\n");
    let with = |second: &str| mirror("a", 0, &format!("{s1}{second}"));
    let table = [
        (
            node("s1", "10.0.0.2", "/dev/c", ""),
            "10:8: node s1 is there already, at 5:8; each node is named once",
        ),
        (
            node("s/2", "10.0.0.2", "/dev/b", ""),
            "10:8: node name \"s/2\" has '/' in it; letters, digits, '.', '_' and '-' are possible; \
             write the host's name, at most 64 letters, digits, '.', '_' and '-', for example \"server1\"",
        ),
        (
            node("s2", "10.0.0.1", "/dev/c", ""),
            "11:11: 10.0.0.1 has a copy of this mirror already, at 6:11; each node of a mirror is another system",
        ),
        (
            node("s2", "10.0.0.1:7801", "/dev/c", ""),
            "11:11: 10.0.0.1 has a copy of this mirror already, at 6:11; each node of a mirror is another system",
        ),
        (
            node("s2", "10.0.0.256", "/dev/b", ""),
            "11:11: address \"10.0.0.256\" is no host name or IP address of a node; \
             write for example \"10.0.0.2\", \"server2:7800\" or \"[fd00::2]:7800\"",
        ),
        (
            node("s2", "10.0.0.2", "sdb", ""),
            "12:8: disk \"sdb\" is not a path from the root without \"..\"; write for example disk = \"/dev/sdb1\"",
        ),
        (
            node("s2", "10.0.0.2", "/dev/md/a", ""),
            "12:8: disk /dev/md/a is the mirror's own device; write the disk or partition below it",
        ),
        (
            node("s2", "10.0.0.2", "/dev/b", "priority = 1"),
            "13:12: priority 1 is that of another node, at 8:12; give each node its own, the lowest takes over first",
        ),
        (
            node("s2", "10.0.0.2", "/dev/b", "port = 7800"),
            "13:8: port 7800 of this node is taken by netraidd, at 11:11; \
             write another, or leave it out to have one chosen",
        ),
        (
            node("s2", "10.0.0.2", "/dev/b", "prot = 1\nport = 0"),
            "13:1: unknown key \"prot\"; write port\n\
             14:8: port is out of range, a whole number from 1 to 65535 is needed; write for example port = 10001",
        ),
        (
            "[[nodes]]\nport = 4".into(),
            "9:1: address is missing; write for example address = \"10.0.0.1\"\n\
             9:1: disk is missing; write for example disk = \"/dev/sdb1\"\n\
             9:1: name is missing; write for example name = \"server1\"",
        ),
    ];
    for (second, expected) in table {
        assert_eq!(told(&with(&second)), expected, "{second}");
    }
}

#[test]
fn seven_targets_are_possible_and_an_eighth_is_refused() {
    let nodes = |count: usize| {
        (1..=count).fold(String::new(), |mut text, i| {
            let _ = write!(
                text,
                "{}",
                node(&format!("s{i}"), &format!("h{i}"), "/dev/b", "")
            );
            text
        })
    };
    let config = read(&[("a.toml", &mirror("a", 0, &nodes(8)))]).unwrap();
    let a = config.mirrors.values().next().unwrap();
    assert_eq!(a.slot_of("s8").unwrap().slot(), 7);
    assert_eq!(
        told(&mirror("a", 0, &nodes(9))),
        "36:1: 9 nodes are one source and 8 targets, at most 7 targets are possible; \
         leave out the nodes from here on"
    );
    // Created, and not extended yet.
    assert!(read(&[("a.toml", &mirror("a", 0, &nodes(1)))]).is_ok());
}

#[test]
fn what_two_mirrors_can_not_both_have_is_told_with_both_places() {
    let a = mirror("a", 0, &node("s1", "10.0.0.1", "/dev/b", "port = 10002\n"));
    let table = [
        (
            mirror("b", 0, &node("s2", "10.0.0.2", "/dev/b", "")),
            "b.toml:2:10: number 0 is that of another mirror, at a.toml:2:10; give each mirror its own from 0 to 255",
        ),
        (
            mirror(
                "b",
                1,
                &format!(
                    "device = \"/dev/md/a\"\n{}",
                    node("s2", "10.0.0.2", "/dev/b", "")
                ),
            ),
            "b.toml:4:10: device /dev/md/a is that of another mirror, at a.toml:1:1; give each mirror its own",
        ),
        (
            mirror("b", 1, &node("s1", "10.0.0.1", "/dev//b", "")),
            "b.toml:7:8: disk /dev/b of this node is in a mirror already, at a.toml:7:8; give each mirror its own disk",
        ),
        (
            mirror("b", 1, &node("s1", "10.1.0.1", "/dev/c", "port = 10002\n")),
            "b.toml:8:8: port 10002 of this node is taken by mirror a, at a.toml:8:8; \
             write another, or leave it out to have one chosen",
        ),
        (
            mirror("b", 1, &node("s2", "10.0.0.1", "/dev/c", "")),
            "b.toml:6:11: 10.0.0.1:7800 is the address of node s1, at a.toml:6:11; \
             call this node s1, or give it its own address",
        ),
    ];
    for (b, expected) in table {
        let problems = read(&[("a.toml", &a), ("b.toml", &b)]).unwrap_err();
        assert_eq!(problems.to_string(), expected);
    }
}

#[test]
fn all_files_are_told_at_once() {
    let problems = read(&[
        (
            "netraid.toml",
            "node = 1\nlisten = []\nstatus_listen = \"0.0.0.0:80\"\nfoo.bar = 1\n",
        ),
        ("LK", "LKCHECKINTERVAL=x"),
        ("b.toml", "tag ="),
        ("a.toml", &mirror("a", 0, &format!("chunk = 5{NODES}"))),
        ("c.toml", &mirror("c", 0, NODES)),
    ]);
    let text = problems.unwrap_err().to_string();
    let starts: Vec<&str> = text
        .lines()
        .map(|line| line.split(';').next().unwrap())
        .collect();
    assert_eq!(
        starts,
        [
            "LK:1:1: \"LKCHECKINTERVAL=x\": a number of seconds from 1 to 86400 is needed",
            "a.toml:4:9: chunk 5 is not a power of two (KiB)",
            "b.toml:1:6: string values must be quoted, expected literal string",
            "c.toml:2:10: number 0 is that of another mirror, at a.toml:2:10",
            "c.toml:8:8: disk /dev/b of this node is in a mirror already, at a.toml:8:8",
            "c.toml:12:8: disk /dev/b of this node is in a mirror already, at a.toml:12:8",
            "netraid.toml:1:8: node is of type integer, a string is needed",
            "netraid.toml:2:10: listen has 0 entries, 1 to 16 are needed",
            "netraid.toml:3:17: \"0.0.0.0:80\" can be reached from other machines, and anybody may ask there",
            "netraid.toml:4:1: unknown key \"foo\"",
        ]
    );
}

#[test]
fn ports_pass_over_what_is_taken_on_that_node_and_say_so() {
    let a = mirror("a", 0, &node("s1", "10.0.0.1", "/dev/b", "port = 10006\n"));
    let b = mirror(
        "b",
        5,
        &(node("s1", "10.0.0.1", "/dev/c", "") + &node("s2", "10.0.0.2", "/dev/c", "")),
    );
    let around = Surroundings {
        services: Services::parse("q 10262/tcp"),
        ..around()
    };
    let config = read_within(&[("a.toml", &a), ("b.toml", &b)], &around).unwrap();
    let b = &config.mirrors[&Tag::new("b").unwrap()];
    assert_eq!((b.nodes[0].port, b.nodes[1].port), (10518, 10006));
    assert_eq!(
        b.nodes[0].port_reason.as_deref(),
        Some("10006 is taken by mirror a, 10262 is taken by q in /etc/services")
    );
    assert_eq!(b.nodes[1].port_reason, None);
}

#[test]
fn several_nodes_may_try_things_out_on_one_machine() {
    let nodes =
        node("s1", "127.0.0.1:7801", "/tmp/1", "") + &node("s2", "127.0.0.1:7802", "/tmp/2", "");
    let config = read(&[("a.toml", &mirror("a", 0, &nodes))]).unwrap();
    let a = config.mirrors.values().next().unwrap();
    assert_eq!((a.nodes[0].port, a.nodes[1].port), (10001, 10257));
    // A copy beside itself on one disk would be none.
    assert_eq!(
        told(&mirror(
            "a",
            0,
            &nodes
                .replace("/tmp/2", "/tmp/1")
                .replace("127.0.0.1:7802", "localhost:7802")
        )),
        "11:8: disk /tmp/1 of this node is in a mirror already, at 7:8; give each mirror its own disk"
    );
}

#[test]
fn a_host_without_a_usable_name_has_to_be_given_one() {
    let problems = read_within(&[], &Surroundings::default()).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "/etc/netraid/netraid.toml: the host's name \"\" can't be a node's; write for example node = \"server1\""
    );
}

#[test]
fn the_folder_is_read_and_what_is_no_configuration_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let load = || Config::load_within(folder.path(), &path("none"), &around());
    std::fs::write(path("a.toml"), mirror("a", 0, NODES)).unwrap();
    std::fs::write(path(".b.toml"), "?").unwrap();
    std::fs::write(path("b.toml~"), "?").unwrap();
    std::fs::create_dir(path("tls")).unwrap();
    assert_eq!(load().unwrap().mirrors.len(), 1);
    std::fs::create_dir(path("c.toml")).unwrap();
    assert!(
        load()
            .unwrap_err()
            .to_string()
            .ends_with("c.toml: it is no file; make it one, or give it another name")
    );
    let missing = Config::load_within(&path("none"), &path("none"), &around());
    let text = missing.unwrap_err().to_string();
    assert!(text.contains("can't be read: No such file"), "{text}");
    for i in 0..MAX_MIRRORS {
        std::fs::write(path(&format!("m{i}.toml")), "").unwrap();
    }
    let text = load().unwrap_err().to_string();
    assert!(
        text.contains(": there are more than 256 mirrors;"),
        "{text}"
    );
}

#[test]
fn the_examples_are_right() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/config");
    let load = |name: &str| {
        Config::load_within(&examples.join(name), Path::new("/none"), &around()).unwrap()
    };
    let two = load("two-nodes");
    let data = &two.mirrors[&Tag::new("data").unwrap()];
    assert!(data.slot_of(two.daemon.node.as_str()).is_some());
    assert_eq!(data.nodes.len(), 2);
    let three = load("three-nodes");
    let orders = &three.mirrors[&Tag::new("orders").unwrap()];
    let ports: Vec<u16> = orders.nodes.iter().map(|node| node.port).collect();
    assert_eq!(ports, [10002, 10002, 20001]);
    assert_eq!(orders.nodes[2].address.to_string(), "[2001:db8::3]:7805");
}

#[test]
fn nesting_without_end_is_refused_and_not_followed() {
    for open in ["[", "{a=", "a.", "[[", "'", "\"\\u"] {
        let text = format!("x = {}", open.repeat(60_000 / open.len()));
        assert!(read(&[("a.toml", &text)]).is_err());
        assert!(read(&[("a.toml", &open.repeat(60_000 / open.len()))]).is_err());
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,300}", parameters in "(\\PC|[=\"';#\n ]|LKDR_CHUNK_SIZE){0,40}") {
        let _ = read(&[("a.toml", &text), ("netraid.toml", &text), ("LK", &parameters)]);
    }

    #[test]
    fn no_mutation_of_a_right_file_makes_the_reader_panic(
        at in 0..250usize, length in 0..20usize, with in "(\\PC|[=\"\\[\\]{},.\n]|name|disk|9){0,6}"
    ) {
        let mut text = mirror("a", 0, &format!("chunk = 64\nprotocol = \"A\"\n{NODES}"));
        let start = at.min(text.len());
        text.replace_range(start..(start + length).min(text.len()), &with);
        let other = mirror("b", 0, NODES);
        if let Err(problems) = read(&[("a.toml", &text), ("b.toml", &other)]) {
            prop_assert!(!problems.is_empty());
        }
    }
}
