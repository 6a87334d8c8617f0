//! Nodes with real Linux kernels, run as processes, joined by cables that a test can cut.
