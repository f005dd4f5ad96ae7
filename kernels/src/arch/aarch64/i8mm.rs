//! AArch64 with the int8 matrix extension: Neoverse V1, N2 and V2, Cortex-A510, A710, X2 and later, Apple M2.
//!
//! One `smmla` is two rows by two tokens over eight columns; sums stay as it leaves them to the end of a
//! tile, and factors lie in the buffer to match. One or two tokens go the way of `dotprod`. Instructions for
//! 32 weights and one token, counted in an emulator at 1024 columns and 64 tokens: Q4_0 3.5, Q8_0 3.5, Q4_K
//! 4.1. The loops of ggml 0.26's packed kernels for this extension have 3.25, 3.4 and 5.25 (counted as in
//! `dotprod.rs`), so Q4_0 and Q8_0 are behind it. It gains nothing on single tokens. Time on boards has not
//! been measured.

use core::arch::aarch64::*;
use core::arch::asm;

use super::dotprod::Sdot;
use super::panels::{Factors, Panel, Rows};
use super::walk::{self, Multiply, Set};
use crate::Format;
use crate::arch::Codes;

pub(crate) use super::neon::{
    add, attend, geglu, multiply_floats, multiply_rows, quantize_tile, rms_norm, rope_rotate, scale, softmax,
    store_head, swiglu,
};

/// Whether this CPU has the extension; without `std` whether the build takes it for granted.
pub(crate) fn runs_here() -> bool {
    #[cfg(feature = "std")]
    return std::arch::is_aarch64_feature_detected!("dotprod")
        && std::arch::is_aarch64_feature_detected!("i8mm");
    #[cfg(not(feature = "std"))]
    return cfg!(all(target_feature = "dotprod", target_feature = "i8mm"));
}

/// `smmla`: two rows by two tokens over eight columns, 32 products an instruction.
struct Smmla;

/// `acc[2 i + j] += sum over k of codes[8 i + k] * x[8 j + k]`: two rows `i` times two tokens `j`.
///
/// # Safety
/// The CPU has the extension.
#[inline(always)]
unsafe fn smmla(acc: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: registers alone are touched, and the CPU has the instruction by the contract.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {acc:v}.4s, {codes:v}.16b, {x:v}.16b",
            acc = inlateout(vreg) acc,
            codes = in(vreg) codes,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// `acc[i] += sum of codes[4 i + j] * x[4 i + j]`.
///
/// # Safety
/// The CPU has the dot product extension.
#[inline(always)]
unsafe fn sdot(acc: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: registers alone are touched, and the CPU has the instruction by the contract.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {codes:v}.16b, {x:v}.16b",
            acc = inlateout(vreg) acc,
            codes = in(vreg) codes,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// Whether vector `VECTOR` begins a sum. Vectors lie in pairs: the even one has rows 0 to 3, the odd one 4 to
/// 7.
const fn begins<P: Panel>(vector: usize) -> bool {
    vector / 2 == 0 || P::PARTS && vector / 2 == 2
}

impl Multiply for Smmla {
    /// `[rows 2 i and 2 i + 1]`, each `[row][token]`.
    type Sums = [int32x4_t; 4];
    const TOKENS: usize = 2;

    #[inline]
    fn start() -> [int32x4_t; 4] {
        // SAFETY: every CPU of this architecture has NEON.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline]
    unsafe fn add<P: Panel, const VECTOR: usize>(
        sums: &mut [int32x4_t; 4],
        codes: [int8x16_t; 2],
        x: *const i8,
        _offset: int32x4_t,
    ) {
        const { assert!(P::OFFSET == 0, "the buffer's codes are what they stand for") };
        // SAFETY: the codes of two tokens are readable and the CPU has the extension by the contract.
        unsafe {
            let at = x.add(16 * (VECTOR / 4));
            let (first, second) = (vld1q_s8(at), vld1q_s8(at.add(32)));
            let (first, second) = (vreinterpretq_s64_s8(first), vreinterpretq_s64_s8(second));
            let x = vreinterpretq_s8_s64(match VECTOR / 2 % 2 {
                0 => vzip1q_s64(first, second),
                _ => vzip2q_s64(first, second),
            });
            for pair in 0..2 {
                let sum = &mut sums[2 * (VECTOR % 2) + pair];
                let before = if begins::<P>(VECTOR) { vdupq_n_s32(0) } else { *sum };
                *sum = smmla(before, codes[pair], x);
            }
        }
    }

    #[inline]
    fn finish<P: Panel>(sums: [int32x4_t; 4], _offset: int32x4_t) -> Rows<int32x4_t> {
        sums
    }
}

/// `sdot` for the token that is left without another, over codes that lie in pairs.
struct SdotPairs;

impl Multiply for SdotPairs {
    /// `[rows 2 i and 2 i + 1]`, each `[row][half of eight columns]`.
    type Sums = [int32x4_t; 4];
    const TOKENS: usize = 1;

    #[inline]
    fn start() -> [int32x4_t; 4] {
        Smmla::start()
    }

    #[inline]
    unsafe fn add<P: Panel, const VECTOR: usize>(
        sums: &mut [int32x4_t; 4],
        codes: [int8x16_t; 2],
        x: *const i8,
        _offset: int32x4_t,
    ) {
        const { assert!(P::OFFSET == 0, "the buffer's codes are what they stand for") };
        // SAFETY: the codes are readable and the CPU has the extension by the contract.
        unsafe {
            let x = vreinterpretq_s8_s64(vld1q_dup_s64(x.add(8 * (VECTOR / 2)).cast()));
            for pair in 0..2 {
                let sum = &mut sums[2 * (VECTOR % 2) + pair];
                let before = if begins::<P>(VECTOR) { vdupq_n_s32(0) } else { *sum };
                *sum = sdot(before, codes[pair], x);
            }
        }
    }

    #[inline]
    fn finish<P: Panel>(sums: [int32x4_t; 4], offset: int32x4_t) -> Rows<int32x4_t> {
        // SAFETY: every CPU of this architecture has NEON.
        unsafe { [vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]), offset, offset] }
    }

    #[inline]
    fn factors(factors: Factors) -> Factors {
        // SAFETY: every CPU of this architecture has NEON.
        unsafe {
            // Every row once again.
            let once = |[a, b, c, d]: Rows<float32x4_t>| [vuzp1q_f32(a, b), vuzp1q_f32(c, d), a, b];
            let once_integers = |[a, b, c, d]: Rows<int32x4_t>| [vuzp1q_s32(a, b), vuzp1q_s32(c, d), a, b];
            let [first, second] = factors.parts;
            Factors {
                scale: once(factors.scale),
                minimum: once(factors.minimum),
                parts: [once_integers(first), once_integers(second)],
            }
        }
    }
}

struct I8mm;

impl Set for I8mm {
    type Direct = Sdot;
    type Buffered = Smmla;
    type Last = SdotPairs;
    const TILE_TOKENS: usize = 4;
    const PAIRED: bool = true;
}

/// One or two panels times every token; `out` is `[panel][token][row]`. Panics when lengths do not belong
/// together.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(crate) fn multiply_panels(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    // SAFETY: the extensions are this function's own.
    unsafe { walk::multiply_panels::<I8mm>(format, panels, x, out) }
}
