//! The story of `netraid quickstart` as a program: it holds, it stays up and stops on Ctrl-C, it refuses what is not
//! its own, and whichever of its processes is killed at whichever moment, no difference is forgotten and no acknowledged
//! write is lost.
//!
//! The kill points follow from a seed, which is printed. `NETRAID_SEED` runs one seed alone, `NETRAID_ROUNDS` so many of
//! them in each test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use netraid::quickstart::ledger::Ledger;
use netraid::quickstart::leg::LegFile;
use netraid::quickstart::sweep;
use netraid_tests::peers;
use netraid_tests::process::{Daemon, run, run_within, wait_until};
use netraid_tests::scratch::{MIB, Noise, Scratch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// For all that ends by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// Large enough for the application to write for a while: it writes a part of the disk.
const SIZE: &str = "512M";

/// The steps of the story, in order.
const STEPS: [&str; 9] = [
    "prepare", "create", "extend", "cut", "return", "crash", "failover", "rejoin", "stop",
];

fn quickstart(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(peers::ours("netraid"));
    command
        .arg("quickstart")
        .arg("--dir")
        .arg(folder)
        .args(words);
    command
}

/// A folder with a few files, so that the story is short.
fn data(scratch: &Scratch) -> String {
    let folder = scratch.path("data");
    fs::create_dir_all(folder.join("inner")).unwrap();
    let mut noise = Noise::new(7);
    for number in 0..20 {
        let mut bytes = vec![0; 1 << (number % 18)];
        noise.fill(&mut bytes);
        fs::write(folder.join(format!("inner/file-{number}")), bytes).unwrap();
    }
    std::os::unix::fs::symlink("inner/file-3", folder.join("link")).unwrap();
    folder.display().to_string()
}

fn objects(text: &str) -> Vec<Value> {
    let parse = |line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"))
    };
    text.lines().map(parse).collect()
}

#[test]
fn the_story_holds_and_a_partial_resync_moves_little() {
    let scratch = Scratch::new();
    let demo = scratch.path("demo");
    let words = ["--once", "--json", "--size", "256M"];
    let told = run_within(&mut quickstart(&demo, &words), PATIENCE).ok();
    assert_eq!(told.stderr, "", "{told}");
    let steps = objects(&told.stdout);
    let names: Vec<&str> = steps
        .iter()
        .filter_map(|step| step["step"].as_str())
        .collect();
    assert_eq!(names, STEPS);
    let step = |name: &str| steps.iter().find(|step| step["step"] == name).unwrap();
    let number = |name: &str, field: &str| {
        step(name)[field]
            .as_u64()
            .unwrap_or_else(|| panic!("no {field} in {}", step(name)))
    };
    for step in &steps {
        assert_eq!(step["ok"], true, "{step}");
        assert!(step["seconds"].is_f64(), "{step}");
    }
    let device = number("create", "device_bytes");
    let written = number("return", "written_bytes");
    assert!(
        (device / 120..device / 80).contains(&written),
        "{written} of {device} are not 1 %"
    );
    for resync in ["return", "rejoin"] {
        let (copied, sent) = (number(resync, "copied_bytes"), number(resync, "sent_bytes"));
        assert!(sent <= copied, "{}", step(resync));
        assert!(copied * 20 <= device, "more than 5 %: {}", step(resync));
    }
    assert!(number("extend", "sent_bytes") < device / 32 * 27);
    assert_eq!(number("crash", "unmarked_chunks"), 0);
    assert_eq!(number("failover", "files"), number("prepare", "files"));
    assert!(number("failover", "acknowledged_writes") > 50);
    // A second time in the same folder, for people, and with an image of one's own.
    let image = scratch.path("own.img");
    fs::copy(demo.join("filesystem.img"), &image).unwrap();
    let image = image.display().to_string();
    let again = quickstart(&demo, &["--once", "--size", "64M", "--image", &image]);
    let told = run_within(&mut { again }, PATIENCE).ok();
    assert!(told.stdout.contains("it starts over"), "{told}");
    assert!(told.stdout.contains("Every check held"), "{told}");
}

#[test]
fn without_once_the_mirror_stays_up_until_ctrl_c_and_stops_cleanly() {
    let scratch = Scratch::new();
    let demo = scratch.path("demo");
    let data = data(&scratch);
    let mut story = Story::start(&demo, &["--json", "--size", "48M", "--data", &data]);
    let up = story.wait_for("up");
    let uri = up["uri"].as_str().expect("a URI");
    let run_dir = demo.join("run/server2").display().to_string();
    let netraid = || Command::new(peers::ours("netraid"));
    let status = |words: &[&str]| {
        run(netraid()
            .args(["status", "--run-dir", &run_dir])
            .args(words))
    };
    let document = status(&["--json"]).ok().json();
    assert_eq!(document["mirrors"][0]["places"][0], uri, "{document:#}");
    let document = wait_until("the bits of the last resync are cleared", PATIENCE, || {
        let document = status(&["--json"]).ok().json();
        (document["mirrors"][0]["dirty_bytes"] == 0).then_some(document)
    });
    let nodes = document["mirrors"][0]["nodes"].as_array().unwrap();
    let words: Vec<&Value> = nodes.iter().map(|node| &node["status"]).collect();
    assert_eq!(words, ["Target", "Source"], "{document:#}");
    let missing = status(&["other"]).code(2);
    assert!(missing.stderr.contains("other"), "{missing}");
    // Nobody else may use the folder meanwhile.
    let second = run(&mut quickstart(&demo, &["--once"])).code(3);
    assert!(second.stderr.contains("another quickstart"), "{second}");
    let mut programs: Vec<String> = story
        .processes()
        .into_iter()
        .filter_map(|pid| stat(pid).map(|(name, _, _)| name))
        .collect();
    programs.sort();
    // The story and its guard; on each node a daemon; the mirror on server2, the export on server1.
    let expected = [
        "nbd-server",
        "netraid",
        "netraid",
        "netraid",
        "netraidd",
        "netraidd",
    ];
    assert_eq!(programs, expected);
    story.signal(Signal::SIGINT);
    let end = story.wait_for("stop");
    assert_eq!(end["ok"], true, "{end}");
    assert!(story.wait_for_end().success());
    wait_for_none(&demo);
    let gone = status(&[]).code(1);
    assert!(gone.stderr.contains("netraidd"), "{gone}");
}

#[test]
fn what_can_not_be_is_refused_in_one_line() {
    let scratch = Scratch::new();
    let demo = scratch.path("demo");
    let check = |command: &mut Command, code: i32, part: &str| {
        let refused = run(command).code(code);
        let line = refused.stderr.trim_end();
        assert!(line.contains(part) && !line.contains('\n'), "{refused}");
    };
    check(
        &mut quickstart(&demo, &["--once", "--size", "1M"]),
        2,
        "at least 32 MiB",
    );
    assert!(!demo.exists());
    let image = scratch.sparse("noise.img", MIB).display().to_string();
    check(
        &mut quickstart(&demo, &["--once", "--image", &image]),
        1,
        "e2fsck failed",
    );
    check(
        &mut quickstart(&demo, &["--once", "--data", "/nowhere"]),
        1,
        "/nowhere",
    );
    let other = scratch.path("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("precious"), "x").unwrap();
    check(
        &mut quickstart(&other, &["--once"]),
        3,
        "was not made by netraid quickstart",
    );
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
}

/// A quickstart under way.
struct Story {
    folder: PathBuf,
    child: Child,
    lines: Receiver<Value>,
    _reader: thread::JoinHandle<()>,
}

impl Story {
    fn start(folder: &Path, words: &[&str]) -> Story {
        let log = fs::File::create(folder.with_extension("stderr")).unwrap();
        let mut command = Command::new("setpriv");
        let story = quickstart(folder, words);
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(story.get_program())
            .args(story.get_args());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start quickstart");
        let stdout: ChildStdout = child.stdout.take().unwrap();
        let (told, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if told.send(value).is_err() {
                    return;
                }
            }
        });
        Story {
            folder: folder.to_owned(),
            child,
            lines,
            _reader: reader,
        }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for the line of a step.
    fn wait_for(&mut self, step: &str) -> Value {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(value) if value["step"] == step => return value,
                Ok(value) => assert_eq!(value["ok"], true, "{value}"),
                Err(error) => panic!("waiting for step {step}: {error}"),
            }
        }
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        wait_until("quickstart ends", PATIENCE, || {
            self.child.try_wait().unwrap()
        })
    }

    /// Its processes: itself first, then its guard, the nodes' daemons and what those started, and tools of a moment.
    fn processes(&self) -> Vec<i32> {
        let mut all = vec![self.pid()];
        let children = pids().filter(|pid| parent(*pid) == Some(self.pid()));
        all.extend(children.chain(of_folder(&self.folder)));
        all[1..].sort_unstable();
        all.dedup();
        all
    }
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The processes that look after the nodes of a story, or serve them: its folder is in their arguments.
fn of_folder(folder: &Path) -> impl Iterator<Item = i32> {
    let folder = folder.display().to_string();
    pids().filter(move |pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let program = line.split(' ').next().unwrap_or_default();
        ["netraidd", "netraid", "nbd-server"]
            .iter()
            .any(|name| program.rsplit('/').next() == Some(name))
            && line.contains(&folder)
    })
}

/// Waits until nothing of a story runs any more; whatever was just being started is found too.
fn wait_for_none(folder: &Path) {
    wait_until("its processes are gone", PATIENCE, || {
        (of_folder(folder).next().is_none()).then_some(())
    });
}

/// A test that fails leaves no process behind: its children die with it.
impl Drop for Story {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// State and parent of a process, from `/proc/PID/stat`: `PID (NAME) STATE PARENT ...`, and its name.
fn stat(pid: i32) -> Option<(String, char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = (
        text.split_once('(')?.1.rsplit_once(')')?.0,
        text.rsplit_once(')')?.1,
    );
    let mut words = rest.split_whitespace();
    Some((
        name.to_owned(),
        words.next()?.chars().next()?,
        words.next()?.parse().ok()?,
    ))
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid).map(|(_, _, parent)| parent)
}

/// Where and when a process is killed.
#[derive(Debug)]
struct Point {
    /// So many steps are over.
    steps: usize,
    /// So long after that, in milliseconds.
    delay: u64,
    /// Chooses among those that are there.
    victim: u64,
}

impl Point {
    fn of(seed: u64) -> Point {
        let mut noise = Noise::new(seed);
        // Not in the first step: there is no mirror yet. Not after the last. More often where the application writes.
        let steps = match noise.word() % 16 {
            0..4 => 3,
            4..8 => 5,
            other => other as usize - 7,
        };
        Point {
            steps,
            delay: noise.word() % 400,
            victim: noise.word(),
        }
    }
}

/// Runs the story, kills one of its processes at the point that follows from the seed, and looks at what is left.
fn kill_one(seed: u64) {
    let point = Point::of(seed);
    let scratch = Scratch::new();
    let demo = scratch.path("demo");
    let data = data(&scratch);
    let mut story = Story::start(
        &demo,
        &["--once", "--json", "--size", SIZE, "--data", &data],
    );
    let mut over = Vec::new();
    while over.len() < point.steps {
        let step = story.lines.recv_timeout(PATIENCE).expect("the next step");
        assert_eq!(step["ok"], true, "{step}");
        over.push(step["step"].clone());
    }
    // Whatever the machine's speed, some moment of the following step; what is waited for is chance.
    thread::sleep(Duration::from_millis(point.delay));
    let processes = story.processes();
    let victim = processes[(point.victim % processes.len() as u64) as usize];
    let name = stat(victim).map_or("gone".to_owned(), |(name, _, _)| name);
    eprintln!(
        "NETRAID_SEED={seed}: {point:?} after {:?} kills {name}",
        over.last()
    );
    // Gone meanwhile, if it was a program that runs for a moment: then nothing was killed.
    let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
    let status = story.wait_for_end();
    assert!(
        status.success() || status.code() == Some(1) || victim == story.pid(),
        "quickstart ended with {status}"
    );
    wait_for_none(&demo);
    drop(story);
    look(&scratch, &demo);
}

/// No difference without a bit; then the mirror is brought up again, and everything must be there.
fn look(scratch: &Scratch, demo: &Path) {
    let disks = ["server1.img", "server2.img"].map(|name| demo.join(name));
    let record = demo.join("writes.log");
    let open = |disk: &PathBuf| LegFile::open(disk).ok();
    let Some(_) = open(&disks[0]) else { return };
    let second = open(&disks[1]);
    if let Some(two) = &second {
        let one = LegFile::open(&disks[0]).unwrap();
        let differences = one.differences(two, |_| Ok(())).unwrap();
        let unmarked = one.unmarked(two, &differences);
        eprintln!(
            "{} chunks differ; {} and {} are marked",
            differences.chunks.len(),
            one.dirty.count(),
            two.dirty.count()
        );
        assert!(
            unmarked.is_empty(),
            "chunks differ without a bit: {unmarked:?}"
        );
    }
    let ledger = record.is_file().then(|| Ledger::replay(&record).unwrap());
    // Killed before server1's daemon remembers the mirror that its disk holds: nothing was promised yet.
    if ledger.is_none() && second.is_none() {
        return;
    }
    let source = bring_up(scratch, demo, ledger.as_ref(), second.is_some());
    let mut disks_with_all: BTreeSet<usize> = [source].into();
    if second.is_some() {
        let [one, two] = disks.each_ref().map(|disk| LegFile::open(disk).unwrap());
        let differences = one.differences(&two, |_| Ok(())).unwrap();
        assert_eq!(differences.first, None, "the legs differ after a resync");
        assert!(one.superblock.is_clean() && two.superblock.is_clean());
        disks_with_all.extend([0, 1]);
    }
    let Some(ledger) = ledger else { return };
    for disk in disks_with_all {
        let name = format!("server{}", disk + 1);
        assert!(has_all(demo, disk, &ledger), "writes are lost on {name}");
    }
}

/// Whether every acknowledged write is on the disk of a node.
fn has_all(demo: &Path, node: usize, ledger: &Ledger) -> bool {
    let disk = demo.join(format!("server{}.img", node + 1));
    let leg = LegFile::open(&disk).unwrap();
    let area = ledger.area();
    let mut bytes = vec![0; (area.end - area.start) as usize];
    leg.read_at(area.start, &mut bytes).unwrap();
    let checked = ledger.check(area.start, &bytes);
    if let Err(error) = &checked {
        eprintln!("on the disk of server{}: {error}", node + 1);
    }
    checked.is_ok()
}

/// Boots both nodes, puts the mirror in service on the one that may, waits until all is in sync and clean, and stops
/// all. Returns the node, which knew itself that its data is good.
fn bring_up(scratch: &Scratch, demo: &Path, ledger: Option<&Ledger>, both: bool) -> usize {
    let names = ["server1", "server2"];
    let mut daemons = names.map(|name| {
        let mut command = Command::new(peers::ours("netraidd"));
        let etc = demo.join(name).join("etc");
        command.arg("--config-dir").arg(&etc);
        command.env("NETRAID_DEFAULTS_FILE", etc.join("defaults"));
        Daemon::start(
            &format!("again-{name}"),
            &scratch.path("."),
            &command,
            // One that was killed has left its socket, but nobody listens there.
            || UnixStream::connect(demo.join("run").join(name).join("netraidd.sock")).is_ok(),
        )
    });
    let netraid_on = |node: usize, words: &[&str]| {
        let run_dir = demo.join("run").join(names[node]);
        let mut command = Command::new(peers::ours("netraid"));
        run_within(
            command.args(words).arg("--run-dir").arg(run_dir),
            2 * PATIENCE,
        )
    };
    let first = netraid_on(0, &["start", "demo"]);
    if first.status.code() == Some(3) {
        let log = |name: &str| fs::read_to_string(demo.join(format!("{name}.log")));
        let [one, two] = names.map(|name| log(name).unwrap_or_default());
        eprintln!("-- server1 before:\n{one}-- server2 before:\n{two}");
    }
    let source = match first.status.code() {
        Some(3) if first.stderr.contains("split brain") => {
            // The target's export was killed, then the source lost power before it could say that it had gone on alone.
            // Nobody's data is touched: whose is kept is for an administrator to say, who looks for what is missed.
            let keep = ledger.map_or(0, |ledger| usize::from(!has_all(demo, 0, ledger)));
            netraid_on(keep, &["resolve", "demo", "--discard", names[1 - keep]]).ok();
            netraid_on(keep, &["start", "demo"]).ok();
            keep
        }
        Some(3) => {
            netraid_on(1, &["start", "demo"]).ok();
            1
        }
        _ => {
            first.ok();
            0
        }
    };
    let netraid = |words: &[&str]| netraid_on(source, words);
    wait_until("the mirror is in sync and clean", PATIENCE, || {
        let document = netraid(&["status", "demo", "--json"]).ok().json();
        let mirror = &document["mirrors"][0];
        let members = mirror["nodes"].as_array()?.iter();
        let in_sync = members
            .filter(|node| node["member"] == true)
            .all(|node| node["disk"] == "UpToDate");
        (!both || in_sync && mirror["dirty_bytes"] == 0).then_some(())
    });
    netraid(&["stop", "demo"]).ok();
    for daemon in &mut daemons {
        let ended = daemon.stop();
        assert!(ended.success(), "{ended}; it said:\n{}", daemon.said());
    }
    sweep::kill_all(&[demo.to_owned()]).unwrap();
    source
}

/// The seeds of one test, or the one that is asked for.
fn with_seeds(first: u64) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match number("NETRAID_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("NETRAID_ROUNDS").unwrap_or(5),
    };
    for seed in seeds {
        eprintln!("NETRAID_SEED={seed}: {:?}", Point::of(seed));
        kill_one(seed);
    }
}

#[test]
fn any_process_killed_at_any_point_costs_nothing_first_five() {
    with_seeds(100);
}

#[test]
fn any_process_killed_at_any_point_costs_nothing_second_five() {
    with_seeds(200);
}

#[test]
fn any_process_killed_at_any_point_costs_nothing_third_five() {
    with_seeds(300);
}

#[test]
fn any_process_killed_at_any_point_costs_nothing_fourth_five() {
    with_seeds(400);
}
