//! The messages of the handshake: options of the client and the server's replies to them.

mod reply;
mod request;

pub use reply::{InfoReply, OptionReply, ReplyHeader};
pub use request::{ClientOption, InfoRequest, MetaRequest, OptionHeader};

#[cfg(test)]
pub(crate) mod tests;
