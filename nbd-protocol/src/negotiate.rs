//! What the two peers say to each other before the first command: a state machine for each role.

pub mod client;
pub mod server;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
