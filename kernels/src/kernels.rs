//! The face: every operation with its shapes checked, on the kernel set that was chosen.

use alloc::string::{String, ToString};
use core::fmt;

use crate::arch::CodesMut;
use crate::attention::{AttentionJob, KvShape};
use crate::disjoint::Disjoint;
use crate::dispatch::{ALL, KernelSet, PINNED};
use crate::limits::QUANTIZE_VALUES_ALONE_MAX;
use crate::matmul::{self, Product};
use crate::parallel::for_each_row;
use crate::rope::RopeTable;
use crate::{Activations, INTERLEAVED_TOKENS, KV_PAGE_TOKENS, Parallel, QUANT_BLOCK, attention};

/// The arithmetic of a block on one kernel set; chosen once at start, then copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernels {
    set: KernelSet,
}

/// The wanted kernel set does not run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnavailableError {
    wanted: String,
}

impl fmt::Display for UnavailableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = &self.wanted;
        if ALL.iter().any(|set| set.name() == wanted && !set.runs_here()) {
            write!(f, "the kernels \"{wanted}\" need instructions that this CPU lacks; available here:")?;
        } else {
            write!(f, "this build has no kernels named \"{wanted}\"; available here:")?;
        }
        let mut names = Kernels::available().map(Kernels::name).peekable();
        if names.peek().is_none() {
            return f.write_str(" none, so another build is needed");
        }
        names.try_for_each(|name| write!(f, " {name}"))
    }
}

impl core::error::Error for UnavailableError {}

impl Kernels {
    /// The kernels that run anywhere. (A build for one set runs that set instead; the bits are the same.)
    pub const PORTABLE: Kernels = Kernels { set: KernelSet::Portable };

    /// The best set that this CPU can run, or the one that this build was made for.
    ///
    /// # Panics
    /// If the build was made for a set that this CPU lacks; [`Kernels::from_environment`] gives that as an
    /// error.
    pub fn detect() -> Kernels {
        let best = Kernels::available().next();
        best.expect("this build was made for a CPU with instructions that this one lacks")
    }

    /// The set of that name: `portable`, `avx2`, `avxvnni`, `avx512`.
    pub fn named(name: &str) -> Result<Kernels, UnavailableError> {
        let found = Kernels::available().find(|kernels| kernels.name() == name);
        found.ok_or_else(|| UnavailableError { wanted: name.to_string() })
    }

    /// What the variable `KWAAINET_KERNELS` names, or the best when it is unset or empty.
    #[cfg(feature = "std")]
    pub fn from_environment() -> Result<Kernels, UnavailableError> {
        match std::env::var_os("KWAAINET_KERNELS") {
            Some(name) if !name.is_empty() => Kernels::named(&name.to_string_lossy()),
            _ => match (Kernels::available().next(), PINNED) {
                (None, Some(pinned)) => Err(UnavailableError { wanted: pinned.name().to_string() }),
                _ => Ok(Kernels::detect()),
            },
        }
    }

    /// Every set of this build that this CPU can run, best first.
    pub fn available() -> impl Iterator<Item = Kernels> {
        let built = ALL.iter().copied().filter(|set| PINNED.is_none_or(|pinned| pinned == *set));
        built.filter(|set| set.runs_here()).map(|set| Kernels { set })
    }

    /// The names of this build's sets that this CPU can not run.
    pub fn missing() -> impl Iterator<Item = &'static str> {
        ALL.iter().filter(|set| !set.runs_here()).map(|set| set.name())
    }

    /// The set's name.
    pub fn name(self) -> &'static str {
        self.set.name()
    }

    /// Makes the codes of `x` from its values; see [`Activations`].
    pub fn quantize(self, pool: &dyn Parallel, x: &mut Activations) {
        let (tokens, columns) = (x.tokens(), x.columns());
        let padded = columns.next_multiple_of(QUANT_BLOCK);
        let (values, out) = x.quantize_parts();
        let (codes, scales) = (Disjoint::new(out.codes), Disjoint::new(out.scales));
        let (sums, totals) = (Disjoint::new(out.sums), Disjoint::new(out.totals));
        let tile = |tile: usize| {
            let first = tile * INTERLEAVED_TOKENS;
            let end = tokens.min(first + INTERLEAVED_TOKENS);
            let (start, blocks) = (first * padded, first * padded / QUANT_BLOCK..end * padded / QUANT_BLOCK);
            // SAFETY: every tile is taken once, and its parts belong to no other.
            let out = unsafe {
                CodesMut {
                    tokens: end - first,
                    codes: codes.part(start..end * padded),
                    scales: scales.part(blocks.clone()),
                    sums: sums.part(blocks.clone()),
                    totals: totals.part(blocks),
                }
            };
            self.set.quantize_tile(&values[first * columns..end * columns], out);
        };
        let tiles = tokens.div_ceil(INTERLEAVED_TOKENS);
        if values.len() <= QUANTIZE_VALUES_ALONE_MAX {
            (0..tiles).for_each(tile);
        } else {
            pool.run(tiles, &tile);
        }
    }

    /// out = x * weights^T (+ bias) for each product.
    ///
    /// Quantised weights eat the codes of `x`, so [`Kernels::quantize`] comes first; float weights eat its
    /// values.
    ///
    /// # Panics
    /// If a shape does not fit, or quantised weights meet activations without codes.
    pub fn matmul(self, pool: &dyn Parallel, x: &Activations, products: &mut [Product<'_>]) {
        matmul::matmul(self.set, pool, x, products);
    }

    /// Norms every row of `x`, `[rows][weight.len()]`, into `out`; see [`Kernels::rms_norm`].
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
        for_each_row(pool, out, width, &norm);
    }

    /// [`Kernels::swiglu`] for every row of `width` values.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn swiglu_rows(self, pool: &dyn Parallel, gate: &mut [f32], up: &[f32], width: usize) {
        assert_eq!(gate.len(), up.len(), "rows of another shape");
        for_each_row(pool, gate, width, &|row, gate| self.swiglu(gate, &up[row * width..][..width]));
    }

    /// [`Kernels::geglu`] for every row of `width` values.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn geglu_rows(self, pool: &dyn Parallel, gate: &mut [f32], up: &[f32], width: usize) {
        assert_eq!(gate.len(), up.len(), "rows of another shape");
        for_each_row(pool, gate, width, &|row, gate| self.geglu(gate, &up[row * width..][..width]));
    }

    /// One row: out = x / root mean square of x * weight, all of one length.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(self, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "a norm's lengths differ");
        self.set.rms_norm(x, weight, epsilon, out);
    }

    /// Rotates every head of one token in place; widths beyond the table's rotary width stay as they are.
    ///
    /// # Panics
    /// If heads are not whole, narrower than the rotary width, or the position lies beyond the table.
    pub fn rope(self, heads: &mut [f32], head_width: usize, table: &RopeTable, position: usize) {
        assert!(head_width > 0 && heads.len().is_multiple_of(head_width), "heads are not whole");
        assert!(table.rotary_width() <= head_width, "heads are narrower than the rotation");
        let (cosines, sines) = table.at(position);
        for head in heads.chunks_exact_mut(head_width) {
            self.set.rope_rotate(&mut head[..table.rotary_width()], cosines, sines, table.pairing());
        }
    }

    /// gate = silu(gate) * up.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn swiglu(self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up differ in length");
        self.set.swiglu(gate, up);
    }

    /// gate = gelu(gate) * up, GELU in its tanh form.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn geglu(self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up differ in length");
        self.set.geglu(gate, up);
    }

    /// x += y.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "what is added differs in length");
        self.set.add(x, y);
    }

    /// x *= factor.
    pub fn scale(self, x: &mut [f32], factor: f32) {
        self.set.scale(x, factor);
    }

    /// x = e^x / sum of e^x, computed from the largest.
    pub fn softmax(self, x: &mut [f32]) {
        self.set.softmax(x);
    }

    /// Writes the keys and values of one token (`[kv_heads * head_width]` each) into slot `slot` of a page.
    ///
    /// # Panics
    /// If the page's length, the slot or a row's length does not fit the shape.
    pub fn kv_store(self, shape: &KvShape, page: &mut [u8], slot: usize, keys: &[f32], values: &[f32]) {
        assert_eq!(page.len(), shape.page_bytes(), "the page's length does not fit its shape");
        assert!(slot < KV_PAGE_TOKENS, "slot {slot} of a page of {KV_PAGE_TOKENS}");
        let width = shape.kv_heads * shape.head_width;
        assert!(keys.len() == width && values.len() == width, "a row of the cache has {width} values");
        let head_bytes = shape.head_bytes();
        for head in 0..shape.kv_heads {
            let row = head * shape.head_width..(head + 1) * shape.head_width;
            for (rows, part) in [(&keys[row.clone()], 0), (&values[row], 1)] {
                let offset = ((2 * head + part) * KV_PAGE_TOKENS + slot) * head_bytes;
                self.set.store_head(shape.kind, rows, &mut page[offset..][..head_bytes]);
            }
        }
    }

    /// Attention of every query of `job` over its session's pages; `out` is `[queries][heads * head_width]`.
    ///
    /// # Panics
    /// If a shape does not fit or a query's range lies beyond its pages.
    pub fn attention(self, pool: &dyn Parallel, job: &AttentionJob<'_>, out: &mut [f32]) {
        attention::attention(self.set, pool, job, out);
    }
}
