//! x86-64 with AVX2, FMA and F16C: Intel since Haswell (2013), AMD since Excavator and Zen.
//!
//! Uses 256-bit integer multiply-adds (`vpmaddubsw`), fused multiply-adds and half conversions. What it beats
//! and by how much, and where the memory is the bound and it can't help, is measured in
//! `docs/performance.md`; it loses nowhere to the portable set except on rows shorter than a register, where
//! both take nanoseconds.

mod attention;
mod elementwise;
mod floats;
mod quantised;

use core::arch::x86_64::*;

pub(crate) use attention::attend;
pub(crate) use elementwise::{geglu, quantize_row, rms_norm, swiglu};
pub(crate) use floats::{strip_bf16, strip_f16, strip_f32};
pub(crate) use quantised::{strip_q4_0, strip_q4_k, strip_q6_k, strip_q8_0};

/// The sum of eight lanes in the portable set's order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum8(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// The sum of sixteen lanes in the portable set's order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum16(low: __m256, high: __m256) -> f32 {
    sum8(_mm256_add_ps(low, high))
}

/// A mask of the first `count` lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lanes_below(count: usize) -> __m256 {
    let count = _mm256_set1_epi32(count.min(8) as i32);
    _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
}
