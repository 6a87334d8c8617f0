//! What a device is to be like, decided from what the server says; and whether a server that was found again still has
//! the same disk. Pure.

use nbd_protocol::number::TransmissionFlags as Flags;

use crate::connection::Export;

/// What a device promises to those who use it. It can't change while it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Size in bytes.
    pub size: u64,
    /// Block size in bytes.
    pub block_size: u32,
    /// What the kernel is told about the server, and about writing.
    pub flags: Flags,
    /// Number of sockets.
    pub connections: usize,
    /// The server fences older connections of ours.
    pub fenced: bool,
    /// What names the server's memory of writes that were not flushed, if it said so.
    pub memory: Option<String>,
    /// Longest request in bytes that the server takes, if it named one.
    pub maximum_payload: Option<u32>,
    /// The export's canonical name, if the server said one.
    pub name: Option<String>,
    /// The export's description, if the server gave one.
    pub description: Option<String>,
}

/// An export that can't become the device that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Several sockets without the promise that makes them safe.
    #[error(
        "{wanted} connections were asked for, but the server does not promise that a flush on one covers the \
         writes of the others (NBD_FLAG_CAN_MULTI_CONN)"
    )]
    OneConnectionOnly {
        /// How many were asked for.
        wanted: usize,
    },
    /// A block size that the kernel does not take.
    #[error("the kernel takes block sizes of 512, 1024, 2048 and 4096 bytes, not {0}")]
    BlockSize(u32),
    /// Blocks smaller than the server can write.
    #[error(
        "the server takes no blocks smaller than {minimum} bytes, so the block size can't be {wanted}"
    )]
    BelowMinimum {
        /// The server's unit.
        minimum: u32,
        /// What was asked for.
        wanted: u32,
    },
    /// Blocks larger than the kernel can use.
    #[error(
        "the server takes no blocks smaller than {0} bytes, and the kernel none larger than 4096"
    )]
    MinimumTooLarge(u32),
    /// A rest that no block fits into.
    #[error(
        "the export's size, {size} bytes, is not a multiple of the block size, {block_size} bytes"
    )]
    Uneven {
        /// The export's size.
        size: u64,
        /// The block size.
        block_size: u32,
    },
    /// Nothing, or more than the kernel can count.
    #[error("the kernel takes no disks of {0} bytes")]
    Size(u64),
    /// Requests so short that no block fits.
    #[error(
        "the server takes no requests longer than {0} bytes, and the kernel's are of at least 4096"
    )]
    Payload(u32),
}

/// Why a server that was found again can't go on where it was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Changed {
    /// The disk has another size.
    #[error("the export's size was {was} bytes and is {is}")]
    Size {
        /// When the device was attached.
        was: u64,
        /// Now.
        is: u64,
    },
    /// The name or the description is another.
    #[error("the export's {what} was {was:?} and is {is:?}")]
    Identity {
        /// Which of the two.
        what: &'static str,
        /// When the device was attached.
        was: Option<String>,
        /// Now.
        is: Option<String>,
    },
    /// The export can't be written to any more.
    #[error("the export is read-only now")]
    ReadOnly,
    /// The kernel relies on something that is gone.
    #[error("the server offers no {0} any more")]
    Lacks(&'static str),
    /// Older connections are not fenced any more.
    #[error(
        "the server does not know sessions any more, so it would not drop what older connections left behind"
    )]
    Unfenced,
    /// The server's machine was restarted, or it or the disk is another one.
    #[error(
        "the server's machine was restarted, or it is another disk: writes that had been answered but not flushed may \
         be lost, so the device can't go on where it was"
    )]
    Forgot,
    /// Nothing tells whether it was.
    #[error(
        "the server can't prove that it still has all that it had answered but not flushed (NetRAID's nbd-server can), \
         so the device can't go on where it was"
    )]
    Unproven,
}

impl Changed {
    /// Waiting does not help: writes are lost, or may be.
    pub fn is_final(&self) -> bool {
        matches!(self, Changed::Forgot | Changed::Unproven)
    }
}

impl Plan {
    /// Decides. Without a wish the block size is the server's smallest unit, at least 512 bytes: a file system or
    /// array that is there already may rely on blocks as small as that.
    pub fn new(
        export: &Export,
        block_size: Option<u32>,
        read_only: bool,
        connections: usize,
    ) -> Result<Plan, Unfit> {
        if connections > 1 && !export.offers(Flags::CAN_MULTI_CONN) {
            return Err(Unfit::OneConnectionOnly {
                wanted: connections,
            });
        }
        let minimum = export.minimum_block.max(SMALLEST);
        if minimum > LARGEST {
            return Err(Unfit::MinimumTooLarge(minimum));
        }
        let block_size = block_size.unwrap_or(minimum);
        if !block_size.is_power_of_two() || !(SMALLEST..=LARGEST).contains(&block_size) {
            return Err(Unfit::BlockSize(block_size));
        }
        if block_size < minimum {
            return Err(Unfit::BelowMinimum {
                minimum,
                wanted: block_size,
            });
        }
        if export.size == 0 || i64::try_from(export.size).is_err() {
            return Err(Unfit::Size(export.size));
        }
        if !export.size.is_multiple_of(u64::from(block_size)) {
            return Err(Unfit::Uneven {
                size: export.size,
                block_size,
            });
        }
        let maximum_payload = export.block_sizes_given.then_some(export.maximum_payload);
        if let Some(short) = maximum_payload.filter(|payload| *payload < LARGEST) {
            return Err(Unfit::Payload(short));
        }
        let mut flags = Flags(export.flags.0 & KNOWN_TO_THE_KERNEL.0);
        if read_only {
            flags |= Flags::READ_ONLY;
        }
        Ok(Plan {
            size: export.size,
            block_size,
            flags,
            connections,
            fenced: export.fenced,
            memory: export.memory.clone(),
            maximum_payload,
            name: export.name.clone(),
            description: export.description.clone(),
        })
    }

    /// Whether nobody may write.
    pub fn read_only(&self) -> bool {
        self.flags.contains(Flags::READ_ONLY)
    }

    /// Whether `export` can serve the device that was attached as `self`.
    pub fn check(&self, export: &Export) -> Result<(), Changed> {
        if export.size != self.size {
            return Err(Changed::Size {
                was: self.size,
                is: export.size,
            });
        }
        for (what, was, is) in [
            ("name", &self.name, &export.name),
            ("description", &self.description, &export.description),
        ] {
            if was != is {
                let (was, is) = (was.clone(), is.clone());
                return Err(Changed::Identity { what, was, is });
            }
        }
        if export.offers(Flags::READ_ONLY) && !self.read_only() {
            return Err(Changed::ReadOnly);
        }
        for (what, flag) in [
            ("flush", Flags::SEND_FLUSH),
            ("FUA", Flags::SEND_FUA),
            ("trim", Flags::SEND_TRIM),
            ("write-zeroes", Flags::SEND_WRITE_ZEROES),
        ] {
            if self.flags.contains(flag) && !export.offers(flag) {
                return Err(Changed::Lacks(what));
            }
        }
        if self.connections > 1 && !export.offers(Flags::CAN_MULTI_CONN) {
            return Err(Changed::Lacks("promise about several connections"));
        }
        if export.minimum_block > self.block_size {
            return Err(Changed::Lacks("blocks as small as the device's"));
        }
        let longest = |payload: Option<u32>| payload.unwrap_or(ASSUMED_PAYLOAD);
        let now = export.block_sizes_given.then_some(export.maximum_payload);
        if longest(now) < longest(self.maximum_payload).min(ASSUMED_PAYLOAD) {
            return Err(Changed::Lacks("requests as long as before"));
        }
        if self.fenced && !export.fenced {
            return Err(Changed::Unfenced);
        }
        if self.memory.is_some() && export.memory != self.memory && !self.read_only() {
            return Err(Changed::Forgot);
        }
        Ok(())
    }

    /// Whether [`Plan::check`] can tell if what was answered but not flushed is still there. The kernel does not say
    /// whether there is any such thing, so for a device that can be written to there is.
    pub fn provable(&self) -> Result<(), Changed> {
        match self.memory.is_some() || self.read_only() {
            true => Ok(()),
            false => Err(Changed::Unproven),
        }
    }
}

/// What linux/nbd.h defines; the other flags are about commands that the kernel never sends.
const KNOWN_TO_THE_KERNEL: Flags = Flags(0x17f);
const SMALLEST: u32 = 512;
/// The page size of most machines, and the largest block size that a kernel takes everywhere.
const LARGEST: u32 = 4096;
/// What the protocol lets a client assume, and the most that the kernel sends at once.
const ASSUMED_PAYLOAD: u32 = 32 << 20;

#[cfg(test)]
mod tests {
    use nbd_protocol::HeaderStyle;

    use super::*;

    fn export() -> Export {
        Export {
            size: 1 << 20,
            flags: Flags(0xfff),
            minimum_block: 1,
            preferred_block: 4096,
            maximum_payload: 1 << 20,
            block_sizes_given: true,
            style: HeaderStyle::Simple,
            contexts: Vec::new(),
            fenced: true,
            ordered: false,
            integrity: false,
            memory: Some("one".to_owned()),
            name: Some("disk".into()),
            description: None,
        }
    }

    fn with(change: impl FnOnce(&mut Export)) -> Export {
        let mut export = export();
        export.flags = Flags(export.flags.0 & !Flags::READ_ONLY.0);
        change(&mut export);
        export
    }

    #[test]
    fn a_device_has_the_servers_smallest_blocks_and_the_flags_that_the_kernel_knows() {
        let plan = Plan::new(&export(), None, false, 2).unwrap();
        assert_eq!((plan.size, plan.block_size), (1 << 20, 512));
        assert_eq!(plan.flags, Flags(0x17f));
        assert!(plan.read_only());
        let larger = with(|export| export.minimum_block = 4096);
        let plan = Plan::new(&larger, None, false, 1).unwrap();
        assert_eq!((plan.block_size, plan.read_only()), (4096, false));
        assert!(Plan::new(&larger, None, true, 1).unwrap().read_only());
        let plan = Plan::new(&with(|_| ()), Some(4096), false, 1).unwrap();
        assert_eq!(plan.block_size, 4096);
    }

    #[test]
    fn what_the_kernel_or_the_server_can_not_do_is_refused() {
        let refused = |export: &Export, block_size, connections| {
            Plan::new(export, block_size, false, connections).unwrap_err()
        };
        let alone = with(|export| export.flags = Flags::HAS_FLAGS);
        assert_eq!(
            refused(&alone, None, 2),
            Unfit::OneConnectionOnly { wanted: 2 }
        );
        for odd in [0, 256, 1000, 8192] {
            assert_eq!(refused(&export(), Some(odd), 1), Unfit::BlockSize(odd));
        }
        let large = with(|export| export.minimum_block = 65536);
        assert_eq!(refused(&large, None, 1), Unfit::MinimumTooLarge(65536));
        let coarse = with(|export| export.minimum_block = 4096);
        let below = Unfit::BelowMinimum {
            minimum: 4096,
            wanted: 512,
        };
        assert_eq!(refused(&coarse, Some(512), 1), below);
        let uneven = with(|export| export.size = 1_049_088);
        assert!(Plan::new(&uneven, None, false, 1).is_ok());
        let rest = Unfit::Uneven {
            size: 1_049_088,
            block_size: 4096,
        };
        assert_eq!(refused(&uneven, Some(4096), 1), rest);
        for size in [0, 1 << 63] {
            let export = with(|export| export.size = size);
            assert_eq!(refused(&export, None, 1), Unfit::Size(size));
        }
        let short = with(|export| export.maximum_payload = 2048);
        assert_eq!(refused(&short, None, 1), Unfit::Payload(2048));
    }

    #[test]
    fn a_server_that_is_as_it_was_may_go_on() {
        let plan = Plan::new(&with(|_| ()), None, false, 2).unwrap();
        assert_eq!(plan.check(&with(|_| ())), Ok(()));
        let faster = with(|export| export.flags = Flags(0xfff & !Flags::READ_ONLY.0));
        assert_eq!(plan.check(&faster), Ok(()));
        let reader = Plan::new(&with(|_| ()), None, true, 1).unwrap();
        assert_eq!(reader.check(&export()), Ok(()));
    }

    #[test]
    fn each_change_that_matters_is_noticed() {
        let plan = Plan::new(&with(|_| ()), None, false, 2).unwrap();
        let changed = |change: fn(&mut Export)| plan.check(&with(change)).unwrap_err();
        let size = Changed::Size {
            was: 1 << 20,
            is: 512,
        };
        assert_eq!(changed(|export| export.size = 512), size);
        for change in [
            (|export: &mut Export| export.name = None) as fn(&mut Export),
            |export| export.description = Some("other".into()),
        ] {
            assert!(matches!(changed(change), Changed::Identity { .. }));
        }
        assert_eq!(
            changed(|export| export.flags |= Flags::READ_ONLY),
            Changed::ReadOnly
        );
        for flag in [
            Flags::SEND_FLUSH,
            Flags::SEND_FUA,
            Flags::SEND_TRIM,
            Flags::SEND_WRITE_ZEROES,
            Flags::CAN_MULTI_CONN,
        ] {
            let less = with(|export| export.flags = Flags(export.flags.0 & !flag.0));
            assert!(
                matches!(plan.check(&less), Err(Changed::Lacks(_))),
                "{flag:?}"
            );
        }
        for change in [
            (|export: &mut Export| export.minimum_block = 1024) as fn(&mut Export),
            |export| export.maximum_payload = 65536,
        ] {
            assert!(matches!(changed(change), Changed::Lacks(_)));
        }
        assert_eq!(changed(|export| export.fenced = false), Changed::Unfenced);
        for change in [
            (|export: &mut Export| export.memory = None) as fn(&mut Export),
            |export| export.memory = Some("two".to_owned()),
        ] {
            assert_eq!(changed(change), Changed::Forgot);
        }
    }

    #[test]
    fn what_may_be_lost_can_only_be_told_of_a_server_that_names_its_memory() {
        let silent = with(|export| export.memory = None);
        let plan = |export: &Export, read_only| Plan::new(export, None, read_only, 1).unwrap();
        assert_eq!(plan(&silent, false).provable(), Err(Changed::Unproven));
        assert_eq!(plan(&with(|_| ()), false).provable(), Ok(()));
        // Who never wrote has nothing to lose.
        assert_eq!(plan(&silent, true).provable(), Ok(()));
        let other = with(|export| export.memory = Some("two".to_owned()));
        assert_eq!(plan(&with(|_| ()), true).check(&other), Ok(()));
    }
}
