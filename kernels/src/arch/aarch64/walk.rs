//! The walk over panels: any format of `panels.rs`, multiplied in the way of any set.
//!
//! Few tokens meet codes as they are taken apart, in registers. For many, 256 columns of a panel are taken
//! apart once into a buffer that stays in the first-level cache, and the same walk then runs over the buffer,
//! which is but another format of panels. Integer sums are exact, and the few float operations come in the
//! order that the portable set defines, so the bits agree.

use core::arch::aarch64::*;
use core::marker::PhantomData;

use super::panels::{Iq4Nl, Panel, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, Sink};
use crate::arch::Codes;
use crate::pack::panel_bytes;
use crate::{Format, INTERLEAVED_TOKENS, QUANT_BLOCK};

/// Columns that are taken apart into the buffer at once: its 3 KiB leave the first-level cache to the
/// activations.
const BUFFER_COLUMNS: usize = 256;

/// Groups in the buffer.
const BUFFER_GROUPS: usize = BUFFER_COLUMNS / QUANT_BLOCK;

/// Tokens from which on the buffer pays: one codes' store and load more, but taken apart once and not again
/// for each tile of tokens.
const BUFFER_TOKENS_MIN: usize = 3;

/// Products of the codes of eight rows with those of `TOKENS` tokens, summed over half a group or all of it.
pub(super) trait Multiply {
    /// Sums on the way; of whatever shape the instructions like.
    type Sums: Copy;
    /// Tokens that are multiplied together: one or two.
    const TOKENS: usize;
    /// How far ahead weights are asked for when one token meets a panel, in bytes; none when zero.
    const PREFETCH_BYTES: usize = 0;

    /// No sums yet.
    fn start() -> Self::Sums;

    /// Adds the products of vector `VECTOR` of a group; the first of the sums (vector 0, or 4 where halves
    /// have scales) begins them at `offsets`, a value for each token.
    ///
    /// # Safety
    /// The CPU has the set's instructions; the group's 32 codes of each of the tokens lie from `x` on; no code
    /// is larger than the format says.
    unsafe fn add<P: Panel, const VECTOR: usize>(
        sums: &mut Self::Sums,
        codes: [int8x16_t; 2],
        x: *const i8,
        offsets: [int32x4_t; 2],
    );

    /// Sums of each token and row; of the first alone where there is one.
    fn finish<P: Panel>(sums: Self::Sums, offsets: [int32x4_t; 2]) -> [[int32x4_t; 2]; 2];
}

/// What a set multiplies by.
pub(super) trait Set {
    /// Codes in registers, one token.
    type Direct: Multiply;
    /// Codes in the buffer, as many tokens as it takes.
    type Buffered: Multiply;
    /// Codes in the buffer, one token.
    type Last: Multiply;
    /// Tokens of a tile: four, or two where registers are short.
    const TILE_TOKENS: usize;
    /// Whether vectors lie in the buffer in pairs, two rows by eight columns in a register.
    const PAIRED: bool = false;
}

/// Activations of some tokens of a tile, from a group on.
#[derive(Clone, Copy)]
struct Tile {
    codes: *const i8,
    scales: *const f32,
    sums: *const [i16; 2],
    /// Tokens of the whole tile: so many blocks lie between a token's groups.
    stride: usize,
}

impl Tile {
    /// The same tokens, `groups` groups on.
    #[inline]
    fn after(&self, groups: usize) -> Tile {
        let blocks = groups * self.stride;
        Tile {
            codes: self.codes.wrapping_add(blocks * QUANT_BLOCK),
            scales: self.scales.wrapping_add(blocks),
            sums: self.sums.wrapping_add(blocks),
            stride: self.stride,
        }
    }

    /// Other tokens, `tokens` further.
    #[inline]
    fn behind(&self, tokens: usize) -> Tile {
        Tile {
            codes: self.codes.wrapping_add(tokens * QUANT_BLOCK),
            scales: self.scales.wrapping_add(tokens),
            sums: self.sums.wrapping_add(tokens),
            stride: self.stride,
        }
    }

    /// The first group's scales of `T` tokens (1, 2 or 4) in the first lanes.
    ///
    /// # Safety
    /// The tile has the tokens and the group.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn scales<const T: usize>(&self) -> [f32; 4] {
        // SAFETY: readable by the contract.
        unsafe {
            match T {
                1 => [*self.scales, 0.0, 0.0, 0.0],
                2 => {
                    let both = vld1_f32(self.scales);
                    [vget_lane_f32::<0>(both), vget_lane_f32::<1>(both), 0.0, 0.0]
                }
                _ => core::mem::transmute::<float32x4_t, [f32; 4]>(vld1q_f32(self.scales)),
            }
        }
    }

    /// The first group's sums of both halves of `T` tokens (1, 2 or 4), in the first lanes.
    ///
    /// # Safety
    /// The tile has the tokens and the group.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sums<const T: usize>(&self) -> int16x8_t {
        // SAFETY: readable by the contract; sums lie on even addresses only, and no load asks for more.
        unsafe {
            match T {
                1 => vreinterpretq_s16_s32(vdupq_n_s32(self.sums.cast::<i32>().read_unaligned())),
                2 => vcombine_s16(vld1_s16(self.sums.cast()), vdup_n_s16(0)),
                _ => vld1q_s16(self.sums.cast()),
            }
        }
    }
}

/// A lane of four, `index` being known where it is compiled.
#[inline(always)]
fn lane<T: Copy>(lanes: [T; 4], index: usize) -> T {
    lanes[index]
}

/// Integers as they lie in a register.
#[inline]
#[target_feature(enable = "neon")]
fn integers(lanes: int32x4_t) -> [i32; 4] {
    // SAFETY: both are sixteen bytes without padding.
    unsafe { core::mem::transmute(lanes) }
}

/// The products of one unit (the groups that are taken apart together) with `T` tokens.
struct Products<P, M: Multiply, const T: usize> {
    x: Tile,
    /// Where sums begin: `[half][group][token]`, the first half's for both where halves have no scales.
    offsets: [[[i32; 4]; 4]; 2],
    /// Integer scales of the groups, where there are any.
    parts: [[[int32x4_t; 2]; 2]; 4],
    sums: [[M::Sums; T]; 4],
    /// Whole sums: `[group][token][rows]`.
    totals: [[[int32x4_t; 2]; T]; 4],
    panel: PhantomData<P>,
}

impl<P: Panel, M: Multiply, const T: usize> Sink for Products<P, M, T> {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take<const GROUP: usize, const VECTOR: usize>(&mut self, codes: [int8x16_t; 2]) {
        let half = if P::PARTS { VECTOR / 4 } else { 0 };
        for t in (0..T).step_by(M::TOKENS) {
            let x = self.x.codes.wrapping_add((GROUP * self.x.stride + t) * QUANT_BLOCK);
            let offset = |token: usize| vdupq_n_s32(lane(self.offsets[half][GROUP], token));
            let offsets = match (P::OFFSET, M::TOKENS) {
                (0, _) => [vdupq_n_s32(0); 2],
                (_, 1) => [offset(t); 2],
                _ => [offset(t), offset(t + 1)],
            };
            let sums = &mut self.sums[GROUP][t];
            // SAFETY: the tokens lie in the tile, and the codes are the format's.
            unsafe { M::add::<P, VECTOR>(sums, codes, x, offsets) };
            if VECTOR == 7 || P::PARTS && VECTOR == 3 {
                let finished = M::finish::<P>(*sums, offsets);
                for token in 0..M::TOKENS {
                    let total = &mut self.totals[GROUP][t + token];
                    for rows in 0..2 {
                        total[rows] = match (P::PARTS, half) {
                            (false, _) => finished[token][rows],
                            (_, 0) => vmulq_s32(finished[token][rows], self.parts[GROUP][0][rows]),
                            _ => vmlaq_s32(total[rows], finished[token][rows], self.parts[GROUP][1][rows]),
                        };
                    }
                }
            }
        }
    }
}

/// Adds `blocks` blocks of a panel times `T` tokens to `out`.
///
/// # Safety
/// The CPU has the set's instructions; `panel` has the blocks; `x` has `T` tokens with the blocks' columns; so
/// has `out`.
#[target_feature(enable = "neon")]
unsafe fn tile<P: Panel, M: Multiply, const T: usize>(
    panel: *const u8,
    blocks: usize,
    x: Tile,
    out: &mut [[f32; 8]],
) {
    let out: &mut [[f32; 8]; T] = out.first_chunk_mut().expect("a result for each token");
    let mut acc = [[vdupq_n_f32(0.0); 2]; T];
    for t in 0..T {
        // SAFETY: eight floats.
        acc[t] = unsafe { [vld1q_f32(out[t].as_ptr()), vld1q_f32(out[t].as_ptr().add(4))] };
    }
    let groups_per_block = P::COLUMNS / QUANT_BLOCK;
    let mut x = x;
    for index in 0..blocks {
        let block = panel.wrapping_add(index * P::BYTES);
        if P::STREAMED && T == 1 && M::PREFETCH_BYTES > 0 {
            for line in (0..P::BYTES).step_by(64) {
                prefetch(block.wrapping_add(M::PREFETCH_BYTES + line));
            }
        }
        for unit in 0..groups_per_block / P::GROUPS {
            // SAFETY: block, unit and its groups are in the panel, their columns in the tile.
            unsafe { add_unit::<P, M, T>(block, unit, x, &mut acc) };
            x = x.after(P::GROUPS);
        }
    }
    for t in 0..T {
        // SAFETY: eight floats.
        unsafe {
            vst1q_f32(out[t].as_mut_ptr(), acc[t][0]);
            vst1q_f32(out[t].as_mut_ptr().add(4), acc[t][1]);
        }
    }
}

/// Adds one unit of a block times `T` tokens to `acc`.
///
/// # Safety
/// As [`tile`], for the unit; `x` begins at its first group.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_unit<P: Panel, M: Multiply, const T: usize>(
    block: *const u8,
    unit: usize,
    x: Tile,
    acc: &mut [[float32x4_t; 2]; T],
) {
    let mut products = Products::<P, M, T> {
        x,
        offsets: [[[0; 4]; 4]; 2],
        parts: [[[vdupq_n_s32(0); 2]; 2]; 4],
        sums: [[M::start(); T]; 4],
        totals: [[[vdupq_n_s32(0); 2]; T]; 4],
        panel: PhantomData,
    };
    // SAFETY: unit and groups are the caller's.
    unsafe {
        for group in 0..P::GROUPS {
            if P::OFFSET != 0 {
                let sums = x.after(group).sums::<T>();
                let times = |sums| integers(vmulq_n_s32(sums, -P::OFFSET));
                if P::PARTS {
                    let both = vreinterpretq_s32_s16(sums);
                    let low = vshrq_n_s32::<16>(vshlq_n_s32::<16>(both));
                    products.offsets[0][group] = times(low);
                    products.offsets[1][group] = times(vshrq_n_s32::<16>(both));
                } else {
                    products.offsets[0][group] = times(vpaddlq_s16(sums));
                }
            }
            if P::PARTS {
                products.parts[group] = P::parts(block, P::GROUPS * unit + group);
            }
        }
        P::take_apart(block, unit, &mut products);
        for group in 0..P::GROUPS {
            let x = x.after(group);
            let scales = x.scales::<T>();
            let scale = P::scale(block, P::GROUPS * unit + group);
            let mut minimum = [vdupq_n_f32(0.0); 2];
            let mut sums = [0.0; 4];
            if P::MINIMUM {
                minimum = P::minimum(block, P::GROUPS * unit + group);
                // Negated as integers, so that no sum gives a zero of the other sign.
                let negative = vcvtq_f32_s32(vnegq_s32(vpaddlq_s16(x.sums::<T>())));
                sums = core::mem::transmute::<float32x4_t, [f32; 4]>(negative);
            }
            for t in 0..T {
                for rows in 0..2 {
                    let sum = vcvtq_f32_s32(products.totals[group][t][rows]);
                    let factor = vmulq_n_f32(scale[rows], lane(scales, t));
                    acc[t][rows] = vfmaq_f32(acc[t][rows], sum, factor);
                    if P::MINIMUM {
                        let factor = vmulq_n_f32(minimum[rows], lane(scales, t));
                        acc[t][rows] = vfmaq_n_f32(acc[t][rows], factor, lane(sums, t));
                    }
                }
            }
        }
    }
}

/// Asks for a line of memory; touches nothing, wherever it points.
#[inline(always)]
fn prefetch(at: *const u8) {
    // SAFETY: a hint, without effect on anything that the program sees.
    unsafe { core::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags)) };
}

/// A group of eight rows in the buffer.
#[derive(Clone, Copy)]
#[repr(C)]
struct Group {
    codes: [[int8x16_t; 2]; 8],
    scale: [float32x4_t; 2],
    minimum: [float32x4_t; 2],
    parts: [[int32x4_t; 2]; 2],
}

/// Panels of `P` as they lie in the buffer: a block is a [`Group`], whose codes are what they stand for.
struct Unpacked<P>(PhantomData<P>);

impl<P: Panel> Panel for Unpacked<P> {
    const COLUMNS: usize = QUANT_BLOCK;
    const BYTES: usize = size_of::<Group>();
    const GROUPS: usize = 1;
    const CODE_MAX: i32 = P::CODE_MAX;
    const PARTS: bool = P::PARTS;
    const MINIMUM: bool = P::MINIMUM;
    const STREAMED: bool = false;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take_apart<S: Sink>(block: *const u8, _unit: usize, sink: &mut S) {
        // SAFETY: the block is a group of the buffer.
        unsafe {
            let codes = &(*block.cast::<Group>()).codes;
            sink.take::<0, 0>(codes[0]);
            sink.take::<0, 1>(codes[1]);
            sink.take::<0, 2>(codes[2]);
            sink.take::<0, 3>(codes[3]);
            sink.take::<0, 4>(codes[4]);
            sink.take::<0, 5>(codes[5]);
            sink.take::<0, 6>(codes[6]);
            sink.take::<0, 7>(codes[7]);
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn scale(block: *const u8, _group: usize) -> [float32x4_t; 2] {
        // SAFETY: the block is a group of the buffer.
        unsafe { (*block.cast::<Group>()).scale }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn minimum(block: *const u8, _group: usize) -> [float32x4_t; 2] {
        // SAFETY: the block is a group of the buffer.
        unsafe { (*block.cast::<Group>()).minimum }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn parts(block: *const u8, _group: usize) -> [[int32x4_t; 2]; 2] {
        // SAFETY: the block is a group of the buffer.
        unsafe { (*block.cast::<Group>()).parts }
    }
}

/// Puts the codes of a unit into the buffer.
struct Store<'a, P, const PAIRED: bool> {
    groups: &'a mut [Group],
    /// The even vector that waits for the odd one, for each group.
    waiting: [[int8x16_t; 2]; 4],
    panel: PhantomData<P>,
}

impl<P: Panel, const PAIRED: bool> Sink for Store<'_, P, PAIRED> {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take<const GROUP: usize, const VECTOR: usize>(&mut self, codes: [int8x16_t; 2]) {
        let offset = vdupq_n_s8(P::OFFSET as i8);
        let codes = if P::OFFSET == 0 { codes } else { codes.map(|codes| vsubq_s8(codes, offset)) };
        let group = &mut self.groups[GROUP];
        if !PAIRED {
            group.codes[VECTOR] = codes;
        } else if VECTOR % 2 == 0 {
            self.waiting[GROUP] = codes;
        } else {
            // Words of four columns of both vectors side by side: eight columns of two rows.
            for rows in 0..2 {
                let even = vreinterpretq_s32_s8(self.waiting[GROUP][rows]);
                let odd = vreinterpretq_s32_s8(codes[rows]);
                group.codes[VECTOR - 1 + rows] = [
                    vreinterpretq_s8_s32(vzip1q_s32(even, odd)),
                    vreinterpretq_s8_s32(vzip2q_s32(even, odd)),
                ];
            }
        }
    }
}

/// Takes blocks apart into the buffer, whose length says how many groups.
///
/// # Safety
/// The blocks of the groups are readable from `block` on.
#[target_feature(enable = "neon")]
unsafe fn unpack<P: Panel, const PAIRED: bool>(block: *const u8, buffer: &mut [Group]) {
    let groups_per_block = P::COLUMNS / QUANT_BLOCK;
    for (index, groups) in buffer.chunks_exact_mut(P::GROUPS).enumerate() {
        let block = block.wrapping_add(index * P::GROUPS / groups_per_block * P::BYTES);
        let unit = index % (groups_per_block / P::GROUPS);
        // SAFETY: the block is readable by the contract and the groups are as many as it takes apart.
        unsafe {
            for (group, to) in groups.iter_mut().enumerate() {
                let group = P::GROUPS * unit + group;
                to.scale = P::scale(block, group);
                if P::MINIMUM {
                    to.minimum = P::minimum(block, group);
                }
                if P::PARTS {
                    to.parts = P::parts(block, group);
                }
            }
            let waiting = [[vdupq_n_s8(0); 2]; 4];
            P::take_apart(block, unit, &mut Store::<P, PAIRED> { groups, waiting, panel: PhantomData });
        }
    }
}

/// Adds blocks times all tokens of a tile to `out`, `S::TILE_TOKENS` at a time.
///
/// # Safety
/// As [`tile`], for the tile's tokens, which are those of `out`; the blocks lie as `S` has them in the buffer.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn buffered<P: Panel, S: Set>(panel: *const u8, blocks: usize, x: Tile, out: &mut [[f32; 8]]) {
    let mut token = 0;
    while token < out.len() {
        let (x, out) = (x.behind(token), &mut out[token..]);
        // SAFETY: so many tokens lie from `token` on.
        token += unsafe {
            match out.len() {
                1 => {
                    tile::<P, S::Last, 1>(panel, blocks, x, out);
                    1
                }
                2 | 3 => {
                    tile::<P, S::Buffered, 2>(panel, blocks, x, out);
                    2
                }
                _ if S::TILE_TOKENS == 2 => {
                    tile::<P, S::Buffered, 2>(panel, blocks, x, out);
                    2
                }
                _ => {
                    tile::<P, S::Buffered, 4>(panel, blocks, x, out);
                    4
                }
            }
        };
    }
}

/// One panel times every token; `out[token][row]`.
///
/// # Safety
/// The CPU has the set's instructions; `panel` is one of `x.columns` columns, whose slices are as long as they
/// should be; `out` has as many tokens.
#[target_feature(enable = "neon")]
unsafe fn multiply_panel<P: Panel, S: Set>(panel: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    let columns = x.columns;
    let tiles = || {
        x.tiles().map(|tile| Tile {
            codes: tile.codes.as_ptr(),
            scales: tile.scales.as_ptr(),
            sums: tile.sums.as_ptr(),
            stride: tile.tokens,
        })
    };
    out.fill([0.0; 8]);
    if x.tokens < BUFFER_TOKENS_MIN {
        for (x, out) in tiles().zip(out.chunks_mut(INTERLEAVED_TOKENS)) {
            let blocks = columns / P::COLUMNS;
            // SAFETY: one or two tokens and the panel's blocks, by the contract.
            unsafe {
                match out.len() {
                    1 => tile::<P, S::Direct, 1>(panel.as_ptr(), blocks, x, out),
                    _ => tile::<P, S::Direct, 2>(panel.as_ptr(), blocks, x, out),
                }
            }
        }
        return;
    }
    let (code, factor, part) = (vdupq_n_s8(0), vdupq_n_f32(0.0), vdupq_n_s32(0));
    let group =
        Group { codes: [[code; 2]; 8], scale: [factor; 2], minimum: [factor; 2], parts: [[part; 2]; 2] };
    let mut buffer = [group; BUFFER_GROUPS];
    for column in (0..columns).step_by(BUFFER_COLUMNS) {
        let buffer = &mut buffer[..BUFFER_GROUPS.min((columns - column) / QUANT_BLOCK)];
        let block = panel[column / P::COLUMNS * P::BYTES..].as_ptr();
        // SAFETY: the columns from here on are in the panel and in every tile.
        unsafe {
            match S::PAIRED {
                true => unpack::<P, true>(block, buffer),
                false => unpack::<P, false>(block, buffer),
            }
            let panel = buffer.as_ptr().cast();
            for (x, out) in tiles().zip(out.chunks_mut(INTERLEAVED_TOKENS)) {
                buffered::<Unpacked<P>, S>(panel, buffer.len(), x.after(column / QUANT_BLOCK), out);
            }
        }
    }
}

/// One or two panels times every token; `out` is `[panel][token][row]`. Panics when lengths do not belong
/// together.
///
/// # Safety
/// The CPU has the set's instructions.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn multiply_panels<S: Set>(
    format: Format,
    panels: &[u8],
    x: &Codes<'_>,
    out: &mut [[f32; 8]],
) {
    let groups = x.columns / QUANT_BLOCK;
    assert!(x.codes.len() == x.tokens * x.columns, "codes of other columns");
    assert!(x.scales.len() == x.tokens * groups && x.sums.len() == x.scales.len(), "scales of other columns");
    let bytes = panel_bytes(format, x.columns).expect("only formats with panels are packed");
    if x.tokens == 0 || bytes == 0 {
        return out.fill([0.0; 8]);
    }
    assert!(panels.len() * x.tokens == out.len() * bytes, "panels of other columns");
    for (panel, out) in panels.chunks_exact(bytes).zip(out.chunks_exact_mut(x.tokens)) {
        // SAFETY: lengths were checked above.
        unsafe {
            match format {
                Format::Q4_0 => multiply_panel::<Q4_0, S>(panel, x, out),
                Format::Q5_0 => multiply_panel::<Q5_0, S>(panel, x, out),
                Format::Q8_0 => multiply_panel::<Q8_0, S>(panel, x, out),
                Format::Q4K => multiply_panel::<Q4K, S>(panel, x, out),
                Format::Q5K => multiply_panel::<Q5K, S>(panel, x, out),
                Format::Q6K => multiply_panel::<Q6K, S>(panel, x, out),
                Format::Iq4Nl => multiply_panel::<Iq4Nl, S>(panel, x, out),
                _ => unreachable!("{} has no panels", format.name()),
            }
        }
    }
}
