//! What would be missing if the server lost its memory: writes that were answered and that no flush has covered. Pure.
//!
//! A server that restarts with its machine loses them, and no flush on a new connection would tell. So a client goes on
//! with such a server only if there are none.

use nbd_protocol::command::Command;
use nbd_protocol::number::TransmissionFlags;

/// Counts writes that were answered, and how many of them are on stable storage.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    answered: u64,
    durable: u64,
}

impl Unflushed {
    /// What a flush that is sent now makes durable.
    pub(super) fn mark(&self) -> u64 {
        self.answered
    }

    /// A command was answered with success; `mark` is that of the moment in which it was sent.
    pub(super) fn answered(&mut self, command: &Command, offers: TransmissionFlags, mark: u64) {
        if matches!(command, Command::Flush) {
            self.durable = self.durable.max(mark);
        } else if is_volatile(command, offers) {
            self.answered += 1;
        }
    }

    /// Whether there is anything to lose.
    pub(super) fn any(&self) -> bool {
        self.durable < self.answered
    }
}

/// Whether what a command changes may be lost although it was answered.
pub(super) fn is_volatile(command: &Command, offers: TransmissionFlags) -> bool {
    let fua = match command {
        Command::Write { fua, .. }
        | Command::Trim { fua, .. }
        | Command::WriteZeroes { fua, .. } => *fua,
        _ => false,
    };
    command.changes_data() && !(fua && offers.contains(TransmissionFlags::SEND_FUA))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(fua: bool) -> Command {
        Command::Write {
            offset: 0,
            data: vec![0; 512].into(),
            fua,
        }
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it_was_sent() {
        let (mut unflushed, offers) = (Unflushed::default(), TransmissionFlags::SEND_FUA);
        assert!(!unflushed.any());
        unflushed.answered(&write(false), offers, 0);
        assert!(unflushed.any());
        let mark = unflushed.mark();
        unflushed.answered(&write(false), offers, 0);
        unflushed.answered(&Command::Flush, offers, mark);
        assert!(unflushed.any(), "the second write was answered later");
        let mark = unflushed.mark();
        unflushed.answered(&Command::Flush, offers, mark);
        assert!(!unflushed.any());
        // An older flush whose answer is late takes nothing back.
        unflushed.answered(&Command::Flush, offers, 0);
        assert!(!unflushed.any());
    }

    #[test]
    fn reads_and_writes_through_the_cache_leave_nothing_to_lose() {
        let (mut unflushed, offers) = (Unflushed::default(), TransmissionFlags::SEND_FUA);
        let read = Command::Read {
            offset: 0,
            length: 512,
        };
        unflushed.answered(&read, offers, 0);
        unflushed.answered(&write(true), offers, 0);
        assert!(!unflushed.any());
        unflushed.answered(&write(true), TransmissionFlags::default(), 0);
        assert!(unflushed.any(), "the server does not know the flag");
    }
}
