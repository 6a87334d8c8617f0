//! The loads, and running one of them with fio's NBD engine.

use std::process::Command;
use std::time::Duration;

use crate::peers::{self, FIO};
use crate::process::run_within;

/// One load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Short name, for tables and `--only`.
    pub label: &'static str,
    /// fio's `rw`.
    pub pattern: &'static str,
    /// Bytes a request.
    pub block: u32,
    /// Requests in flight.
    pub depth: u32,
}

/// All loads, in the order of the report.
pub const LOADS: [Load; 6] = [
    Load {
        label: "seq-read-1M-d16",
        pattern: "read",
        block: 1 << 20,
        depth: 16,
    },
    Load {
        label: "seq-write-1M-d16",
        pattern: "write",
        block: 1 << 20,
        depth: 16,
    },
    Load {
        label: "rand-read-4k-d1",
        pattern: "randread",
        block: 4096,
        depth: 1,
    },
    Load {
        label: "rand-read-4k-d32",
        pattern: "randread",
        block: 4096,
        depth: 32,
    },
    Load {
        label: "rand-write-4k-d1",
        pattern: "randwrite",
        block: 4096,
        depth: 1,
    },
    Load {
        label: "rand-write-4k-d32",
        pattern: "randwrite",
        block: 4096,
        depth: 32,
    },
];

impl Load {
    /// Whether it is told in bytes a second, rather than in requests a second.
    pub fn is_sequential(&self) -> bool {
        !self.pattern.starts_with("rand")
    }
}

/// What fio says of one run.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// Bytes moved.
    pub bytes: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Requests a second.
    pub requests_per_second: f64,
}

/// Loads an export of `size` bytes for `runtime`.
pub fn run(load: &Load, uri: &str, size: u64, runtime: Duration, seed: u64) -> Result<Ran, String> {
    let fio = peers::find(FIO)?;
    let mut command = Command::new(fio);
    command
        .args([
            "--name=load",
            "--ioengine=nbd",
            "--thread",
            "--time_based",
            "--output-format=json",
        ])
        // Fewer calls of the clock and no map of visited blocks: the client shares the processors with the server.
        .args(["--gtod_reduce=1", "--norandommap"])
        .arg(format!("--uri={uri}"))
        .arg(format!("--rw={}", load.pattern))
        .arg(format!("--bs={}", load.block))
        .arg(format!("--iodepth={}", load.depth))
        .arg(format!("--size={size}"))
        .arg(format!("--runtime={}ms", runtime.as_millis()))
        .arg(format!("--randseed={}", seed + 1));
    let finished = run_within(&mut command, runtime + Duration::from_secs(60));
    if !finished.status.success() {
        return Err(finished.to_string());
    }
    let begin = finished.stdout.find('{').ok_or("fio printed no JSON")?;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout[begin..])
        .map_err(|error| format!("fio's JSON: {error}"))?;
    let job = &report["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        return Err(format!(
            "fio met error {}: {}",
            job["error"], finished.stderr
        ));
    }
    let side = if load.pattern.ends_with("read") {
        &job["read"]
    } else {
        &job["write"]
    };
    let number = |name: &str| {
        side[name]
            .as_f64()
            .ok_or_else(|| format!("fio's JSON has no {name}"))
    };
    Ok(Ran {
        bytes: number("io_bytes")?,
        bytes_per_second: number("bw_bytes")?,
        requests_per_second: number("iops")?,
    })
}
