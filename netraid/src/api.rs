//! How others reach the daemon: HTTP + JSON for peers over mutual TLS, for commands over a unix socket.
