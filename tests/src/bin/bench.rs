//! `make bench`: our nbd-server beside nbdkit, qemu-nbd and Debian's nbd-server, our mirror beside QEMU's quorum driver.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot run stops with what happened"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use netraid_tests::bench::contestants::{IMAGE_SIZE, Transport, mirrors, servers};
use netraid_tests::bench::load::LOADS;
use netraid_tests::bench::report::Section;
use netraid_tests::bench::run_section;
use netraid_tests::bench::settings::{HELP, Settings};
use netraid_tests::scratch::Scratch;

fn main() -> ExitCode {
    let settings = match Settings::parse(env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Result<(), String> {
    let target = target_folder();
    let parent = settings.folder.clone().unwrap_or_else(|| target.clone());
    let scratch =
        Scratch::inside(&parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    let image = scratch.noise("disk.img", IMAGE_SIZE, 1);
    let mut notes = Vec::new();
    let mut sections: Vec<Section> = Vec::new();
    for (title, transport) in [
        ("server tcp", Transport::Tcp),
        ("server unix", Transport::Unix),
    ] {
        if LOADS
            .iter()
            .any(|load| settings.wants(&format!("{title} {}", load.label)))
        {
            let contestants = servers(transport, settings, &image, &mut notes);
            sections.push(run_section(
                title,
                settings,
                &LOADS,
                &contestants,
                scratch.folder(),
            ));
            println!("{}", sections[sections.len() - 1].table());
        }
    }
    let title = "mirror unix";
    if LOADS
        .iter()
        .any(|load| settings.wants(&format!("{title} {}", load.label)))
    {
        let contestants = mirrors(settings, &image, &scratch, &mut notes);
        sections.push(run_section(
            title,
            settings,
            &LOADS,
            &contestants,
            scratch.folder(),
        ));
        println!("{}", sections[sections.len() - 1].table());
    }
    notes.sort();
    notes.dedup();
    println!(
        "Medians of {} rounds of {:?}; in parentheses CPU seconds (user + system) of the server's processes a GiB.",
        settings.rounds, settings.runtime
    );
    println!(
        "Ratios are medians of each round's ratio to the best peer of that row. Page cache warm, {}.",
        machine()
    );
    for note in &notes {
        println!("Note: {note}");
    }
    let json = settings
        .json
        .clone()
        .unwrap_or_else(|| target.join("bench.json"));
    write_json(&json, settings, &sections, &notes)
}

fn write_json(
    path: &Path,
    settings: &Settings,
    sections: &[Section],
    notes: &[String],
) -> Result<(), String> {
    let report = serde_json::json!({
        "schema": "netraid.bench/1",
        "rounds": settings.rounds,
        "runtime_milliseconds": settings.runtime.as_millis() as u64,
        "machine": machine(),
        "notes": notes,
        "sections": sections.iter().map(Section::json).collect::<Vec<_>>(),
    });
    fs::write(path, format!("{report:#}\n"))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    println!("All samples: {}", path.display());
    Ok(())
}

/// cargo's target folder, in which this program lies as `PROFILE/bench`.
fn target_folder() -> PathBuf {
    let program = env::current_exe().expect("the path of this program");
    program
        .parent()
        .and_then(Path::parent)
        .expect("a program lies in PROFILE of cargo's target folder")
        .to_owned()
}

fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{processors} processors, Linux {}", kernel.trim())
}
