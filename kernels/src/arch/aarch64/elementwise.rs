//! Single rows: the exponential and quantisation in four lanes.
//!
//! NEON and fused multiply-adds belong to every CPU of this architecture, so the portable loops are compiled
//! for them already: norms, rotations, sums and multiples are those. Written by hand is only what the
//! compiler does not see through.

use core::arch::aarch64::*;

use crate::arch::{CodesMut, portable};
use crate::{QUANT_BLOCK, RopePairing};

/// e^x in four lanes, by the steps of the portable one.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn exp4(x: float32x4_t) -> float32x4_t {
    let (low, high) = (vdupq_n_f32(portable::EXP_LOW), vdupq_n_f32(portable::EXP_HIGH));
    let clamped = vminq_f32(high, vmaxq_f32(low, x));
    let n = vrndnq_f32(vmulq_n_f32(clamped, core::f32::consts::LOG2_E));
    let r = vfmaq_n_f32(clamped, n, -portable::LN_2_HIGH);
    let r = vfmaq_n_f32(r, n, -portable::LN_2_LOW);
    let mut sum = vdupq_n_f32(portable::EXP_POLYNOMIAL[0]);
    for coefficient in &portable::EXP_POLYNOMIAL[1..] {
        sum = vfmaq_f32(vdupq_n_f32(*coefficient), sum, r);
    }
    let power = vaddq_f32(vfmaq_f32(r, sum, vmulq_f32(r, r)), vdupq_n_f32(1.0));
    let exponent = vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)));
    let result = vmulq_f32(power, vreinterpretq_f32_s32(exponent));
    // What is no number is below and above nothing, and stays what it is.
    let result = vbslq_f32(vcgtq_f32(x, high), vdupq_n_f32(f32::INFINITY), result);
    vbslq_f32(vcltq_f32(x, low), vdupq_n_f32(0.0), result)
}

/// Quantises one block of 32 columns and returns its scale.
#[inline]
#[target_feature(enable = "neon")]
fn quantize_whole(values: &[f32; QUANT_BLOCK], codes: &mut [i8; QUANT_BLOCK]) -> f32 {
    let mut lanes = [vdupq_n_f32(0.0); 8];
    let mut largest = vdupq_n_f32(0.0);
    for (i, lanes) in lanes.iter_mut().enumerate() {
        // SAFETY: four of the 32 values, no alignment asked.
        *lanes = unsafe { vld1q_f32(values.as_ptr().add(4 * i)) };
        // What is no number is passed over.
        largest = vmaxnmq_f32(largest, vabsq_f32(*lanes));
    }
    let largest = vmaxnmvq_f32(largest);
    let inverse = 127.0 / largest;
    if inverse == f32::INFINITY {
        codes.fill(0);
        return 0.0;
    }
    // To the nearest, ties to even; what is no number becomes 0.
    let whole = lanes.map(|lanes| vcvtnq_s32_f32(vmulq_n_f32(lanes, inverse)));
    let narrow = |i: usize| {
        let low = vuzp1q_s16(vreinterpretq_s16_s32(whole[i]), vreinterpretq_s16_s32(whole[i + 1]));
        let high = vuzp1q_s16(vreinterpretq_s16_s32(whole[i + 2]), vreinterpretq_s16_s32(whole[i + 3]));
        vuzp1q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high))
    };
    // SAFETY: 32 codes, no alignment asked.
    unsafe {
        vst1q_s8(codes.as_mut_ptr(), narrow(0));
        vst1q_s8(codes.as_mut_ptr().add(16), narrow(4));
    }
    largest / 127.0
}

/// Quantises up to 32 values, filled up with zeros, and returns their scale.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn quantize_block(values: &[f32], codes: &mut [i8; QUANT_BLOCK]) -> f32 {
    match values.as_array() {
        Some(values) => quantize_whole(values, codes),
        None => {
            let mut padded = [0.0; QUANT_BLOCK];
            padded[..values.len()].copy_from_slice(values);
            quantize_whole(&padded, codes)
        }
    }
}

/// Quantises the rows of one tile, as the portable one.
#[target_feature(enable = "neon")]
pub(crate) fn quantize_tile(values: &[f32], out: CodesMut<'_>) {
    let sum = |codes: &[i8; QUANT_BLOCK]| {
        // SAFETY: 32 codes, no alignment asked.
        unsafe { [vaddlvq_s8(vld1q_s8(codes.as_ptr())), vaddlvq_s8(vld1q_s8(codes.as_ptr().add(16)))] }
    };
    out.fill(values, |values, codes| quantize_block(values, codes), sum);
}

/// As the portable one.
#[target_feature(enable = "neon")]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    portable::rms_norm(x, weight, epsilon, out);
}

/// Every four values with those of `others`, by a function of four lanes; the last are filled up to four.
#[inline]
#[target_feature(enable = "neon")]
fn each4(x: &mut [f32], others: &[f32], function: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) {
    let apply = |x: &mut [f32; 4], other: &[f32; 4]| {
        // SAFETY: four floats each, no alignment asked.
        unsafe {
            let result = function(vld1q_f32(x.as_ptr()), vld1q_f32(other.as_ptr()));
            vst1q_f32(x.as_mut_ptr(), result);
        }
    };
    let (chunks, rest) = x.as_chunks_mut();
    let (other_chunks, other_rest) = others.as_chunks();
    for (x, other) in chunks.iter_mut().zip(other_chunks) {
        apply(x, other);
    }
    let (mut last, mut other_last) = ([0.0; 4], [0.0; 4]);
    last[..rest.len()].copy_from_slice(rest);
    other_last[..other_rest.len()].copy_from_slice(other_rest);
    apply(&mut last, &other_last);
    rest.copy_from_slice(&last[..rest.len()]);
}

/// gate / (1 + e^exponent) * up.
#[inline]
#[target_feature(enable = "neon")]
fn gated(gate: float32x4_t, exponent: float32x4_t, up: float32x4_t) -> float32x4_t {
    vmulq_f32(vdivq_f32(gate, vaddq_f32(vdupq_n_f32(1.0), exp4(exponent))), up)
}

/// gate = gate / (1 + e^-gate) * up.
#[target_feature(enable = "neon")]
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
    each4(gate, up, |gate, up| gated(gate, vnegq_f32(gate), up));
}

/// gate = GELU(gate) * up, in the portable form with one exponential.
#[target_feature(enable = "neon")]
pub(crate) fn geglu(gate: &mut [f32], up: &[f32]) {
    each4(gate, up, |gate, up| {
        let square = vmulq_f32(gate, gate);
        let factor = vfmaq_n_f32(vdupq_n_f32(portable::GELU_LINEAR), square, portable::GELU_CUBIC);
        gated(gate, vmulq_f32(gate, factor), up)
    });
}

/// x = e^(x - max) / sum: the exponentials by hand, maximum and sum as the portable one.
#[target_feature(enable = "neon")]
pub(crate) fn softmax(x: &mut [f32]) {
    portable::softmax_by(x, |x, largest| {
        let exp4_below = |x: &mut [f32; 4]| {
            // SAFETY: four floats, no alignment asked.
            unsafe {
                let below = vsubq_f32(vld1q_f32(x.as_ptr()), vdupq_n_f32(largest));
                vst1q_f32(x.as_mut_ptr(), exp4(below));
            }
        };
        let (chunks, rest) = x.as_chunks_mut();
        chunks.iter_mut().for_each(exp4_below);
        let mut last = [0.0; 4];
        last[..rest.len()].copy_from_slice(rest);
        exp4_below(&mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    });
}

/// As the portable one.
#[target_feature(enable = "neon")]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    portable::add(x, y);
}

/// As the portable one.
#[target_feature(enable = "neon")]
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    portable::scale(x, factor);
}

/// As the portable one.
#[target_feature(enable = "neon")]
pub(crate) fn rope_rotate(head: &mut [f32], cosines: &[f32], sines: &[f32], pairing: RopePairing) {
    portable::rope_rotate(head, cosines, sines, pairing);
}
