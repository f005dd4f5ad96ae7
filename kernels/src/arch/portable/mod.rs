//! Every operation for any chip, complete and readable: the truth that other sets are held to, bit by bit.
//!
//! Sums run in fixed lanes with fused multiply-adds, so that a vector unit can do the same in the same order.
//! Where the compiler's target has no fused multiply-add (plain x86-64), each is a call into the C library:
//! correct, and slow.

mod attention;
mod dot;
mod elementwise;

pub(crate) use attention::{HALF_MAX, attend, store_head};
pub(crate) use dot::{multiply_floats, multiply_panels, multiply_rows};
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
pub(crate) use elementwise::softmax_by;
pub(crate) use elementwise::{
    EXP_HIGH, EXP_LOW, EXP_POLYNOMIAL, GELU_CUBIC, GELU_LINEAR, LN_2_HIGH, LN_2_LOW,
};
pub(crate) use elementwise::{add, geglu, quantize_tile, rms_norm, rope_rotate, scale, softmax, swiglu};
