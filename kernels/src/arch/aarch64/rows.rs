//! Quantised rows in the file's order, for the formats that have no panels.
//!
//! Each group of 32 columns is taken apart by the portable code, and multiplied here: two registers of codes,
//! four long multiplications and a sum across lanes for each half.

use core::arch::aarch64::*;

use crate::Format;
use crate::arch::Codes;
use crate::math::fused;
use crate::unpack::{self, GROUP, Group};

/// The sum of sixteen products of codes; two of at most 128 * 127 fit 16 bits.
///
/// # Safety
/// 16 codes are readable at `x`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot16(codes: int8x16_t, x: *const i8) -> i32 {
    // SAFETY: readable by the contract; the load asks for no alignment.
    let x = unsafe { vld1q_s8(x) };
    let pairs = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
    vaddlvq_s16(vmlal_high_s8(pairs, codes, x))
}

/// Adds group `index` of row `row` to every token's sum.
#[inline]
#[target_feature(enable = "neon")]
fn add_group(group: &Group, index: usize, row: usize, x: &Codes<'_>, out: &mut [[f32; 8]]) {
    // SAFETY: 32 codes, no alignment asked.
    let codes = unsafe { [vld1q_s8(group.codes.as_ptr()), vld1q_s8(group.codes.as_ptr().add(16))] };
    for (token, out) in out.iter_mut().enumerate() {
        let block = x.block(token, index);
        let at = block.codes.as_ptr();
        // SAFETY: 32 codes.
        let halves = unsafe { [dot16(codes[0], at), dot16(codes[1], at.add(16))] };
        let total = group.parts[0] * halves[0] + group.parts[1] * halves[1];
        let mut acc = fused(total as f32, group.scale * block.scale, out[row]);
        if let Some(minimum) = &group.minimum {
            let sums = block.sums.map(i32::from);
            let total = minimum.parts[0] * sums[0] + minimum.parts[1] * sums[1];
            acc = fused(-minimum.scale, total as f32 * block.scale, acc);
        }
        out[row] = acc;
    }
}

/// Walks the rows; `unpack` takes a block and the number of a group in it.
#[inline]
#[target_feature(enable = "neon")]
fn walk(
    format: Format,
    rows: &[u8],
    count: usize,
    x: &Codes<'_>,
    out: &mut [[f32; 8]],
    unpack: impl Fn(&[u8], usize) -> Group,
) {
    out.fill([0.0; 8]);
    let groups = format.block_columns() / GROUP;
    let blocks = x.columns / format.block_columns();
    if blocks == 0 {
        return;
    }
    for (row, bytes) in rows.chunks_exact(blocks * format.block_bytes()).take(count).enumerate() {
        for (block, bytes) in bytes.chunks_exact(format.block_bytes()).enumerate() {
            for group in 0..groups {
                add_group(&unpack(bytes, group), block * groups + group, row, x, out);
            }
        }
    }
}

/// Up to eight rows of any quantised format in the file's order; `out[token][row]`.
#[target_feature(enable = "neon")]
pub(super) fn multiply_rows(format: Format, rows: &[u8], count: usize, x: &Codes<'_>, out: &mut [[f32; 8]]) {
    // A walk for each format, so that each becomes a loop of its own.
    macro_rules! walk_each {
        ($($format:ident),*) => {
            match format {
                $(Format::$format => walk(Format::$format, rows, count, x, out, |block, group| {
                    unpack::rows(Format::$format, block, group)
                }),)*
                Format::F32 | Format::F16 | Format::BF16 => unreachable!("floats are not quantised"),
            }
        };
    }
    walk_each!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Iq4Xs)
}
