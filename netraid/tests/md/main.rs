//! The md format against those who know it: mdadm, images that a real kernel wrote, and a real kernel itself.

#![allow(clippy::unwrap_used)] // helpers of tests, too, may fail by panicking

mod examine;
mod golden;
mod kernel;
mod peer;
mod report;
