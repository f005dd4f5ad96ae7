//! AArch64 without extensions: Cortex-A53 and A72 (Raspberry Pi 3 and 4), and any 64-bit Arm.
//!
//! Codes are multiplied by `smull` and `smlal`, eight products an instruction, in 16-bit lanes for all of a
//! group where they fit (Q4_0, Q4_K, Q5_0, Q5_K, Q6_K), else two at a time (`sadalp`); four words of
//! activations are broadcast by one `ld4r`. Instructions for 32 weights and one token, counted in an emulator
//! at 1024 columns, one token / 64 tokens: Q4_0 11.0 / 8.0, Q8_0 11.0 / 11.8, Q4_K 12.8 / 8.2. It loses to
//! `dotprod` wherever that runs. Time on boards has not been measured, nor has the distance of the prefetch.

use core::arch::aarch64::*;

use super::panels::{Panel, Rows};
use super::rows;
use super::walk::{self, Multiply, Set};
use crate::Format;
use crate::arch::Codes;

pub(crate) use super::attention::{attend, store_head};
pub(crate) use super::elementwise::{
    add, geglu, quantize_tile, rms_norm, rope_rotate, scale, softmax, swiglu,
};
pub(crate) use super::floats::multiply_floats;

/// Every CPU of this architecture has what is needed.
pub(crate) fn runs_here() -> bool {
    true
}

/// Largest value of a 16-bit lane.
const LANE_MAX: i32 = i16::MAX as i32;

/// `smull` and `smlal`: eight products an instruction, summed in 16 bits as long as they fit.
struct Long;

/// Four registers: each two rows by four columns.
#[derive(Clone, Copy)]
struct LongSums {
    narrow: [int16x8_t; 4],
    wide: [int32x4_t; 4],
}

impl Long {
    /// Vectors of a sum.
    const fn vectors<P: Panel>() -> usize {
        if P::PARTS { 4 } else { 8 }
    }

    /// Whether all products of a lane fit 16 bits.
    const fn narrow<P: Panel>() -> bool {
        Self::vectors::<P>() as i32 * P::CODE_MAX * 127 <= LANE_MAX
    }

    /// Whether so do those of two lanes.
    const fn narrow_pairs<P: Panel>() -> bool {
        2 * Self::vectors::<P>() as i32 * P::CODE_MAX * 127 <= LANE_MAX
    }
}

impl Multiply for Long {
    type Sums = LongSums;
    const TOKENS: usize = 1;
    /// Not measured on a board: two lines more than what a core fetches during one block.
    const PREFETCH_BYTES: usize = 512;

    #[inline]
    fn start() -> LongSums {
        // SAFETY: every CPU of this architecture has NEON.
        unsafe { LongSums { narrow: [vdupq_n_s16(0); 4], wide: [vdupq_n_s32(0); 4] } }
    }

    #[inline]
    unsafe fn add<P: Panel, const VECTOR: usize>(
        sums: &mut LongSums,
        codes: [int8x16_t; 2],
        x: *const i8,
        _offset: int32x4_t,
    ) {
        const { assert!(2 * P::CODE_MAX * 127 <= LANE_MAX, "two products fit a lane") };
        // SAFETY: every CPU of this architecture has NEON; the codes are readable by the contract.
        unsafe {
            // Four words of four columns, each in all lanes.
            let words = vld4q_dup_s32(x.add(16 * (VECTOR / 4)).cast());
            let word = vreinterpretq_s8_s32(match VECTOR % 4 {
                0 => words.0,
                1 => words.1,
                2 => words.2,
                _ => words.3,
            });
            let in_sum = VECTOR % Self::vectors::<P>();
            let begins = in_sum == 0 || !Self::narrow::<P>() && in_sum % 2 == 0;
            for rows in 0..2 {
                let low = (vget_low_s8(codes[rows]), vget_low_s8(word));
                let narrow = &mut sums.narrow[2 * rows..][..2];
                if begins {
                    narrow[0] = vmull_s8(low.0, low.1);
                    narrow[1] = vmull_high_s8(codes[rows], word);
                } else {
                    narrow[0] = vmlal_s8(narrow[0], low.0, low.1);
                    narrow[1] = vmlal_high_s8(narrow[1], codes[rows], word);
                }
            }
            if !Self::narrow::<P>() && !begins {
                for (wide, narrow) in sums.wide.iter_mut().zip(sums.narrow) {
                    *wide = if in_sum == 1 { vpaddlq_s16(narrow) } else { vpadalq_s16(*wide, narrow) };
                }
            }
        }
    }

    #[inline]
    fn finish<P: Panel>(sums: LongSums, offset: int32x4_t) -> Rows<int32x4_t> {
        let LongSums { narrow, wide } = sums;
        // SAFETY: every CPU of this architecture has NEON.
        unsafe {
            let rows = if Self::narrow_pairs::<P>() {
                [vpaddlq_s16(vpaddq_s16(narrow[0], narrow[1])), vpaddlq_s16(vpaddq_s16(narrow[2], narrow[3]))]
            } else {
                let wide = if Self::narrow::<P>() { narrow.map(|narrow| vpaddlq_s16(narrow)) } else { wide };
                [vpaddq_s32(wide[0], wide[1]), vpaddq_s32(wide[2], wide[3])]
            };
            let [low, high] = if P::OFFSET == 0 { rows } else { rows.map(|rows| vaddq_s32(rows, offset)) };
            [low, high, offset, offset]
        }
    }
}

struct Neon;

impl Set for Neon {
    type Direct = Long;
    type Buffered = Long;
    type Last = Long;
    const TILE_TOKENS: usize = 2;
}

/// One or two panels times every token; `out` is `[panel][token][row]`. Panics when lengths do not belong
/// together.
#[target_feature(enable = "neon")]
pub(crate) fn multiply_panels(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    // SAFETY: the set needs nothing that this architecture may lack.
    unsafe { walk::multiply_panels::<Neon>(format, panels, x, out) }
}

/// Up to eight rows of any quantised format in the file's order; `out[token][row]`.
#[target_feature(enable = "neon")]
pub(crate) fn multiply_rows(format: Format, rows: &[u8], count: usize, x: &Codes<'_>, out: &mut [[f32; 8]]) {
    rows::multiply_rows(format, rows, count, x, out);
}
