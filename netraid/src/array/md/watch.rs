//! What happens to an array, heard from the sysfs files of which md tells whoever polls them.
//!
//! An attribute is read, then polled for `POLLPRI`; after that it has to be read again from its start. Legs come and go
//! without a word, so their list is read at every wake-up, and at least once a second.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::sysfs::{self, View};
use crate::array::{ArrayError, Event, Watch};

/// Listens to one array.
pub struct MdWatch {
    sysfs: PathBuf,
    name: String,
    /// Files that are polled: of the array, and one a leg.
    files: Vec<(PathBuf, File)>,
    before: View,
}

impl MdWatch {
    /// Begins to listen; what is true now is no event.
    pub(super) fn new(sysfs: &Path, name: &str) -> Result<MdWatch, ArrayError> {
        let before = look(sysfs, name)?;
        let mut watch = MdWatch {
            sysfs: sysfs.to_owned(),
            name: name.to_owned(),
            files: Vec::new(),
            before: before.clone(),
        };
        watch.open(&before);
        // What happened between the first look and the opening of the files would be missed by both.
        watch.before = before;
        Ok(watch)
    }

    fn open(&mut self, view: &View) {
        let folder = sysfs::folder(&self.sysfs, &self.name);
        let own = ["array_state", "sync_action", "degraded", "sync_completed"];
        let own = own.into_iter().map(|name| folder.join(name));
        let legs = view
            .members
            .iter()
            .map(|member| folder.join(format!("dev-{}", member.name)).join("state"));
        let wanted: Vec<PathBuf> = own.chain(legs).collect();
        self.files.retain(|(path, _)| wanted.contains(path));
        for path in wanted {
            if !self.files.iter().any(|(known, _)| *known == path)
                // A leg may be gone again; the next look tells.
                && let Ok(mut file) = File::open(&path)
            {
                drain(&mut file);
                self.files.push((path, file));
            }
        }
    }
}

impl Watch for MdWatch {
    fn next(&mut self, patience: Duration) -> Result<Vec<Event>, ArrayError> {
        let deadline = Instant::now() + patience;
        loop {
            let now = look(&self.sysfs, &self.name)?;
            let events = changes(&self.before, &now);
            self.open(&now);
            self.before = now;
            if !events.is_empty() {
                return Ok(events);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(events);
            }
            let wait = left.min(LOOK);
            let timeout =
                PollTimeout::try_from(wait.as_millis().max(1)).unwrap_or(PollTimeout::ZERO);
            let mut polled: Vec<PollFd<'_>> = self
                .files
                .iter()
                .map(|(_, file)| PollFd::new(file.as_fd(), PollFlags::POLLPRI))
                .collect();
            match poll(&mut polled, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(ArrayError::Failed(format!("poll: {error}"))),
            }
            let woken: Vec<bool> = polled
                .iter()
                .map(|fd| fd.revents().is_some_and(|found| !found.is_empty()))
                .collect();
            for ((_, file), woken) in self.files.iter_mut().zip(woken) {
                if woken {
                    drain(file);
                }
            }
        }
    }
}

/// What is different.
pub fn changes(before: &View, now: &View) -> Vec<Event> {
    let mut events = Vec::new();
    if before.degraded != now.degraded {
        events.push(Event::Degraded { legs: now.degraded });
    }
    if before.action != now.action {
        events.push(Event::Sync {
            action: now.action.clone(),
        });
    }
    for member in &now.members {
        let known = before
            .members
            .iter()
            .find(|known| known.name == member.name);
        if known.is_none_or(|known| known.flags != member.flags) {
            events.push(Event::Leg {
                device: member.name.clone(),
                flags: member.flags.clone(),
            });
        }
    }
    for member in &before.members {
        if !now.members.iter().any(|known| known.name == member.name) {
            events.push(Event::Leg {
                device: member.name.clone(),
                flags: Vec::new(),
            });
        }
    }
    if before.state != now.state {
        events.push(Event::State {
            state: now.state.clone(),
        });
    }
    events
}

/// An attribute that was not read since it changed keeps waking whoever polls it.
fn drain(file: &mut File) {
    let mut text = String::new();
    // A leg's file fails once the leg is gone; the next look tells.
    let _ = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_string(&mut text));
}

fn look(sysfs: &Path, name: &str) -> Result<View, ArrayError> {
    let gone = |error| ArrayError::Failed(format!("array {name} can't be watched: {error}"));
    let view = sysfs::view(sysfs, name).map_err(gone)?;
    match view.state.as_str() {
        "clear" => Err(ArrayError::Failed(format!("array {name} was stopped"))),
        _ => Ok(view),
    }
}

/// Longest time without a look at the list of legs.
const LOOK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::md::sysfs::Member;

    #[test]
    fn a_leg_that_failed_and_was_removed_makes_events() {
        let leg = |name: &str, slot, flags: &[&str]| Member {
            name: name.into(),
            slot,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        let healthy = View {
            name: "md0".into(),
            state: "active".into(),
            level: "raid1".into(),
            raid_disks: 2,
            degraded: 0,
            action: "idle".into(),
            completed: None,
            speed: None,
            speed_max: None,
            speed_min: None,
            bitmap: true,
            backlog: 0,
            members: vec![
                leg("sdb1", Some(0), &["in_sync"]),
                leg("nbd0", Some(1), &["in_sync", "write_mostly"]),
            ],
        };
        assert_eq!(changes(&healthy, &healthy), []);
        let mut failed = healthy.clone();
        failed.degraded = 1;
        failed.members[1] = leg("nbd0", None, &["faulty", "write_mostly"]);
        let events = changes(&healthy, &failed);
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!(events[0], Event::Degraded { legs: 1 });
        let mut removed = failed.clone();
        removed.members.truncate(1);
        let gone = Event::Leg {
            device: "nbd0".into(),
            flags: vec![],
        };
        assert_eq!(changes(&failed, &removed), [gone]);
    }
}
