//! RISC-V with the vector extension 1.0 of any register length from 128 bits up.
//!
//! For SpacemiT's K1 and M1 (X60 cores, 256 bits), Sophgo's SG2044 (C920, 128 bits), Kendryte's K230 (C908, 128
//! bits) and what follows the profiles RVA22 with V and RVA23. Only V itself is asked for: halves are converted
//! with integer arithmetic, so that Zvfh is not needed. Every function is unsafe to call on a core without V;
//! `runs_here` says whether it is there. All give the bits of the portable set.
//!
//! Rust has no vector types for RISC-V yet, so every inner loop is a block of inline assembly that names its
//! registers. Loads of vectors are loads of bytes wherever bytes come from a file, because cores may refuse
//! wider elements at odd addresses.
//!
//! Figures in the heads of the files are instructions executed, counted under qemu 10 with registers of 256 bits;
//! the tests run at 128, 256, 512 and 1024 bits. NO REAL CHIP HAS RUN THIS YET: time may tell another story.

/// Inline assembly with the vector extension switched on and all vector registers given up.
macro_rules! vector_asm {
    ([$($template:tt)*], $($operands:tt)*) => {
        core::arch::asm!(
            ".option push",
            ".option arch, +v",
            $($template)*
            ".option pop",
            $($operands)*
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _,
            out("v7") _, out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _,
            out("v14") _, out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _,
            out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _,
            out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nostack),
        )
    };
}

mod attention;
mod elementwise;
mod floats;
mod quantised;
mod rows;

pub(crate) use attention::{attend, store_head};
pub(crate) use elementwise::{add, geglu, quantize_tile, rms_norm, rope_rotate, scale, softmax, swiglu};
pub(crate) use floats::multiply_floats;
pub(crate) use quantised::multiply_panels;
pub(crate) use rows::multiply_rows;

/// Whether this core has V; without `std` whether the build takes it for granted.
pub(crate) fn runs_here() -> bool {
    #[cfg(all(feature = "std", target_os = "linux"))]
    {
        unsafe extern "C" {
            safe fn getauxval(kind: core::ffi::c_ulong) -> core::ffi::c_ulong;
        }
        /// The entry of the auxiliary vector that holds one bit for each single-letter extension.
        const AT_HWCAP: core::ffi::c_ulong = 16;
        return getauxval(AT_HWCAP) >> (b'V' - b'A') & 1 == 1;
    }
    #[cfg(not(all(feature = "std", target_os = "linux")))]
    return cfg!(target_feature = "v");
}

/// Bytes in a vector register, at least 16.
///
/// # Safety
/// The core has V.
#[inline]
unsafe fn register_bytes() -> usize {
    let bytes;
    // SAFETY: reads a register of the vector extension.
    unsafe {
        core::arch::asm!(
            ".option push", ".option arch, +v", "csrr {bytes}, vlenb", ".option pop",
            bytes = out(reg) bytes, options(nomem, nostack, preserves_flags, pure),
        );
    }
    bytes
}
