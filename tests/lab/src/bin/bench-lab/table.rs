//! Tables of medians and ratios, as text or markdown, and the file with all samples.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The middle of some numbers; NaN if there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The median of the ratios, round by round: both saw the same weather.
pub(crate) fn ratio(one: &[f64], other: &[f64]) -> f64 {
    let ratios: Vec<f64> = one.iter().zip(other).map(|(one, two)| one / two).collect();
    median(&ratios)
}

/// A ratio in a table.
pub(crate) fn times(ratio: f64) -> String {
    if ratio.is_nan() {
        "-".to_owned()
    } else {
        format!("{ratio:.2}")
    }
}

/// A table of text, the first row its heading.
pub(crate) fn table(rows: &[Vec<String>], markdown: bool) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let (left, between, right) = match markdown {
        true => ("| ", " | ", " |"),
        false => ("", "  ", ""),
    };
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| {
                let cell = row.get(column).map_or("", String::as_str);
                match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                }
            })
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{left}{}{right}", cells.join(between).trim_end());
        if markdown && number == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(columns));
        }
    }
    text
}

/// The system's load and processors: what the figures were disturbed by.
pub(crate) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{processors} processors, load {}", load.join(" "))
}

/// Writes all samples.
pub(crate) fn write_json(path: &Path, what: &str, machine: &[String], rows: Value) -> Result<()> {
    let report = json!({
        "schema": "netraid.bench-lab/1",
        "what": what,
        "machine": machine,
        "rows": rows,
    });
    fs::write(path, format!("{report:#}\n")).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_each_round() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        // Of medians it would be 20 / 30.
        let (one, other) = ([10.0, 20.0, 90.0], [5.0, 30.0, 45.0]);
        assert!((ratio(&one, &other) - 2.0).abs() < f64::EPSILON);
        assert_eq!(times(ratio(&[], &other)), "-");
    }

    #[test]
    fn columns_stand_under_each_other() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let rows = [row(["load", "µs"]), row(["depth 16", "1"])];
        assert_eq!(table(&rows, false), "load      µs\ndepth 16   1\n");
        assert_eq!(
            table(&rows, true),
            "| load     | µs |\n|---|---|\n| depth 16 |  1 |\n"
        );
    }
}
