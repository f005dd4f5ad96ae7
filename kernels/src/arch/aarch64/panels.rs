//! Panels of every format, taken apart in registers: what all sets of this architecture share.
//!
//! A vector of a panel is eight rows by four columns: two registers of 16 codes, of rows 0 to 3 and 4 to 7.
//! Codes come out as the format stores them, from 0 up; what is to be subtracted is a constant that the
//! walk takes from the sums of the activations, so that taking apart costs one instruction a register (`and`,
//! `ushr`), two where a fifth bit is put in (`shl`, `bit`), three for Q6_K, one more for a table (`tbl`).

use core::arch::aarch64::*;

/// Takes the codes of a panel, vector by vector.
pub(super) trait Sink {
    /// Vector `VECTOR` (0..8, ascending for each group) of group `GROUP` of those taken apart together.
    ///
    /// # Safety
    /// Where the sink keeps codes there is room for the group.
    unsafe fn take<const GROUP: usize, const VECTOR: usize>(&mut self, codes: [int8x16_t; 2]);
}

/// How blocks of eight rows lie in a panel. Pointers named `block` have `BYTES` readable bytes.
pub(super) trait Panel {
    /// Columns of a block.
    const COLUMNS: usize;
    /// Bytes of a block of eight rows.
    const BYTES: usize;
    /// Groups of 32 columns that share bytes and are taken apart together, at most four.
    const GROUPS: usize;
    /// What is subtracted from every code.
    const OFFSET: i32 = 0;
    /// The largest code in size, before the offset is subtracted and after.
    const CODE_MAX: i32;
    /// Whether both halves of a group have an integer scale.
    const PARTS: bool = false;
    /// Whether a group has a minimum.
    const MINIMUM: bool = false;
    /// Whether blocks come from memory, read once, and not from a buffer in the cache.
    const STREAMED: bool = true;

    /// The codes of the groups `GROUPS * unit ..`.
    ///
    /// # Safety
    /// `block` is readable and has the unit; the sink's contract.
    unsafe fn take_apart<S: Sink>(block: *const u8, unit: usize, sink: &mut S);

    /// What the sums of a group are multiplied by.
    ///
    /// # Safety
    /// `block` is readable and has the group.
    unsafe fn factors(block: *const u8, group: usize) -> Factors;
}

/// What belongs to eight rows: two registers of four rows and nothing more; or, where two tokens are
/// multiplied together, four registers of two rows, each row twice.
pub(super) type Rows<R> = [R; 4];

/// What the sums of eight rows of a group are multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub scale: Rows<float32x4_t>,
    /// Of the activations' totals; for formats that have minimums.
    pub minimum: Rows<float32x4_t>,
    /// Integer scales of both halves, for formats that have them.
    pub parts: [Rows<int32x4_t>; 2],
}

impl Factors {
    #[inline]
    #[target_feature(enable = "neon")]
    fn of_scale([low, high]: [float32x4_t; 2]) -> Factors {
        let (none, no_part) = (vdupq_n_f32(0.0), vdupq_n_s32(0));
        Factors { scale: [low, high, none, none], minimum: [none; 4], parts: [[no_part; 4]; 2] }
    }
}

pub(super) struct Q4_0;
pub(super) struct Q5_0;
pub(super) struct Q8_0;
pub(super) struct Iq4Nl;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

/// The values of the non-linear 4-bit format.
const NONLINEAR: [i8; 16] = crate::unpack::NONLINEAR;

/// The statement for each number, which is a constant in it.
macro_rules! for_each {
    ($name:ident in [$($number:literal),*] $body:block) => {
        $({
            const $name: usize = $number;
            $body
        })*
    };
}

/// Both registers of the vector at `at`.
///
/// # Safety
/// 32 bytes are readable at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(at: *const u8) -> [uint8x16_t; 2] {
    // SAFETY: readable by the contract; the loads ask for no alignment.
    unsafe { [vld1q_u8(at), vld1q_u8(at.add(16))] }
}

#[inline]
#[target_feature(enable = "neon")]
fn low_nibbles(bytes: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
    bytes.map(|bytes| vandq_u8(bytes, vdupq_n_u8(15)))
}

#[inline]
#[target_feature(enable = "neon")]
fn high_nibbles(bytes: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
    bytes.map(|bytes| vshrq_n_u8::<4>(bytes))
}

#[inline]
#[target_feature(enable = "neon")]
fn signed(bytes: [uint8x16_t; 2]) -> [int8x16_t; 2] {
    bytes.map(|bytes| vreinterpretq_s8_u8(bytes))
}

/// Puts the bits of `from` that `MASK` names, after `from` is moved up by `UP` (down where that is negative),
/// into `codes`.
#[inline]
#[target_feature(enable = "neon")]
fn insert<const UP: i32, const MASK: u8>(codes: [uint8x16_t; 2], from: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
    core::array::from_fn(|i| {
        let from = match UP {
            4 => vshlq_n_u8::<4>(from[i]),
            3 => vshlq_n_u8::<3>(from[i]),
            2 => vshlq_n_u8::<2>(from[i]),
            1 => vshlq_n_u8::<1>(from[i]),
            0 => from[i],
            -1 => vshrq_n_u8::<1>(from[i]),
            -2 => vshrq_n_u8::<2>(from[i]),
            -3 => vshrq_n_u8::<3>(from[i]),
            _ => unreachable!("no format moves its bits further"),
        };
        vbslq_u8(vdupq_n_u8(MASK), from, codes[i])
    })
}

/// Codes through the table of unequal steps.
#[inline]
#[target_feature(enable = "neon")]
fn nonlinear(codes: [uint8x16_t; 2]) -> [int8x16_t; 2] {
    // SAFETY: sixteen bytes.
    let table = unsafe { vld1q_s8(NONLINEAR.as_ptr()) };
    codes.map(|codes| vqtbl1q_s8(table, codes))
}

/// The eight halves at `at` as f32.
///
/// # Safety
/// 16 bytes are readable at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves(at: *const u8) -> [float32x4_t; 2] {
    // SAFETY: readable by the contract; the load asks for no alignment.
    super::widen_halves(unsafe { vreinterpretq_u16_u8(vld1q_u8(at)) })
}

/// Eight unsigned bytes as f32, times `factor`.
///
/// # Safety
/// 8 bytes are readable at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn bytes_times(at: *const u8, factor: [float32x4_t; 2]) -> [float32x4_t; 2] {
    // SAFETY: readable by the contract; the load asks for no alignment.
    let words = vmovl_u8(unsafe { vld1_u8(at) });
    let low = vcvtq_f32_u32(vmovl_u16(vget_low_u16(words)));
    [vmulq_f32(factor[0], low), vmulq_f32(factor[1], vcvtq_f32_u32(vmovl_high_u16(words)))]
}

impl Panel for Q4_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 4 * 32;
    const GROUPS: usize = 1;
    const OFFSET: i32 = 8;
    const CODE_MAX: i32 = 15;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take_apart<S: Sink>(block: *const u8, _unit: usize, sink: &mut S) {
        // SAFETY: offsets stay below BYTES.
        unsafe {
            for_each!(V in [0, 1, 2, 3] {
                sink.take::<0, V>(signed(low_nibbles(load(block.add(16 + 32 * V)))));
            });
            for_each!(V in [0, 1, 2, 3] {
                sink.take::<0, { 4 + V }>(signed(high_nibbles(load(block.add(16 + 32 * V)))));
            });
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factors(block: *const u8, _group: usize) -> Factors {
        // SAFETY: below BYTES.
        Factors::of_scale(unsafe { halves(block) })
    }
}

impl Panel for Iq4Nl {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 4 * 32;
    const GROUPS: usize = 1;
    const CODE_MAX: i32 = 127;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take_apart<S: Sink>(block: *const u8, _unit: usize, sink: &mut S) {
        // SAFETY: offsets stay below BYTES.
        unsafe {
            for_each!(V in [0, 1, 2, 3] {
                sink.take::<0, V>(nonlinear(low_nibbles(load(block.add(16 + 32 * V)))));
            });
            for_each!(V in [0, 1, 2, 3] {
                sink.take::<0, { 4 + V }>(nonlinear(high_nibbles(load(block.add(16 + 32 * V)))));
            });
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factors(block: *const u8, _group: usize) -> Factors {
        // SAFETY: below BYTES.
        Factors::of_scale(unsafe { halves(block) })
    }
}

impl Panel for Q5_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 32 + 4 * 32;
    const GROUPS: usize = 1;
    const OFFSET: i32 = 16;
    const CODE_MAX: i32 = 31;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take_apart<S: Sink>(block: *const u8, _unit: usize, sink: &mut S) {
        // SAFETY: offsets stay below BYTES.
        unsafe {
            let fifth = load(block.add(16));
            for_each!(V in [0, 1, 2, 3] {
                let low = low_nibbles(load(block.add(48 + 32 * V)));
                sink.take::<0, V>(signed(insert::<{ 4 - V as i32 }, 16>(low, fifth)));
            });
            for_each!(V in [0, 1, 2, 3] {
                let high = high_nibbles(load(block.add(48 + 32 * V)));
                sink.take::<0, { 4 + V }>(signed(insert::<{ -(V as i32) }, 16>(high, fifth)));
            });
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factors(block: *const u8, _group: usize) -> Factors {
        // SAFETY: below BYTES.
        Factors::of_scale(unsafe { halves(block) })
    }
}

impl Panel for Q8_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 16 + 8 * 32;
    const GROUPS: usize = 1;
    const CODE_MAX: i32 = 128;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take_apart<S: Sink>(block: *const u8, _unit: usize, sink: &mut S) {
        // SAFETY: offsets stay below BYTES.
        unsafe {
            for_each!(V in [0, 1, 2, 3, 4, 5, 6, 7] {
                sink.take::<0, V>(signed(load(block.add(16 + 32 * V))));
            });
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factors(block: *const u8, _group: usize) -> Factors {
        // SAFETY: below BYTES.
        Factors::of_scale(unsafe { halves(block) })
    }
}

impl Panel for Q4K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 160 + 4 * 8 * 32;
    const GROUPS: usize = 2;
    const CODE_MAX: i32 = 15;
    const MINIMUM: bool = true;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take_apart<S: Sink>(block: *const u8, unit: usize, sink: &mut S) {
        // SAFETY: offsets stay below BYTES.
        unsafe {
            let at = block.add(160 + 256 * unit);
            for_each!(V in [0, 1, 2, 3, 4, 5, 6, 7] {
                let both = load(at.add(32 * V));
                sink.take::<0, V>(signed(low_nibbles(both)));
                sink.take::<1, V>(signed(high_nibbles(both)));
            });
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factors(block: *const u8, group: usize) -> Factors {
        // SAFETY: below BYTES.
        let (scale, [low, high]) = unsafe {
            (
                bytes_times(block.add(32 + 8 * group), halves(block)),
                bytes_times(block.add(96 + 8 * group), halves(block.add(16))),
            )
        };
        let none = vdupq_n_f32(0.0);
        Factors { minimum: [low, high, none, none], ..Factors::of_scale(scale) }
    }
}

impl Panel for Q5K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 160 + 4 * (2 + 8) * 32;
    const GROUPS: usize = 2;
    const CODE_MAX: i32 = 31;
    const MINIMUM: bool = true;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take_apart<S: Sink>(block: *const u8, unit: usize, sink: &mut S) {
        // SAFETY: offsets stay below BYTES.
        unsafe {
            let at = block.add(160 + 320 * unit);
            let (even, odd) = (load(at), load(at.add(32)));
            for_each!(V in [0, 1, 2, 3, 4, 5, 6, 7] {
                let both = load(at.add(64 + 32 * V));
                sink.take::<0, V>(signed(insert::<{ 4 - V as i32 }, 16>(low_nibbles(both), even)));
                sink.take::<1, V>(signed(insert::<{ 4 - V as i32 }, 16>(high_nibbles(both), odd)));
            });
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factors(block: *const u8, group: usize) -> Factors {
        // SAFETY: scales and minimums lie as in Q4_K.
        unsafe { Q4K::factors(block, group) }
    }
}

impl Panel for Q6K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 16 + 128 + 2 * (8 + 16) * 32;
    const GROUPS: usize = 4;
    const OFFSET: i32 = 32;
    const CODE_MAX: i32 = 63;
    const PARTS: bool = true;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn take_apart<S: Sink>(block: *const u8, unit: usize, sink: &mut S) {
        // SAFETY: offsets stay below BYTES.
        unsafe {
            let upper = block.add(144 + 768 * unit);
            let lower = upper.add(256);
            // Two groups at a time, so that sums of four need not be held at once.
            for_each!(V in [0, 1, 2, 3, 4, 5, 6, 7] {
                let (both, upper) = (load(lower.add(32 * V)), load(upper.add(32 * V)));
                sink.take::<0, V>(signed(insert::<4, 48>(low_nibbles(both), upper)));
                sink.take::<2, V>(signed(insert::<0, 48>(high_nibbles(both), upper)));
            });
            for_each!(V in [0, 1, 2, 3, 4, 5, 6, 7] {
                let (both, upper) = (load(lower.add(256 + 32 * V)), load(upper.add(32 * V)));
                sink.take::<1, V>(signed(insert::<2, 48>(low_nibbles(both), upper)));
                sink.take::<3, V>(signed(insert::<-2, 48>(high_nibbles(both), upper)));
            });
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factors(block: *const u8, group: usize) -> Factors {
        // SAFETY: below BYTES.
        let (scale, both) = unsafe { (halves(block), vld1q_s8(block.add(16 + 16 * group).cast())) };
        let none = vdupq_n_s32(0);
        let parts = [vmovl_s8(vget_low_s8(both)), vmovl_high_s8(both)]
            .map(|half| [vmovl_s16(vget_low_s16(half)), vmovl_high_s16(half), none, none]);
        Factors { parts, ..Factors::of_scale(scale) }
    }
}
