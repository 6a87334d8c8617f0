//! Every bound on what a peer can make us hold, with its reason. Lengths are compared before anything is allocated.

/// Longest string in bytes: names, descriptions, contexts, error texts ("Values": must not exceed 4096).
pub const MAX_STRING: usize = 4096;

/// Longest payload of one request or one data chunk in bytes. "Block size constraints" counts nothing up to 32 MiB as
/// an attack; nbdkit and nbd-server take 64 MiB, and nbd-tester-client's integrity test sends 50 MiB.
pub const MAX_PAYLOAD: u32 = 64 << 20;

/// Most bytes of option data that a server takes before it closes the connection: two strings and [`MAX_QUERIES`]
/// queries of ordinary length fit, 2 GiB claimed by a stranger do not.
pub const MAX_OPTION_DATA: u32 = 64 << 10;

/// Most options of one handshake. A client that looks at every export of a large server needs a few hundred.
pub const MAX_OPTIONS: u32 = 1024;

/// Most queries of one LIST_META_CONTEXT or SET_META_CONTEXT; more are answered with ERR_TOO_BIG.
pub const MAX_QUERIES: u32 = 256;

/// A server stops handling options in one call when this many bytes of replies wait to be sent.
pub const MAX_HANDSHAKE_OUTPUT: usize = 256 << 10;

/// Longest data of one option reply that a client takes in bytes: a REP_SERVER with name and description, and room for
/// what a later protocol may add.
pub const MAX_REPLY_DATA: u32 = 16 << 10;

/// Most replies to one option that a client takes: names of a LIST, contexts, informations.
pub const MAX_REPLIES: usize = 16 << 10;

/// Most bytes of names, descriptions and contexts that a client keeps from one handshake.
pub const MAX_COLLECTED: usize = 4 << 20;

/// Most extents of one block-status chunk ("NBD_REPLY_TYPE_BLOCK_STATUS": should not exceed 2^20).
pub const MAX_EXTENTS: usize = 1 << 20;

/// Longest payload of an error chunk of a known or unknown kind in bytes: the fixed part, one string, and as much
/// again.
pub const MAX_ERROR_CHUNK: u32 = 8 << 10;

/// Most separate pieces of one READ reply that a client remembers; neighbouring pieces count as one.
pub const MAX_PIECES: usize = 4096;

/// Most context ids in the payload of one extended BLOCK_STATUS request.
pub const MAX_STATUS_IDS: usize = 256;
