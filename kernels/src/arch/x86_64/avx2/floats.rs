//! Rows of F32, F16 and BF16 times f32 activations.
//!
//! Sixteen lanes a row and token, as the portable set defines: two registers, reduced at the end. A tile of
//! rows and tokens shares every load: four rows to one token when decoding, two rows to three tokens when a
//! prompt is read.
//!
//! For x86-64 with AVX2, FMA and F16C (`vfmadd`, `vcvtph2ps`, `vpmovzxwd`). Against portable, whose fused
//! multiply-add is a call on plain x86-64: 27 to 64 times at one token, 79 to 149 at 64. One token reads
//! weights at 0.8 of the read bandwidth; many give 65 to 90 GFLOP/s a core. It loses on rows of fewer than
//! sixteen columns, which are all tail.

use core::arch::x86_64::*;

use super::super::floats::{self, Lanes};
use super::{lanes_below, load_halves, sum16};
use crate::Format;
use crate::arch::Floats;

/// Rows that share the loads of one token's values: eight accumulators, and four streams for the prefetcher.
const ROWS_DECODE: usize = 4;

/// Rows and tokens of a tile when there are many tokens: twelve accumulators, two weights and one value.
const ROWS_PREFILL: usize = 2;
const TOKENS_PREFILL: usize = 3;

/// How far ahead of the walk one token's weights are asked for, at least.
const PREFETCH_BYTES: usize = 12288;

/// Columns that are walked at once: the lanes of a dot product.
const LANES: usize = 16;

/// One format of weights: eight of them as f32.
pub(in super::super) trait Weight {
    /// Bytes of a weight.
    const BYTES: usize;

    /// # Safety
    /// The CPU has AVX2 and F16C; eight weights are readable at `at`.
    unsafe fn load8(at: *const u8) -> __m256;
}

pub(in super::super) struct F32;
pub(in super::super) struct F16;
pub(in super::super) struct BF16;

impl Weight for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load8(at: *const u8) -> __m256 {
        // SAFETY: readable by the contract; the load asks for no alignment.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }
}

impl Weight for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load8(at: *const u8) -> __m256 {
        // SAFETY: readable by the contract.
        unsafe { load_halves(at) }
    }
}

impl Weight for BF16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load8(at: *const u8) -> __m256 {
        // SAFETY: readable by the contract; the load asks for no alignment.
        let halves = unsafe { _mm_loadu_si128(at.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }
}

/// `R` rows times `T` tokens; `out[token][first + row]`. With `prefetch` the rows behind are asked for, which
/// pays for the first tokens that meet a row.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C; `rows` has `R` rows of `columns` weights, `x` has `T` rows of `columns`
/// values.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<W: Weight, const R: usize, const T: usize>(
    rows: *const u8,
    x: *const f32,
    columns: usize,
    out: &mut [[f32; 8]],
    (first, prefetch): (usize, bool),
) {
    let mut acc = [[[_mm256_setzero_ps(); 2]; T]; R];
    let whole = columns / LANES * LANES;
    // While a tile is walked, as many bytes are asked for, at least a tile ahead.
    let tile_bytes = R * columns * W::BYTES;
    let ahead = rows.wrapping_add(tile_bytes.max(PREFETCH_BYTES));
    for column in (0..whole).step_by(LANES) {
        if prefetch {
            for line in (0..R * LANES * W::BYTES).step_by(64) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(R * column * W::BYTES + line).cast());
            }
        }
        for half in 0..2 {
            let column = column + 8 * half;
            let mut weights = [_mm256_setzero_ps(); R];
            for r in 0..R {
                // SAFETY: row `r` has the eight columns.
                weights[r] = unsafe { W::load8(rows.add((r * columns + column) * W::BYTES)) };
            }
            for t in 0..T {
                // SAFETY: token `t` has the eight columns.
                let values = unsafe { _mm256_loadu_ps(x.add(t * columns + column)) };
                for r in 0..R {
                    acc[r][t][half] = _mm256_fmadd_ps(weights[r], values, acc[r][t][half]);
                }
            }
        }
    }
    if whole < columns {
        let rest = columns - whole;
        for t in 0..T {
            let mut values = [0.0f32; LANES];
            // SAFETY: token `t` has `rest` more columns, fewer than the sixteen of `values`.
            unsafe { core::ptr::copy_nonoverlapping(x.add(t * columns + whole), values.as_mut_ptr(), rest) };
            for r in 0..R {
                let mut weights = [0u8; LANES * 4];
                // SAFETY: row `r` has `rest` more columns, fewer than the sixteen that `weights` holds.
                unsafe {
                    let from = rows.add((r * columns + whole) * W::BYTES);
                    core::ptr::copy_nonoverlapping(from, weights.as_mut_ptr(), rest * W::BYTES);
                }
                for half in 0..2 {
                    // SAFETY: both buffers hold sixteen elements.
                    let (weights, values) = unsafe {
                        (
                            W::load8(weights.as_ptr().add(8 * half * W::BYTES)),
                            _mm256_loadu_ps(values.as_ptr().add(8 * half)),
                        )
                    };
                    let sum = _mm256_fmadd_ps(weights, values, acc[r][t][half]);
                    // Lanes without a column are left alone: adding a zero product would turn -0 into 0.
                    let mask = lanes_below(rest.saturating_sub(8 * half));
                    acc[r][t][half] = _mm256_blendv_ps(acc[r][t][half], sum, mask);
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            out[t][first + r] = sum16(acc[r][t][0], acc[r][t][1]);
        }
    }
}

/// `R` rows times every token, `T` at a time.
///
/// # Safety
/// As [`tile`], for all tokens of `x`; `out` has as many.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<W: Weight, const R: usize>(
    rows: *const u8,
    x: &Floats<'_>,
    out: &mut [[f32; 8]],
    first: usize,
) {
    let mut token = 0;
    for out in out.chunks_mut(TOKENS_PREFILL) {
        // SAFETY: `out.len()` tokens lie from `token` on; the rows are the caller's.
        unsafe {
            let values = x.values.as_ptr().add(token * x.columns);
            match out.len() {
                1 => tile::<W, R, 1>(rows, values, x.columns, out, (first, token == 0)),
                2 => tile::<W, R, 2>(rows, values, x.columns, out, (first, token == 0)),
                _ => tile::<W, R, TOKENS_PREFILL>(rows, values, x.columns, out, (first, token == 0)),
            }
        }
        token += out.len();
    }
}

/// Up to eight rows times every token. Few tokens, or columns that end within the lanes, are walked here; the
/// rest goes to tiles of the width `L`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C, and what `L` needs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn strip<L: Lanes, W: Weight>(
    bytes: &[u8],
    count: usize,
    x: &Floats<'_>,
    out: &mut [[f32; 8]],
) {
    let row_bytes = x.columns * W::BYTES;
    assert!(count <= 8 && bytes.len() == count * row_bytes, "rows of other columns");
    assert!(x.values.len() == x.tokens * x.columns && out.len() == x.tokens, "values of other columns");
    out.fill([0.0; 8]);
    if x.tokens >= L::TOKENS && x.columns.is_multiple_of(LANES) {
        // SAFETY: rows and values were measured above; the caller has what `L` needs.
        return unsafe { floats::multiply::<L, W>(bytes, count, x, out) };
    }
    let mut row = 0;
    while row < count {
        let at = bytes[row * row_bytes..].as_ptr();
        // SAFETY: the rows from `row` on are in `bytes` and all tokens in `x`, as checked above; the features
        // are this function's own.
        row += unsafe {
            if x.tokens == 1 && count - row >= ROWS_DECODE {
                tile::<W, ROWS_DECODE, 1>(at, x.values.as_ptr(), x.columns, out, (row, true));
                ROWS_DECODE
            } else if count - row >= ROWS_PREFILL {
                rows::<W, ROWS_PREFILL>(at, x, out, row);
                ROWS_PREFILL
            } else {
                rows::<W, 1>(at, x, out, row);
                1
            }
        };
    }
}

/// Up to eight rows of a float format times every token; `out[token][row]`. Panics when lengths do not belong
/// together.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C, and what `L` needs.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn multiply<L: Lanes>(
    format: Format,
    rows: &[u8],
    count: usize,
    x: &Floats<'_>,
    out: &mut [[f32; 8]],
) {
    // SAFETY: the same contract.
    unsafe {
        match format {
            Format::F32 => strip::<L, F32>(rows, count, x, out),
            Format::F16 => strip::<L, F16>(rows, count, x, out),
            Format::BF16 => strip::<L, BF16>(rows, count, x, out),
            _ => unreachable!("{} is no float format", format.name()),
        }
    }
}
