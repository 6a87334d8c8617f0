//! Who a connection belongs to: how a newer session of the same client fences its older connections.
//!
//! A client that reconnects may have left requests behind in a server that does not know yet that the old connection
//! is dead; such a write could land after newer, acknowledged ones (half-open TCP). So a NetRAID client presents its
//! identity and a generation that grows with each reconnect, before GO, as a block-status context query
//!
//! ```text
//! x-netraid:session:<client uuid>:<generation>
//! ```
//!
//! in **LIST_META_CONTEXT** for the export that it will open. That option selects nothing, needs no structured replies
//! (so it works on connections that are handed to the Linux kernel afterwards), and a foreign server ignores the query.
//! A server that fences answers with a REP_META_CONTEXT of exactly that name; a client that gets no such answer knows
//! that fencing is *not* in force. The server refuses a generation older than one that it has already seen with
//! ERR_POLICY and a reason. The session holds for a GO or EXPORT_NAME of the same export on the same connection; the
//! last one presented counts. In SET_META_CONTEXT the query selects nothing and presents nothing, like any context that
//! does not exist: there is nothing that a BLOCK_STATUS could answer for it.
//!
//! Several connections of one client with the same generation belong together; a higher generation fences all lower
//! ones.
//!
//! With that answer the server may send a second one, [`MEMORY_PREFIX`] and what names the export's memory: any text,
//! compared as a whole. While it is the same, all writes that were ever answered are still there, flushed or not; when it
//! has changed (the server's machine was restarted, or it is another disk), or was never said, writes that were answered
//! but not flushed may be lost, and a client that reconnects must not go on as if they were not.

//!
//! A client may add the query [`ORDERED`]. A server that answers it with that name does what comes over this connection
//! strictly in order, reads and flushes included: each request begins when the one before is over. With the first write,
//! zeroing or flush that fails, or that it refuses, it ends the connection, and nothing that came behind is done. So what
//! the client finds after any end is what was done up to some request, and nothing of what came later.

use std::fmt;
use std::str::FromStr;

/// What every session query begins with.
pub const SESSION_PREFIX: &str = "x-netraid:session:";

/// What the name of a server's memory begins with.
pub const MEMORY_PREFIX: &str = "x-netraid:memory:";

/// The query, and the answer, for a connection whose requests are done in order.
pub const ORDERED: &str = "x-netraid:ordered";

/// A client and which of its lives this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session {
    /// The client's UUID, for good.
    pub client: u128,
    /// Grows with every reconnect; never reused.
    pub generation: u64,
}

/// A session query that is not `x-netraid:session:<uuid>:<generation>` in its one spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a session: expected x-netraid:session:, a lower-case UUID with hyphens, a colon and a decimal generation"
)]
pub struct NotASession;

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.client;
        write!(
            f,
            "{SESSION_PREFIX}{:08x}-{:04x}-{:04x}-{:04x}-{:012x}:{}",
            id >> 96,
            (id >> 80) & 0xffff,
            (id >> 64) & 0xffff,
            (id >> 48) & 0xffff,
            id & 0xffff_ffff_ffff,
            self.generation
        )
    }
}

impl FromStr for Session {
    type Err = NotASession;

    /// Accepts exactly what `Display` writes, so that one session has one name.
    fn from_str(query: &str) -> Result<Session, NotASession> {
        let (uuid, generation) = query
            .strip_prefix(SESSION_PREFIX)
            .and_then(|rest| rest.split_once(':'))
            .ok_or(NotASession)?;
        let digits: String = uuid.chars().filter(|c| *c != '-').collect();
        let session = Session {
            client: u128::from_str_radix(&digits, 16).map_err(|_| NotASession)?,
            generation: generation.parse().map_err(|_| NotASession)?,
        };
        if session.to_string() == query {
            Ok(session)
        } else {
            Err(NotASession)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "x-netraid:session:00112233-4455-6677-8899-aabbccddeeff:42";

    #[test]
    fn a_session_has_one_spelling() {
        let session = Session {
            client: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
            generation: 42,
        };
        assert_eq!(session.to_string(), NAME);
        assert_eq!(NAME.parse(), Ok(session));
        for other in [
            NAME.replace("aabb", "AABB"),
            NAME.replace('-', ""),
            NAME.replace(":42", ":042"),
            NAME.replace(":42", ":+42"),
            NAME.replace(":42", ":"),
            NAME.replace(":42", ":18446744073709551616"),
            NAME.replace("0011", "+011"),
            NAME.replace("x-netraid", "netraid"),
            format!("{NAME} "),
            "x-netraid:session:".to_owned(),
            String::new(),
        ] {
            assert_eq!(other.parse::<Session>(), Err(NotASession), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_session_survives_its_name(client: u128, generation: u64) {
            let session = Session { client, generation };
            prop_assert_eq!(session.to_string().parse(), Ok(session));
        }

        #[test]
        fn any_name_that_is_taken_is_the_one_that_is_written(
            name in "x-netraid:session:[0-9a-fA-F-]{30,40}:[0-9+]{0,22}",
        ) {
            if let Ok(session) = name.parse::<Session>() {
                prop_assert_eq!(session.to_string(), name);
            }
        }
    }
}
