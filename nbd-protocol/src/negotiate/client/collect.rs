//! Gathering what a server tells about an export, a piece at a time.

use crate::integrity::INTEGRITY;
use crate::limit::MAX_PAYLOAD;
use crate::number::{Opt, TransmissionFlags};
use crate::option::{InfoReply, OptionReply};
use crate::request::HeaderStyle;
use crate::session::{MEMORY_PREFIX, ORDERED};

use super::{
    ClientHandshake, ClientHandshakeError, ExportDescription, Goal, GrantedContext, ListedExport,
    Step,
};

/// What INFO or GO have told so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Description {
    export: Option<(u64, TransmissionFlags)>,
    name: Option<String>,
    description: Option<String>,
    block_sizes: Option<BlockSizes>,
}

#[derive(Clone, Copy, Debug)]
struct BlockSizes {
    minimum: u32,
    preferred: u32,
    maximum: u32,
}

impl ClientHandshake {
    /// Keeps a reply that is neither the end nor an error; false if it does not fit the step.
    pub(super) fn collect(
        &mut self,
        step: Step,
        reply: OptionReply,
    ) -> Result<bool, ClientHandshakeError> {
        match (step, reply) {
            (Step::Session, OptionReply::MetaContext { name, .. }) => {
                if self
                    .wants
                    .session
                    .is_some_and(|session| session.to_string() == name)
                {
                    self.outcome.fenced = true;
                } else if name == ORDERED {
                    self.outcome.ordered = self.wants.ordered;
                } else if name == INTEGRITY {
                    self.outcome.integrity = self.wants.integrity;
                } else if let Some(memory) = name.strip_prefix(MEMORY_PREFIX) {
                    self.outcome.memory = Some(memory.to_owned());
                }
            }
            (Step::ListContexts, OptionReply::MetaContext { name, .. }) => {
                self.outcome.available_contexts.push(name);
            }
            (Step::SetContexts, OptionReply::MetaContext { id, name }) => {
                // Two contexts of one id could not be told apart later.
                if self
                    .outcome
                    .contexts
                    .iter()
                    .any(|known| known.id == id || known.name == name)
                {
                    return Ok(false);
                }
                self.outcome.contexts.push(GrantedContext { id, name });
            }
            (Step::Goal, OptionReply::Server { name, description })
                if self.wants.goal == Goal::List =>
            {
                self.outcome
                    .exports
                    .push(ListedExport { name, description });
            }
            (Step::Goal, OptionReply::Info(info)) if self.wants.goal != Goal::List => {
                self.description.add(info);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Description {
    /// All that EXPORT_NAME tells.
    pub(super) fn bare(size: u64, flags: TransmissionFlags) -> Description {
        Description {
            export: Some((size, flags)),
            ..Description::default()
        }
    }

    fn add(&mut self, info: InfoReply) {
        match info {
            InfoReply::Export { size, flags } => self.export = Some((size, flags)),
            InfoReply::Name(name) => self.name = Some(name),
            InfoReply::Description(text) => self.description = Some(text),
            InfoReply::BlockSize {
                minimum,
                preferred,
                maximum,
            } => {
                self.block_sizes = Some(BlockSizes {
                    minimum,
                    preferred,
                    maximum,
                });
            }
            // "The client MUST ignore information that it does not know."
            InfoReply::Unknown { .. } => {}
        }
    }

    /// The export as the rest of the client may rely on it.
    pub(super) fn finish(
        self,
        asked: Opt,
        style: HeaderStyle,
    ) -> Result<ExportDescription, ClientHandshakeError> {
        let (size, flags) = self.export.ok_or(ClientHandshakeError::NoSize(asked))?;
        let block_sizes_given = self.block_sizes.is_some();
        let sizes = match self.block_sizes {
            Some(sizes) => sizes.checked()?,
            None => BlockSizes::cautious(size),
        };
        Ok(ExportDescription {
            size,
            flags: usable(flags, style),
            minimum_block: sizes.minimum,
            preferred_block: sizes.preferred,
            maximum_payload: sizes.maximum,
            block_sizes_given,
            name: self.name,
            description: self.description,
        })
    }
}

impl BlockSizes {
    /// What a careful client assumes of a server that says nothing ("Block size constraints"): 512, or 1 where 512 does
    /// not divide the size and the end could not be read else.
    fn cautious(size: u64) -> BlockSizes {
        let minimum = if size.is_multiple_of(512) { 512 } else { 1 };
        BlockSizes {
            minimum,
            preferred: 4096,
            maximum: 32 << 20,
        }
    }

    /// A minimum that can't be obeyed is an error; a preference or maximum that is odd is made usable.
    fn checked(self) -> Result<BlockSizes, ClientHandshakeError> {
        let BlockSizes {
            minimum,
            preferred,
            maximum,
        } = self;
        if !minimum.is_power_of_two() || minimum > 1 << 16 || maximum < minimum {
            return Err(ClientHandshakeError::BlockSizes {
                minimum,
                preferred,
                maximum,
            });
        }
        let preferred = if preferred.is_power_of_two() && preferred >= minimum {
            preferred
        } else {
            minimum.max(4096)
        };
        let maximum = maximum.min(MAX_PAYLOAD);
        Ok(BlockSizes {
            minimum,
            preferred,
            maximum: maximum - maximum % minimum,
        })
    }
}

/// The flags without those that make no sense with what was negotiated.
fn usable(flags: TransmissionFlags, style: HeaderStyle) -> TransmissionFlags {
    let mut lacking = TransmissionFlags::NONE;
    if style == HeaderStyle::Simple {
        lacking |= TransmissionFlags::SEND_DF;
    }
    if style != HeaderStyle::Extended {
        lacking |= TransmissionFlags::BLOCK_STATUS_PAYLOAD;
    }
    if !flags.contains(TransmissionFlags::SEND_WRITE_ZEROES) {
        lacking |= TransmissionFlags::SEND_FAST_ZERO;
    }
    flags.without(lacking)
}
