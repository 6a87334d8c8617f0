//! An application's load: fio on the source, and what it says.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netraid_lab::{Job, Node};
use serde_json::{Value, json};

/// A load of fio: its name, and words.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) words: &'static str,
}

impl Load {
    /// Told in bytes a second, not in requests.
    pub(crate) fn is_sequential(&self) -> bool {
        !self.words.contains("rand")
    }

    /// What a sample is judged by.
    pub(crate) fn speed(&self, sample: &Sample) -> f64 {
        match self.is_sequential() {
            true => sample.bytes / 1e6,
            false => sample.requests,
        }
    }

    /// A speed with its unit.
    pub(crate) fn text(&self, speed: f64) -> String {
        let unit = if self.is_sequential() { "MB/s" } else { "/s" };
        match speed {
            speed if speed < 100.0 => format!("{speed:.1} {unit}"),
            speed => format!("{speed:.0} {unit}"),
        }
    }
}

/// What one run of a load saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Bytes a second.
    pub(crate) bytes: f64,
    /// Requests a second.
    pub(crate) requests: f64,
    /// Half of the requests took no longer than this, in milliseconds.
    pub(crate) p50: f64,
    /// 99 of 100 took no longer than this, in milliseconds.
    pub(crate) p99: f64,
}

impl Sample {
    pub(crate) fn json(&self) -> Value {
        json!({
            "bytes_per_second": self.bytes,
            "requests_per_second": self.requests,
            "p50_ms": self.p50,
            "p99_ms": self.p99,
        })
    }
}

/// What fio opens.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A block device.
    Device(String),
    /// An NBD export, by fio's own client.
    Uri(String),
}

impl Place {
    fn words(&self) -> String {
        match self {
            Place::Device(path) => format!("--ioengine=libaio --direct=1 --filename={path}"),
            Place::Uri(uri) => format!("--ioengine=nbd --uri='{uri}'"),
        }
    }
}

/// fio at work.
pub(crate) struct Running {
    job: Job,
    runtime: u64,
}

/// Starts a load. The processor's own counter is its clock: asking the node's kernel takes longer than much of what is
/// measured. A write's time is counted from before it is handed over: the kernel's mirrors do much of their work in that.
pub(crate) fn start(node: &Node, place: &Place, words: &str, runtime: u64) -> Result<Running> {
    let job = node.spawn(&format!(
        "exec fio --name=load --time_based --runtime={runtime} --ramp_time=1 --norandommap --clocksource=cpu \
         --lat_percentiles=1 --clat_percentiles=0 \
         --output-format=json {} {words}",
        place.words()
    ))?;
    Ok(Running { job, runtime })
}

/// The command line for writing so much, and no longer.
pub(crate) fn once(place: &Place, words: &str) -> String {
    format!(
        "fio --name=once --output-format=terse {} {words}",
        place.words()
    )
}

/// Runs a load to its end.
pub(crate) fn run(node: &Node, place: &Place, words: &str, runtime: u64) -> Result<Sample> {
    start(node, place, words, runtime)?.finish()
}

impl Running {
    pub(crate) fn is_running(&self) -> bool {
        self.job.is_running()
    }

    pub(crate) fn finish(self) -> Result<Sample> {
        let output = self.job.wait(Duration::from_secs(self.runtime + 60))?;
        ensure!(output.ok(), "fio: {}{}", output.stdout, output.stderr);
        parse(&output.stdout)
    }
}

fn parse(text: &str) -> Result<Sample> {
    // Warnings may stand before it.
    let begin = text.find('{').context("fio printed no JSON")?;
    let report: Value = serde_json::from_str(&text[begin..]).context("fio's JSON")?;
    let write = &report["jobs"][0]["write"];
    let number = |value: &Value| value.as_f64().context("fio's JSON lacks a number");
    let percentile =
        |which: &str| -> Result<f64> { Ok(number(&write["lat_ns"]["percentile"][which])? / 1e6) };
    Ok(Sample {
        bytes: number(&write["bw_bytes"])?,
        requests: number(&write["iops"])?,
        p50: percentile("50.000000")?,
        p99: percentile("99.000000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fio_says_is_read_behind_its_warnings_in_milliseconds() {
        let text = r#"fio: this is a note
            {"jobs": [{"write": {"bw_bytes": 4096000, "iops": 1000.5, "lat_ns":
            {"percentile": {"50.000000": 700000, "99.000000": 2500000}}}}]}"#;
        let wanted = Sample {
            bytes: 4_096_000.0,
            requests: 1000.5,
            p50: 0.7,
            p99: 2.5,
        };
        assert_eq!(parse(text).unwrap(), wanted);
        assert!(parse("{}").is_err());
        assert!(parse("no").is_err());
    }
}
