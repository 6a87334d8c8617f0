//! The tables that people read and the JSON that programs read.

use std::fmt::Write;

use serde_json::{Value, json};

use super::load::Load;
use super::measure::Sample;
use super::median;

/// All measurements of one contestant under one load.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// One a round.
    pub samples: Vec<Sample>,
    /// Rounds in which it failed.
    pub failures: usize,
}

/// One table: loads down, contestants across.
#[derive(Clone, Debug)]
pub struct Section {
    /// What it is about.
    pub title: String,
    /// The rows.
    pub loads: Vec<Load>,
    /// The columns: names, and whether each is ours.
    pub contestants: Vec<(String, bool)>,
    /// By row and column.
    pub cells: Vec<Vec<Cell>>,
}

impl Section {
    /// The table as text: medians, CPU seconds a GiB in parentheses, and our ratios to the best peer of each row.
    pub fn table(&self) -> String {
        let mut rows = vec![self.heading()];
        for (load, cells) in self.loads.iter().zip(&self.cells) {
            let mut row = vec![load.label.to_owned()];
            row.extend(cells.iter().map(|cell| figure(load, cell)));
            for (index, _) in self.ours() {
                row.push(ratio_text(self.speed_ratio(cells, index)));
                row.push(ratio_text(self.cost_ratio(cells, index)));
            }
            rows.push(row);
        }
        let mut memory = vec!["RSS idle / busy MiB".to_owned()];
        memory.extend((0..self.contestants.len()).map(|column| self.memory(column)));
        rows.push(memory);
        format!("{}\n{}", self.title, aligned(&rows))
    }

    fn heading(&self) -> Vec<String> {
        let mut heading = vec![String::new()];
        heading.extend(self.contestants.iter().map(|(name, _)| name.clone()));
        for (_, name) in self.ours() {
            let whose = if self.ours().count() > 1 {
                format!("{name}: ")
            } else {
                String::new()
            };
            heading.push(format!("{whose}speed x best"));
            heading.push(format!("{whose}CPU x cheapest"));
        }
        heading
    }

    fn ours(&self) -> impl Iterator<Item = (usize, &str)> {
        let ours = self
            .contestants
            .iter()
            .enumerate()
            .filter(|(_, (_, ours))| *ours);
        ours.map(|(index, (name, _))| (index, name.as_str()))
    }

    /// Our speed to that of the fastest peer: the median of the ratios of each round.
    fn speed_ratio(&self, cells: &[Cell], ours: usize) -> Option<f64> {
        let speed = |sample: &Sample| sample.requests_per_second;
        let best = self.peers().max_by(|a, b| {
            let of = |index: &usize| cells[*index].median_of(speed).unwrap_or(0.0);
            of(a).total_cmp(&of(b))
        })?;
        ratio(&cells[ours], &cells[best], speed)
    }

    /// Our CPU seconds a GiB to those of the thriftiest peer: the median of the ratios of each round.
    fn cost_ratio(&self, cells: &[Cell], ours: usize) -> Option<f64> {
        let cost = |sample: &Sample| sample.cpu_per_gib;
        let cheapest = self.peers().min_by(|a, b| {
            let of = |index: &usize| cells[*index].median_of(cost).unwrap_or(f64::INFINITY);
            of(a).total_cmp(&of(b))
        })?;
        ratio(&cells[ours], &cells[cheapest], cost)
    }

    fn peers(&self) -> impl Iterator<Item = usize> {
        self.contestants
            .iter()
            .enumerate()
            .filter(|(_, (_, ours))| !ours)
            .map(|(index, _)| index)
    }

    fn memory(&self, column: usize) -> String {
        let samples = || self.cells.iter().flat_map(|row| &row[column].samples);
        let idle = median(samples().map(|sample| sample.idle_memory).collect());
        let busy = samples()
            .map(|sample| sample.busy_memory)
            .max_by(f64::total_cmp);
        match (idle, busy) {
            (Some(idle), Some(busy)) => format!("{:.0} / {:.0}", idle / MEBIBYTE, busy / MEBIBYTE),
            _ => "-".to_owned(),
        }
    }

    /// Everything that was measured.
    pub fn json(&self) -> Value {
        let row = |(load, cells): (&Load, &Vec<Cell>)| {
            let columns = self.contestants.iter().zip(cells).map(|((name, ours), cell)| {
                json!({
                    "contestant": name,
                    "ours": ours,
                    "failures": cell.failures,
                    "median": {
                        "bytes_per_second": cell.median_of(|sample| sample.bytes_per_second),
                        "requests_per_second": cell.median_of(|sample| sample.requests_per_second),
                        "cpu_seconds_per_gib": cell.median_of(|sample| sample.cpu_per_gib),
                    },
                    "samples": cell.samples.iter().map(sample_json).collect::<Vec<_>>(),
                })
            });
            let ratios = self.ours().map(|(index, name)| {
                json!({
                    "contestant": name,
                    "speed_to_best": self.speed_ratio(cells, index),
                    "cpu_to_cheapest": self.cost_ratio(cells, index),
                })
            });
            json!({
                "load": load.label,
                "contestants": columns.collect::<Vec<_>>(),
                "ratios": ratios.collect::<Vec<_>>(),
            })
        };
        json!({ "section": self.title, "loads": self.loads.iter().zip(&self.cells).map(row).collect::<Vec<_>>() })
    }
}

/// The median of the ratios of two contestants, round by round: both saw the same weather.
fn ratio(one: &Cell, other: &Cell, what: impl Fn(&Sample) -> f64) -> Option<f64> {
    median(
        one.samples
            .iter()
            .zip(&other.samples)
            .map(|(one, other)| what(one) / what(other))
            .collect(),
    )
}

fn figure(load: &Load, cell: &Cell) -> String {
    let speed = if load.is_sequential() {
        cell.median_of(|sample| sample.bytes_per_second)
            .map(|bytes| format!("{:.0} MB/s", bytes / 1e6))
    } else {
        cell.median_of(|sample| sample.requests_per_second)
            .map(|requests| format!("{:.1} k/s", requests / 1e3))
    };
    match (speed, cell.median_of(|sample| sample.cpu_per_gib)) {
        (Some(speed), Some(cpu)) => format!("{speed} ({cpu:.2})"),
        _ if cell.failures > 0 => "failed".to_owned(),
        _ => "-".to_owned(),
    }
}

fn ratio_text(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn sample_json(sample: &Sample) -> Value {
    json!({
        "bytes_per_second": sample.bytes_per_second,
        "requests_per_second": sample.requests_per_second,
        "cpu_seconds_per_gib": sample.cpu_per_gib,
        "idle_memory_bytes": sample.idle_memory,
        "busy_memory_bytes": sample.busy_memory,
    })
}

/// Columns padded to the same width, the first to the left and the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in (0..columns).zip(row) {
            let width = width(column);
            let _ = if column == 0 {
                write!(line, "{cell:<width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

const MEBIBYTE: f64 = (1 << 20) as f64;

#[cfg(test)]
mod tests {
    use super::super::load::LOADS;
    use super::*;

    fn cell(speeds: &[f64], cpu: f64) -> Cell {
        let sample = |speed: &f64| Sample {
            bytes_per_second: speed * 4096.0,
            requests_per_second: *speed,
            cpu_per_gib: cpu,
            idle_memory: MEBIBYTE,
            busy_memory: 2.0 * MEBIBYTE,
        };
        Cell {
            samples: speeds.iter().map(sample).collect(),
            failures: 0,
        }
    }

    fn section() -> Section {
        Section {
            title: "server tcp".to_owned(),
            loads: vec![LOADS[2].clone()],
            contestants: vec![
                ("mine".to_owned(), true),
                ("slow".to_owned(), false),
                ("fast".to_owned(), false),
            ],
            cells: vec![vec![
                cell(&[20.0, 40.0, 30.0], 3.0),
                cell(&[1.0; 3], 2.0),
                cell(&[10.0, 20.0, 30.0], 4.0),
            ]],
        }
    }

    #[test]
    fn speed_is_compared_with_the_fastest_peer_and_cost_with_the_cheapest_round_by_round() {
        let section = section();
        assert_eq!(section.speed_ratio(&section.cells[0], 0), Some(2.0));
        assert_eq!(section.cost_ratio(&section.cells[0], 0), Some(1.5));
    }

    #[test]
    fn table_shows_medians_ratios_and_memory() {
        let table = section().table();
        assert!(table.contains("0.0 k/s (3.00)"), "{table}");
        assert!(table.contains("2.00") && table.contains("1.50"), "{table}");
        assert!(table.contains("1 / 2"), "{table}");
    }
}
