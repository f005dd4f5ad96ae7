//! x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
//!
//! For Intel's servers since Cascade Lake (2019), its Ice to Rocket Lake cores, and AMD's since Zen 4 (2022).
//! Older chips with AVX-512 but no VNNI are left to `avx2`.

use super::dots::{Evex256, Evex512};
use super::{avx2, panels};
use crate::arch::Codes;
use crate::{Format, PANELS_TOGETHER};

pub(crate) use super::avx2::{
    add, attend, geglu, multiply_floats, multiply_rows, quantize_tile, rms_norm, rope_rotate, scale, softmax,
    store_head, swiglu,
};

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
        if out.len() == PANELS_TOGETHER * x.tokens {
            panels::multiply::<Evex512>(format, panels, x, out);
        } else {
            panels::multiply::<Evex256>(format, panels, x, out);
        }
    }
}
