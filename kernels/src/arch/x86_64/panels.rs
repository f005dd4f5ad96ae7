//! Panels of every format that has them times int8 activations, in any width of registers.
//!
//! One register is four columns of eight or sixteen rows, so four activation codes broadcast to all rows meet it
//! in one multiplication, and sums never cross lanes: a lane of every accumulator is one row from the first
//! column to the last. Integer sums are exact and the few float operations come in the order that the portable
//! set defines, so the bits agree. A group of 32 columns is taken apart once for all tokens of a tile.

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::dots::{Codes, Dots, Tokens, VECTORS};
use super::registers::{Block, Width};
use crate::arch::{self, portable};
use crate::unpack::NONLINEAR;
use crate::{Format, INTERLEAVED_TOKENS, QUANT_BLOCK};

/// How far ahead of the walk weights are asked for, at least. Panels follow each other in memory, so that
/// running past the end of one is the beginning of the next.
const PREFETCH_BYTES: usize = 12288;

type Ints<D> = <<D as Dots>::Width as Width>::Ints;
type Floats<D> = <<D as Dots>::Width as Width>::Floats;

/// One panel format: how a block of it is added to the accumulators of a tile.
pub(super) trait Panel {
    /// Columns of a block.
    const COLUMNS: usize;
    /// Bytes of a block of eight rows.
    const BYTES: usize;

    /// Adds the products of one block with its groups of columns of `T` tokens to `acc`.
    ///
    /// # Safety
    /// As [`Dots`]; the block is whole and `x` has its columns.
    unsafe fn add_block<D: Dots, const T: usize>(block: Block, x: Tokens, acc: &mut [Floats<D>; T]);
}

/// Adds the sums of one group, times the scales of row and token.
#[inline(always)]
unsafe fn add<D: Dots, const T: usize>(
    sums: [Floats<D>; T],
    scale: Floats<D>,
    x: Tokens,
    acc: &mut [Floats<D>; T],
) {
    for t in 0..T {
        // SAFETY: the caller has `T` tokens and the features.
        unsafe {
            let scale = D::Width::mul(scale, D::Width::splat(x.scales.add(t)));
            acc[t] = D::Width::fused(sums[t], scale, acc[t]);
        }
    }
}

/// Subtracts the minimum of each row times the token's total.
#[inline(always)]
unsafe fn subtract<D: Dots, const T: usize>(minimum: Floats<D>, x: Tokens, acc: &mut [Floats<D>; T]) {
    for t in 0..T {
        // SAFETY: the caller has `T` tokens and the features.
        acc[t] = unsafe { D::Width::fused_minus(minimum, D::Width::splat(x.totals.add(t)), acc[t]) };
    }
}

#[inline(always)]
unsafe fn low_nibbles<D: Dots>(bytes: Ints<D>) -> Ints<D> {
    // SAFETY: the caller has the features.
    unsafe { D::Width::and(bytes, D::Width::splat_bytes(15)) }
}

#[inline(always)]
unsafe fn high_nibbles<D: Dots>(bytes: Ints<D>) -> Ints<D> {
    // SAFETY: the caller has the features.
    unsafe { low_nibbles::<D>(D::Width::shift_right::<4>(bytes)) }
}

/// The nibbles of four vectors: the low ones are the first sixteen columns.
#[inline(always)]
unsafe fn low_then_high<D: Dots>(block: Block) -> Codes<D> {
    // SAFETY: the caller has the features and four vectors.
    unsafe {
        let mut codes = [D::Width::splat_bytes(0); VECTORS];
        for v in 0..VECTORS / 2 {
            let bytes = D::Width::load(block.skip(32 * v));
            codes[v] = low_nibbles::<D>(bytes);
            codes[VECTORS / 2 + v] = high_nibbles::<D>(bytes);
        }
        codes
    }
}

/// The low (0) or high (1) nibbles of eight vectors.
#[inline(always)]
unsafe fn nibbles<D: Dots, const WHICH: usize>(block: Block) -> Codes<D> {
    // SAFETY: the caller has the features and eight vectors.
    unsafe {
        let mut codes = [D::Width::splat_bytes(0); VECTORS];
        for v in 0..VECTORS {
            let bytes = D::Width::load(block.skip(32 * v));
            codes[v] = if WHICH == 0 { low_nibbles::<D>(bytes) } else { high_nibbles::<D>(bytes) };
        }
        codes
    }
}

/// Adds the fifth bits, which lie in one vector, to nibbles.
#[inline(always)]
unsafe fn with_fifth_bits<D: Dots>(mut codes: Codes<D>, bits: Block) -> Codes<D> {
    // SAFETY: the caller has the features and the vector.
    unsafe {
        let bits = D::Width::load(bits);
        let shifted = [
            D::Width::shift_left::<4>(bits),
            D::Width::shift_left::<3>(bits),
            D::Width::shift_left::<2>(bits),
            D::Width::shift_left::<1>(bits),
            bits,
            D::Width::shift_right::<1>(bits),
            D::Width::shift_right::<2>(bits),
            D::Width::shift_right::<3>(bits),
        ];
        for v in 0..VECTORS {
            let fifth = D::Width::and(shifted[v], D::Width::splat_bytes(16));
            codes[v] = D::Width::or(codes[v], fifth);
        }
        codes
    }
}

struct Q4_0;
struct Q5_0;
struct Q8_0;
struct Q4K;
struct Q5K;
struct Q6K;
struct Iq4Nl;

impl Panel for Q4_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 4 * 32;

    #[inline(always)]
    unsafe fn add_block<D: Dots, const T: usize>(block: Block, x: Tokens, acc: &mut [Floats<D>; T]) {
        // SAFETY: the same contract.
        unsafe {
            let codes = low_then_high::<D>(block.skip(16));
            add::<D, T>(D::dot::<T, 15, 8>(&codes, x), D::Width::load_halves(block), x, acc);
        }
    }
}

impl Panel for Q5_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 5 * 32;

    #[inline(always)]
    unsafe fn add_block<D: Dots, const T: usize>(block: Block, x: Tokens, acc: &mut [Floats<D>; T]) {
        // SAFETY: the same contract.
        unsafe {
            let codes = with_fifth_bits::<D>(low_then_high::<D>(block.skip(48)), block.skip(16));
            add::<D, T>(D::dot::<T, 31, 16>(&codes, x), D::Width::load_halves(block), x, acc);
        }
    }
}

impl Panel for Q8_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 8 * 32;

    #[inline(always)]
    unsafe fn add_block<D: Dots, const T: usize>(block: Block, x: Tokens, acc: &mut [Floats<D>; T]) {
        // SAFETY: the same contract.
        unsafe {
            let sign = D::Width::splat_bytes(128);
            let mut codes = [sign; VECTORS];
            for v in 0..VECTORS {
                codes[v] = D::Width::xor(D::Width::load(block.skip(16 + 32 * v)), sign);
            }
            let codes = D::widen(codes);
            add::<D, T>(D::dot_wide::<T>(&codes, x), D::Width::load_halves(block), x, acc);
        }
    }
}

impl Panel for Iq4Nl {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 4 * 32;

    #[inline(always)]
    unsafe fn add_block<D: Dots, const T: usize>(block: Block, x: Tokens, acc: &mut [Floats<D>; T]) {
        const TABLE: [u8; 16] = {
            let mut table = [0; 16];
            let mut index = 0;
            while index < 16 {
                table[index] = NONLINEAR[index] as u8 ^ 128;
                index += 1;
            }
            table
        };
        // SAFETY: the same contract.
        unsafe {
            let mut codes = low_then_high::<D>(block.skip(16));
            for v in 0..VECTORS {
                codes[v] = D::Width::lookup(&TABLE, codes[v]);
            }
            let codes = D::widen(codes);
            add::<D, T>(D::dot_wide::<T>(&codes, x), D::Width::load_halves(block), x, acc);
        }
    }
}

/// Adds sub-block `index` of Q4_K or Q5_K.
///
/// # Safety
/// As [`Panel::add_block`]; `x` is at the sub-block's columns.
#[inline(always)]
unsafe fn add_sub_block<D: Dots, const T: usize, const MAX: u32>(
    codes: Codes<D>,
    (block, index): (Block, usize),
    x: Tokens,
    acc: &mut [Floats<D>; T],
) {
    // SAFETY: the same contract.
    unsafe {
        let factor = D::Width::to_floats(D::Width::load_bytes(block.skip(32 + 8 * index)));
        let scale = D::Width::mul(D::Width::load_halves(block), factor);
        add::<D, T>(D::dot::<T, MAX, 0>(&codes, x), scale, x, acc);
        let factor = D::Width::to_floats(D::Width::load_bytes(block.skip(96 + 8 * index)));
        let minimum = D::Width::mul(D::Width::load_halves(block.skip(16)), factor);
        subtract::<D, T>(minimum, x, acc);
    }
}

impl Panel for Q4K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 32 + 128 + 4 * 8 * 32;

    #[inline(always)]
    unsafe fn add_block<D: Dots, const T: usize>(block: Block, x: Tokens, acc: &mut [Floats<D>; T]) {
        for pair in 0..4 {
            let (even, odd) = (2 * pair, 2 * pair + 1);
            // SAFETY: the same contract.
            unsafe {
                let bytes = block.skip(160 + 256 * pair);
                add_sub_block::<D, T, 15>(nibbles::<D, 0>(bytes), (block, even), x.skip_groups(even), acc);
                add_sub_block::<D, T, 15>(nibbles::<D, 1>(bytes), (block, odd), x.skip_groups(odd), acc);
            }
        }
    }
}

impl Panel for Q5K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 32 + 128 + 4 * (2 + 8) * 32;

    #[inline(always)]
    unsafe fn add_block<D: Dots, const T: usize>(block: Block, x: Tokens, acc: &mut [Floats<D>; T]) {
        for pair in 0..4 {
            let (even, odd) = (2 * pair, 2 * pair + 1);
            // SAFETY: the same contract.
            unsafe {
                let bytes = block.skip(160 + 320 * pair);
                let codes = with_fifth_bits::<D>(nibbles::<D, 0>(bytes.skip(64)), bytes);
                add_sub_block::<D, T, 31>(codes, (block, even), x.skip_groups(even), acc);
                let codes = with_fifth_bits::<D>(nibbles::<D, 1>(bytes.skip(64)), bytes.skip(32));
                add_sub_block::<D, T, 31>(codes, (block, odd), x.skip_groups(odd), acc);
            }
        }
    }
}

/// Adds one quarter of a half of Q6_K, 32 columns. Quarters 0 and 1 take the low nibbles, 2 and 3 the high ones;
/// each takes its own two of the upper bits.
///
/// # Safety
/// As [`Panel::add_block`]; `x` is at the half's columns, `lower` and `upper` at the quarter's vectors, `parts`
/// at the scales of the half.
#[inline(always)]
unsafe fn add_quarter<D: Dots, const QUARTER: usize, const T: usize>(
    scale: Floats<D>,
    parts: Block,
    (lower, upper): (Block, Block),
    x: Tokens,
    acc: &mut [Floats<D>; T],
) {
    // SAFETY: the same contract.
    unsafe {
        let mut codes = [D::Width::splat_bytes(0); VECTORS];
        for v in 0..VECTORS {
            let (lower, upper) = (D::Width::load(lower.skip(32 * v)), D::Width::load(upper.skip(32 * v)));
            let upper = match QUARTER {
                0 => D::Width::shift_left::<4>(upper),
                1 => D::Width::shift_left::<2>(upper),
                2 => upper,
                _ => D::Width::shift_right::<2>(upper),
            };
            let lower = if QUARTER < 2 { low_nibbles::<D>(lower) } else { high_nibbles::<D>(lower) };
            codes[v] = D::Width::or(lower, D::Width::and(upper, D::Width::splat_bytes(0x30)));
        }
        let x = x.skip_groups(QUARTER);
        add::<D, T>(D::dot_parts::<T>(&codes, parts.skip(16 * QUARTER), x), scale, x, acc);
    }
}

impl Panel for Q6K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 16 + 128 + 2 * (8 + 16) * 32;

    #[inline(always)]
    unsafe fn add_block<D: Dots, const T: usize>(block: Block, x: Tokens, acc: &mut [Floats<D>; T]) {
        for half in 0..2 {
            // SAFETY: the same contract.
            unsafe {
                let scale = D::Width::load_halves(block);
                let parts = block.skip(16 + 64 * half);
                let upper = block.skip(144 + 768 * half);
                let (even, odd) = ((upper.skip(256), upper), (upper.skip(512), upper));
                let x = x.skip_groups(4 * half);
                add_quarter::<D, 0, T>(scale, parts, even, x, acc);
                add_quarter::<D, 1, T>(scale, parts, odd, x, acc);
                add_quarter::<D, 2, T>(scale, parts, even, x, acc);
                add_quarter::<D, 3, T>(scale, parts, odd, x, acc);
            }
        }
    }
}

/// Where the results of a tile go: `[panel][token]`, the panels `step` apart.
#[derive(Clone, Copy)]
pub(super) struct Results {
    at: *mut [f32; 8],
    step: usize,
}

/// What a tile walks over.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// The first block.
    block: Block,
    /// Blocks in a panel.
    blocks: usize,
    /// What lies so many bytes further is asked for, unless it is zero.
    ahead: usize,
}

/// Panels side by side times `T` tokens.
///
/// # Safety
/// As [`Dots`]; the panels have the blocks and `x` their columns; there is room for the results.
#[inline(always)]
pub(super) unsafe fn tile<P: Panel, D: Dots, const T: usize>(walk: Walk, x: Tokens, out: Results) {
    // SAFETY: block and columns of every step are within what the caller has.
    unsafe {
        let mut acc = [D::Width::zero(); T];
        for index in 0..walk.blocks {
            let block = walk.block.skip(index * P::BYTES);
            if walk.ahead > 0 {
                for panel in 0..D::Width::PANELS {
                    for line in (0..P::BYTES).step_by(64) {
                        let at = block.at.wrapping_add(panel * block.step + walk.ahead + line);
                        _mm_prefetch::<_MM_HINT_T0>(at.cast());
                    }
                }
            }
            P::add_block::<D, T>(block, x.skip_groups(index * (P::COLUMNS / QUANT_BLOCK)), &mut acc);
        }
        for t in 0..T {
            D::Width::store(acc[t], out.at.add(t), out.step);
        }
    }
}

/// A multiple of the panels that the width holds, times every token.
///
/// # Safety
/// The CPU has what `D` needs.
///
/// # Panics
/// If lengths do not belong together.
#[inline(always)]
unsafe fn multiply_format<P: Panel, D: Dots>(panels: &[u8], x: &arch::Codes<'_>, out: &mut [[f32; 8]]) {
    let blocks = x.columns / P::COLUMNS;
    let bytes = D::Width::PANELS * blocks * P::BYTES;
    assert!(x.columns.is_multiple_of(P::COLUMNS), "panels of other columns");
    assert!(panels.len() * x.tokens == out.len() * blocks * P::BYTES, "results of other panels or tokens");
    for (index, out) in out.chunks_exact_mut((D::Width::PANELS * x.tokens).max(1)).enumerate() {
        // SAFETY: the same contract.
        unsafe { multiply_abreast::<P, D>(&panels[index * bytes..][..bytes], blocks, x, out) };
    }
}

/// As many panels as the width holds, of `blocks` blocks, times every token.
///
/// # Safety
/// The CPU has what `D` needs; lengths belong together.
#[inline(always)]
unsafe fn multiply_abreast<P: Panel, D: Dots>(
    panels: &[u8],
    blocks: usize,
    x: &arch::Codes<'_>,
    out: &mut [[f32; 8]],
) {
    let block = Block { at: panels.as_ptr(), step: blocks * P::BYTES };
    // The same place some panels further on.
    let ahead = panels.len() * PREFETCH_BYTES.div_ceil(panels.len().max(1));
    let mut walk = Walk { block, blocks, ahead };
    let mut out = Results { at: out.as_mut_ptr(), step: x.tokens };
    for tokens in x.tiles() {
        let groups = tokens.columns / QUANT_BLOCK * tokens.tokens;
        assert!(tokens.codes.len() == groups * QUANT_BLOCK && tokens.scales.len() == groups, "other columns");
        assert!(tokens.sums.len() == groups && tokens.totals.len() == groups, "other columns");
        let mut x = Tokens {
            codes: tokens.codes.as_ptr(),
            scales: tokens.scales.as_ptr(),
            sums: tokens.sums.as_ptr(),
            totals: tokens.totals.as_ptr(),
            stride: tokens.tokens,
        };
        let mut left = tokens.tokens;
        while left > 0 {
            // SAFETY: the panels were measured above, and so were the tokens, of which `left` are from `x` on;
            // the results are as many.
            let done = unsafe {
                match left {
                    1 => call::<P, D, 1>(walk, x, out),
                    2 => call::<P, D, 2>(walk, x, out),
                    3 => call::<P, D, 3>(walk, x, out),
                    4..INTERLEAVED_TOKENS => call::<P, D, 4>(walk, x, out),
                    _ => call::<P, D, INTERLEAVED_TOKENS>(walk, x, out),
                }
            };
            (left, x, walk.ahead) = (left - done, x.skip(done), 0);
            out.at = out.at.wrapping_add(done);
        }
    }
}

/// [`Dots::tile`], and how many tokens it did.
#[inline(always)]
unsafe fn call<P: Panel, D: Dots, const T: usize>(walk: Walk, x: Tokens, out: Results) -> usize {
    // SAFETY: the same contract.
    unsafe { D::tile::<P, T>(walk, x, out) };
    T
}

/// A multiple of the panels that the width of `D` holds, times every token; `out` is `[panel][token][row]`.
///
/// # Safety
/// The CPU has what `D` needs.
///
/// # Panics
/// If lengths do not belong together.
#[inline(always)]
pub(super) unsafe fn multiply<D: Dots>(
    format: Format,
    panels: &[u8],
    x: &arch::Codes<'_>,
    out: &mut [[f32; 8]],
) {
    // SAFETY: the same contract.
    unsafe {
        match format {
            Format::Q4_0 => multiply_format::<Q4_0, D>(panels, x, out),
            Format::Q5_0 => multiply_format::<Q5_0, D>(panels, x, out),
            Format::Q8_0 => multiply_format::<Q8_0, D>(panels, x, out),
            Format::Q4K => multiply_format::<Q4K, D>(panels, x, out),
            Format::Q5K => multiply_format::<Q5K, D>(panels, x, out),
            Format::Q6K => multiply_format::<Q6K, D>(panels, x, out),
            Format::Iq4Nl => multiply_format::<Iq4Nl, D>(panels, x, out),
            _ => portable::multiply_panels(format, panels, x, out),
        }
    }
}
