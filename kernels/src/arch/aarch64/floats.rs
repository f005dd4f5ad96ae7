//! Rows of F32, F16 and BF16 times f32 activations.
//!
//! Sixteen lanes a row and token, as the portable set defines: four registers, reduced at the end. A tile of
//! rows and tokens shares every load: four rows to one token when decoding, two rows to three tokens when a
//! prompt is read, which leaves eight of the 32 registers for what is loaded.

use core::arch::aarch64::*;

use super::{sum8, widen_halves};
use crate::Format;
use crate::arch::Floats;

/// Rows that share the loads of one token's values.
const ROWS_DECODE: usize = 4;

/// Rows and tokens of a tile when there are many tokens.
const ROWS_PREFILL: usize = 2;
const TOKENS_PREFILL: usize = 3;

/// Columns that are walked at once: the lanes of a dot product.
const LANES: usize = 16;

/// One format of weights: eight of them as f32.
trait Weight {
    const BYTES: usize;

    /// # Safety
    /// Eight weights are readable at `at`.
    unsafe fn load8(at: *const u8) -> [float32x4_t; 2];
}

struct F32;
struct F16;
struct BF16;

impl Weight for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load8(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: readable by the contract; the loads of bytes ask for no alignment.
        unsafe { [vreinterpretq_f32_u8(vld1q_u8(at)), vreinterpretq_f32_u8(vld1q_u8(at.add(16)))] }
    }
}

impl Weight for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load8(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: readable by the contract; the load of bytes asks for no alignment.
        widen_halves(unsafe { vreinterpretq_u16_u8(vld1q_u8(at)) })
    }
}

impl Weight for BF16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load8(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: readable by the contract; the load of bytes asks for no alignment.
        let halves = unsafe { vreinterpretq_u16_u8(vld1q_u8(at)) };
        let low = vshll_n_u16::<16>(vget_low_u16(halves));
        [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(vshll_high_n_u16::<16>(halves))]
    }
}

/// `R` rows times `T` tokens; `out[token][first + row]`.
///
/// # Safety
/// `rows` has `R` rows of `columns` weights, `x` has `T` rows of `columns` values.
#[target_feature(enable = "neon")]
unsafe fn tile<W: Weight, const R: usize, const T: usize>(
    rows: *const u8,
    x: *const f32,
    columns: usize,
    out: &mut [[f32; 8]],
    first: usize,
) {
    let mut acc = [[[vdupq_n_f32(0.0); 4]; T]; R];
    let whole = columns / LANES * LANES;
    for column in (0..whole).step_by(LANES) {
        for half in 0..2 {
            let column = column + 8 * half;
            let mut weights = [[vdupq_n_f32(0.0); 2]; R];
            for r in 0..R {
                // SAFETY: row `r` has the eight columns.
                weights[r] = unsafe { W::load8(rows.add((r * columns + column) * W::BYTES)) };
            }
            for t in 0..T {
                for quarter in 0..2 {
                    // SAFETY: token `t` has the four columns.
                    let values = unsafe { vld1q_f32(x.add(t * columns + column + 4 * quarter)) };
                    for r in 0..R {
                        let acc = &mut acc[r][t][2 * half + quarter];
                        *acc = vfmaq_f32(*acc, weights[r][quarter], values);
                    }
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            let acc = acc[r][t];
            let mut low = [acc[0], acc[1]];
            let mut high = [acc[2], acc[3]];
            if whole < columns {
                // SAFETY: row and token have `columns - whole` more columns, fewer than sixteen.
                unsafe {
                    let weights = rows.add((r * columns + whole) * W::BYTES);
                    add_rest::<W>(weights, x.add(t * columns + whole), columns - whole, &mut low, &mut high);
                }
            }
            out[t][first + r] = sum8([vaddq_f32(low[0], high[0]), vaddq_f32(low[1], high[1])]);
        }
    }
}

/// Adds the products of the last `count` columns, fewer than sixteen, to their lanes.
///
/// # Safety
/// So many weights and values are readable.
#[target_feature(enable = "neon")]
unsafe fn add_rest<W: Weight>(
    weights: *const u8,
    x: *const f32,
    count: usize,
    low: &mut [float32x4_t; 2],
    high: &mut [float32x4_t; 2],
) {
    let (mut bytes, mut values) = ([0u8; LANES * 4], [0.0f32; LANES]);
    // SAFETY: fewer than sixteen, which both buffers hold.
    unsafe {
        core::ptr::copy_nonoverlapping(weights, bytes.as_mut_ptr(), count * W::BYTES);
        core::ptr::copy_nonoverlapping(x, values.as_mut_ptr(), count);
    }
    for (half, acc) in [low, high].into_iter().enumerate() {
        // SAFETY: both buffers hold sixteen elements.
        let weights = unsafe { W::load8(bytes.as_ptr().add(8 * half * W::BYTES)) };
        for quarter in 0..2 {
            let at = 8 * half + 4 * quarter;
            // SAFETY: four of the sixteen.
            let values = unsafe { vld1q_f32(values.as_ptr().add(at)) };
            let sum = vfmaq_f32(acc[quarter], weights[quarter], values);
            // Lanes without a column are left alone: adding a zero product would turn -0 into 0.
            let lanes: [u32; 4] = core::array::from_fn(|lane| if at + lane < count { u32::MAX } else { 0 });
            // SAFETY: four words.
            acc[quarter] = vbslq_f32(unsafe { vld1q_u32(lanes.as_ptr()) }, sum, acc[quarter]);
        }
    }
}

/// `R` rows times every token, `TOKENS_PREFILL` at a time.
///
/// # Safety
/// As [`tile`], for all tokens of `x`; `out` has as many.
#[target_feature(enable = "neon")]
unsafe fn rows<W: Weight, const R: usize>(
    rows: *const u8,
    x: &Floats<'_>,
    out: &mut [[f32; 8]],
    first: usize,
) {
    for (values, out) in
        x.values.chunks(TOKENS_PREFILL * x.columns.max(1)).zip(out.chunks_mut(TOKENS_PREFILL))
    {
        // SAFETY: so many tokens lie in `values`; the rows are the caller's.
        unsafe {
            match out.len() {
                1 => tile::<W, R, 1>(rows, values.as_ptr(), x.columns, out, first),
                2 => tile::<W, R, 2>(rows, values.as_ptr(), x.columns, out, first),
                _ => tile::<W, R, TOKENS_PREFILL>(rows, values.as_ptr(), x.columns, out, first),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn strip<W: Weight>(bytes: &[u8], count: usize, x: &Floats<'_>, out: &mut [[f32; 8]]) {
    let row_bytes = x.columns * W::BYTES;
    assert!(count <= 8 && bytes.len() == count * row_bytes, "rows of other columns");
    assert!(x.values.len() == x.tokens * x.columns && out.len() == x.tokens, "values of other columns");
    out.fill([0.0; 8]);
    let mut row = 0;
    while row < count {
        let at = bytes[row * row_bytes..].as_ptr();
        // SAFETY: the rows from `row` on are in `bytes` and all tokens in `x`, as checked above.
        row += unsafe {
            if x.tokens == 1 && count - row >= ROWS_DECODE {
                tile::<W, ROWS_DECODE, 1>(at, x.values.as_ptr(), x.columns, out, row);
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
#[target_feature(enable = "neon")]
pub(crate) fn multiply_floats(
    format: Format,
    rows: &[u8],
    count: usize,
    x: &Floats<'_>,
    out: &mut [[f32; 8]],
) {
    match format {
        Format::F32 => strip::<F32>(rows, count, x, out),
        Format::F16 => strip::<F16>(rows, count, x, out),
        Format::BF16 => strip::<BF16>(rows, count, x, out),
        _ => unreachable!("{} is no float format", format.name()),
    }
}
