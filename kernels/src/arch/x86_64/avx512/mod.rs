//! x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
//!
//! For Intel's servers since Cascade Lake (2019), its Ice to Rocket Lake cores, and AMD's since Zen 4 (2022).
//! Older chips with AVX-512 but no VNNI are left to `avx2`.
//!
//! Four panels fill two registers (`vpdpbusd`, 512 bits), so that a broadcast activation serves two
//! multiplications; fewer at the end of a matrix take registers of 256 bits. Rows of
//! floats meet in tiles of four by six registers. Attention and single rows are the set `avx2`.
//!
//! Against `avx2` in one run on an Ice Lake server (2.8 GHz, one thread, 512 tokens): 1.6 times for Q4_0 (267
//! to 272 Gop/s), 1.4 for Q4_K (223 to 230). One token is bound by memory in both. Loads to 512 bits come one
//! a cycle here, which bounds it to about 360 Gop/s. On chips with one 512-bit multiplier, or that lower
//! their clock for it, it may lose to `avxvnni` where that exists; that was not measured.

use super::dots::{Evex256, Evex512};
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
        if out.len() == PANELS_TOGETHER * x.tokens {
            tiles::multiply::<Evex512>(format, panels, x, out);
        } else {
            tiles::multiply::<Evex256>(format, panels, x, out);
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
