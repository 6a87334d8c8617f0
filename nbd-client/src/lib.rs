//! An NBD client: one connection with completions ([`Connection`]), an asynchronous client that reconnects
//! ([`Client`]), NBD URIs ([`Target`]), and block devices of the kernel ([`kernel`]).

pub mod client;
pub mod connection;
pub mod kernel;
pub mod query;
pub mod target;
pub mod uri;

pub use client::{Client, ClientOptions};
pub use connection::{Connection, Export, Lost, OpenError, Options};
pub use target::{Address, Target};
