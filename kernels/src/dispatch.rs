//! From a kernel set to its functions: one match for each operation.
//!
//! A set without a variant of its own for an operation sends it to `portable`. A build for one set (`--cfg
//! kwaainet_kernels="NAME"`) has that set in `PINNED`, so that every match below folds away and the binary
//! holds nothing else; otherwise it holds all sets of its instruction set architecture.

#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::avx2;
use crate::arch::{Codes, Floats, HeadGroup, portable};
use crate::{Format, KvKind, PANEL_ROWS, RopePairing};

/// A family of kernels for one kind of chip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelSet {
    /// Any chip.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

/// The sets of this instruction set architecture, best first.
pub(crate) const ALL: &[KernelSet] = &[
    #[cfg(target_arch = "x86_64")]
    KernelSet::Avx2,
    KernelSet::Portable,
];

/// The one set that this build was made for, if it was.
pub(crate) const PINNED: Option<KernelSet> = {
    #[cfg(all(kwaainet_kernels = "avx2", target_arch = "x86_64"))]
    const AVX2: Option<KernelSet> = Some(KernelSet::Avx2);
    #[cfg(not(all(kwaainet_kernels = "avx2", target_arch = "x86_64")))]
    const AVX2: Option<KernelSet> = None;
    if cfg!(kwaainet_kernels = "portable") { Some(KernelSet::Portable) } else { AVX2 }
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
        }
    };
}

/// Sums of a strip: `[token][row]`.
type Sums<'a> = &'a mut [[f32; PANEL_ROWS]];

impl KernelSet {
    /// The name by which it is forced.
    pub fn name(self) -> &'static str {
        match self {
            KernelSet::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx2 => "avx2",
        }
    }

    /// Whether this CPU has the instructions.
    pub(crate) fn runs_here(self) -> bool {
        match self {
            KernelSet::Portable => true,
            #[cfg(target_arch = "x86_64")]
            KernelSet::Avx2 => avx2::runs_here(),
        }
    }

    /// What runs: the pinned set, whatever was asked, or this one.
    #[inline(always)]
    fn effective(self) -> KernelSet {
        PINNED.unwrap_or(self)
    }

    /// A panel of a format that has panels.
    pub(crate) fn strip_panel(self, format: Format, panel: &[u8], x: &Codes<'_>, out: Sums<'_>) {
        match format {
            Format::Q4_0 => self.strip_q4_0(panel, x, out),
            Format::Q8_0 => self.strip_q8_0(panel, x, out),
            Format::Q4K => self.strip_q4_k(panel, x, out),
            Format::Q6K => self.strip_q6_k(panel, x, out),
            _ => unreachable!("{} has no panels", format.name()),
        }
    }

    /// Rows of a float format.
    pub(crate) fn strip_floats(
        self,
        format: Format,
        rows: &[u8],
        count: usize,
        x: &Floats<'_>,
        out: Sums<'_>,
    ) {
        match format {
            Format::F32 => self.strip_f32(rows, count, x, out),
            Format::F16 => self.strip_f16(rows, count, x, out),
            Format::BF16 => self.strip_bf16(rows, count, x, out),
            _ => unreachable!("{} is no float format", format.name()),
        }
    }

    fn strip_q4_0(self, panel: &[u8], x: &Codes<'_>, out: Sums<'_>) {
        call!(self, strip_q4_0(panel, x, out))
    }

    fn strip_q8_0(self, panel: &[u8], x: &Codes<'_>, out: Sums<'_>) {
        call!(self, strip_q8_0(panel, x, out))
    }

    fn strip_q4_k(self, panel: &[u8], x: &Codes<'_>, out: Sums<'_>) {
        call!(self, strip_q4_k(panel, x, out))
    }

    fn strip_q6_k(self, panel: &[u8], x: &Codes<'_>, out: Sums<'_>) {
        call!(self, strip_q6_k(panel, x, out))
    }

    fn strip_f32(self, rows: &[u8], count: usize, x: &Floats<'_>, out: Sums<'_>) {
        call!(self, strip_f32(rows, count, x, out))
    }

    fn strip_f16(self, rows: &[u8], count: usize, x: &Floats<'_>, out: Sums<'_>) {
        call!(self, strip_f16(rows, count, x, out))
    }

    fn strip_bf16(self, rows: &[u8], count: usize, x: &Floats<'_>, out: Sums<'_>) {
        call!(self, strip_bf16(rows, count, x, out))
    }

    pub(crate) fn strip_rows(self, format: Format, rows: &[u8], count: usize, x: &Codes<'_>, out: Sums<'_>) {
        call!(self, strip_rows(format, rows, count, x, out))
    }

    pub(crate) fn quantize_row(self, values: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
        call!(self, quantize_row(values, codes, scales, sums))
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
