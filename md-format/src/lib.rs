//! The on-disk format of Linux software RAID (md): what a leg of a mirror says about itself, byte for byte.
//!
//! A leg is one disk of a mirror. It starts with metadata that `mdadm --examine` reads and the kernel's `md` driver can
//! assemble: a *superblock* (which array, which leg, how far is it in sync) and a *write-intent bitmap* (one bit a chunk:
//! "the legs may differ here"). The same bytes are written by the embedded engine, so either can take over from the other.
//!
//! Nothing here does I/O: values are made from bytes and turned into bytes. Start with [`format`](mod@format) (a fresh
//! mirror), [`layout`] (where things are on a leg), then [`superblock`] and [`bitmap`].
//!
//! Source of every offset and constant: `include/uapi/linux/raid/md_p.h` and `drivers/md/md-bitmap.h` of Linux.
//!
//! # What a clean superblock does to dirty bits
//!
//! The kernel resyncs a *complete* array by its bitmap only when the superblock says that the array was not cleanly
//! stopped: with [`superblock::Superblock::resync_offset`] at [`superblock::IN_SYNC`] and all legs present, set bits are
//! taken for bits that were about to be cleared, and are dropped. Whoever writes must therefore set `resync_offset` to 0
//! durably before the first bit is set, and put it back only when no bit of a difference is left
//! ([`superblock::Superblock::mark_active`], [`superblock::Superblock::mark_clean`]).

pub mod bitmap;
pub mod find;
pub mod format;
pub mod layout;
pub mod resize;
pub mod superblock;
mod uuid;

pub use bitmap::{BitmapError, BitmapSuperblock, DirtyBits};
pub use find::{FindError, Found, FoundBitmap, find, find_superblock};
pub use format::{FormatError, NewLeg, NewMirror, Start};
pub use layout::{Layout, LayoutError};
pub use resize::{Resize, ResizeError, Resized, Room};
pub use superblock::{Role, Superblock, SuperblockError};
pub use uuid::{MdUuid, UuidError};

/// Bytes in a sector, the unit of every offset and size in a superblock.
pub const SECTOR: u64 = 512;

/// Bytes of the unit in which the bitmap is read and written (the kernel's page).
pub const PAGE: usize = 4096;
