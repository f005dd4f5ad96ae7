//! Kernel sets for 64-bit RISC-V.

pub(crate) mod rv64;
pub(crate) mod rvv;
