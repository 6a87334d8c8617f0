//! A leg that travels by road (`netraid truck`): loaded on an image or a disk on the source, shipped, checked, put in use on
//! the node that it is for. Only what was written since moves over the network.
//!
//! The image is filled as the leg that it is going to be, by the array itself, and leaves it in sync ([`crate::array::Array::part`]).
//! From then on it is a leg that is away, like any other: whoever connects it later decides by its generation and by
//! the marks, and believes nothing that is said here. What is here is about the road: that nobody takes for a leg what was not
//! checked since ([`seal`]), what is to arrive ([`manifest`]), whether it has ([`check`]), and what the node that gets
//! it has to remember ([`unload`]).

pub mod check;
pub mod copy;
pub mod manifest;
pub mod note;
pub mod seal;
pub mod unload;
