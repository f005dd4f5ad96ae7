//! x86-64 with AVX2, FMA and F16C.
//!
//! For every desktop and server since Intel's Haswell (2013) and AMD's Excavator (2015). Every function asks
//! for these three features and is unsafe to call without them; `runs_here` says whether they are there. All
//! give the bits of the portable set.
//!
//! Figures in the heads of these files were measured on two shared cores of an AMD EPYC (Zen 5) server with
//! other work beside them, best of several runs, each against the portable set and the plain read of the same
//! memory in the same process. Panels are multiplied by source that all sets share.

mod attention;
mod elementwise;
mod floats;
mod rows;

use core::arch::x86_64::*;

use super::dots::Avx2;
use super::floats::Ymm;
use super::tiles;
use crate::Format;
use crate::arch::{Codes, Floats};

pub(crate) use attention::{attend, store_head};
pub(crate) use elementwise::{add, geglu, quantize_tile, rms_norm, rope_rotate, scale, softmax, swiglu};
pub(super) use floats::{Weight, multiply};
pub(crate) use rows::multiply_rows;

/// Whether this CPU has the features; without `std` whether the build takes them for granted.
pub(crate) fn runs_here() -> bool {
    #[cfg(feature = "std")]
    return std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c");
    #[cfg(not(feature = "std"))]
    return cfg!(all(target_feature = "avx2", target_feature = "fma", target_feature = "f16c"));
}

/// Panels times every token; `out` is `[panel][token][row]`. Panics when lengths do not belong together.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
pub(crate) unsafe fn multiply_panels(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    // SAFETY: the same contract.
    unsafe { tiles::multiply::<Avx2>(format, panels, x, out) };
}

/// Up to eight rows of a float format times every token; `out[token][row]`. Panics when lengths do not belong
/// together.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
pub(crate) unsafe fn multiply_floats(
    format: Format,
    rows: &[u8],
    count: usize,
    x: &Floats<'_>,
    out: &mut [[f32; 8]],
) {
    // SAFETY: the same contract.
    unsafe { multiply::<Ymm>(format, rows, count, x, out) };
}

/// Eight IEEE halves as f32.
///
/// # Safety
/// 16 bytes are readable at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_halves(at: *const u8) -> __m256 {
    // SAFETY: readable by the contract; the load asks for no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

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
pub(super) fn sum16(low: __m256, high: __m256) -> f32 {
    sum8(_mm256_add_ps(low, high))
}

/// A mask of the first `count` lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lanes_below(count: usize) -> __m256 {
    let count = _mm256_set1_epi32(count.min(8) as i32);
    _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
}
