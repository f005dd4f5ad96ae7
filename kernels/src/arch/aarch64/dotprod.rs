//! AArch64 with the dot product extension: Cortex-A76 (Raspberry Pi 5), A78 (Jetson Orin), A55 and A75.
//!
//! One `sdot` by element is four columns of four rows times one token: no broadcast, no sum across lanes.
//! Instructions for 32 weights and one token, counted in an emulator at 1024 columns, one token / 64 tokens:
//! Q4_0 7.8 / 3.8, Q8_0 5.7 / 3.8, Q4_K 10.2 / 4.1. The loops of ggml 0.26's packed kernels for this
//! extension have 8.25 / 4.0, 6.25 / 3.9 and 9.1 / 5.8 (counted in their assembly and in what clang 22 makes
//! of their C). Behind it: Q4_K with one token. It loses to `i8mm` on many tokens. Time on boards has not
//! been measured.

use core::arch::aarch64::*;
use core::arch::asm;

use super::panels::{Panel, Rows};
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
    return std::arch::is_aarch64_feature_detected!("dotprod");
    #[cfg(not(feature = "std"))]
    return cfg!(target_feature = "dotprod");
}

/// `sdot`: sixteen products an instruction, four to a sum. The intrinsic is unstable, hence assembly, which
/// names the extension itself, because what is compiled around it can't.
pub(super) struct Sdot;

/// `acc[i] += sum of codes[4 i + j] * x[4 LANE + j]`. With `IN_ORDER` the compiler keeps the order of the
/// source: left alone it loads a whole group of weights first, which fits the registers only when they are
/// not taken apart there.
///
/// # Safety
/// The CPU has the extension.
#[inline(always)]
unsafe fn sdot<const LANE: usize, const IN_ORDER: bool>(
    acc: int32x4_t,
    codes: int8x16_t,
    x: int8x16_t,
) -> int32x4_t {
    let mut acc = acc;
    macro_rules! sdot {
        ($($option:ident),*) => {
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {codes:v}.16b, {x:v}.4b[{lane}]",
                acc = inlateout(vreg) acc,
                codes = in(vreg) codes,
                x = in(vreg) x,
                lane = const LANE,
                options($($option),*)
            )
        };
    }
    // SAFETY: registers alone are touched, and the CPU has the instruction by the contract.
    unsafe {
        if IN_ORDER {
            sdot!(nomem, nostack, preserves_flags);
        } else {
            sdot!(pure, nomem, nostack, preserves_flags);
        }
    }
    acc
}

impl Multiply for Sdot {
    type Sums = [int32x4_t; 2];
    const TOKENS: usize = 1;

    #[inline]
    fn start() -> [int32x4_t; 2] {
        // SAFETY: every CPU of this architecture has NEON.
        unsafe { [vdupq_n_s32(0); 2] }
    }

    #[inline]
    unsafe fn add<P: Panel, const VECTOR: usize>(
        sums: &mut [int32x4_t; 2],
        codes: [int8x16_t; 2],
        x: *const i8,
        offset: int32x4_t,
    ) {
        if VECTOR == 0 || P::PARTS && VECTOR == 4 {
            *sums = [offset; 2];
        }
        // SAFETY: the codes are readable and the CPU has the extension by the contract.
        unsafe {
            let x = vld1q_s8(x.add(16 * (VECTOR / 4)));
            macro_rules! add {
                ($lane:literal) => {
                    if P::STREAMED {
                        sums[0] = sdot::<$lane, true>(sums[0], codes[0], x);
                        sums[1] = sdot::<$lane, true>(sums[1], codes[1], x);
                    } else {
                        sums[0] = sdot::<$lane, false>(sums[0], codes[0], x);
                        sums[1] = sdot::<$lane, false>(sums[1], codes[1], x);
                    }
                };
            }
            match VECTOR % 4 {
                0 => add!(0),
                1 => add!(1),
                2 => add!(2),
                _ => add!(3),
            }
        }
    }

    #[inline]
    fn finish<P: Panel>([low, high]: [int32x4_t; 2], offset: int32x4_t) -> Rows<int32x4_t> {
        [low, high, offset, offset]
    }
}

struct Dotprod;

impl Set for Dotprod {
    type Direct = Sdot;
    type Buffered = Sdot;
    type Last = Sdot;
    const TILE_TOKENS: usize = 4;
}

/// One or two panels times every token; `out` is `[panel][token][row]`. Panics when lengths do not belong
/// together.
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn multiply_panels(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    // SAFETY: the extension is this function's own.
    unsafe { walk::multiply_panels::<Dotprod>(format, panels, x, out) }
}
