//! From a kernel set to its functions: one match for each operation.
//!
//! A set without a variant of its own for an operation sends it to `portable`. A build for one set (`--cfg
//! kwaainet_kernels="NAME"`) has that set in `PINNED`, so that every match below folds away and the binary
//! holds nothing else; otherwise it holds all sets of its instruction set architecture.

#[cfg(target_arch = "aarch64")]
use crate::arch::aarch64::{dotprod, i8mm, neon};
#[cfg(target_arch = "riscv64")]
use crate::arch::riscv64::{rv64, rvv};
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::{avx2, avx512, avxvnni};
use crate::arch::{Codes, CodesMut, Floats, HeadGroup, portable};
use crate::{Format, KvKind, PANEL_ROWS, RopePairing};

/// A family of kernels for one kind of chip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelSet {
    /// Any chip.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-VNNI beside that.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// RISC-V with the vector extension 1.0.
    #[cfg(target_arch = "riscv64")]
    Rvv,
    /// Any 64-bit Arm.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// 64-bit Arm with the dot product extension.
    #[cfg(target_arch = "aarch64")]
    Dotprod,
    /// 64-bit Arm with the int8 matrix extension.
    #[cfg(target_arch = "aarch64")]
    I8mm,
    /// RISC-V of 64 bits without vectors.
    #[cfg(target_arch = "riscv64")]
    Rv64,
}

/// The sets of this instruction set architecture, best first.
pub(crate) const ALL: &[KernelSet] = &[
    #[cfg(target_arch = "x86_64")]
    KernelSet::Avx512,
    #[cfg(target_arch = "x86_64")]
    KernelSet::AvxVnni,
    #[cfg(target_arch = "x86_64")]
    KernelSet::Avx2,
    #[cfg(target_arch = "riscv64")]
    KernelSet::Rvv,
    #[cfg(target_arch = "aarch64")]
    KernelSet::I8mm,
    #[cfg(target_arch = "aarch64")]
    KernelSet::Dotprod,
    #[cfg(target_arch = "aarch64")]
    KernelSet::Neon,
    #[cfg(target_arch = "riscv64")]
    KernelSet::Rv64,
    KernelSet::Portable,
];

/// The one set that this build was made for, if it was.
pub(crate) const PINNED: Option<KernelSet> = {
    const NAMED: &[KernelSet] = &[
        #[cfg(kwaainet_kernels = "portable")]
        KernelSet::Portable,
        #[cfg(all(kwaainet_kernels = "avx2", target_arch = "x86_64"))]
        KernelSet::Avx2,
        #[cfg(all(kwaainet_kernels = "avxvnni", target_arch = "x86_64"))]
        KernelSet::AvxVnni,
        #[cfg(all(kwaainet_kernels = "avx512", target_arch = "x86_64"))]
        KernelSet::Avx512,
        #[cfg(all(kwaainet_kernels = "neon", target_arch = "aarch64"))]
        KernelSet::Neon,
        #[cfg(all(kwaainet_kernels = "dotprod", target_arch = "aarch64"))]
        KernelSet::Dotprod,
        #[cfg(all(kwaainet_kernels = "i8mm", target_arch = "aarch64"))]
        KernelSet::I8mm,
        #[cfg(all(kwaainet_kernels = "rvv", target_arch = "riscv64"))]
        KernelSet::Rvv,
        #[cfg(all(kwaainet_kernels = "rv64", target_arch = "riscv64"))]
        KernelSet::Rv64,
    ];
    NAMED.first().copied()
};

/// Calls a function of the set that runs.
macro_rules! call {
    ($set:expr, $function:ident($($argument:expr),*)) => {
        match $set.effective() {
            KernelSet::Portable => portable::$function($($argument),*),
            // SAFETY: `Kernels` hands out a set only if `runs_here` said yes; a build for one set is started
            // on CPUs that have it, which `Kernels::from_environment` checks before anything is computed.
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx2 => unsafe { avx2::$function($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            KernelSet::AvxVnni => unsafe { avxvnni::$function($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx512 => unsafe { avx512::$function($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "riscv64")]
            KernelSet::Rvv => unsafe { rvv::$function($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            KernelSet::Neon => unsafe { neon::$function($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            KernelSet::Dotprod => unsafe { dotprod::$function($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            KernelSet::I8mm => unsafe { i8mm::$function($($argument),*) },
            #[cfg(target_arch = "riscv64")]
            KernelSet::Rv64 => rv64::$function($($argument),*),
        }
    };
}

/// Sums of strips: `[token][row]`.
type Sums<'a> = &'a mut [[f32; PANEL_ROWS]];

impl KernelSet {
    /// The name by which it is forced.
    pub fn name(self) -> &'static str {
        match self {
            KernelSet::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            KernelSet::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx512 => "avx512",
            #[cfg(target_arch = "riscv64")]
            KernelSet::Rvv => "rvv",
            #[cfg(target_arch = "aarch64")]
            KernelSet::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            KernelSet::Dotprod => "dotprod",
            #[cfg(target_arch = "aarch64")]
            KernelSet::I8mm => "i8mm",
            #[cfg(target_arch = "riscv64")]
            KernelSet::Rv64 => "rv64",
        }
    }

    /// Whether this CPU has the instructions.
    pub(crate) fn runs_here(self) -> bool {
        match self {
            KernelSet::Portable => true,
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx2 => avx2::runs_here(),
            #[cfg(target_arch = "x86_64")]
            KernelSet::AvxVnni => avxvnni::runs_here(),
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx512 => avx512::runs_here(),
            #[cfg(target_arch = "riscv64")]
            KernelSet::Rvv => rvv::runs_here(),
            #[cfg(target_arch = "aarch64")]
            KernelSet::Neon => neon::runs_here(),
            #[cfg(target_arch = "aarch64")]
            KernelSet::Dotprod => dotprod::runs_here(),
            #[cfg(target_arch = "aarch64")]
            KernelSet::I8mm => i8mm::runs_here(),
            #[cfg(target_arch = "riscv64")]
            KernelSet::Rv64 => true,
        }
    }

    /// Panels that the set likes to take at once, at most as many as the limit.
    pub(crate) fn panels_together(self) -> usize {
        match self.effective() {
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx512 => avx512::PANELS_TOGETHER,
            _ => 2,
        }
    }

    /// What runs: the pinned set, whatever was asked, or this one.
    #[inline(always)]
    fn effective(self) -> KernelSet {
        PINNED.unwrap_or(self)
    }

    /// One to [`KernelSet::panels_together`] panels; `out` is `[panel][token]`.
    pub(crate) fn multiply_panels(self, format: Format, panels: &[u8], x: &Codes<'_>, out: Sums<'_>) {
        call!(self, multiply_panels(format, panels, x, out))
    }

    /// Up to eight rows of a float format.
    pub(crate) fn multiply_floats(
        self,
        format: Format,
        rows: &[u8],
        count: usize,
        x: &Floats<'_>,
        out: Sums<'_>,
    ) {
        call!(self, multiply_floats(format, rows, count, x, out))
    }

    /// Up to eight rows of a quantised format in the file's order.
    pub(crate) fn multiply_rows(
        self,
        format: Format,
        rows: &[u8],
        count: usize,
        x: &Codes<'_>,
        out: Sums<'_>,
    ) {
        call!(self, multiply_rows(format, rows, count, x, out))
    }

    /// Rows of activations to the codes of one tile.
    pub(crate) fn quantize_tile(self, values: &[f32], out: CodesMut<'_>) {
        call!(self, quantize_tile(values, out))
    }

    pub(crate) fn rms_norm(self, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        call!(self, rms_norm(x, weight, epsilon, out))
    }

    pub(crate) fn rope_rotate(self, head: &mut [f32], cosines: &[f32], sines: &[f32], pairing: RopePairing) {
        call!(self, rope_rotate(head, cosines, sines, pairing))
    }

    pub(crate) fn swiglu(self, gate: &mut [f32], up: &[f32]) {
        call!(self, swiglu(gate, up))
    }

    pub(crate) fn geglu(self, gate: &mut [f32], up: &[f32]) {
        call!(self, geglu(gate, up))
    }

    pub(crate) fn add(self, x: &mut [f32], y: &[f32]) {
        call!(self, add(x, y))
    }

    pub(crate) fn scale(self, x: &mut [f32], factor: f32) {
        call!(self, scale(x, factor))
    }

    pub(crate) fn softmax(self, x: &mut [f32]) {
        call!(self, softmax(x))
    }

    pub(crate) fn attend(self, group: &HeadGroup<'_>, out: &mut [f32]) {
        call!(self, attend(group, out))
    }

    pub(crate) fn store_head(self, kind: KvKind, values: &[f32], bytes: &mut [u8]) {
        call!(self, store_head(kind, values, bytes))
    }
}
