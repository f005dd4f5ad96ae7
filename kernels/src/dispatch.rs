//! The choice of a kernel set, and one line for each operation and set.
//!
//! A build for a board is told its set (`--cfg kwaainet_kernels="avx2"`) and holds no other; a universal
//! build holds all sets of its architecture and looks at the CPU once. An operation that a set lacks is the
//! portable one's.

use core::fmt;

use crate::arch::{Codes, Floats, HeadGroup, portable};
use crate::attention::KvKind;
use crate::formats::Format;
use crate::limits::ROW_VALUES_ALONE_MAX;
use crate::parallel::{Parallel, for_each_row};
use crate::rope::RopeTable;

#[cfg(all(target_arch = "x86_64", not(kwaainet_kernels = "portable")))]
use crate::arch::x86_64::avx2;

/// Instructions that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelSet {
    /// Whatever the compiler's target has.
    Portable,
    /// x86-64 with AVX2, FMA and F16C: Intel since Haswell (2013), AMD since Excavator and Zen.
    Avx2,
}

impl KernelSet {
    const ALL: [KernelSet; 2] = [KernelSet::Portable, KernelSet::Avx2];

    /// Its name, as `KWAAINET_KERNELS` takes it.
    pub fn name(self) -> &'static str {
        match self {
            KernelSet::Portable => "portable",
            KernelSet::Avx2 => "avx2",
        }
    }

    /// Whether this build holds the set.
    fn is_built(self) -> bool {
        match self {
            KernelSet::Portable => cfg!(not(kwaainet_kernels = "avx2")),
            KernelSet::Avx2 => cfg!(all(target_arch = "x86_64", not(kwaainet_kernels = "portable"))),
        }
    }

    /// Whether this CPU has the instructions.
    fn runs_here(self) -> bool {
        match self {
            KernelSet::Portable => true,
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            KernelSet::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(all(target_arch = "x86_64", feature = "std")))]
            KernelSet::Avx2 => {
                cfg!(all(target_feature = "avx2", target_feature = "fma", target_feature = "f16c"))
            }
        }
    }
}

/// A kernel set that this CPU can run: whoever holds one may call every operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    set: KernelSet,
}

/// Why a kernel set can't be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnavailableError {
    wanted: alloc::string::String,
}

impl fmt::Display for UnavailableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel set \"{}\" can't be used here; this machine and this build have:", self.wanted)?;
        for kernels in Kernels::available() {
            write!(f, " {}", kernels.name())?;
        }
        Ok(())
    }
}

impl core::error::Error for UnavailableError {}

impl Kernels {
    /// The set that every chip runs.
    pub const PORTABLE: Kernels = Kernels { set: KernelSet::Portable };

    /// All sets of this build that this CPU can run, the best last.
    pub fn available() -> impl DoubleEndedIterator<Item = Kernels> {
        KernelSet::ALL.into_iter().filter(|set| set.is_built() && set.runs_here()).map(|set| Kernels { set })
    }

    /// The best of them.
    ///
    /// # Errors
    /// When the build holds one set only and this CPU can't run it.
    pub fn detect() -> Result<Kernels, UnavailableError> {
        let built = KernelSet::ALL.into_iter().rfind(|set| set.is_built()).map_or("none", KernelSet::name);
        Kernels::available().next_back().ok_or_else(|| UnavailableError { wanted: built.into() })
    }

    /// The set of that name.
    ///
    /// # Errors
    /// When there is none, or the CPU or the build lacks it; the sentence lists what there is.
    pub fn named(name: &str) -> Result<Kernels, UnavailableError> {
        Kernels::available()
            .find(|kernels| kernels.name() == name)
            .ok_or_else(|| UnavailableError { wanted: name.into() })
    }

    /// The set that the variable `KWAAINET_KERNELS` names, else the best.
    ///
    /// # Errors
    /// As [`Kernels::named`].
    #[cfg(feature = "std")]
    pub fn from_environment() -> Result<Kernels, UnavailableError> {
        match std::env::var("KWAAINET_KERNELS") {
            Ok(name) if !name.is_empty() => Kernels::named(&name),
            _ => Kernels::detect(),
        }
    }

    /// The set's name.
    pub fn name(self) -> &'static str {
        self.set.name()
    }

    /// Norms every row of `x`, `[rows][weight.len()]`, into `out`.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn rms_norm_rows(
        self,
        pool: &dyn Parallel,
        x: &[f32],
        weight: &[f32],
        epsilon: f32,
        out: &mut [f32],
    ) {
        assert_eq!(x.len(), out.len(), "rows of another shape");
        let width = weight.len();
        let norm =
            |row: usize, out: &mut [f32]| self.rms_norm(&x[row * width..][..width], weight, epsilon, out);
        self.rows(pool, out, width, &norm);
    }

    /// gate = silu(gate) * up for every row of `width` values.
    pub fn swiglu_rows(self, pool: &dyn Parallel, gate: &mut [f32], up: &[f32], width: usize) {
        assert_eq!(gate.len(), up.len(), "rows of another shape");
        self.rows(pool, gate, width, &|row, gate| self.swiglu(gate, &up[row * width..][..width]));
    }

    /// gate = gelu(gate) * up, in GELU's tanh form, for every row of `width` values.
    pub fn geglu_rows(self, pool: &dyn Parallel, gate: &mut [f32], up: &[f32], width: usize) {
        assert_eq!(gate.len(), up.len(), "rows of another shape");
        self.rows(pool, gate, width, &|row, gate| self.geglu(gate, &up[row * width..][..width]));
    }

    fn rows(
        self,
        pool: &dyn Parallel,
        rows: &mut [f32],
        width: usize,
        task: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        if rows.len() <= ROW_VALUES_ALONE_MAX {
            rows.chunks_exact_mut(width).enumerate().for_each(|(index, row)| task(index, row));
        } else {
            for_each_row(pool, rows, width, task);
        }
    }

    /// Rotates every head of `heads` by the angles of a position, in place; values beyond the rotary width
    /// stay.
    ///
    /// # Panics
    /// If the table has no such position, or heads are narrower than its pairs.
    pub fn rope(self, heads: &mut [f32], head_width: usize, table: &RopeTable, position: usize) {
        assert!(
            2 * table.pairs <= head_width && position < table.context_tokens(),
            "a position beyond the table"
        );
        let (cosines, sines) = table.at(position);
        for head in heads.chunks_exact_mut(head_width) {
            portable::rope_rotate(&mut head[..2 * table.pairs], cosines, sines, table.pairing);
        }
    }

    pub(crate) fn store_head(self, kind: KvKind, values: &[f32], bytes: &mut [u8]) {
        portable::store_head(kind, values, bytes);
    }
}

/// One method for each operation: the AVX2 function where that set has one, else the portable one.
macro_rules! operations {
    ($($(#[$doc:meta])* $visibility:vis $name:ident($($argument:ident: $type:ty),*): $avx2:path;)*) => {
        impl Kernels {
            $($(#[$doc])*
            $visibility fn $name(self, $($argument: $type),*) {
                match self.set {
                    #[cfg(not(kwaainet_kernels = "avx2"))]
                    KernelSet::Portable => portable::$name($($argument),*),
                    #[cfg(all(target_arch = "x86_64", not(kwaainet_kernels = "portable")))]
                    // SAFETY: a `Kernels` of this set exists only where the CPU has its instructions.
                    #[allow(unused_unsafe, reason = "some are the portable functions")]
                    KernelSet::Avx2 => unsafe { $avx2($($argument),*) },
                    #[allow(unreachable_patterns, reason = "other builds hold other sets")]
                    _ => portable::$name($($argument),*),
                }
            })*
        }
    };
}

#[cfg(not(all(target_arch = "x86_64", not(kwaainet_kernels = "portable"))))]
use portable as avx2;

operations! {
    /// out = x / sqrt(mean of squares + epsilon) * weight, one row.
    pub rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]): avx2::rms_norm;
    /// gate = silu(gate) * up.
    pub swiglu(gate: &mut [f32], up: &[f32]): avx2::swiglu;
    /// gate = gelu(gate) * up, in GELU's tanh form.
    pub geglu(gate: &mut [f32], up: &[f32]): avx2::geglu;
    /// x += y.
    pub add(x: &mut [f32], y: &[f32]): portable::add;
    /// x *= factor.
    pub scale(x: &mut [f32], factor: f32): portable::scale;
    /// x = e^x / sum of e^x.
    pub softmax(x: &mut [f32]): portable::softmax;
    pub(crate) quantize_row(
        values: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]
    ): avx2::quantize_row;
    pub(crate) attend(group: &HeadGroup<'_>, out: &mut [f32]): avx2::attend;
    pub(crate) strip_q4_0(panel: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]): avx2::strip_q4_0;
    pub(crate) strip_q8_0(panel: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]): avx2::strip_q8_0;
    pub(crate) strip_q4_k(panel: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]): avx2::strip_q4_k;
    pub(crate) strip_q6_k(panel: &[u8], x: &Codes<'_>, out: &mut [[f32; 8]]): avx2::strip_q6_k;
    pub(crate) strip_f32(rows: &[u8], count: usize, x: &Floats<'_>, out: &mut [[f32; 8]]): avx2::strip_f32;
    pub(crate) strip_f16(rows: &[u8], count: usize, x: &Floats<'_>, out: &mut [[f32; 8]]): avx2::strip_f16;
    pub(crate) strip_bf16(rows: &[u8], count: usize, x: &Floats<'_>, out: &mut [[f32; 8]]): avx2::strip_bf16;
    pub(crate) strip_rows(
        format: Format, rows: &[u8], count: usize, x: &Codes<'_>, out: &mut [[f32; 8]]
    ): portable::strip_rows;
}
