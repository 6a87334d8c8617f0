//! Making equal what a verify of a running array found to differ, by md's own means: the chunks are marked in its bitmap, and
//! a `resync` of a complete array copies what is marked from the first leg that is not written mostly, this node's, to the
//! others. No leg has to leave for it, and nothing else is copied.

use std::time::{Duration, Instant};

use super::super::step::Step;
use super::super::{FROZEN, MdArray};
use super::legs::Ending;
use crate::array::ArrayError;
use crate::md::DirtyBits;

impl MdArray {
    /// Why what is marked would not be copied from this node's leg to the others.
    pub(super) fn repair_refusal(&self) -> Result<Option<String>, ArrayError> {
        let view = self.view()?;
        if !view.bitmap {
            return Ok(Some(
                "without a write-intent bitmap md can't copy a part".into(),
            ));
        }
        let avoided = |member: &&super::super::sysfs::Member| member.is("write_mostly");
        // Whether it was compared or not: md reads from the first that it finds.
        let others = view.members.iter().filter(|member| !avoided(member));
        let mut others = others
            .filter(|member| member.path(&self.machine.dev) != self.local && !member.is("faulty"));
        let own = view.members.iter().filter(avoided);
        let mut own = own.filter(|member| member.path(&self.machine.dev) == self.local);
        Ok(match (own.next(), others.next()) {
            (Some(_), _) => Some(
                "this node's own leg is marked write-mostly, so md would copy from another".into(),
            ),
            (None, Some(other)) => Some(format!(
                "{} is not marked write-mostly, so md might copy from it",
                other.name
            )),
            (None, None) => None,
        })
    }

    /// Copies `chunks` from this node's leg to the others; returns when md has done so.
    pub(super) fn copy_chunks(&self, chunks: &DirtyBits, ending: &Ending) -> Result<(), String> {
        let told = |error: ArrayError| error.to_string();
        let runs: Vec<_> = chunks.ranges().collect();
        let began = Instant::now();
        loop {
            self.wait_idle(ending)?;
            // Another order has it for a moment.
            match self.machine.lock(&self.tag) {
                Ok(_lock) => {
                    self.check_local().map_err(told)?;
                    // It may have changed since the verify began.
                    if let Some(why) = self.repair_refusal().map_err(told)? {
                        return Err(why);
                    }
                    self.machine
                        .perform(&Step::Mark {
                            file: self.attribute("bitmap_set_bits"),
                            leg: self.local.clone(),
                            chunks: runs,
                        })
                        .map_err(told)?;
                    break;
                }
                Err(error) if began.elapsed() > LOCKED => return Err(told(error)),
                Err(_) => ending.wait(LOOK)?,
            }
        }
        let begin = Step::Attribute {
            file: self.attribute("sync_action"),
            value: RESYNC.into(),
        };
        // Told of an error for other reasons, md may have begun by itself.
        if let Err(error) = self.machine.perform(&begin)
            && self.view().map_err(told)?.action != RESYNC
        {
            return Err(told(error));
        }
        // It begins a moment later. Whether it did its work is seen by comparing again.
        let begun = Instant::now();
        while self.view().map_err(told)?.action != RESYNC && begun.elapsed() < BEGINS {
            ending.wait(LOOK)?;
        }
        self.wait_idle(ending)
    }

    /// Nothing is begun while md resyncs or checks something, or an administrator holds its resyncs.
    fn wait_idle(&self, ending: &Ending) -> Result<(), String> {
        loop {
            let view = self.view().map_err(|error| error.to_string())?;
            match view.action.as_str() {
                "idle" => return Ok(()),
                FROZEN => {
                    return Err(
                        "resyncs are paused, and what differs is copied by one; resume them first"
                            .into(),
                    );
                }
                _ => ending.wait(LOOK)?,
            }
        }
    }
}

const RESYNC: &str = "resync";
/// How often md is asked.
const LOOK: Duration = Duration::from_millis(100);
/// How long a resync may take to begin; a short one may be over before it is seen.
const BEGINS: Duration = Duration::from_secs(2);
/// How long another order may take.
const LOCKED: Duration = Duration::from_secs(60);
