//! x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
//!
//! For Intel's servers since Cascade Lake (2019), its Ice to Rocket Lake cores, and AMD's since Zen 4 (2022).
//! Older chips with AVX-512 but no VNNI are left to `avx2`.

use super::dots::{Evex256, Evex512, Evex512Twice};
use super::floats::Zmm;
use super::{avx2, tiles};
use crate::Format;
use crate::arch::{Codes, Floats};

pub(crate) use super::avx2::{
    add, attend, geglu, multiply_rows, quantize_tile, rms_norm, rope_rotate, scale, softmax, store_head,
    swiglu,
};

/// Panels at once: two registers of two panels.
pub(crate) const PANELS_TOGETHER: usize = 4;

/// Whether this CPU has the features; without `std` whether the build takes them for granted.
pub(crate) fn runs_here() -> bool {
    #[cfg(feature = "std")]
    return avx2::runs_here()
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512vnni");
    #[cfg(not(feature = "std"))]
    return avx2::runs_here() && cfg!(all(target_feature = "avx512vl", target_feature = "avx512vnni"));
}

/// Panels times every token; `out` is `[panel][token][row]`. Panics when lengths do not belong together.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ, VL and VNNI.
pub(crate) unsafe fn multiply_panels(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]) {
    // SAFETY: the same contract.
    unsafe {
        match out.len() / x.tokens.max(1) {
            PANELS_TOGETHER => tiles::multiply::<Evex512Twice>(format, panels, x, out),
            2 => tiles::multiply::<Evex512>(format, panels, x, out),
            _ => tiles::multiply::<Evex256>(format, panels, x, out),
        }
    }
}

/// Up to eight rows of a float format times every token; `out[token][row]`. Panics when lengths do not belong
/// together.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ, VL and VNNI.
pub(crate) unsafe fn multiply_floats(
    format: Format,
    rows: &[u8],
    count: usize,
    x: &Floats<'_>,
    out: &mut [[f32; 8]],
) {
    // SAFETY: the same contract.
    unsafe { avx2::multiply::<Zmm>(format, rows, count, x, out) };
}
