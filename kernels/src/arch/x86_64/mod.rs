//! Kernel sets of x86-64 processors.

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod avxvnni;
mod dots;
mod floats;
mod panels;
mod registers;
mod tiles;
