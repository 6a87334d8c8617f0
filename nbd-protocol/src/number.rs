//! The protocol's numbers with their names. A number that has no name is kept as it is and shown in hexadecimal.

use std::fmt;

macro_rules! numbers {
    ($(#[$about:meta])* $name:ident($int:ty) { $($(#[$doc:meta])* $constant:ident = $value:literal;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$doc])* pub const $constant: $name = $name($value);)*

            /// Every number that has a name.
            pub const NAMED: &'static [$name] = &[$($name::$constant),*];
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.write_str(stringify!($constant)),)*
                    other => write!(f, "{other:#x}"),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

macro_rules! flags {
    ($(#[$about:meta])* $name:ident($int:ty) { $($(#[$doc:meta])* $constant:ident = $bit:literal;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub $int);

        impl $name {
            /// No flag.
            pub const NONE: $name = $name(0);
            $($(#[$doc])* pub const $constant: $name = $name(1 << $bit);)*

            /// Every flag that has a name.
            pub const NAMED: &'static [$name] = &[$($name::$constant),*];

            /// Whether all of `flags` are set.
            pub const fn contains(self, flags: $name) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// Whether no flag is set.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// These flags and those.
            pub const fn with(self, flags: $name) -> $name {
                $name(self.0 | flags.0)
            }

            /// These flags but not those.
            pub const fn without(self, flags: $name) -> $name {
                $name(self.0 & !flags.0)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = $name;
            fn bitor(self, other: $name) -> $name {
                self.with(other)
            }
        }

        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: $name) {
                *self = self.with(other);
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut rest = *self;
                let mut separator = "";
                $(if rest.contains($name::$constant) {
                    write!(f, "{separator}{}", stringify!($constant))?;
                    separator = "|";
                    rest = rest.without($name::$constant);
                })*
                if !rest.is_empty() || separator.is_empty() {
                    write!(f, "{separator}{:#x}", rest.0)?;
                }
                Ok(())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

/// First eight bytes of every server: "NBDMAGIC".
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of a newstyle server, and first eight of every option: "IHAVEOPT".
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Second eight bytes of an oldstyle server, which is not supported.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// First eight bytes of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First four bytes of a compact request (28 bytes).
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First four bytes of an extended request (32 bytes).
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First four bytes of a simple reply (16 bytes).
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First four bytes of a structured reply chunk (20 bytes).
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First four bytes of an extended reply chunk (32 bytes).
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

numbers! {
    /// An option of the handshake ("Option types").
    Opt(u32) {
        /// Choose an export and begin transmission; can't fail but by closing.
        EXPORT_NAME = 1;
        /// End the handshake softly.
        ABORT = 2;
        /// List the exports.
        LIST = 3;
        /// Withdrawn; never answered but with ERR_UNSUP.
        PEEK_EXPORT = 4;
        /// Begin TLS.
        STARTTLS = 5;
        /// Describe an export.
        INFO = 6;
        /// Describe an export and begin transmission.
        GO = 7;
        /// Replies may come in chunks.
        STRUCTURED_REPLY = 8;
        /// List the block-status contexts of an export.
        LIST_META_CONTEXT = 9;
        /// Select block-status contexts of an export.
        SET_META_CONTEXT = 10;
        /// Requests and replies have 64-bit lengths.
        EXTENDED_HEADERS = 11;
    }
}

numbers! {
    /// The type of an option reply ("Option reply types").
    Rep(u32) {
        /// Done.
        ACK = 1;
        /// One export of a LIST.
        SERVER = 2;
        /// One information of an INFO or GO.
        INFO = 3;
        /// One context of a LIST_META_CONTEXT or SET_META_CONTEXT.
        META_CONTEXT = 4;
        /// The server does not know or support the option.
        ERR_UNSUP = 0x8000_0001;
        /// Forbidden by the server's configuration.
        ERR_POLICY = 0x8000_0002;
        /// The option's data make no sense.
        ERR_INVALID = 0x8000_0003;
        /// Not supported on the server's platform.
        ERR_PLATFORM = 0x8000_0004;
        /// Begin TLS first.
        ERR_TLS_REQD = 0x8000_0005;
        /// No such export.
        ERR_UNKNOWN = 0x8000_0006;
        /// The server is shutting down.
        ERR_SHUTDOWN = 0x8000_0007;
        /// Ask for the block sizes first.
        ERR_BLOCK_SIZE_REQD = 0x8000_0008;
        /// The option asks for too much.
        ERR_TOO_BIG = 0x8000_0009;
        /// Extended headers must be, or already are, negotiated.
        ERR_EXT_HEADER_REQD = 0x8000_000a;
    }
}

impl Rep {
    /// Whether the reply says that the option failed.
    pub const fn is_error(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }
}

numbers! {
    /// The type of an information in INFO and GO ("Information types").
    Info(u16) {
        /// Size and transmission flags.
        EXPORT = 0;
        /// The export's canonical name.
        NAME = 1;
        /// A description for people.
        DESCRIPTION = 2;
        /// Minimum and preferred block size, maximum payload.
        BLOCK_SIZE = 3;
    }
}

numbers! {
    /// The type of a command ("Request types").
    CommandType(u16) {
        /// Read bytes.
        READ = 0;
        /// Write bytes.
        WRITE = 1;
        /// End the connection softly; never answered.
        DISC = 2;
        /// Make what was answered durable.
        FLUSH = 3;
        /// Drop a range.
        TRIM = 4;
        /// Prefetch a range.
        CACHE = 5;
        /// Zero a range.
        WRITE_ZEROES = 6;
        /// Describe a range.
        BLOCK_STATUS = 7;
        /// Experimental, of a branch of the protocol document; implemented by nobody.
        RESIZE = 8;
    }
}

numbers! {
    /// The type of a structured or extended reply chunk ("Structured reply types").
    ChunkType(u16) {
        /// No payload; ends a reply.
        NONE = 0;
        /// Offset and bytes.
        OFFSET_DATA = 1;
        /// Offset and length of zeroes.
        OFFSET_HOLE = 2;
        /// Extents with 32-bit lengths and statuses.
        BLOCK_STATUS = 5;
        /// Extents with 64-bit lengths and statuses.
        BLOCK_STATUS_EXT = 6;
        /// Error number and text.
        ERROR = 0x8001;
        /// Error number, text and offset.
        ERROR_OFFSET = 0x8002;
    }
}

impl ChunkType {
    /// Whether the chunk says that the command failed; true of unknown error types too.
    pub const fn is_error(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

flags! {
    /// What a server offers in its greeting ("Handshake flags").
    HandshakeFlags(u16) {
        /// Options are answered.
        FIXED_NEWSTYLE = 0;
        /// The 124 zero bytes after EXPORT_NAME can be left out.
        NO_ZEROES = 1;
    }
}

flags! {
    /// What a client answers to the greeting ("Client flags").
    ClientFlags(u32) {
        /// The client understands answers to options.
        FIXED_NEWSTYLE = 0;
        /// The client does not want the 124 zero bytes.
        NO_ZEROES = 1;
    }
}

flags! {
    /// What an export can do ("Transmission flags").
    TransmissionFlags(u16) {
        /// The field is valid; always set.
        HAS_FLAGS = 0;
        /// No command may change data.
        READ_ONLY = 1;
        /// FLUSH is supported.
        SEND_FLUSH = 2;
        /// The FUA flag is supported.
        SEND_FUA = 3;
        /// Seeks cost time.
        ROTATIONAL = 4;
        /// TRIM is supported.
        SEND_TRIM = 5;
        /// WRITE_ZEROES is supported.
        SEND_WRITE_ZEROES = 6;
        /// The DF flag is supported; only with structured replies or extended headers.
        SEND_DF = 7;
        /// A flush on one connection covers what was answered on all.
        CAN_MULTI_CONN = 8;
        /// Experimental.
        SEND_RESIZE = 9;
        /// CACHE is supported.
        SEND_CACHE = 10;
        /// The FAST_ZERO flag is supported; only with SEND_WRITE_ZEROES.
        SEND_FAST_ZERO = 11;
        /// BLOCK_STATUS may choose contexts by a payload; only with extended headers.
        BLOCK_STATUS_PAYLOAD = 12;
    }
}

flags! {
    /// Flags of one command ("Command flags").
    CommandFlags(u16) {
        /// Answer only when the effect is on stable storage.
        FUA = 0;
        /// WRITE_ZEROES: keep the range allocated.
        NO_HOLE = 1;
        /// READ: answer in one piece.
        DF = 2;
        /// BLOCK_STATUS: one extent only.
        REQ_ONE = 3;
        /// WRITE_ZEROES: fail at once unless it is faster than writing.
        FAST_ZERO = 4;
        /// Extended headers: the length is that of a payload behind the header.
        PAYLOAD_LEN = 5;
    }
}

flags! {
    /// Flags of one structured or extended reply chunk ("Structured reply flags").
    ChunkFlags(u16) {
        /// The last chunk of the reply.
        DONE = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_their_names_and_unknown_ones_in_hexadecimal() {
        assert_eq!(format!("{:?} {}", Opt::GO, Opt(0x1234)), "GO 0x1234");
        assert_eq!(
            format!("{:?} {:?}", Rep::ERR_UNKNOWN, Rep(9)),
            "ERR_UNKNOWN 0x9"
        );
        assert_eq!(
            format!("{:?}", ChunkType::BLOCK_STATUS_EXT),
            "BLOCK_STATUS_EXT"
        );
    }

    #[test]
    fn flags_show_their_names_and_what_is_left() {
        let flags = CommandFlags::FUA | CommandFlags::DF | CommandFlags(0x4000);
        assert_eq!(format!("{flags:?}"), "FUA|DF|0x4000");
        assert_eq!(
            format!("{:?} {:?}", CommandFlags::NONE, CommandFlags(0x80)),
            "0x0 0x80"
        );
        assert!(flags.contains(CommandFlags::FUA | CommandFlags::DF));
        assert!(!flags.contains(CommandFlags::FUA | CommandFlags::NO_HOLE));
        assert_eq!(flags.without(CommandFlags::FUA), CommandFlags(0x4004));
    }

    #[test]
    fn errors_are_told_by_their_highest_bit() {
        for reply in Rep::NAMED {
            assert_eq!(reply.is_error(), format!("{reply:?}").starts_with("ERR"));
        }
        for chunk in ChunkType::NAMED {
            assert_eq!(chunk.is_error(), format!("{chunk:?}").starts_with("ERROR"));
        }
    }

    #[test]
    fn magic_numbers_are_what_they_spell() {
        assert_eq!(&NBDMAGIC.to_be_bytes(), b"NBDMAGIC");
        assert_eq!(&IHAVEOPT.to_be_bytes(), b"IHAVEOPT");
    }
}
