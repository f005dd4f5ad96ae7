//! Attention of the query heads that share one key head: keys and values are read once for all of them.
//!
//! A tile of heads and keys shares the conversion of each cached row, and while a page is attended to, the
//! next one is asked for. Scores, sums and results take the steps of the portable set in its order.
//!
//! For x86-64 with AVX2, FMA and F16C (`vfmadd`, `vcvtph2ps`, `vhaddps`). Against portable: 76 to 107 times
//! in cache (80 GFLOP/s a core with four heads to a key head). Over a cache of 128 MiB of halves it reads 18
//! GB/s a thread, 0.4 to 0.5 of the read bandwidth, where it is bound by arithmetic and by pages that lie far
//! apart; without asking for the next page it was 6 GB/s, and asking for all of its values in one go 13. A
//! head's width that is no multiple of eight is left to portable. Q8_0 is a third slower than halves.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use super::elementwise::{exp8, quantize_block};
use super::{load_halves, sum8};
use crate::arch::{HeadGroup, portable};
use crate::half::f32_to_f16;
use crate::{KV_PAGE_TOKENS, KvKind, QUANT_BLOCK};

/// Query heads that walk the cache together: their scores of a page lie on the stack. The families have at
/// most eight for a key head; more are walked in several goes.
const HEADS_MAX: usize = 16;

/// Values in a register.
const LANES: usize = 8;

/// A kind of cached row.
trait Cached {
    /// Values `LANES * chunk ..` of the row, eight of them.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; the row at `row` has these values.
    unsafe fn load8(row: *const u8, chunk: usize) -> __m256;
}

struct F32;
struct F16;
struct Q8_0;

impl Cached for F32 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load8(row: *const u8, chunk: usize) -> __m256 {
        // SAFETY: readable by the contract; the load asks for no alignment.
        unsafe { _mm256_loadu_ps(row.add(4 * LANES * chunk).cast()) }
    }
}

impl Cached for F16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load8(row: *const u8, chunk: usize) -> __m256 {
        // SAFETY: readable by the contract.
        unsafe { load_halves(row.add(2 * LANES * chunk)) }
    }
}

impl Cached for Q8_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load8(row: *const u8, chunk: usize) -> __m256 {
        const CHUNKS: usize = QUANT_BLOCK / LANES;
        // SAFETY: the chunk's block, its scale and its eight codes are readable by the contract.
        let (scale, codes) = unsafe {
            let block = row.add(chunk / CHUNKS * (2 + QUANT_BLOCK));
            let scale = block.cast::<i16>().read_unaligned();
            (scale, _mm_loadl_epi64(block.add(2 + chunk % CHUNKS * LANES).cast()))
        };
        let scale = _mm256_cvtph_ps(_mm_set1_epi16(scale));
        _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)))
    }
}

/// The cached rows of one page that are attended to.
struct Rows<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    count: usize,
    /// Where the same rows of the next page begin: only prefetched, so anything is allowed.
    next: *const u8,
}

impl Rows<'_> {
    /// Row `index`.
    ///
    /// # Safety
    /// It is below the count.
    #[inline]
    unsafe fn row(&self, index: usize) -> *const u8 {
        // SAFETY: `bytes` holds `count` rows, which `rows_of` saw to.
        unsafe { self.bytes.as_ptr().add(index * self.row_bytes) }
    }

    /// Asks for `N` rows from `index` on of the next page.
    #[inline]
    fn prefetch<const N: usize>(&self, index: usize) {
        if !self.next.is_null() {
            for line in (0..N * self.row_bytes).step_by(64) {
                let at = self.next.wrapping_add(index * self.row_bytes + line);
                // SAFETY: a prefetch touches nothing, wherever it points; SSE is part of every x86-64.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
            }
        }
    }
}

/// Widest head whose rows of bytes become floats a page at a time: a page of them is 32 KiB.
const WIDENED_WIDTH_MAX: usize = 256;

/// Floats of such a page.
const WIDENED_VALUES: usize = KV_PAGE_TOKENS * WIDENED_WIDTH_MAX;

/// Makes a page's rows of bytes floats, once for all heads where each tile of heads would do it again.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen<'a, const ROOM: usize>(
    rows: &Rows<'_>,
    width: usize,
    room: &'a mut MaybeUninit<[f32; ROOM]>,
) -> Rows<'a> {
    assert!(
        rows.count * width <= ROOM && width.is_multiple_of(QUANT_BLOCK),
        "wider rows than there is room for"
    );
    assert!(rows.bytes.len() == rows.count * rows.row_bytes, "rows of another length");
    let values = room.as_mut_ptr().cast::<f32>();
    for index in 0..rows.count {
        rows.prefetch::<1>(index);
        let row = &rows.bytes[index * rows.row_bytes..][..rows.row_bytes];
        for (group, block) in row.as_chunks::<{ 2 + QUANT_BLOCK }>().0.iter().enumerate() {
            let scale = _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes([block[0], block[1]])));
            for (part, codes) in block[2..].as_chunks::<LANES>().0.iter().enumerate() {
                // SAFETY: eight codes; the row's floats are in the room, as checked; no alignment asked.
                unsafe {
                    let codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(codes.as_ptr().cast()));
                    let at = values.add(index * width + group * QUANT_BLOCK + part * LANES);
                    _mm256_storeu_ps(at, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(codes)));
                }
            }
        }
    }
    // SAFETY: so many floats of four bytes were written just now, and are borrowed with the room.
    let bytes = unsafe { core::slice::from_raw_parts(values.cast::<u8>(), 4 * rows.count * width) };
    Rows { bytes, row_bytes: 4 * width, count: rows.count, next: core::ptr::null() }
}

/// Sums of eight registers of eight lanes each, in the order of `sum8`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum8_of_8(lanes: [__m256; 8]) -> __m256 {
    // Each step adds two halves of every register and leaves half as many registers; the registers are paired
    // so that the eight sums end up in order.
    let mut four = [_mm256_setzero_ps(); 4];
    for (i, four) in four.iter_mut().enumerate() {
        let low = _mm256_permute2f128_ps::<0x20>(lanes[i], lanes[i + 4]);
        let high = _mm256_permute2f128_ps::<0x31>(lanes[i], lanes[i + 4]);
        *four = _mm256_add_ps(low, high);
    }
    let mut two = [_mm256_setzero_ps(); 2];
    for (i, two) in two.iter_mut().enumerate() {
        let low = _mm256_shuffle_ps::<0x44>(four[2 * i], four[2 * i + 1]);
        let high = _mm256_shuffle_ps::<0xEE>(four[2 * i], four[2 * i + 1]);
        *two = _mm256_add_ps(low, high);
    }
    _mm256_hadd_ps(two[0], two[1])
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

/// Scores, then weights, of a page: `[slot][G]`, so that eight lanes are some keys of all heads.
type Scores = [f32; 4 * KV_PAGE_TOKENS];

impl<const G: usize> Heads<'_, G> {
    /// Dot products of `N` keys from `index` on with each head, `N` by `G`, lanes not yet summed.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C; `keys` has the rows; `query` holds `G` rows of `width`, a multiple of
    /// eight.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dots<C: Cached, const N: usize>(&self, keys: &Rows<'_>, index: usize) -> [[__m256; G]; N] {
        let mut acc = [[_mm256_setzero_ps(); G]; N];
        for chunk in 0..self.width / LANES {
            let mut key = [_mm256_setzero_ps(); N];
            for n in 0..N {
                // SAFETY: row `index + n` is one of the keys and has the chunk.
                key[n] = unsafe { C::load8(keys.row(index + n), chunk) };
            }
            for g in 0..G {
                // SAFETY: head `g` has the chunk.
                let query =
                    unsafe { _mm256_loadu_ps(self.query.as_ptr().add(g * self.width + chunk * LANES)) };
                for n in 0..N {
                    acc[n][g] = _mm256_fmadd_ps(query, key[n], acc[n][g]);
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
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn score<C: Cached, const N: usize>(&self, keys: &Rows<'_>, scores: &mut Scores) {
        let whole = keys.count / N * N;
        for index in (0..whole).step_by(N) {
            keys.prefetch::<N>(index);
            // SAFETY: `N` keys lie from `index` on.
            let dots = unsafe { self.dots::<C, N>(keys, index) };
            let lanes = *dots.as_flattened().as_array().expect("N times G is eight");
            let sums = _mm256_mul_ps(_mm256_set1_ps(self.scale), sum8_of_8(lanes));
            let scores: &mut [f32; LANES] = (&mut scores[index * G..][..LANES]).try_into().expect("eight");
            // SAFETY: eight floats, no alignment asked.
            unsafe { _mm256_storeu_ps(scores.as_mut_ptr(), sums) };
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
    #[target_feature(enable = "avx2,fma,f16c")]
    fn soften(&mut self, scores: &mut Scores, count: usize) -> [f32; G] {
        // Lanes behind the last key are smaller than all and are not summed.
        let end = (count * G).next_multiple_of(LANES);
        scores[count * G..end].fill(f32::NEG_INFINITY);
        let chunks = scores[..end].as_chunks_mut::<LANES>().0;
        let mut lanes = _mm256_set1_ps(f32::NEG_INFINITY);
        for chunk in chunks.iter() {
            // SAFETY: eight floats, no alignment asked. A score that is no number is passed over.
            lanes = _mm256_max_ps(unsafe { _mm256_loadu_ps(chunk.as_ptr()) }, lanes);
        }
        // Every lane gets the largest of the lanes of its head, and then what was largest before.
        lanes = _mm256_max_ps(lanes, _mm256_permute2f128_ps::<1>(lanes, lanes));
        if G < 4 {
            lanes = _mm256_max_ps(lanes, _mm256_shuffle_ps::<0b01_00_11_10>(lanes, lanes));
        }
        if G < 2 {
            lanes = _mm256_max_ps(lanes, _mm256_shuffle_ps::<0b10_11_00_01>(lanes, lanes));
        }
        let before: [f32; LANES] = core::array::from_fn(|lane| self.largest[lane % G]);
        // SAFETY: eight floats, no alignment asked.
        let before = unsafe { _mm256_loadu_ps(before.as_ptr()) };
        let largest = _mm256_max_ps(lanes, before);
        for chunk in chunks {
            // SAFETY: eight floats, no alignment asked.
            unsafe {
                let weights = exp8(_mm256_sub_ps(_mm256_loadu_ps(chunk.as_ptr()), largest));
                _mm256_storeu_ps(chunk.as_mut_ptr(), weights);
            }
        }
        let corrections = store8(exp8(_mm256_sub_ps(before, largest)));
        let largest = store8(largest);
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
    /// The CPU has AVX2, FMA and F16C; `out` holds `G` rows of `width`, which has the chunks, and so have the
    /// values.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_chunks<C: Cached, const D: usize>(
        &mut self,
        values: &Rows<'_>,
        weights: &Scores,
        corrections: &[f32; G],
        chunk: usize,
    ) {
        let (out, width) = (self.out.as_mut_ptr(), self.width);
        let mut acc = [[_mm256_setzero_ps(); D]; G];
        for g in 0..G {
            for d in 0..D {
                // SAFETY: head `g` has the chunk.
                let before = unsafe { _mm256_loadu_ps(out.add(g * width + (chunk + d) * LANES)) };
                acc[g][d] = _mm256_mul_ps(before, _mm256_set1_ps(corrections[g]));
            }
        }
        for (index, weights) in weights.as_chunks::<G>().0[..values.count].iter().enumerate() {
            if chunk == 0 {
                values.prefetch::<1>(index);
            }
            let mut value = [_mm256_setzero_ps(); D];
            for d in 0..D {
                // SAFETY: row `index` is one of the values and has the chunk.
                value[d] = unsafe { C::load8(values.row(index), chunk + d) };
            }
            for g in 0..G {
                let weight = _mm256_set1_ps(weights[g]);
                for d in 0..D {
                    acc[g][d] = _mm256_fmadd_ps(weight, value[d], acc[g][d]);
                }
            }
        }
        for g in 0..G {
            for d in 0..D {
                // SAFETY: as the load above.
                unsafe { _mm256_storeu_ps(out.add(g * width + (chunk + d) * LANES), acc[g][d]) };
            }
        }
    }

    /// Attends to one page, `N` keys and then `N` chunks of values at a time; `N * G` is eight.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C; the rows are of `C` and as wide as the heads, a multiple of eight.
    #[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
fn store8(lanes: __m256) -> [f32; LANES] {
    let mut values = [0.0; LANES];
    // SAFETY: eight floats, no alignment asked.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), lanes) };
    values
}

/// Attends for at most [`HEADS_MAX`] heads. With `ROOM` for a page of floats, rows of bytes are widened to
/// `C` first.
#[target_feature(enable = "avx2,fma,f16c")]
fn attend_heads<C: Cached, const ROOM: usize>(group: &HeadGroup<'_>, query: &[f32], out: &mut [f32]) {
    let width = group.head_width;
    let row_bytes = group.kind.head_bytes(width).expect("the shape was checked");
    let mut largest = [f32::NEG_INFINITY; HEADS_MAX];
    let mut sum = [0.0; HEADS_MAX];
    out.fill(0.0);

    let mut key_room = MaybeUninit::<[f32; ROOM]>::uninit();
    let mut value_room = MaybeUninit::<[f32; ROOM]>::uninit();
    let mut pages = group.clipped_pages().peekable();
    while let Some((page, slots)) = pages.next() {
        let next_page = pages.peek().map(|(next, _)| next.as_ptr());
        let rows_of = |offset: usize, first_head: bool| {
            let offset = offset + slots.start * row_bytes;
            let next = match next_page {
                Some(next) if first_head => next.wrapping_add(offset),
                _ => core::ptr::null(),
            };
            Rows { bytes: &page[offset..][..slots.len() * row_bytes], row_bytes, count: slots.len(), next }
        };
        let mut head = 0;
        let widened = (ROOM > 0).then(|| {
            let (keys, values) = (rows_of(group.keys_offset, true), rows_of(group.values_offset, true));
            (widen(&keys, width, &mut key_room), widen(&values, width, &mut value_room))
        });
        while head < query.len() / width {
            let rows = (rows_of(group.keys_offset, head == 0), rows_of(group.values_offset, head == 0));
            let (keys, values) = widened.as_ref().unwrap_or(&rows);
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
                    // SAFETY: the features are this function's own; rows are as wide as heads by `row_bytes`,
                    // a multiple of eight by the check in `attend`.
                    unsafe { heads.attend_page::<C, $rows>(keys, values) };
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

/// Attends for every query head of the group; `out` is laid out as the query. Widths that are no multiple of
/// eight are left to the portable set.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn attend(group: &HeadGroup<'_>, out: &mut [f32]) {
    if !group.head_width.is_multiple_of(LANES) {
        return portable::attend(group, out);
    }
    let values_max = HEADS_MAX * group.head_width;
    for (query, out) in group.query.chunks(values_max).zip(out.chunks_mut(values_max)) {
        match group.kind {
            KvKind::F32 => attend_heads::<F32, 0>(group, query, out),
            KvKind::F16 => attend_heads::<F16, 0>(group, query, out),
            KvKind::Q8_0 if group.head_width <= WIDENED_WIDTH_MAX => {
                attend_heads::<F32, WIDENED_VALUES>(group, query, out)
            }
            KvKind::Q8_0 => attend_heads::<Q8_0, 0>(group, query, out),
        }
    }
}

/// One head's row into the cache.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn store_head(kind: KvKind, values: &[f32], bytes: &mut [u8]) {
    match kind {
        KvKind::F32 => portable::store_head(kind, values, bytes),
        KvKind::F16 => {
            let (chunks, rest) = values.as_chunks::<LANES>();
            let (chunk_bytes, rest_bytes) = bytes.split_at_mut(2 * LANES * chunks.len());
            for (values, bytes) in chunks.iter().zip(chunk_bytes.as_chunks_mut::<{ 2 * LANES }>().0) {
                // SAFETY: eight floats in, eight halves out, no alignment asked.
                unsafe {
                    let halves =
                        _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(values.as_ptr()));
                    _mm_storeu_si128(bytes.as_mut_ptr().cast(), halves);
                }
            }
            portable::store_head(kind, rest, rest_bytes);
        }
        KvKind::Q8_0 => {
            let blocks = values.as_chunks().0.iter().zip(bytes.chunks_exact_mut(2 + QUANT_BLOCK));
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
