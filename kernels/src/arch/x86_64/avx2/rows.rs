//! Quantised rows in the file's order, for the formats that have no panels.
//!
//! Each group of 32 columns is taken apart by the portable code, compiled for this chip, and multiplied here:
//! one register of codes, two multiplications and a sum across lanes.
//!
//! For x86-64 with AVX2 and FMA (`vpmaddubsw`, `vpmaddwd`, `vpsignb`). Against portable: three to five times
//! at one token (15 GOP/s, 5 GB/s of Q5_K a core; the two non-linear formats, looked up one by one, half of
//! that), five to eight at 64. It loses to a panel by five to ten times, so what can be packed should be.

use core::arch::x86_64::*;

use crate::Format;
use crate::arch::Codes;
use crate::math::fused;
use crate::unpack::{self, GROUP, Group};

/// The sum of eight lanes; integers need no order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum(lanes: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

/// Adds group `index` of row `row` to every token's sum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_group(group: &Group, index: usize, row: usize, x: &Codes<'_>, out: &mut [[f32; 8]]) {
    // SAFETY: 32 codes, no alignment asked.
    let weights = unsafe { _mm256_loadu_si256(group.codes.as_ptr().cast()) };
    let size = _mm256_abs_epi8(weights);
    // The low half of a register is the first sixteen columns; every part fits 16 bits.
    let parts = group.parts.map(|part| _mm_set1_epi16(part as i16));
    let parts = _mm256_set_m128i(parts[1], parts[0]);
    for (token, out) in out.iter_mut().enumerate() {
        let block = x.block(token, index);
        // SAFETY: 32 codes, no alignment asked.
        let codes = unsafe { _mm256_loadu_si256(block.codes.as_ptr().cast()) };
        // Two products of at most 128 * 127 fit 16 bits.
        let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(codes, weights));
        let total = sum(_mm256_madd_epi16(pairs, parts));
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
#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn multiply_rows(format: Format, rows: &[u8], count: usize, x: &Codes<'_>, out: &mut [[f32; 8]]) {
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
