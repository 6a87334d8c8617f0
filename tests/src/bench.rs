//! Benchmarks side by side: the same loads on our programs and on others', rounds interleaved, medians and ratios.
//!
//! A report, never a test: nothing here passes or fails. What makes the figures comparable on a shared, noisy machine is
//! that every round visits every contestant, each measurement starts its server afresh on the same warm file, and
//! what was left dirty is written out between measurements.

pub mod contestants;
pub mod load;
pub mod measure;
pub mod report;
pub mod settings;

use std::path::Path;

use contestants::Contestant;
use load::Load;
use measure::{Sample, measure};
use report::{Cell, Section};
use settings::Settings;

/// Runs all rounds of one section, printing progress on standard error.
pub fn run_section(
    title: &str,
    settings: &Settings,
    loads: &[Load],
    contestants: &[Contestant],
    folder: &Path,
) -> Section {
    let chosen: Vec<&Load> = loads
        .iter()
        .filter(|load| settings.wants(&format!("{title} {}", load.label)))
        .collect();
    let mut cells: Vec<Vec<Cell>> = chosen
        .iter()
        .map(|_| contestants.iter().map(|_| Cell::default()).collect())
        .collect();
    for round in 0..settings.rounds {
        for (load, row) in chosen.iter().zip(&mut cells) {
            for step in 0..contestants.len() {
                // Another contestant begins in each round, so that nobody always follows the same neighbour.
                let index = (step + round) % contestants.len();
                let contestant = &contestants[index];
                eprint!(
                    "\r\x1b[K{title}, round {} of {}: {}, {}",
                    round + 1,
                    settings.rounds,
                    load.label,
                    contestant.name
                );
                match measure(contestant, load, settings.runtime, round as u64, folder) {
                    Ok(sample) => row[index].samples.push(sample),
                    Err(error) => {
                        eprintln!(
                            "\r\x1b[K{}: {} failed: {error}",
                            load.label, contestant.name
                        );
                        row[index].failures += 1;
                    }
                }
            }
        }
    }
    eprint!("\r\x1b[K");
    Section {
        title: title.to_owned(),
        loads: chosen.into_iter().cloned().collect(),
        contestants: contestants
            .iter()
            .map(|contestant| (contestant.name.clone(), contestant.ours))
            .collect(),
        cells,
    }
}

/// The middle of some numbers; `None` of none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

impl Cell {
    fn median_of(&self, what: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().map(what).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
