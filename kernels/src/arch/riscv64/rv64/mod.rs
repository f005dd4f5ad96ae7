//! 64-bit RISC-V without vectors: several products in one 64-bit multiplication.
//!
//! For SiFive's U74 (StarFive's JH7110: VisionFive 2, Star64; JH7100), T-Head's C906 and C910 (whose old
//! vectors are not those of V 1.0) and every other rv64gc core. Nothing beyond rv64gc is asked for, so it
//! runs on all of them. Panels have functions of their own; what remains is left to portable, as the compiler
//! makes it. All give the bits of the portable set.

mod quantised;

pub(crate) use crate::arch::portable::{
    add, attend, geglu, multiply_floats, multiply_rows, quantize_tile, rms_norm, rope_rotate, scale, softmax,
    store_head, swiglu,
};
pub(crate) use quantised::multiply_panels;
