//! One module for each kernel set, all with the same functions.
//!
//! `portable` is complete and the truth. A set for a chip has variants of what dominates on it, with the same
//! signatures, and `dispatch.rs` sends the rest to `portable`. All give the same bits.

pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

/// Columns whose codes are summed in advance.
pub(crate) const SUM_COLUMNS: usize = 16;

/// A tile of quantised activations, token-major; `columns` is a multiple of 32.
pub(crate) struct Codes<'a> {
    pub tokens: usize,
    pub columns: usize,
    /// `[tokens][columns]`
    pub codes: &'a [i8],
    /// `[tokens][columns / 32]`
    pub scales: &'a [f32],
    /// Sums of codes, `[tokens][columns / 16]`
    pub sums: &'a [i32],
}

/// A tile of float activations, token-major.
pub(crate) struct Floats<'a> {
    pub tokens: usize,
    pub columns: usize,
    /// `[tokens][columns]`
    pub values: &'a [f32],
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
