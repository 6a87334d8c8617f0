//! Tests of the server's side of the handshake.
