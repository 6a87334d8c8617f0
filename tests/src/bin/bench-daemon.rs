//! `make bench-daemon`: what two netraidd with many mirrors cost, how fast they answer, how they come back after a cut;
//! and how long the LifeKeeper scripts take.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot run stops with what happened"
)]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use netraid_tests::bench::median;
use netraid_tests::daemons::cable::{Cable, Cables};
use netraid_tests::daemons::{Node, Pair};
use netraid_tests::process::run;

const HELP: &str = "\
Measures two netraidd with many mirrors between them (embedded backend, disks of 2 MiB), on loopback. A report, not a test.

usage: bench-daemon [options]
  --mirrors N          how many, 1 to 200 (default 100)
  --times N            how often each status and each script is asked (default 100)
  --only TEXT          only parts whose name contains TEXT: status, idle, cut, hooks; repeated: all of them
  --dir FOLDER         where disks and sockets are made (default: the system's temporary folder)
";

struct Settings {
    mirrors: u8,
    times: usize,
    only: Vec<String>,
    folder: PathBuf,
}

fn main() -> ExitCode {
    let settings = match parse(env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("bench-daemon: {why}; --help tells more");
            return ExitCode::from(2);
        }
    };
    let wants = |part: &str| {
        settings
            .only
            .iter()
            .all(|text| part.contains(text.as_str()))
    };
    let programs = env::current_exe().expect("the path of this program");
    let programs = programs.parent().expect("a program lies in a folder");
    let begin = Instant::now();
    let pair = Pair::new(&settings.folder, programs, settings.mirrors);
    println!(
        "{} mirrors configured; both daemons answer after {:.1?}",
        settings.mirrors,
        begin.elapsed()
    );
    memory(&pair, "nothing in service");
    let begin = Instant::now();
    pair.mirror_all();
    println!(
        "all made, extended and in sync after {:.1?}, {} connections between the nodes",
        begin.elapsed(),
        pair.talk.open() + pair.data.open()
    );
    memory(&pair, "all in service");
    if wants("status") {
        status(&pair, settings.times);
    }
    if wants("idle") {
        idle(&pair);
    }
    if wants("cut") {
        cut(&pair);
    }
    if wants("hooks") {
        hooks(&pair, settings.times);
    }
    memory(&pair, "at the end");
    ExitCode::SUCCESS
}

fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Settings>, String> {
    let mut settings = Settings {
        mirrors: 100,
        times: 100,
        only: Vec::new(),
        folder: env::temp_dir(),
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let wrong = |text: &str| format!("{text:?} is no number for {word}");
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--mirrors" => {
                let text = value()?;
                let count = text.parse().ok().filter(|count| (1..=200).contains(count));
                settings.mirrors = count.ok_or_else(|| wrong(&text))?;
            }
            "--times" => {
                let text = value()?;
                let times = text.parse().ok().filter(|times| *times > 0);
                settings.times = times.ok_or_else(|| wrong(&text))?;
            }
            "--only" => settings.only.push(value()?),
            "--dir" => settings.folder = value()?.into(),
            _ => return Err(format!("{word:?} is not known")),
        }
    }
    Ok(Some(settings))
}

fn memory(pair: &Pair, when: &str) {
    for node in &pair.nodes {
        let cost = node.cost();
        println!(
            "netraidd of {}, {when}: {:.1} MiB resident (at most {:.1} so far), {} threads",
            name(pair, node),
            cost.resident as f64 / 1024.0,
            cost.peak as f64 / 1024.0,
            cost.threads
        );
    }
}

fn name(pair: &Pair, node: &Node) -> &'static str {
    match std::ptr::eq(node, &raw const pair.nodes[0]) {
        true => "source",
        false => "target",
    }
}

/// Prints the middle, nine tenths and the most of some times.
fn times(what: &str, taken: &[Duration]) {
    let mut milliseconds: Vec<f64> = taken.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    milliseconds.sort_by(f64::total_cmp);
    let at = |tenths: usize| milliseconds[(milliseconds.len() - 1) * tenths / 10];
    println!(
        "{what:44} median {:6.1} ms, 90 % {:6.1} ms, worst {:6.1} ms",
        median(milliseconds.clone()).unwrap(),
        at(9),
        at(10)
    );
}

fn time(times: usize, mut once: impl FnMut()) -> Vec<Duration> {
    let one = |_| {
        let begin = Instant::now();
        once();
        begin.elapsed()
    };
    (0..times).map(one).collect()
}

fn status(pair: &Pair, count: usize) {
    for node in &pair.nodes {
        let who = name(pair, node);
        let mut size = 0;
        let taken = time(count, || size = node.get("/v1/mirrors").len());
        times(
            &format!("GET /v1/mirrors, {who}, {} KiB", size / 1024),
            &taken,
        );
        let taken = time(count, || drop(node.get("/v1/mirrors/m0")));
        times(&format!("GET /v1/mirrors/m0, {who}"), &taken);
        let taken = time(count, || {
            run(pair.program(node, "netraid").args(["status", "--json"])).ok();
        });
        times(&format!("netraid status --json, {who}"), &taken);
    }
}

fn idle(pair: &Pair) {
    const LONG: Duration = Duration::from_secs(20);
    let spent = || {
        let each = pair.nodes.each_ref();
        each.map(|node| (node.cost().processor, node.helpers()))
    };
    let before = spent();
    thread::sleep(LONG);
    for (node, (before, after)) in pair.nodes.iter().zip(before.into_iter().zip(spent())) {
        let percent = |spent: Duration| 100.0 * spent.as_secs_f64() / LONG.as_secs_f64();
        println!(
            "idle, {}: netraidd {:.1} % of a processor, its {} helpers {:.1} %",
            name(pair, node),
            percent(after.0.saturating_sub(before.0)),
            after.1.0,
            percent(after.1.1.saturating_sub(before.1.1))
        );
    }
}

fn cut(pair: &Pair) {
    let cuts: [(&str, &[&Cables], u64); 4] = [
        ("all cables", &[&pair.talk, &pair.data], 1),
        ("all cables", &[&pair.talk, &pair.data], 10),
        ("all cables", &[&pair.talk, &pair.data], 60),
        ("the cables of the data alone", &[&pair.data], 60),
    ];
    for (what, cables, long) in cuts {
        let tried = |since: Instant| {
            let each = cables.iter().map(|cables| cables.attempts(since));
            let (all, most) = each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            format!("{all} attempts to connect, at most {most} within a second")
        };
        let cut = Instant::now();
        cables.iter().for_each(|cables| cables.set(Cable::Cut));
        // Everybody hears of it, and tries again for a while.
        thread::sleep(Duration::from_secs(long));
        println!("cut of {what} for {long} s: {}", tried(cut));
        let joined = Instant::now();
        cables.iter().for_each(|cables| cables.set(Cable::Whole));
        let taken = pair.all_are(["Source", "Target"], Duration::from_secs(300));
        println!(
            "    all in sync again {taken:.1?} after its end; {}",
            tried(joined)
        );
    }
}

fn hooks(pair: &Pair, count: usize) {
    let [source, target] = &pair.nodes;
    // Stand-ins for LifeKeeper's own commands, which take no time.
    for node in &pair.nodes {
        let bin = node.lkroot().join("bin");
        fs::create_dir_all(&bin).unwrap();
        for command in ["sendevent", "ins_create", "ins_setstate", "lcdremexec"] {
            std::os::unix::fs::symlink("/bin/true", bin.join(command)).unwrap();
        }
    }
    // The last mirror loses its target, which forgets it.
    let last = format!("m{}", pair.count() - 1);
    run(pair
        .program(source, "netraid")
        .args(["unextend", &last, "server2"]))
    .ok();
    run(pair.program(target, "netraid").args(["delete", &last])).ok();
    let leave = format!("unextend server1 {last}");
    let forget = format!("delete -t {last} -i 1");
    let create = format!("create -t m0 -p {}", source.disk(0).display());
    let table: [(&str, &Node, &str); 10] = [
        ("restore, in service already", source, "restore -t m0 -i 1"),
        (
            "remove, out of service already",
            target,
            "remove -t m0 -i 1",
        ),
        ("quickCheck", source, "quickCheck -t m0 -i 1"),
        ("recover", source, "recover -t m0 -i 1"),
        ("create, there already", source, &create),
        ("canextend", target, "canextend server1 m0"),
        ("extend, a target already", target, "extend server1 m0"),
        ("depstoextend", target, "depstoextend server1 m0"),
        ("unextend, no target already", target, &leave),
        ("delete, forgotten already", target, &forget),
    ];
    for (what, node, line) in table {
        let mut wrong = None;
        let taken = time(count, || {
            let mut command: Command = pair.program(node, "lifekeeper-hooks");
            command.args(line.split(' '));
            let ended = run(&mut command);
            if !ended.status.success() && wrong.is_none() {
                wrong = Some(ended.stderr);
            }
        });
        times(what, &taken);
        if let Some(wrong) = wrong {
            println!("    FAILED: {wrong}");
        }
    }
}
