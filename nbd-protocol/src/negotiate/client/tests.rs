//! Tests of the client's side of the handshake.
