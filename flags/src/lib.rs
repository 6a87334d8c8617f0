//! What one node remembers of a mirror between two starts: the flag files that people and scripts know, and the durable
//! state record that decides whose data is good.
//!
//! - [`FlagFiles`]: `TAG_last_owner`, `TAG_source` and `TAG_data_corrupt`, with exactly the meaning that SIOS documents.
//! - [`StateRecord`]: generation ids, history and crash flags in 4096 bytes, kept twice in files beside the flags
//!   ([`RecordFile`]) and twice on each leg ([`StateRecord::encode`], [`decode_pair`]).
//!
//! Every change is on the disk, folder included, when the call returns: what describes a write or a change of role has to
//! be durable before it begins. There is no clock and no randomness in here; ids and names come from the caller.

mod durable;
mod files;
mod name;
mod record;

pub use files::{Change, DEFAULT_LKROOT, FlagError, FlagFiles, FlagState, SUBFOLDER};
pub use name::{MAX_NAME, NameError, NodeName, Tag};
pub use record::file::{RecordFile, RecordFileError};
pub use record::pair::{Chosen, OtherCopy, PairError, decode_pair};
pub use record::{
    GenerationId, MAX_HISTORY, MAX_PEERS, PeerFlags, PeerState, RECORD_BYTES, RecordError,
    RecordFlags, StateRecord,
};
