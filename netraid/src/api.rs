//! How others reach the daemon: HTTP + JSON for peers over mutual TLS, for commands over a unix socket.

pub mod document;
pub mod identity;
pub mod issue;
pub mod listen;
pub mod local_client;
pub mod metrics;
pub mod peer_client;
pub mod schema;
pub mod tls;
