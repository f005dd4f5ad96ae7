//! Panels of Q4_0, Q8_0, Q4_K and Q6_K times int8 activations.
//!
//! One 256-bit register is eight rows by four columns of a panel, so four activation codes broadcast to all
//! rows meet it in one `vpmaddubsw`, and sums never cross lanes: lane `r` of every accumulator is row `r`
//! from the first column to the last. Integer sums are exact and the few float operations come in the order
//! that the portable set defines, so the bits agree.
//!
//! For x86-64 with AVX2, FMA and F16C (`vpmaddubsw`, `vpmaddwd`, `vpsignb`, `vfmadd`, `vcvtph2ps`). Against
//! portable: 34 to 64 times at one token, 13 to 52 times at 64. One token reads weights at 0.8 to 1.0 of the
//! read bandwidth (Q4_0, Q8_0, Q4_K; one thread 42 GB/s, two 66), Q6_K at 0.75, whose unpacking is bound by
//! arithmetic; 512 tokens give 265 (Q4_0), 190 (Q8_0), 230 (Q4_K) and 165 (Q6_K) GOP/s a core. From three
//! tokens at once on arithmetic binds it and not memory. It should lose to a set with VNNI, which does in one
//! instruction what takes two or three here.

use core::arch::x86_64::*;

use super::load_halves;
use crate::arch::{Codes, portable};
use crate::{Format, HalfSums, INTERLEAVED_TOKENS, QUANT_BLOCK};

/// Tokens that share one walk over a panel: four integer and four float accumulators, with the weights and
/// the masks beside them, fill the sixteen registers.
const TOKENS_TILE: usize = 4;

/// How far ahead of the walk weights are asked for. Panels follow each other in memory, so that running past
/// the end of one is the beginning of the next. Memory answers slowly on servers, so the best distance is
/// large: here 1 KiB gave 0.56 of the read bandwidth, 4 KiB 0.8, 8 to 16 KiB 0.95 and more, 24 KiB less
/// again.
const PREFETCH_BYTES: usize = 12288;

/// The activations of the tokens of one tile; all pointers at the first token's first column.
struct Tile {
    codes: *const i8,
    scales: *const f32,
    sums: *const HalfSums,
    columns: usize,
    /// Tokens that are interleaved with these, they included.
    stride: usize,
}

impl Tile {
    /// Four codes from `column` on of token `token`, in every lane.
    ///
    /// # Safety
    /// The token is in the tile and has the columns `column..column + 4`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn word(&self, token: usize, column: usize) -> __m256i {
        // SAFETY: in bounds by the contract; the read asks for no alignment.
        _mm256_set1_epi32(unsafe {
            let group = column / 32 * self.stride + token;
            self.codes.add(32 * group + column % 32).cast::<i32>().read_unaligned()
        })
    }

    /// The scale of the 32 columns from `column` on, in every lane.
    ///
    /// # Safety
    /// The token is in the tile and has the columns `column..column + 32`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scale(&self, token: usize, column: usize) -> __m256 {
        // SAFETY: in bounds by the contract.
        _mm256_set1_ps(unsafe { *self.scales.add(column / 32 * self.stride + token) })
    }

    /// The sums of the codes of both halves of the 32 columns from `column` on, in every lane of 32 bits.
    ///
    /// # Safety
    /// The token is in the tile and has the columns `column..column + 32`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sums(&self, token: usize, column: usize) -> __m256i {
        // SAFETY: in bounds by the contract; two numbers of 16 bits are one of 32.
        _mm256_set1_epi32(unsafe {
            self.sums.add(column / 32 * self.stride + token).cast::<i32>().read_unaligned()
        })
    }
}

/// One panel format: how a block of it is added to the accumulators of a tile.
trait Panel {
    /// Columns of a block.
    const COLUMNS: usize;
    /// Bytes of a block of eight rows.
    const BYTES: usize;

    /// Adds the products of one block with the codes from `column` on to `acc`; lane `r` is row `r`.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C; `block` has `BYTES` bytes; each of the tile's `T` tokens has the
    /// columns `column..column + COLUMNS`.
    unsafe fn add_block<const T: usize>(block: *const u8, x: &Tile, column: usize, acc: &mut [__m256; T]);
}

struct Q4_0;
struct Q8_0;
struct Q4K;
struct Q6K;

/// # Safety
/// 32 bytes are readable at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: readable by the contract; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// Eight bytes, one for each row.
///
/// # Safety
/// 8 bytes are readable at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_bytes(at: *const u8) -> __m128i {
    // SAFETY: readable by the contract; the load asks for no alignment.
    unsafe { _mm_loadl_epi64(at.cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn low_nibbles(bytes: __m256i) -> __m256i {
    _mm256_and_si256(bytes, _mm256_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn high_nibbles(bytes: __m256i) -> __m256i {
    low_nibbles(_mm256_srli_epi16(bytes, 4))
}

/// Adds neighbouring 16-bit lanes: eight 32-bit sums, one for each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_pairs(sums: __m256i) -> __m256i {
    _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
}

impl Panel for Q4_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 4 * 32;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_block<const T: usize>(block: *const u8, x: &Tile, column: usize, acc: &mut [__m256; T]) {
        // SAFETY: offsets stay below BYTES, columns below COLUMNS.
        unsafe {
            let scale = load_halves(block);
            let mut sums = [_mm256_setzero_si256(); T];
            for v in 0..4 {
                let both = load(block.add(16 + 32 * v));
                let (low, high) = (low_nibbles(both), high_nibbles(both));
                for t in 0..T {
                    // A 16-bit lane gathers 8 vectors of two products, each at most 15 * 127: 30480 in all.
                    let low = _mm256_maddubs_epi16(low, x.word(t, column + 4 * v));
                    let high = _mm256_maddubs_epi16(high, x.word(t, column + 16 + 4 * v));
                    sums[t] = _mm256_add_epi16(sums[t], _mm256_add_epi16(low, high));
                }
            }
            for t in 0..T {
                let offset = _mm256_madd_epi16(x.sums(t, column), _mm256_set1_epi16(-8));
                let sum = _mm256_cvtepi32_ps(_mm256_add_epi32(sum_pairs(sums[t]), offset));
                acc[t] = _mm256_fmadd_ps(sum, _mm256_mul_ps(scale, x.scale(t, column)), acc[t]);
            }
        }
    }
}

impl Panel for Q8_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 8 * 32;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_block<const T: usize>(block: *const u8, x: &Tile, column: usize, acc: &mut [__m256; T]) {
        // SAFETY: offsets stay below BYTES, columns below COLUMNS.
        unsafe {
            let scale = load_halves(block);
            let mut sums = [_mm256_setzero_si256(); T];
            for v in 0..8 {
                let weights = load(block.add(16 + 32 * v));
                // The weight's sign moves to the code, which is never -128; |-128| is 128 as a byte without
                // sign.
                let size = _mm256_abs_epi8(weights);
                for t in 0..T {
                    // Two products of at most 128 * 127 fit 16 bits; a third would not, so each pair widens
                    // at once.
                    let signed = _mm256_sign_epi8(x.word(t, column + 4 * v), weights);
                    sums[t] = _mm256_add_epi32(sums[t], sum_pairs(_mm256_maddubs_epi16(size, signed)));
                }
            }
            for t in 0..T {
                let sum = _mm256_cvtepi32_ps(sums[t]);
                acc[t] = _mm256_fmadd_ps(sum, _mm256_mul_ps(scale, x.scale(t, column)), acc[t]);
            }
        }
    }
}

impl Panel for Q4K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 32 + 128 + 4 * 8 * 32;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_block<const T: usize>(block: *const u8, x: &Tile, column: usize, acc: &mut [__m256; T]) {
        // SAFETY: offsets stay below BYTES, columns below COLUMNS.
        unsafe {
            let scale = load_halves(block);
            let scale_min = load_halves(block.add(16));
            for group in 0..4 {
                let codes = block.add(160 + 256 * group);
                let mut low_sums = [_mm256_setzero_si256(); T];
                let mut high_sums = [_mm256_setzero_si256(); T];
                let column = column + 64 * group;
                for v in 0..8 {
                    let both = load(codes.add(32 * v));
                    let (low, high) = (low_nibbles(both), high_nibbles(both));
                    for t in 0..T {
                        // As for Q4_0: at most 30480 in a 16-bit lane.
                        let product = _mm256_maddubs_epi16(low, x.word(t, column + 4 * v));
                        low_sums[t] = _mm256_add_epi16(low_sums[t], product);
                        let product = _mm256_maddubs_epi16(high, x.word(t, column + 32 + 4 * v));
                        high_sums[t] = _mm256_add_epi16(high_sums[t], product);
                    }
                }
                for (half, sums) in [low_sums, high_sums].iter().enumerate() {
                    let part = 2 * group + half;
                    let column = column + 32 * half;
                    let row_scale = load_bytes(block.add(32 + 8 * part));
                    let row_min = load_bytes(block.add(96 + 8 * part));
                    let row_scale = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(row_scale)));
                    let row_min = _mm256_mul_ps(scale_min, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(row_min)));
                    for t in 0..T {
                        let token_scale = x.scale(t, column);
                        let sum = _mm256_cvtepi32_ps(sum_pairs(sums[t]));
                        acc[t] = _mm256_fmadd_ps(sum, _mm256_mul_ps(row_scale, token_scale), acc[t]);
                        // Negated as an integer, so that no sum gives a zero of the other sign.
                        let sum = _mm256_madd_epi16(x.sums(t, column), _mm256_set1_epi16(-1));
                        let product = _mm256_mul_ps(row_min, token_scale);
                        acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), product, acc[t]);
                    }
                }
            }
        }
    }
}

/// Codes 0..64 of one vector of Q6_K: a nibble of `lower` and two bits of `upper`. Quarters 0 and 1 of a half
/// take the low nibbles, 2 and 3 the high ones; each takes its own two bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_codes<const QUARTER: usize>(lower: __m256i, upper: __m256i) -> __m256i {
    let upper = match QUARTER {
        0 => _mm256_slli_epi16::<4>(upper),
        1 => _mm256_slli_epi16::<2>(upper),
        2 => upper,
        _ => _mm256_srli_epi16::<2>(upper),
    };
    let lower = if QUARTER < 2 { low_nibbles(lower) } else { high_nibbles(lower) };
    _mm256_or_si256(lower, _mm256_and_si256(upper, _mm256_set1_epi8(0x30)))
}

/// Adds 32 columns of Q6_K, quarter `QUARTER` of a half: `scales` are its sixteen, `upper` and `lower` its
/// vectors.
///
/// # Safety
/// As [`Panel::add_block`], for 32 columns; 16 bytes are readable at `scales`, 256 at `upper` and at `lower`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6_quarter<const QUARTER: usize, const T: usize>(
    scale: __m256,
    scales: *const u8,
    (lower, upper): (*const u8, *const u8),
    (x, column): (&Tile, usize),
    acc: &mut [__m256; T],
) {
    // SAFETY: eight vectors of 32 bytes, 16 scales and 32 columns, as the contract says.
    unsafe {
        // The scale of a row's 16 columns twice in its 32 bits: one multiplication scales and widens 16-bit
        // sums.
        let scale_a = _mm256_cvtepi8_epi32(load_bytes(scales));
        let scale_b = _mm256_cvtepi8_epi32(load_bytes(scales.add(8)));
        let upper_b = _mm256_slli_epi32::<16>(scale_b);
        let twice_a = _mm256_blend_epi16::<0xAA>(scale_a, _mm256_slli_epi32::<16>(scale_a));
        let twice_b = _mm256_blend_epi16::<0xAA>(scale_b, upper_b);
        let both = _mm256_blend_epi16::<0xAA>(scale_a, upper_b);

        let mut sums = [_mm256_setzero_si256(); T];
        for (half, twice) in [twice_a, twice_b].into_iter().enumerate() {
            for v in [4 * half, 4 * half + 2] {
                let first = q6_codes::<QUARTER>(load(lower.add(32 * v)), load(upper.add(32 * v)));
                let second = q6_codes::<QUARTER>(load(lower.add(32 * v + 32)), load(upper.add(32 * v + 32)));
                for t in 0..T {
                    // Two vectors of two products of at most 63 * 127: 32004 in a 16-bit lane.
                    let first = _mm256_maddubs_epi16(first, x.word(t, column + 4 * v));
                    let second = _mm256_maddubs_epi16(second, x.word(t, column + 4 * v + 4));
                    let scaled = _mm256_madd_epi16(_mm256_add_epi16(first, second), twice);
                    sums[t] = _mm256_add_epi32(sums[t], scaled);
                }
            }
        }
        for t in 0..T {
            // Codes count from -32: 32 * (scale_a * sum_a + scale_b * sum_b) too much so far.
            let offset = _mm256_slli_epi32::<5>(_mm256_madd_epi16(x.sums(t, column), both));
            let sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[t], offset));
            acc[t] = _mm256_fmadd_ps(sum, _mm256_mul_ps(scale, x.scale(t, column)), acc[t]);
        }
    }
}

impl Panel for Q6K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 16 + 128 + 2 * (8 + 16) * 32;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_block<const T: usize>(block: *const u8, x: &Tile, column: usize, acc: &mut [__m256; T]) {
        // SAFETY: offsets stay below BYTES, columns below COLUMNS.
        unsafe {
            let scale = load_halves(block);
            for half in 0..2 {
                let scales = block.add(16 + 64 * half);
                let upper = block.add(144 + 768 * half);
                let (even, odd) = ((upper.add(256), upper), (upper.add(512), upper));
                let column = column + 128 * half;
                q6_quarter::<0, T>(scale, scales, even, (x, column), acc);
                q6_quarter::<1, T>(scale, scales.add(16), odd, (x, column + 32), acc);
                q6_quarter::<2, T>(scale, scales.add(32), even, (x, column + 64), acc);
                q6_quarter::<3, T>(scale, scales.add(48), odd, (x, column + 96), acc);
            }
        }
    }
}

/// One panel times `T` tokens. With `prefetch` what lies behind is asked for, which pays for the first tokens
/// that meet a panel.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C; `panel` has `columns / COLUMNS` blocks; `x` has `T` tokens; so has `out`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<P: Panel, const T: usize>(panel: *const u8, x: &Tile, out: &mut [[f32; 8]], prefetch: bool) {
    let mut acc = [_mm256_setzero_ps(); T];
    for index in 0..x.columns / P::COLUMNS {
        let block = panel.wrapping_add(index * P::BYTES);
        if prefetch {
            for line in (0..P::BYTES).step_by(64) {
                _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(PREFETCH_BYTES + line).cast());
            }
        }
        // SAFETY: block `index` is in the panel and its columns in the tile.
        unsafe { P::add_block(block, x, index * P::COLUMNS, &mut acc) };
    }
    for (out, acc) in out.iter_mut().zip(acc) {
        // SAFETY: eight floats, no alignment asked.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), acc) };
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<P: Panel>(panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    let panel_bytes = x.columns / P::COLUMNS * P::BYTES;
    assert!(x.columns.is_multiple_of(P::COLUMNS), "a panel of other columns");
    assert!(panels.len() * x.tokens == panel_bytes * out.len(), "results of other panels or tokens");
    for (index, out) in out.chunks_exact_mut(x.tokens.max(1)).enumerate() {
        let panel = &panels[index * panel_bytes..][..panel_bytes];
        for (tile_index, (x, out)) in x.tiles().zip(out.chunks_mut(INTERLEAVED_TOKENS)).enumerate() {
            let groups = x.columns / QUANT_BLOCK * x.tokens;
            assert!(x.codes.len() == groups * QUANT_BLOCK, "codes of other columns");
            assert!(x.scales.len() == groups && x.sums.len() == groups, "scales of other columns");
            let mut token = 0;
            for out in out.chunks_mut(TOKENS_TILE) {
                let first = tile_index == 0 && token == 0;
                // SAFETY: the `out.len()` tokens from `token` on are in the tile, whose lengths were checked
                // above; the panel has its blocks; the features are this function's own.
                unsafe {
                    let x = Tile {
                        codes: x.codes.as_ptr().wrapping_add(QUANT_BLOCK * token),
                        scales: x.scales.as_ptr().wrapping_add(token),
                        sums: x.sums.as_ptr().wrapping_add(token),
                        columns: x.columns,
                        stride: x.tokens,
                    };
                    match out.len() {
                        1 => tile::<P, 1>(panel.as_ptr(), &x, out, first),
                        2 => tile::<P, 2>(panel.as_ptr(), &x, out, first),
                        3 => tile::<P, 3>(panel.as_ptr(), &x, out, first),
                        _ => tile::<P, TOKENS_TILE>(panel.as_ptr(), &x, out, first),
                    }
                }
                token += out.len();
            }
        }
    }
}

/// One or two panels times every token; `out` is `[panel][token][row]`. Panics when lengths do not belong
/// together.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn multiply_panels(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    match format {
        Format::Q4_0 => multiply::<Q4_0>(panels, x, out),
        Format::Q8_0 => multiply::<Q8_0>(panels, x, out),
        Format::Q4K => multiply::<Q4K>(panels, x, out),
        Format::Q6K => multiply::<Q6K>(panels, x, out),
        _ => portable::multiply_panels(format, panels, x, out),
    }
}
