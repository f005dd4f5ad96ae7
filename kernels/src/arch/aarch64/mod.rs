//! 64-bit Arm: three kernel sets that differ in how codes are multiplied and share the rest.
//!
//! `neon` runs on every such CPU; `dotprod` and `i8mm` ask for an extension. No function may be called on a
//! CPU that lacks its set's; `runs_here` says whether it is there. All give the bits of the portable set.
//!
//! Figures in the heads of the files are instructions counted under an emulator, for 32 weights and one
//! token. Time on real boards has not been measured yet.

#![allow(
    clippy::needless_range_loop,
    reason = "tiles of registers are addressed by head, row, token and lane alike"
)]

mod attention;
pub(crate) mod dotprod;
mod elementwise;
mod floats;
pub(crate) mod i8mm;
pub(crate) mod neon;
mod panels;
mod rows;
mod walk;

use core::arch::aarch64::*;

/// Eight IEEE halves as f32: exact.
#[inline]
#[target_feature(enable = "neon")]
fn widen_halves(halves: uint16x8_t) -> [float32x4_t; 2] {
    let halves = vreinterpretq_f16_u16(halves);
    [vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]
}

/// The sum of eight lanes in the portable set's order.
#[inline]
#[target_feature(enable = "neon")]
fn sum8(lanes: [float32x4_t; 2]) -> f32 {
    let four = vaddq_f32(lanes[0], lanes[1]);
    let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
}
