//! Kernel sets of x86-64 processors.
//!
//! Panels and many rows of floats have one source for all sets; a set says which registers it fills and how
//! it multiplies.

#![allow(
    clippy::needless_range_loop,
    reason = "tiles of registers are addressed by vector, head, row, token and lane alike"
)]

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod avxvnni;
mod dots;
mod floats;
mod panels;
mod registers;
mod tiles;
