//! The md format against those who know it: mdadm, images that a real kernel wrote, and a real kernel itself.

mod examine;
mod golden;
mod kernel;
mod peer;
mod report;
