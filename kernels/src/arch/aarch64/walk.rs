//! The walk over panels: any format of `panels.rs`, multiplied in the way of any set.
//!
//! Few tokens meet codes as they are taken apart, in registers. For many, some columns of a panel are taken
//! apart once into a buffer that stays in the first-level cache, and the same walk then runs over the buffer,
//! which is but another format of panels. Integer sums are exact, and the few float operations come in the
//! order that the portable set defines, so the bits agree.

use core::arch::aarch64::*;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use super::panels::{Factors, Iq4Nl, Panel, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, Rows, Sink};
use crate::arch::Codes;
use crate::pack::panel_bytes;
use crate::{Format, HalfSums, INTERLEAVED_TOKENS, QUANT_BLOCK};

/// Columns that are taken apart into the buffer at once: two blocks of 256. Its 8 KiB leave the first-level
/// cache to the activations, and what a tile of tokens costs to begin and end is small beside it.
const BUFFER_COLUMNS: usize = 512;

/// Groups in the buffer.
const BUFFER_GROUPS: usize = BUFFER_COLUMNS / QUANT_BLOCK;

/// Tokens from which on the buffer pays: one more store and load of all codes, but they are taken apart once
/// and not again for each tile of tokens.
const BUFFER_TOKENS_MIN: usize = 3;

/// Products of the codes of eight rows with those of some tokens, summed over half a group or all of it.
pub(super) trait Multiply {
    /// Sums on the way, of whatever shape the instructions like.
    type Sums: Copy;
    /// Tokens that are multiplied together: one or two.
    const TOKENS: usize;
    /// How far ahead weights are asked for when one token meets a panel, in bytes; none when zero.
    const PREFETCH_BYTES: usize = 0;

    /// No sums yet.
    fn start() -> Self::Sums;

    /// Adds the products of vector `VECTOR` of a group; the first of the sums (vector 0, or 4 where halves
    /// have scales) begins them, at `offset` or so that `finish` adds it.
    ///
    /// # Safety
    /// The CPU has the set's instructions; the group's 32 codes of each of the tokens lie from `x` on; no
    /// code is larger than the format says.
    unsafe fn add<P: Panel, const VECTOR: usize>(
        sums: &mut Self::Sums,
        codes: [int8x16_t; 2],
        x: *const i8,
        offset: int32x4_t,
    );

    /// The sums of one token: two registers of four rows. Of two tokens: four registers, each two rows by two
    /// tokens, `[row][token]`.
    fn finish<P: Panel>(sums: Self::Sums, offset: int32x4_t) -> Rows<int32x4_t>;

    /// Factors as the sums of `finish` need them, from what the panel gives.
    #[inline]
    fn factors(factors: Factors) -> Factors {
        factors
    }
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
    /// Whether two tokens are multiplied together: then codes lie in the buffer in pairs of vectors, two rows
    /// by eight columns in a register, and factors each row twice.
    const PAIRED: bool = false;
}

/// Activations of some tokens of a tile, from a group on.
#[derive(Clone, Copy)]
struct Tile {
    codes: *const i8,
    scales: *const f32,
    sums: *const HalfSums,
    totals: *const f32,
    /// Tokens of the whole tile: so many blocks lie between a token's groups.
    stride: usize,
}

impl Tile {
    /// What lies `blocks` blocks (groups of single tokens) further.
    ///
    /// # Safety
    /// The slices are as long or longer.
    #[inline]
    unsafe fn at(&self, blocks: usize) -> Tile {
        // SAFETY: within the slices or at their end by the contract.
        unsafe {
            Tile {
                codes: self.codes.add(blocks * QUANT_BLOCK),
                scales: self.scales.add(blocks),
                sums: self.sums.add(blocks),
                totals: self.totals.add(blocks),
                stride: self.stride,
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
                1 => {
                    let both = self.sums.cast::<i32>().read_unaligned();
                    vreinterpretq_s16_s32(vsetq_lane_s32::<0>(both, vdupq_n_s32(0)))
                }
                2 => vcombine_s16(vld1_s16(self.sums.cast()), vdup_n_s16(0)),
                _ => vld1q_s16(self.sums.cast()),
            }
        }
    }
}

/// `T` floats (1, 2 or 4), one for each token, in the first lanes.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load<const T: usize>(at: *const f32) -> float32x4_t {
    // SAFETY: readable by the contract.
    unsafe {
        match T {
            1 => vsetq_lane_f32::<0>(*at, vdupq_n_f32(0.0)),
            2 => vcombine_f32(vld1_f32(at), vdup_n_f32(0.0)),
            _ => vld1q_f32(at),
        }
    }
}

/// A value for each token as the sums of `M` lie: token `t` in all lanes, or `t` and `t + 1` in turn.
#[inline]
#[target_feature(enable = "neon")]
fn by_token<M: Multiply>(lanes: float32x4_t, t: usize) -> float32x4_t {
    match (M::TOKENS, t) {
        (1, 0) => vdupq_laneq_f32::<0>(lanes),
        (1, 1) => vdupq_laneq_f32::<1>(lanes),
        (1, 2) => vdupq_laneq_f32::<2>(lanes),
        (1, _) => vdupq_laneq_f32::<3>(lanes),
        (_, 0) => vreinterpretq_f32_f64(vdupq_laneq_f64::<0>(vreinterpretq_f64_f32(lanes))),
        _ => vreinterpretq_f32_f64(vdupq_laneq_f64::<1>(vreinterpretq_f64_f32(lanes))),
    }
}

/// The products of one unit (the groups that are taken apart together) with `T` tokens.
struct Products<P, M: Multiply, const T: usize> {
    x: Tile,
    /// Where sums begin: `[half][group][token]`, the first half's for both where halves have no scales.
    offsets: [[[i32; 4]; 4]; 2],
    /// Integer scales of the groups, where there are any.
    parts: [[Rows<int32x4_t>; 2]; 4],
    sums: [[M::Sums; T]; 4],
    /// Whole sums as `M` gives them: `[group][first of the tokens that are multiplied together]`.
    totals: [[Rows<int32x4_t>; T]; 4],
    panel: PhantomData<P>,
}

impl<P: Panel, M: Multiply, const T: usize> Sink for Products<P, M, T> {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take<const GROUP: usize, const VECTOR: usize>(&mut self, codes: [int8x16_t; 2]) {
        let half = if P::PARTS { VECTOR / 4 } else { 0 };
        for t in (0..T).step_by(M::TOKENS) {
            let offset = vdupq_n_s32(if P::OFFSET == 0 { 0 } else { self.offsets[half][GROUP][t] });
            let sums = &mut self.sums[GROUP][t];
            // SAFETY: the tokens lie in the tile, and the codes are the format's.
            unsafe {
                let x = self.x.at(GROUP * self.x.stride).at(t);
                M::add::<P, VECTOR>(sums, codes, x.codes, offset);
            }
            if VECTOR == 7 || P::PARTS && VECTOR == 3 {
                let finished = M::finish::<P>(*sums, offset);
                let total = &mut self.totals[GROUP][t];
                for rows in 0..2 * M::TOKENS {
                    total[rows] = match (P::PARTS, half) {
                        (false, _) => finished[rows],
                        (_, 0) => vmulq_s32(finished[rows], self.parts[GROUP][0][rows]),
                        _ => vmlaq_s32(total[rows], finished[rows], self.parts[GROUP][1][rows]),
                    };
                }
            }
        }
    }
}

/// Adds one unit of a block times `T` tokens to `acc`, which lies as the sums of `M`.
///
/// # Safety
/// As [`tile`], for the unit; `x` begins at its first group.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_unit<P: Panel, M: Multiply, const T: usize>(
    block: *const u8,
    unit: usize,
    x: Tile,
    acc: &mut [Rows<float32x4_t>; T],
) {
    let mut products = Products::<P, M, T> {
        x,
        offsets: [[[0; 4]; 4]; 2],
        parts: [[[vdupq_n_s32(0); 4]; 2]; 4],
        sums: [[M::start(); T]; 4],
        totals: [[[vdupq_n_s32(0); 4]; T]; 4],
        panel: PhantomData,
    };
    // SAFETY: unit and groups are the caller's.
    unsafe {
        for group in 0..P::GROUPS {
            if P::OFFSET != 0 {
                let sums = x.at(group * x.stride).sums::<T>();
                let times = |sums| {
                    let offsets = vmulq_n_s32(sums, -P::OFFSET);
                    core::mem::transmute::<int32x4_t, [i32; 4]>(offsets)
                };
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
                products.parts[group] = M::factors(P::factors(block, P::GROUPS * unit + group)).parts;
            }
        }
        P::take_apart(block, unit, &mut products);
        for group in 0..P::GROUPS {
            let x = x.at(group * x.stride);
            let Factors { scale, minimum, .. } = M::factors(P::factors(block, P::GROUPS * unit + group));
            let scales = load::<T>(x.scales);
            let totals = if P::MINIMUM { load::<T>(x.totals) } else { scales };
            for t in (0..T).step_by(M::TOKENS) {
                for rows in 0..2 * M::TOKENS {
                    let acc = &mut acc[t][rows];
                    let factor = vmulq_f32(scale[rows], by_token::<M>(scales, t));
                    *acc = vfmaq_f32(*acc, vcvtq_f32_s32(products.totals[group][t][rows]), factor);
                    if P::MINIMUM {
                        *acc = vfmsq_f32(*acc, minimum[rows], by_token::<M>(totals, t));
                    }
                }
            }
        }
    }
}

/// Adds `blocks` blocks of a panel times `T` tokens to `out`.
///
/// # Safety
/// The CPU has the set's instructions; `panel` has the blocks; `x` has `T` tokens with the blocks' columns;
/// so has `out`.
#[target_feature(enable = "neon")]
unsafe fn tile<P: Panel, M: Multiply, const T: usize>(
    panel: *const u8,
    blocks: usize,
    mut x: Tile,
    out: &mut [[f32; 8]],
) {
    let out: &mut [[f32; 8]; T] = out.first_chunk_mut().expect("a result for each token");
    let mut acc = [[vdupq_n_f32(0.0); 4]; T];
    for t in (0..T).step_by(M::TOKENS) {
        for half in 0..2 {
            // SAFETY: eight floats for each token.
            unsafe {
                let first = vld1q_f32(out[t].as_ptr().add(4 * half));
                if M::TOKENS == 1 {
                    acc[t][half] = first;
                } else {
                    let second = vld1q_f32(out[t + 1].as_ptr().add(4 * half));
                    acc[t][2 * half] = vzip1q_f32(first, second);
                    acc[t][2 * half + 1] = vzip2q_f32(first, second);
                }
            }
        }
    }
    for index in 0..blocks {
        let block = panel.wrapping_add(index * P::BYTES);
        if P::STREAMED && T == 1 && M::PREFETCH_BYTES > 0 {
            for line in (0..P::BYTES).step_by(64) {
                prefetch(block.wrapping_add(M::PREFETCH_BYTES + line));
            }
        }
        for unit in 0..P::COLUMNS / QUANT_BLOCK / P::GROUPS {
            // SAFETY: block, unit and its groups are in the panel, their columns in the tile.
            unsafe {
                add_unit::<P, M, T>(block, unit, x, &mut acc);
                x = x.at(P::GROUPS * x.stride);
            }
        }
    }
    for t in (0..T).step_by(M::TOKENS) {
        for half in 0..2 {
            // SAFETY: as the loads.
            unsafe {
                let first = out[t].as_mut_ptr().add(4 * half);
                if M::TOKENS == 1 {
                    vst1q_f32(first, acc[t][half]);
                } else {
                    let (low, high) = (acc[t][2 * half], acc[t][2 * half + 1]);
                    vst1q_f32(first, vuzp1q_f32(low, high));
                    vst1q_f32(out[t + 1].as_mut_ptr().add(4 * half), vuzp2q_f32(low, high));
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

/// A group of eight rows in the buffer. Of the factors those are written that the format has.
#[repr(C)]
struct Group {
    codes: [[int8x16_t; 2]; 8],
    factors: Factors,
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
    unsafe fn factors(block: *const u8, _group: usize) -> Factors {
        let (none, no_part) = (vdupq_n_f32(0.0), vdupq_n_s32(0));
        // SAFETY: the block is a group of the buffer, and what the format has was written.
        unsafe {
            let factors = &raw const (*block.cast::<Group>()).factors;
            Factors {
                scale: (*factors).scale,
                minimum: if P::MINIMUM { (*factors).minimum } else { [none; 4] },
                parts: if P::PARTS { (*factors).parts } else { [[no_part; 4]; 2] },
            }
        }
    }
}

/// Puts the codes of a unit into the buffer.
struct Store<P, const PAIRED: bool> {
    groups: *mut Group,
    /// The even vector that waits for the odd one, for each group.
    waiting: [[int8x16_t; 2]; 4],
    panel: PhantomData<P>,
}

impl<P: Panel, const PAIRED: bool> Sink for Store<P, PAIRED> {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take<const GROUP: usize, const VECTOR: usize>(&mut self, codes: [int8x16_t; 2]) {
        let offset = vdupq_n_s8(P::OFFSET as i8);
        let codes =
            if P::OFFSET == 0 { codes } else { [vsubq_s8(codes[0], offset), vsubq_s8(codes[1], offset)] };
        // SAFETY: there is room for the groups by the contract.
        let to = unsafe { &raw mut (*self.groups.add(GROUP)).codes }.cast::<[int8x16_t; 2]>();
        if PAIRED && VECTOR % 2 == 0 {
            self.waiting[GROUP] = codes;
        } else if PAIRED {
            // Words of four columns of both vectors side by side: eight columns of two rows.
            for rows in 0..2 {
                let even = vreinterpretq_s32_s8(self.waiting[GROUP][rows]);
                let odd = vreinterpretq_s32_s8(codes[rows]);
                let pairs = [
                    vreinterpretq_s8_s32(vzip1q_s32(even, odd)),
                    vreinterpretq_s8_s32(vzip2q_s32(even, odd)),
                ];
                // SAFETY: the group has eight vectors.
                unsafe { to.add(VECTOR - 1 + rows).write(pairs) };
            }
        } else {
            // SAFETY: the same.
            unsafe { to.add(VECTOR).write(codes) };
        }
    }
}

/// Rows as two tokens together need them: each twice.
#[inline]
#[target_feature(enable = "neon")]
fn twice([low, high, ..]: Rows<float32x4_t>) -> Rows<float32x4_t> {
    [vzip1q_f32(low, low), vzip2q_f32(low, low), vzip1q_f32(high, high), vzip2q_f32(high, high)]
}

/// [`twice`] for integers.
#[inline]
#[target_feature(enable = "neon")]
fn twice_integers([low, high, ..]: Rows<int32x4_t>) -> Rows<int32x4_t> {
    [vzip1q_s32(low, low), vzip2q_s32(low, low), vzip1q_s32(high, high), vzip2q_s32(high, high)]
}

/// Takes blocks apart into the buffer, whose length says how many groups.
///
/// # Safety
/// The blocks of the groups are readable from `block` on.
#[target_feature(enable = "neon")]
unsafe fn unpack<P: Panel, const PAIRED: bool>(block: *const u8, buffer: &mut [MaybeUninit<Group>]) {
    let units = P::COLUMNS / QUANT_BLOCK / P::GROUPS;
    for (index, groups) in buffer.chunks_exact_mut(P::GROUPS).enumerate() {
        let block = block.wrapping_add(index / units * P::BYTES);
        let unit = index % units;
        let groups = groups.as_mut_ptr().cast::<Group>();
        // SAFETY: the block is readable by the contract and the groups are as many as it takes apart.
        unsafe {
            for group in 0..P::GROUPS {
                let Factors { scale, minimum, parts } = P::factors(block, P::GROUPS * unit + group);
                let to = &raw mut (*groups.add(group)).factors;
                (&raw mut (*to).scale).write(if PAIRED { twice(scale) } else { scale });
                if P::MINIMUM {
                    (&raw mut (*to).minimum).write(if PAIRED { twice(minimum) } else { minimum });
                }
                if P::PARTS {
                    for half in 0..2 {
                        let part = if PAIRED { twice_integers(parts[half]) } else { parts[half] };
                        (&raw mut (*to).parts[half]).write(part);
                    }
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
/// As [`tile`], for the tile's tokens, which are those of `out`; the blocks lie as `S` has them in the
/// buffer.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn buffered<P: Panel, S: Set>(panel: *const u8, blocks: usize, x: Tile, out: &mut [[f32; 8]]) {
    let mut token = 0;
    while token < out.len() {
        let out = &mut out[token..];
        // SAFETY: so many tokens lie from `token` on.
        unsafe {
            let x = x.at(token);
            match out.len() {
                1 => tile::<P, S::Last, 1>(panel, blocks, x, out),
                4.. if S::TILE_TOKENS == 4 => {
                    tile::<P, S::Buffered, 4>(panel, blocks, x, out);
                    token += 2;
                }
                _ => tile::<P, S::Buffered, 2>(panel, blocks, x, out),
            }
        }
        token += 2;
    }
}

/// One panel times every token; `out[token][row]`.
///
/// # Safety
/// The CPU has the set's instructions; `panel` is one of `x.columns` columns, whose slices are as long as
/// they should be; `out` has as many tokens.
#[target_feature(enable = "neon")]
unsafe fn multiply_panel<P: Panel, S: Set>(panel: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    let tile_of = |x: Codes<'_>| Tile {
        codes: x.codes.as_ptr(),
        scales: x.scales.as_ptr(),
        sums: x.sums.as_ptr(),
        totals: x.totals.as_ptr(),
        stride: x.tokens,
    };
    out.fill([0.0; 8]);
    if x.tokens < BUFFER_TOKENS_MIN {
        let (x, blocks) = (tile_of(*x), x.columns / P::COLUMNS);
        // SAFETY: one or two tokens and the panel's blocks, by the contract.
        return unsafe {
            match out.len() {
                1 => tile::<P, S::Direct, 1>(panel.as_ptr(), blocks, x, out),
                _ => tile::<P, S::Direct, 2>(panel.as_ptr(), blocks, x, out),
            }
        };
    }
    let groups = x.columns / QUANT_BLOCK;
    let mut buffer = [const { MaybeUninit::uninit() }; BUFFER_GROUPS];
    for group in (0..groups).step_by(BUFFER_GROUPS) {
        let buffer = &mut buffer[..BUFFER_GROUPS.min(groups - group)];
        let block = panel[group * QUANT_BLOCK / P::COLUMNS * P::BYTES..].as_ptr();
        // SAFETY: the columns from here on are in the panel and in every tile.
        unsafe {
            match S::PAIRED {
                true => unpack::<P, true>(block, buffer),
                false => unpack::<P, false>(block, buffer),
            }
            for (x, out) in x.tiles().zip(out.chunks_mut(INTERLEAVED_TOKENS)) {
                let x = tile_of(x).at(group * x.tokens);
                buffered::<Unpacked<P>, S>(buffer.as_ptr().cast(), buffer.len(), x, out);
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
    assert!(x.totals.len() == x.scales.len(), "totals of other columns");
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
