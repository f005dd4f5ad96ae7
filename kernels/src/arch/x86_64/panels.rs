//! Panels of every format that has them, taken apart group by group in any width of registers.
//!
//! One register is four columns of eight rows or more, so four activation codes broadcast to all rows meet it
//! in one multiplication, and sums never cross lanes: a lane of every accumulator is one row from the first
//! column to the last. Integer sums are exact and the few float operations come in the order that the
//! portable set defines, so the bits agree.

use super::dots::{Codes, Dots, Tokens, VECTORS};
use super::registers::{Block, Width};
use crate::unpack::NONLINEAR;

pub(super) type Ints<D> = <<D as Dots>::Width as Width>::Ints;
pub(super) type Floats<D> = <<D as Dots>::Width as Width>::Floats;

/// One panel format.
pub(super) trait Panel {
    /// Columns of a block.
    const COLUMNS: usize;
    /// Bytes of a block of eight rows.
    const BYTES: usize;

    /// Takes a block apart and hands its groups of 32 columns to `sink`, in order.
    ///
    /// # Safety
    /// As [`Dots`]; the block is whole and the sink has its columns, from group `first` on.
    unsafe fn walk<D: Dots, S: Sink<D>>(block: Block, first: usize, sink: &mut S);
}

/// Who multiplies groups with tokens.
pub(super) trait Sink<D: Dots> {
    /// Adds group `index` of the columns to every token.
    ///
    /// # Safety
    /// As [`Dots`]; the sink has the group.
    unsafe fn add<G: Group<D>>(&mut self, index: usize, group: &G);
}

/// 32 columns of all rows, taken apart.
pub(super) trait Group<D: Dots> {
    /// Adds the products with `T` tokens to their accumulators.
    ///
    /// # Safety
    /// As [`Dots`]; `x` has the tokens.
    unsafe fn add_to<const T: usize>(&self, x: Tokens, acc: &mut [Floats<D>; T]);
}

/// Adds sums times the scales of row and token.
#[inline(always)]
unsafe fn add_scaled<D: Dots, const T: usize>(
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

/// Codes up to `MAX` that count from `OFFSET`.
struct Plain<D: Dots, const MAX: u32, const OFFSET: i16> {
    codes: Codes<D>,
    scale: Floats<D>,
}

impl<D: Dots, const MAX: u32, const OFFSET: i16> Group<D> for Plain<D, MAX, OFFSET> {
    #[inline(always)]
    unsafe fn add_to<const T: usize>(&self, x: Tokens, acc: &mut [Floats<D>; T]) {
        // SAFETY: the same contract.
        unsafe { add_scaled::<D, T>(D::dot::<T, MAX, OFFSET>(&self.codes, x), self.scale, x, acc) }
    }
}

/// Codes up to `MAX` from which a minimum is subtracted.
struct WithMinimum<D: Dots, const MAX: u32> {
    codes: Codes<D>,
    scale: Floats<D>,
    minimum: Floats<D>,
}

impl<D: Dots, const MAX: u32> Group<D> for WithMinimum<D, MAX> {
    #[inline(always)]
    unsafe fn add_to<const T: usize>(&self, x: Tokens, acc: &mut [Floats<D>; T]) {
        // SAFETY: the same contract.
        unsafe {
            add_scaled::<D, T>(D::dot::<T, MAX, 0>(&self.codes, x), self.scale, x, acc);
            for t in 0..T {
                acc[t] = D::Width::fused_minus(self.minimum, D::Width::splat(x.totals.add(t)), acc[t]);
            }
        }
    }
}

/// Codes of eight bits that count from 128.
struct Wide<D: Dots> {
    codes: D::Wide,
    scale: Floats<D>,
}

impl<D: Dots> Group<D> for Wide<D> {
    #[inline(always)]
    unsafe fn add_to<const T: usize>(&self, x: Tokens, acc: &mut [Floats<D>; T]) {
        // SAFETY: the same contract.
        unsafe { add_scaled::<D, T>(D::dot_wide::<T>(&self.codes, x), self.scale, x, acc) }
    }
}

/// Codes of six bits that count from 32, each half with a factor of its own.
struct Halves<D: Dots> {
    codes: Codes<D>,
    parts: D::Parts,
    scale: Floats<D>,
}

impl<D: Dots> Group<D> for Halves<D> {
    #[inline(always)]
    unsafe fn add_to<const T: usize>(&self, x: Tokens, acc: &mut [Floats<D>; T]) {
        // SAFETY: the same contract.
        unsafe { add_scaled::<D, T>(D::dot_parts::<T>(&self.codes, &self.parts, x), self.scale, x, acc) }
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

pub(super) struct Q4_0;
pub(super) struct Q5_0;
pub(super) struct Q8_0;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;
pub(super) struct Iq4Nl;

impl Panel for Q4_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 4 * 32;

    #[inline(always)]
    unsafe fn walk<D: Dots, S: Sink<D>>(block: Block, first: usize, sink: &mut S) {
        // SAFETY: the same contract.
        unsafe {
            let codes = low_then_high::<D>(block.skip(16));
            sink.add(first, &Plain::<D, 15, 8> { codes, scale: D::Width::load_halves(block) });
        }
    }
}

impl Panel for Q5_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 5 * 32;

    #[inline(always)]
    unsafe fn walk<D: Dots, S: Sink<D>>(block: Block, first: usize, sink: &mut S) {
        // SAFETY: the same contract.
        unsafe {
            let codes = with_fifth_bits::<D>(low_then_high::<D>(block.skip(48)), block.skip(16));
            sink.add(first, &Plain::<D, 31, 16> { codes, scale: D::Width::load_halves(block) });
        }
    }
}

impl Panel for Q8_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 8 * 32;

    #[inline(always)]
    unsafe fn walk<D: Dots, S: Sink<D>>(block: Block, first: usize, sink: &mut S) {
        // SAFETY: the same contract.
        unsafe {
            let sign = D::Width::splat_bytes(128);
            let mut codes = [sign; VECTORS];
            for v in 0..VECTORS {
                codes[v] = D::Width::xor(D::Width::load(block.skip(16 + 32 * v)), sign);
            }
            sink.add(first, &Wide::<D> { codes: D::widen(codes), scale: D::Width::load_halves(block) });
        }
    }
}

impl Panel for Iq4Nl {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 4 * 32;

    #[inline(always)]
    unsafe fn walk<D: Dots, S: Sink<D>>(block: Block, first: usize, sink: &mut S) {
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
            sink.add(first, &Wide::<D> { codes: D::widen(codes), scale: D::Width::load_halves(block) });
        }
    }
}

/// Sub-block `index` of Q4_K or Q5_K.
#[inline(always)]
unsafe fn sub_block<D: Dots, const MAX: u32>(
    codes: Codes<D>,
    block: Block,
    index: usize,
) -> WithMinimum<D, MAX> {
    // SAFETY: the caller has the features and the block.
    unsafe {
        let factor = D::Width::to_floats(D::Width::load_bytes(block.skip(32 + 8 * index)));
        let scale = D::Width::mul(D::Width::load_halves(block), factor);
        let factor = D::Width::to_floats(D::Width::load_bytes(block.skip(96 + 8 * index)));
        let minimum = D::Width::mul(D::Width::load_halves(block.skip(16)), factor);
        WithMinimum { codes, scale, minimum }
    }
}

impl Panel for Q4K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 32 + 128 + 4 * 8 * 32;

    #[inline(always)]
    unsafe fn walk<D: Dots, S: Sink<D>>(block: Block, first: usize, sink: &mut S) {
        for pair in 0..4 {
            let (even, odd) = (2 * pair, 2 * pair + 1);
            // SAFETY: the same contract.
            unsafe {
                let bytes = block.skip(160 + 256 * pair);
                sink.add(first + even, &sub_block::<D, 15>(nibbles::<D, 0>(bytes), block, even));
                sink.add(first + odd, &sub_block::<D, 15>(nibbles::<D, 1>(bytes), block, odd));
            }
        }
    }
}

impl Panel for Q5K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 32 + 128 + 4 * (2 + 8) * 32;

    #[inline(always)]
    unsafe fn walk<D: Dots, S: Sink<D>>(block: Block, first: usize, sink: &mut S) {
        for pair in 0..4 {
            let (even, odd) = (2 * pair, 2 * pair + 1);
            // SAFETY: the same contract.
            unsafe {
                let bytes = block.skip(160 + 320 * pair);
                let codes = with_fifth_bits::<D>(nibbles::<D, 0>(bytes.skip(64)), bytes);
                sink.add(first + even, &sub_block::<D, 31>(codes, block, even));
                let codes = with_fifth_bits::<D>(nibbles::<D, 1>(bytes.skip(64)), bytes.skip(32));
                sink.add(first + odd, &sub_block::<D, 31>(codes, block, odd));
            }
        }
    }
}

/// One quarter of half `half` of a block of Q6_K, 32 columns. Quarters 0 and 1 take the low nibbles, 2 and 3
/// the high ones; each takes its own two of the upper bits.
#[inline(always)]
unsafe fn quarter<D: Dots, const QUARTER: usize>(block: Block, half: usize) -> Halves<D> {
    // SAFETY: the caller has the features and the block.
    unsafe {
        let upper = block.skip(144 + 768 * half);
        let lower = upper.skip(256 + 256 * (QUARTER % 2));
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
        let parts = D::load_parts(block.skip(16 + 64 * half + 16 * QUARTER));
        Halves { codes, parts, scale: D::Width::load_halves(block) }
    }
}

impl Panel for Q6K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 16 + 128 + 2 * (8 + 16) * 32;

    #[inline(always)]
    unsafe fn walk<D: Dots, S: Sink<D>>(block: Block, first: usize, sink: &mut S) {
        for half in 0..2 {
            let first = first + 4 * half;
            // SAFETY: the same contract.
            unsafe {
                sink.add(first, &quarter::<D, 0>(block, half));
                sink.add(first + 1, &quarter::<D, 1>(block, half));
                sink.add(first + 2, &quarter::<D, 2>(block, half));
                sink.add(first + 3, &quarter::<D, 3>(block, half));
            }
        }
    }
}
