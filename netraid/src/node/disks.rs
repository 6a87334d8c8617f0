//! Watching for disks that hang: requests are under way, and none ends.
//!
//! A hung disk answers nobody, so whoever looks must not touch it: the kernel's counters are read instead. A mirror's own
//! thread may hang with its disk; this says so in its place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::Shared;
use crate::api::listen::Stop;

/// What a block device has done: `/sys/class/block/NAME/stat` (kernel: Documentation/block/stat.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Requests that have ended: reads, writes, discards and flushes.
    ended: u64,
    /// Requests under way.
    under_way: u64,
}

impl Counts {
    /// The counters in a line of the kernel; `None` if it is something else.
    fn parse(line: &str) -> Option<Counts> {
        let numbers: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
        let numbers = numbers.ok()?;
        // Reads, writes, and in newer kernels discards and flushes.
        let ended = [0, 4, 11, 15].iter().filter_map(|at| numbers.get(*at));
        Some(Counts {
            ended: ended.fold(0, |sum: u64, count| sum.wrapping_add(*count)),
            under_way: *numbers.get(8)?,
        })
    }
}

/// How long a disk has not ended a request.
#[derive(Debug, Default)]
struct Watch {
    stuck: Option<(u64, Instant)>,
}

impl Watch {
    /// Looks at new counters; how long nothing has ended, if something should have.
    fn look(&mut self, counts: Option<Counts>, now: Instant) -> Option<Duration> {
        let Some(counts) = counts.filter(|counts| counts.under_way > 0) else {
            self.stuck = None;
            return None;
        };
        let since = match self.stuck {
            Some((ended, since)) if ended == counts.ended => since,
            _ => now,
        };
        self.stuck = Some((counts.ended, since));
        Some(now.saturating_duration_since(since)).filter(|time| *time >= HANGS)
    }
}

/// Looks at the disks of these mirrors (tag and disk) until the daemon stops. Disks that are no block devices are left
/// out: nobody counts the requests of a file.
pub(super) async fn watch(disks: Vec<(String, PathBuf)>, shared: Arc<Shared>, mut stop: Stop) {
    let mut watches: BTreeMap<String, Watch> = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        for (tag, disk) in &disks {
            let watch = watches.entry(tag.clone()).or_default();
            let hangs = watch.look(counts(disk), Instant::now());
            let hangs = hangs.map(|_| {
                format!(
                    "{} has not ended any request for {} s and more: what is in service here hangs with it. If it does \
                     not come back, switch this node off and start the mirror on a target",
                    disk.display(),
                    HANGS.as_secs()
                )
            });
            shared.disk_hangs(tag, hangs);
        }
    }
}

/// The counters of a block device, without touching it.
fn counts(disk: &Path) -> Option<Counts> {
    // A file's folder may hang, too, and to follow a link there would hang with it.
    if !disk.starts_with("/dev") {
        return None;
    }
    let device = std::fs::canonicalize(disk).ok()?;
    let name = device.strip_prefix("/dev").ok()?.to_str()?;
    // As the kernel writes names with slashes, cciss/c0d0 for example.
    let name = name.replace('/', "!");
    let line = std::fs::read_to_string(format!("/sys/class/block/{name}/stat")).ok()?;
    Counts::parse(&line)
}

/// From one look to the next.
const LOOK: Duration = Duration::from_secs(1);
/// A disk that ends nothing for so long hangs: slow ones need a second or two.
const HANGS: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_understood_old_and_new() {
        let old = "  100 5 800 30 200 7 1600 40 3 60 70";
        let counts = Counts {
            ended: 300,
            under_way: 3,
        };
        assert_eq!(Counts::parse(old), Some(counts));
        let new = "100 5 800 30 200 7 1600 40 3 60 70 10 0 80 5 6 9\n";
        let counts = Counts {
            ended: 316,
            under_way: 3,
        };
        assert_eq!(Counts::parse(new), Some(counts));
        assert_eq!(Counts::parse(""), None);
        assert_eq!(Counts::parse("1 2 3"), None);
        assert_eq!(Counts::parse("a b c d e f g h i"), None);
    }

    #[test]
    fn only_a_disk_that_ends_nothing_for_long_hangs() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let with = |ended, under_way| Some(Counts { ended, under_way });
        let mut watch = Watch::default();
        assert_eq!(watch.look(with(1, 2), at(0)), None);
        assert_eq!(watch.look(with(1, 2), at(4)), None);
        assert_eq!(watch.look(with(1, 9), at(6)), Some(Duration::from_secs(6)));
        // One ended: it is only slow.
        assert_eq!(watch.look(with(2, 8), at(7)), None);
        assert_eq!(watch.look(with(2, 8), at(11)), None);
        assert_eq!(watch.look(with(2, 8), at(12)), Some(Duration::from_secs(5)));
        // Idle, or gone.
        assert_eq!(watch.look(with(2, 0), at(13)), None);
        assert_eq!(watch.look(with(2, 1), at(30)), None);
        assert_eq!(watch.look(None, at(31)), None);
        assert_eq!(watch.look(with(2, 1), at(60)), None);
    }
}
