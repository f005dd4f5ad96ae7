//! Kernel sets of x86-64 processors.
//!
//! Each set has the portable set's functions for what dominates on its chips.

pub(crate) mod avx2;
