//! `make bench-lab`: NetRAID beside DRBD 8.4 on two nodes of a lab, the same kernels, disks and cable, in one run.
//!
//! Reports, not tests. The contestants take turns; medians of the rounds and ratios are printed.

mod contestants;
mod drbd;
mod kernel;
mod load;
mod protocols;
mod resync;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

const HELP: &str = "\
Measures NetRAID beside DRBD 8.4 on two nodes of a lab. A report, not a test.

usage: bench-lab [kernel|protocols|resync] [options]

  kernel      the kernel's RAID1 (nbd + md) and DRBD, protocol C (this is what runs if none is named)
  protocols   the embedded engine under protocols A and C, the kernel's RAID1 under C, and DRBD under A, B and C, at
              round trips of 0, 1, 10 and 50 ms and at 1 % loss: throughput, and latency at the 50th and 99th percentile;
              besides an nbd-server of the source's own, which shows what reaching a disk in that way costs
  resync      the embedded engine and DRBD with and without csums-alg, and the kernel's RAID1: the first sync of a device
              that is 90 % empty, a resync of 1 %, a resync of equal data, a verify, a resync under load; how long it
              takes, how much crosses the cable, and what the application has meanwhile

options of all:
  --rounds N           rounds (default 5; resync: 3)
  --runtime SECONDS    how long each load runs (default 4; protocols: 3)
  --size MIB           size of each disk (default 512; protocols: 256)
  --only TEXT          only rows whose name contains TEXT, e.g. \"depth 16\"
  --chunk KIB          what a bit of the write-intent bitmap stands for (default 256, the product's; DRBD's activity
                       log has extents of 4096)
  --markdown           print the tables for docs/performance.md

options of kernel:
  --attach WORDS       words for nbd-client attach (default \"--connections 1\")
  --serve WORDS        words for nbd-server

options of protocols and resync:
  --contestants TEXT   only contestants whose name contains one of these texts, separated by commas, e.g. embedded,DRBD
  --network NAME       (protocols) only this network, e.g. \"50 ms\" or \"1 % loss\"
  --min-rate KIB       (resync) c-min-rate of all contestants (default 20000, the product's)
  --reach kernel|fio   how the application reaches the embedded engine: through the kernel's nbd, as a file system would
                       (default), or by fio's own NBD client, as a virtual machine would
  --json FILE          where all samples are written
";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Kernel,
    Protocols,
    Resync,
}

/// How the application reaches the embedded engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reach {
    /// A block device of the kernel's nbd client, over a unix socket.
    #[default]
    Kernel,
    /// fio's own NBD client on that socket.
    Fio,
}

#[derive(Clone, Debug)]
struct Settings {
    what: What,
    rounds: usize,
    runtime: u64,
    only: String,
    size: u64,
    attach: String,
    serve: String,
    chunk: u32,
    contestants: Vec<String>,
    network: String,
    min_rate: u32,
    reach: Reach,
    json: Option<PathBuf>,
    markdown: bool,
}

impl Settings {
    fn wants(&self, contestant: &str) -> bool {
        self.contestants.is_empty()
            || self
                .contestants
                .iter()
                .any(|text| contestant.contains(text.as_str()))
    }
}

fn main() -> ExitCode {
    let settings = match parse(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("bench-lab: {why:#}; --help tells more");
            return ExitCode::from(2);
        }
    };
    if let Err(reason) = netraid_lab::available() {
        eprintln!("bench-lab: labs do not run here: {reason}");
        return ExitCode::FAILURE;
    }
    let result = match settings.what {
        What::Kernel => kernel::run(&settings),
        What::Protocols => protocols::run(&settings),
        What::Resync => resync::run(&settings),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Settings>> {
    let mut words = words.into_iter().peekable();
    let what = match words.peek().map(String::as_str) {
        Some("kernel") => Some(What::Kernel),
        Some("protocols") => Some(What::Protocols),
        Some("resync") => Some(What::Resync),
        _ => None,
    };
    if what.is_some() {
        words.next();
    }
    let what = what.unwrap_or(What::Kernel);
    let mut settings = Settings {
        what,
        rounds: if what == What::Resync { 3 } else { 5 },
        runtime: if what == What::Protocols { 3 } else { 4 },
        only: String::new(),
        size: if what == What::Protocols { 256 } else { 512 },
        attach: "--connections 1".to_owned(),
        serve: String::new(),
        chunk: 256,
        contestants: Vec::new(),
        network: String::new(),
        min_rate: 20_000,
        reach: Reach::default(),
        json: None,
        markdown: false,
    };
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        let number = |text: String| {
            let number = text.parse::<u64>().ok().filter(|number| *number > 0);
            number.with_context(|| format!("{word} {text}: a number above 0 is needed"))
        };
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--rounds" => settings.rounds = usize::try_from(number(value()?)?)?,
            "--runtime" => settings.runtime = number(value()?)?,
            "--size" => settings.size = number(value()?)?,
            "--only" => settings.only = value()?,
            "--attach" => settings.attach = value()?,
            "--serve" => settings.serve = value()?,
            "--chunk" => settings.chunk = u32::try_from(number(value()?)?)?,
            "--contestants" => {
                settings.contestants = value()?.split(',').map(str::to_owned).collect();
            }
            "--network" => settings.network = value()?,
            "--min-rate" => settings.min_rate = u32::try_from(number(value()?)?)?,
            "--reach" => {
                settings.reach = match value()?.as_str() {
                    "kernel" => Reach::Kernel,
                    "fio" => Reach::Fio,
                    other => bail!("--reach {other}: kernel or fio is needed"),
                }
            }
            "--json" => settings.json = Some(value()?.into()),
            "--markdown" => settings.markdown = true,
            _ => bail!("{word} is no option"),
        }
    }
    ensure!(
        settings.size >= 64,
        "--size {}: 64 MiB is the least",
        settings.size
    );
    Ok(Some(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Option<Settings>> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_understood_and_wrong_ones_named() {
        let settings = of("").unwrap().unwrap();
        assert_eq!((settings.what, settings.rounds), (What::Kernel, 5));
        let settings = of("resync --only verify --contestants embedded,DRBD --reach fio");
        let settings = settings.unwrap().unwrap();
        assert_eq!((settings.what, settings.rounds), (What::Resync, 3));
        assert_eq!(settings.reach, Reach::Fio);
        assert!(
            settings.wants("embedded") && settings.wants("DRBD csums") && !settings.wants("md")
        );
        assert!(of("protocols --help").unwrap().is_none());
        for wrong in [
            "--rounds 0",
            "--rounds",
            "--reach wire",
            "--size 1",
            "--resync",
        ] {
            let why = format!("{:#}", of(wrong).unwrap_err());
            assert!(why.contains("--"), "{wrong}: {why}");
        }
    }
}
