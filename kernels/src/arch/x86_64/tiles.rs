//! Panels times tokens: how the walk over weights is shared.
//!
//! Few tokens keep their sums in registers while the weights stream by. Many tokens keep them in the
//! first-level cache, so that a group of columns, once taken apart, serves all of them, four at a time.
//!
//! With AVX2 on an Ice Lake server, one thread, 512 tokens, this took Q4_0 from 141 to 167 Gop/s, Q4_K from
//! 95 to 159, against four tokens at once with their sums in registers.

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use core::mem::MaybeUninit;

use super::dots::{Dots, Tokens};
use super::panels::{Floats, Group, Iq4Nl, Panel, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, Sink};
use super::registers::{Block, Width};
use crate::arch::{Codes, portable};
use crate::limits::TILE_TOKENS_MAX;
use crate::{Format, INTERLEAVED_TOKENS, QUANT_BLOCK};

/// How far ahead of the walk weights are asked for, at least. Panels follow each other in memory, so that
/// running past the end of one is the beginning of the next.
const PREFETCH_BYTES: usize = 12288;

/// Tokens that are multiplied together: their sums of one group fit the registers beside its codes.
const TOKENS_TOGETHER: usize = 4;

/// What is walked over.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// The first block.
    block: Block,
    /// Blocks in a panel.
    blocks: usize,
    /// What lies so many bytes further is asked for, unless it is zero.
    ahead: usize,
}

/// Hands every group of the panels to the sink.
///
/// # Safety
/// As [`Dots`]; the panels have the blocks and the sink their columns.
#[inline(always)]
pub(super) unsafe fn walk_blocks<P: Panel, D: Dots, S: Sink<D>>(walk: Walk, sink: &mut S) {
    for index in 0..walk.blocks {
        let block = walk.block.skip(index * P::BYTES);
        if walk.ahead > 0 {
            for panel in 0..D::Width::PANELS {
                for line in (0..P::BYTES).step_by(64) {
                    let at = block.at.wrapping_add(panel * block.step + walk.ahead + line);
                    // SAFETY: a prefetch touches nothing, wherever it points; SSE is part of every x86-64.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
                }
            }
        }
        // SAFETY: block and columns of every step are within what the caller has.
        unsafe { P::walk::<D, S>(block, index * (P::COLUMNS / QUANT_BLOCK), sink) };
    }
}

/// `T` tokens of one tile, at most [`TOKENS_TOGETHER`], with their sums in registers.
struct Few<D: Dots, const T: usize> {
    x: Tokens,
    /// Groups of single tokens from a group of columns to the next: the tokens that are interleaved.
    stride: usize,
    acc: [Floats<D>; T],
}

impl<D: Dots, const T: usize> Sink<D> for Few<D, T> {
    #[inline(always)]
    unsafe fn add<G: Group<D>>(&mut self, index: usize, group: &G) {
        // SAFETY: the same contract.
        unsafe { group.add_to::<T>(self.x.skip(index * self.stride), &mut self.acc) };
    }
}

/// Whole tiles of tokens with their sums in memory.
struct Many<'a, D: Dots> {
    x: Tokens,
    /// Groups of single tokens from a tile to the next.
    stride: usize,
    /// For each of [`TOKENS_TOGETHER`] tokens.
    acc: &'a mut [[Floats<D>; TOKENS_TOGETHER]],
}

impl<D: Dots> Sink<D> for Many<'_, D> {
    #[inline(always)]
    unsafe fn add<G: Group<D>>(&mut self, index: usize, group: &G) {
        let mut x = self.x.skip(index * INTERLEAVED_TOKENS);
        let tiles = self.acc.as_chunks_mut::<{ INTERLEAVED_TOKENS / TOKENS_TOGETHER }>().0;
        for tile in tiles {
            for (part, acc) in tile.iter_mut().enumerate() {
                // SAFETY: the same contract.
                unsafe { group.add_to::<TOKENS_TOGETHER>(x.skip(part * TOKENS_TOGETHER), acc) };
            }
            x = x.skip(self.stride);
        }
    }
}

/// Where results go: `[panel][token]`, the panels `step` apart.
#[derive(Clone, Copy)]
struct Results {
    at: *mut [f32; 8],
    step: usize,
}

/// `T` tokens of one tile of `stride`; returns how many they are.
///
/// # Safety
/// As [`walk_blocks`]; there is room for the results.
#[inline(always)]
unsafe fn few<P: Panel, D: Dots, const T: usize>(
    walk: Walk,
    x: Tokens,
    stride: usize,
    out: Results,
) -> usize {
    // SAFETY: the same contract.
    unsafe {
        let mut sink = Few::<D, T> { x, stride, acc: [D::Width::zero(); T] };
        D::walk::<P, _>(walk, &mut sink);
        for t in 0..T {
            D::Width::store(sink.acc[t], out.at.add(t), out.step);
        }
    }
    T
}

/// `tiles` whole tiles, at most [`TILE_TOKENS_MAX`] tokens; returns how many tokens they are.
///
/// # Safety
/// As [`walk_blocks`]; there is room for the results.
#[inline(always)]
unsafe fn many<P: Panel, D: Dots>(
    walk: Walk,
    x: Tokens,
    (tiles, stride): (usize, usize),
    out: Results,
) -> usize {
    let tokens = tiles * INTERLEAVED_TOKENS;
    // SAFETY: the same contract.
    unsafe {
        let mut room = [const { MaybeUninit::uninit() }; TILE_TOKENS_MAX / TOKENS_TOGETHER];
        let room = &mut room[..tokens / TOKENS_TOGETHER];
        for acc in room.iter_mut() {
            acc.write([D::Width::zero(); TOKENS_TOGETHER]);
        }
        // All that is left of the room was written just now.
        let acc = core::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len());
        let mut sink = Many::<D> { x, stride, acc };
        D::walk::<P, _>(walk, &mut sink);
        for (t, acc) in sink.acc.as_flattened().iter().enumerate() {
            D::Width::store(*acc, out.at.add(t), out.step);
        }
    }
    tokens
}

/// As many panels as the width holds, of `blocks` blocks, times every token.
///
/// # Safety
/// The CPU has what `D` needs; lengths belong together.
#[inline(always)]
unsafe fn multiply_abreast<P: Panel, D: Dots>(
    panels: &[u8],
    blocks: usize,
    x: &Codes<'_>,
    out: &mut [[f32; 8]],
) {
    let groups = x.columns / QUANT_BLOCK;
    assert!(x.codes.len() == x.tokens * x.columns, "codes of other columns");
    assert!(x.scales.len() == x.tokens * groups && x.sums.len() == x.scales.len(), "scales of other columns");
    assert!(x.totals.len() == x.scales.len() && x.tokens <= TILE_TOKENS_MAX, "totals of other columns");
    // The same place some panels further on.
    let ahead = panels.len() * PREFETCH_BYTES.div_ceil(panels.len().max(1));
    let block = Block { at: panels.as_ptr(), step: blocks * P::BYTES };
    let mut walk = Walk { block, blocks, ahead };
    let mut tokens = Tokens {
        codes: x.codes.as_ptr(),
        scales: x.scales.as_ptr(),
        sums: x.sums.as_ptr(),
        totals: x.totals.as_ptr(),
    };
    let mut out = Results { at: out.as_mut_ptr(), step: x.tokens };
    let mut left = x.tokens;
    while left > 0 {
        let last = x.tokens % INTERLEAVED_TOKENS;
        // SAFETY: panels and tokens were measured above, and `left` tokens are from `tokens` on; the results
        // are as many.
        let done = unsafe {
            match left {
                1 => few::<P, D, 1>(walk, tokens, last, out),
                2 => few::<P, D, 2>(walk, tokens, last, out),
                3 => few::<P, D, 3>(walk, tokens, last, out),
                TOKENS_TOGETHER..INTERLEAVED_TOKENS => few::<P, D, TOKENS_TOGETHER>(walk, tokens, last, out),
                _ => {
                    let shape = (left / INTERLEAVED_TOKENS, INTERLEAVED_TOKENS * groups);
                    many::<P, D>(walk, tokens, shape, out)
                }
            }
        };
        // Beside whole tiles lie whole tiles; within the last one, token lies beside token.
        tokens = tokens.skip(if done >= INTERLEAVED_TOKENS { done * groups } else { done });
        out.at = out.at.wrapping_add(done);
        (left, walk.ahead) = (left - done, 0);
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
unsafe fn multiply_format<P: Panel, D: Dots>(panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    let blocks = x.columns / P::COLUMNS;
    let bytes = D::Width::PANELS * blocks * P::BYTES;
    assert!(x.columns.is_multiple_of(P::COLUMNS), "panels of other columns");
    assert!(panels.len() * x.tokens == out.len() * blocks * P::BYTES, "results of other panels or tokens");
    for (index, out) in out.chunks_exact_mut((D::Width::PANELS * x.tokens).max(1)).enumerate() {
        // SAFETY: the same contract.
        unsafe { multiply_abreast::<P, D>(&panels[index * bytes..][..bytes], blocks, x, out) };
    }
}

/// A multiple of the panels that the width of `D` holds, times at most [`TILE_TOKENS_MAX`] tokens; `out` is
/// `[panel][token][row]`.
///
/// # Safety
/// The CPU has what `D` needs.
///
/// # Panics
/// If lengths do not belong together.
pub(super) unsafe fn multiply<D: Dots>(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
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
