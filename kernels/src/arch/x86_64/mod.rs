//! Kernel sets of x86-64 processors.

pub(crate) mod avx2;
