//! x86-64 with AVX-VNNI beside AVX2, FMA and F16C.
//!
//! For Intel's Alder Lake (2021) and later, their small siblings (N100) and AMD's Zen 5. One `vpdpbusd` does
//! what takes AVX2 two or three instructions; all else is the set `avx2`.
//!
//! Compiled; its 256-bit form ran on our machines with EVEX encoding, as the set `avx512` uses it for single
//! panels. Not run on such a chip.

use super::dots::Vex256;
use super::{avx2, tiles};
use crate::Format;
use crate::arch::Codes;

pub(crate) use super::avx2::{
    add, attend, geglu, multiply_floats, multiply_rows, quantize_tile, rms_norm, rope_rotate, scale, softmax,
    store_head, swiglu,
};

/// Whether this CPU has the features; without `std` whether the build takes them for granted.
pub(crate) fn runs_here() -> bool {
    #[cfg(feature = "std")]
    return avx2::runs_here() && std::is_x86_feature_detected!("avxvnni");
    #[cfg(not(feature = "std"))]
    return avx2::runs_here() && cfg!(target_feature = "avxvnni");
}

/// Panels times every token; `out` is `[panel][token][row]`. Panics when lengths do not belong together.
///
/// # Safety
/// The CPU has AVX-VNNI, AVX2, FMA and F16C.
pub(crate) unsafe fn multiply_panels(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    // SAFETY: the same contract.
    unsafe { tiles::multiply::<Vex256>(format, panels, x, out) };
}
