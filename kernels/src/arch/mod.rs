//! One module for each kernel set, all with the same functions.
//!
//! `portable` is complete and the truth. A set for a chip has variants of what dominates on it, with the same
//! signatures, and `dispatch.rs` sends the rest to `portable`. All give the same bits.

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
pub(crate) mod portable;
#[cfg(target_arch = "riscv64")]
pub(crate) mod riscv64;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

use crate::{HalfSums, INTERLEAVED_TOKENS, QUANT_BLOCK};

/// Columns whose codes are summed in advance.
pub(crate) const SUM_COLUMNS: usize = 16;

/// Quantised activations; `columns` is a multiple of 32.
///
/// Tokens are interleaved in tiles of [`INTERLEAVED_TOKENS`], the last tile having what remains: so few
/// pointers and whole cache lines serve all tokens of a tile, and a single token is a plain row.
#[derive(Clone, Copy)]
pub(crate) struct Codes<'a> {
    pub tokens: usize,
    pub columns: usize,
    /// `[tile][group of 32 columns][token of the tile][32]`
    pub codes: &'a [i8],
    /// `[tile][group][token of the tile]`
    pub scales: &'a [f32],
    /// Sums of the codes of both halves, `[tile][group][token of the tile]`.
    pub sums: &'a [HalfSums],
    /// Sums of all codes times the scale, `[tile][group][token of the tile]`: what a minimum is multiplied
    /// with.
    pub totals: &'a [f32],
}

/// 32 columns of one token.
pub(crate) struct CodesBlock<'a> {
    pub codes: &'a [i8; QUANT_BLOCK],
    pub scale: f32,
    /// Sums of the codes of both halves.
    pub sums: HalfSums,
}

impl<'a> Codes<'a> {
    /// Tile by tile.
    #[allow(dead_code, reason = "not every instruction set architecture walks tile by tile")]
    pub fn tiles(self) -> impl Iterator<Item = Codes<'a>> {
        (0..self.tokens).step_by(INTERLEAVED_TOKENS).map(move |first| {
            let tokens = INTERLEAVED_TOKENS.min(self.tokens - first);
            let range = first * self.columns..(first + tokens) * self.columns;
            let groups = range.start / QUANT_BLOCK..range.end / QUANT_BLOCK;
            Codes {
                tokens,
                columns: self.columns,
                codes: &self.codes[range],
                scales: &self.scales[groups.clone()],
                sums: &self.sums[groups.clone()],
                totals: &self.totals[groups],
            }
        })
    }

    /// Group `group` of token `token`.
    #[inline(always)]
    pub fn block(&self, token: usize, group: usize) -> CodesBlock<'a> {
        let first = token / INTERLEAVED_TOKENS * INTERLEAVED_TOKENS;
        let tokens = INTERLEAVED_TOKENS.min(self.tokens - first);
        let index = first * (self.columns / QUANT_BLOCK) + group * tokens + token - first;
        let codes = self.codes[index * QUANT_BLOCK..].first_chunk().expect("groups are whole");
        CodesBlock { codes, scale: self.scales[index], sums: self.sums[index] }
    }
}

/// A tile of float activations, token-major.
pub(crate) struct Floats<'a> {
    pub tokens: usize,
    pub columns: usize,
    /// `[tokens][columns]`
    pub values: &'a [f32],
}

/// The buffers of one tile of [`Codes`] to fill.
pub(crate) struct CodesMut<'a> {
    pub tokens: usize,
    pub codes: &'a mut [i8],
    pub scales: &'a mut [f32],
    pub sums: &'a mut [HalfSums],
    pub totals: &'a mut [f32],
}

impl CodesMut<'_> {
    /// Fills the tile from `values`, rows of a whole or broken number of groups: `quantize(values, codes)`
    /// takes up to 32 values and returns their scale, `sum(codes)` gives the sums of both halves.
    #[inline(always)]
    pub fn fill(
        self,
        values: &[f32],
        quantize: impl Fn(&[f32], &mut [i8; QUANT_BLOCK]) -> f32,
        sum: impl Fn(&[i8; QUANT_BLOCK]) -> HalfSums,
    ) {
        let columns = values.len() / self.tokens;
        for (index, codes) in self.codes.as_chunks_mut().0.iter_mut().enumerate() {
            let row = &values[index % self.tokens * columns..][..columns];
            let start = index / self.tokens * QUANT_BLOCK;
            let scale = quantize(&row[start..columns.min(start + QUANT_BLOCK)], codes);
            let sums = sum(codes);
            self.scales[index] = scale;
            self.sums[index] = sums;
            self.totals[index] = f32::from(sums[0] + sums[1]) * scale;
        }
    }
}

/// What one (query, key head) pair needs: the query heads that share a key head, and where its keys and
/// values lie.
pub(crate) struct HeadGroup<'a> {
    pub kind: crate::KvKind,
    pub head_width: usize,
    /// Factor of every score.
    pub scale: f32,
    /// Query heads of this group, `[group][head_width]`.
    pub query: &'a [f32],
    /// The session's pages; page `i` covers positions `32 i .. 32 i + 32`.
    pub pages: &'a [&'a [u8]],
    /// Byte offset of this head's keys in a page: 32 rows of `kind.head_bytes(head_width)`.
    pub keys_offset: usize,
    /// Byte offset of its values, laid out alike.
    pub values_offset: usize,
    /// First position to attend to.
    pub first: usize,
    /// End of the positions, exclusive and greater than `first`.
    pub end: usize,
}

impl HeadGroup<'_> {
    /// The pages that the range touches: for each its bytes and the slots within it.
    pub fn clipped_pages(&self) -> impl Iterator<Item = (&[u8], core::ops::Range<usize>)> {
        let tokens = crate::KV_PAGE_TOKENS;
        (self.first / tokens..self.end.div_ceil(tokens)).map(move |page| {
            let start = page * tokens;
            (self.pages[page], self.first.max(start) - start..self.end.min(start + tokens) - start)
        })
    }
}
