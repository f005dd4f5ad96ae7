//! AArch64 with the dot product extension: Cortex-A76 (Raspberry Pi 5), A78 (Jetson Orin), A55, A75 and later.

use core::arch::aarch64::*;
use core::arch::asm;

use super::panels::Panel;
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

/// `acc[i] += sum of codes[4 i + j] * x[4 LANE + j]`.
///
/// # Safety
/// The CPU has the extension.
#[inline(always)]
unsafe fn sdot<const LANE: usize>(acc: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: registers alone are touched, and the CPU has the instruction by the contract.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {codes:v}.16b, {x:v}.4b[{lane}]",
            acc = inlateout(vreg) acc,
            codes = in(vreg) codes,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
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
        offsets: [int32x4_t; 2],
    ) {
        if VECTOR == 0 || P::PARTS && VECTOR == 4 {
            *sums = [offsets[0]; 2];
        }
        // SAFETY: the codes are readable and the CPU has the extension by the contract.
        unsafe {
            let x = vld1q_s8(x.add(16 * (VECTOR / 4)));
            for rows in 0..2 {
                sums[rows] = match VECTOR % 4 {
                    0 => sdot::<0>(sums[rows], codes[rows], x),
                    1 => sdot::<1>(sums[rows], codes[rows], x),
                    2 => sdot::<2>(sums[rows], codes[rows], x),
                    _ => sdot::<3>(sums[rows], codes[rows], x),
                };
            }
        }
    }

    #[inline]
    fn finish<P: Panel>(sums: [int32x4_t; 2], _offsets: [int32x4_t; 2]) -> [[int32x4_t; 2]; 2] {
        [sums; 2]
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
