//! Attention of the query heads that share one key head: keys and values are read once for all of them.
//!
//! A tile of heads and keys shares the conversion of each cached row. Scores, sums and results take the steps
//! of the portable set in its order. A head's width that is no multiple of eight is left to portable.

use core::arch::aarch64::*;

use super::elementwise::{exp4, quantize_block};
use super::{sum8, widen_halves};
use crate::arch::{HeadGroup, portable};
use crate::half::f32_to_f16;
use crate::{KV_PAGE_TOKENS, KvKind, QUANT_BLOCK};

/// Query heads that walk the cache together: their scores of a page lie on the stack. The families have at
/// most eight for a key head; more are walked in several goes.
const HEADS_MAX: usize = 16;

/// Values that are loaded together: the lanes of a score's sum.
const LANES: usize = 8;

/// Eight lanes.
type Eight = [float32x4_t; 2];

/// A kind of cached row.
trait Cached {
    /// Values `LANES * chunk ..` of the row, eight of them.
    ///
    /// # Safety
    /// The row at `row` has these values.
    unsafe fn load8(row: *const u8, chunk: usize) -> Eight;
}

struct F32;
struct F16;
struct Q8_0;

impl Cached for F32 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load8(row: *const u8, chunk: usize) -> Eight {
        // SAFETY: readable by the contract; the loads of bytes ask for no alignment.
        unsafe {
            let at = row.add(4 * LANES * chunk);
            [vreinterpretq_f32_u8(vld1q_u8(at)), vreinterpretq_f32_u8(vld1q_u8(at.add(16)))]
        }
    }
}

impl Cached for F16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load8(row: *const u8, chunk: usize) -> Eight {
        // SAFETY: readable by the contract; the load of bytes asks for no alignment.
        widen_halves(unsafe { vreinterpretq_u16_u8(vld1q_u8(row.add(2 * LANES * chunk))) })
    }
}

impl Cached for Q8_0 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load8(row: *const u8, chunk: usize) -> Eight {
        const CHUNKS: usize = QUANT_BLOCK / LANES;
        // SAFETY: the chunk's block, its scale and its eight codes are readable by the contract.
        let (scale, codes) = unsafe {
            let block = row.add(chunk / CHUNKS * (2 + QUANT_BLOCK));
            let scale = vdup_n_u16(block.cast::<u16>().read_unaligned());
            (scale, vmovl_s8(vld1_s8(block.add(2 + chunk % CHUNKS * LANES).cast())))
        };
        let scale = vcvt_f32_f16(vreinterpret_f16_u16(scale));
        let codes = [vmovl_s16(vget_low_s16(codes)), vmovl_high_s16(codes)];
        codes.map(|codes| vmulq_f32(scale, vcvtq_f32_s32(codes)))
    }
}

/// The cached rows of one page that are attended to.
struct Rows<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    count: usize,
}

impl Rows<'_> {
    /// Row `index`.
    ///
    /// # Safety
    /// It is below the count.
    #[inline]
    unsafe fn row(&self, index: usize) -> *const u8 {
        // SAFETY: `bytes` holds `count` rows.
        unsafe { self.bytes.as_ptr().add(index * self.row_bytes) }
    }
}

/// Sums of four times eight lanes, each in the order of `sum8`.
#[inline]
#[target_feature(enable = "neon")]
fn sum8_of_4(lanes: [Eight; 4]) -> float32x4_t {
    let four = lanes.map(|lanes| vreinterpretq_f64_f32(vaddq_f32(lanes[0], lanes[1])));
    let two = |i: usize| {
        let low = vreinterpretq_f32_f64(vzip1q_f64(four[i], four[i + 1]));
        vaddq_f32(low, vreinterpretq_f32_f64(vzip2q_f64(four[i], four[i + 1])))
    };
    vpaddq_f32(two(0), two(2))
}

/// `G` query heads in one walk over the cache: their queries and results, and the state of their softmax.
struct Heads<'a, const G: usize> {
    /// `[G][width]`
    query: &'a [f32],
    /// `[G][width]`
    out: &'a mut [f32],
    width: usize,
    scale: f32,
    largest: &'a mut [f32; G],
    sum: &'a mut [f32; G],
}

/// Scores, then weights, of a page: `[slot][G]`, so that four lanes are some keys of all heads.
type Scores = [f32; 4 * KV_PAGE_TOKENS];

impl<const G: usize> Heads<'_, G> {
    /// Dot products of `N` keys from `index` on with each head, `N` by `G`, lanes not yet summed.
    ///
    /// # Safety
    /// `keys` has the rows; `query` holds `G` rows of `width`, a multiple of eight.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dots<C: Cached, const N: usize>(&self, keys: &Rows<'_>, index: usize) -> [[Eight; G]; N] {
        let mut acc = [[[vdupq_n_f32(0.0); 2]; G]; N];
        for chunk in 0..self.width / LANES {
            let mut query = [[vdupq_n_f32(0.0); 2]; G];
            for g in 0..G {
                // SAFETY: head `g` has the chunk.
                query[g] = unsafe {
                    let at = self.query.as_ptr().add(g * self.width + chunk * LANES);
                    [vld1q_f32(at), vld1q_f32(at.add(4))]
                };
            }
            for n in 0..N {
                // SAFETY: row `index + n` is one of the keys and has the chunk.
                let key = unsafe { C::load8(keys.row(index + n), chunk) };
                for g in 0..G {
                    for half in 0..2 {
                        acc[n][g][half] = vfmaq_f32(acc[n][g][half], query[g][half], key[half]);
                    }
                }
            }
        }
        acc
    }

    /// Scores of all keys of a page, `N` at a time; `N * G` is eight.
    ///
    /// # Safety
    /// As `dots`, for all keys.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn score<C: Cached, const N: usize>(&self, keys: &Rows<'_>, scores: &mut Scores) {
        let whole = keys.count / N * N;
        for index in (0..whole).step_by(N) {
            // SAFETY: `N` keys lie from `index` on.
            let dots = unsafe { self.dots::<C, N>(keys, index) };
            let (fours, _) = dots.as_flattened().as_chunks::<4>();
            let scores = scores[index * G..].as_chunks_mut::<4>().0;
            for (dots, scores) in fours.iter().zip(scores) {
                // SAFETY: four floats, no alignment asked.
                unsafe { vst1q_f32(scores.as_mut_ptr(), vmulq_n_f32(sum8_of_4(*dots), self.scale)) };
            }
        }
        for index in whole..keys.count {
            // SAFETY: this key is one of the rows.
            let [dots] = unsafe { self.dots::<C, 1>(keys, index) };
            for g in 0..G {
                scores[index * G + g] = self.scale * sum8(dots[g]);
            }
        }
    }

    /// Turns the scores of `count` keys into weights and returns the factors for what was summed before.
    #[inline]
    #[target_feature(enable = "neon")]
    fn soften(&mut self, scores: &mut Scores, count: usize) -> [f32; G] {
        // Lanes behind the last key are smaller than all and are not summed.
        let end = (count * G).next_multiple_of(4);
        scores[count * G..end].fill(f32::NEG_INFINITY);
        let chunks = scores[..end].as_chunks_mut::<4>().0;
        let mut lanes = vdupq_n_f32(f32::NEG_INFINITY);
        for chunk in chunks.iter() {
            // SAFETY: four floats, no alignment asked. A score that is no number is passed over.
            lanes = vmaxnmq_f32(lanes, unsafe { vld1q_f32(chunk.as_ptr()) });
        }
        // Every lane gets the largest of the lanes of its head, and then what was largest before.
        if G < 4 {
            lanes = vmaxnmq_f32(lanes, vextq_f32::<2>(lanes, lanes));
        }
        if G < 2 {
            lanes = vmaxnmq_f32(lanes, vrev64q_f32(lanes));
        }
        let before: [f32; 4] = core::array::from_fn(|lane| self.largest[lane % G]);
        // SAFETY: four floats, no alignment asked.
        let before = unsafe { vld1q_f32(before.as_ptr()) };
        let largest = vmaxnmq_f32(lanes, before);
        for chunk in chunks {
            // SAFETY: four floats, no alignment asked.
            unsafe {
                let weights = exp4(vsubq_f32(vld1q_f32(chunk.as_ptr()), largest));
                vst1q_f32(chunk.as_mut_ptr(), weights);
            }
        }
        let corrections = store4(exp4(vsubq_f32(before, largest)));
        let largest = store4(largest);
        let mut page_sum = [0.0; G];
        for weights in scores[..count * G].as_chunks::<G>().0 {
            for g in 0..G {
                page_sum[g] += weights[g];
            }
        }
        for g in 0..G {
            self.largest[g] = largest[g];
            self.sum[g] = self.sum[g] * corrections[g] + page_sum[g];
        }
        core::array::from_fn(|g| corrections[g])
    }

    /// Adds the weighted values to `D` chunks from `chunk` on.
    ///
    /// # Safety
    /// `out` holds `G` rows of `width`, which has the chunks, and so have the values.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_chunks<C: Cached, const D: usize>(
        &mut self,
        values: &Rows<'_>,
        weights: &Scores,
        corrections: &[f32; G],
        chunk: usize,
    ) {
        let (out, width) = (self.out.as_mut_ptr(), self.width);
        let mut acc = [[[vdupq_n_f32(0.0); 2]; D]; G];
        for g in 0..G {
            for d in 0..D {
                // SAFETY: head `g` has the chunk.
                let before = unsafe {
                    let at = out.add(g * width + (chunk + d) * LANES);
                    [vld1q_f32(at), vld1q_f32(at.add(4))]
                };
                acc[g][d] = before.map(|before| vmulq_n_f32(before, corrections[g]));
            }
        }
        for (index, weights) in weights.as_chunks::<G>().0[..values.count].iter().enumerate() {
            for d in 0..D {
                // SAFETY: row `index` is one of the values and has the chunk.
                let value = unsafe { C::load8(values.row(index), chunk + d) };
                for g in 0..G {
                    for half in 0..2 {
                        acc[g][d][half] = vfmaq_n_f32(acc[g][d][half], value[half], weights[g]);
                    }
                }
            }
        }
        for g in 0..G {
            for d in 0..D {
                // SAFETY: as the load above.
                unsafe {
                    let at = out.add(g * width + (chunk + d) * LANES);
                    vst1q_f32(at, acc[g][d][0]);
                    vst1q_f32(at.add(4), acc[g][d][1]);
                }
            }
        }
    }

    /// Attends to one page, `N` keys and then `N` chunks of values at a time; `N * G` is eight.
    ///
    /// # Safety
    /// The rows are of `C` and as wide as the heads, a multiple of eight.
    #[target_feature(enable = "neon")]
    unsafe fn attend_page<C: Cached, const N: usize>(&mut self, keys: &Rows<'_>, values: &Rows<'_>) {
        assert!(
            self.query.len() == G * self.width && self.out.len() == G * self.width,
            "heads of another width"
        );
        assert!(keys.count == values.count && keys.count <= KV_PAGE_TOKENS, "more rows than a page has");
        let mut scores = [0.0; 4 * KV_PAGE_TOKENS];
        // SAFETY: query and result hold `G` rows, as checked; the chunks end within the width.
        unsafe {
            self.score::<C, N>(keys, &mut scores);
            let corrections = self.soften(&mut scores, keys.count);
            let chunks = self.width / LANES;
            let mut chunk = 0;
            while chunk < chunks {
                if chunks - chunk >= N {
                    self.add_chunks::<C, N>(values, &scores, &corrections, chunk);
                    chunk += N;
                } else {
                    self.add_chunks::<C, 1>(values, &scores, &corrections, chunk);
                    chunk += 1;
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn store4(lanes: float32x4_t) -> [f32; 4] {
    let mut values = [0.0; 4];
    // SAFETY: four floats, no alignment asked.
    unsafe { vst1q_f32(values.as_mut_ptr(), lanes) };
    values
}

/// Attends for at most [`HEADS_MAX`] heads.
#[target_feature(enable = "neon")]
fn attend_heads<C: Cached>(group: &HeadGroup<'_>, query: &[f32], out: &mut [f32]) {
    let width = group.head_width;
    let row_bytes = group.kind.head_bytes(width).expect("the shape was checked");
    let mut largest = [f32::NEG_INFINITY; HEADS_MAX];
    let mut sum = [0.0; HEADS_MAX];
    out.fill(0.0);
    for (page, slots) in group.clipped_pages() {
        let rows_of = |offset: usize| {
            let bytes = &page[offset + slots.start * row_bytes..][..slots.len() * row_bytes];
            Rows { bytes, row_bytes, count: slots.len() }
        };
        let (keys, values) = (rows_of(group.keys_offset), rows_of(group.values_offset));
        let mut head = 0;
        while head < query.len() / width {
            macro_rules! attend_page {
                ($heads:literal, $rows:literal) => {{
                    let values_range = head * width..(head + $heads) * width;
                    let mut heads = Heads::<$heads> {
                        query: &query[values_range.clone()],
                        out: &mut out[values_range],
                        width,
                        scale: group.scale,
                        largest: (&mut largest[head..head + $heads]).try_into().expect("so many heads"),
                        sum: (&mut sum[head..head + $heads]).try_into().expect("so many heads"),
                    };
                    // SAFETY: rows are as wide as heads by `row_bytes`, a multiple of eight by the check in
                    // `attend`.
                    unsafe { heads.attend_page::<C, $rows>(&keys, &values) };
                    head += $heads;
                }};
            }
            match query.len() / width - head {
                1 => attend_page!(1, 8),
                2 | 3 => attend_page!(2, 4),
                _ => attend_page!(4, 2),
            }
        }
    }
    for (out, sum) in out.chunks_exact_mut(width).zip(sum) {
        let factor = 1.0 / sum;
        out.iter_mut().for_each(|out| *out *= factor);
    }
}

/// Attends for every query head of the group; `out` is laid out as the query.
#[target_feature(enable = "neon")]
pub(crate) fn attend(group: &HeadGroup<'_>, out: &mut [f32]) {
    if !group.head_width.is_multiple_of(LANES) {
        return portable::attend(group, out);
    }
    let values_max = HEADS_MAX * group.head_width;
    for (query, out) in group.query.chunks(values_max).zip(out.chunks_mut(values_max)) {
        match group.kind {
            KvKind::F32 => attend_heads::<F32>(group, query, out),
            KvKind::F16 => attend_heads::<F16>(group, query, out),
            KvKind::Q8_0 => attend_heads::<Q8_0>(group, query, out),
        }
    }
}

/// One head's row into the cache.
#[target_feature(enable = "neon")]
pub(crate) fn store_head(kind: KvKind, values: &[f32], bytes: &mut [u8]) {
    match kind {
        KvKind::F32 => portable::store_head(kind, values, bytes),
        KvKind::F16 => {
            let (chunks, rest) = values.as_chunks::<4>();
            let (chunk_bytes, rest_bytes) = bytes.split_at_mut(8 * chunks.len());
            for (values, bytes) in chunks.iter().zip(chunk_bytes.as_chunks_mut::<8>().0) {
                // SAFETY: four floats in, four halves out, no alignment asked.
                unsafe {
                    let halves = vcvt_f16_f32(vld1q_f32(values.as_ptr()));
                    vst1_u8(bytes.as_mut_ptr(), vreinterpret_u8_f16(halves));
                }
            }
            portable::store_head(kind, rest, rest_bytes);
        }
        KvKind::Q8_0 => {
            let blocks = values.chunks_exact(QUANT_BLOCK).zip(bytes.chunks_exact_mut(2 + QUANT_BLOCK));
            for (values, block) in blocks {
                let mut codes = [0; QUANT_BLOCK];
                let scale = quantize_block(values, &mut codes);
                block[..2].copy_from_slice(&f32_to_f16(scale.min(portable::HALF_MAX)).to_le_bytes());
                for (byte, code) in block[2..].iter_mut().zip(codes) {
                    *byte = code as u8;
                }
            }
        }
    }
}
