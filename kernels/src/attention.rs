//! Attention over a paged KV cache: what goes in, how it lies, and how the work is split.
//!
//! A page holds the keys and values of 32 positions for one block of a model: for each key head first 32 rows
//! of keys, then 32 rows of values, so that a head's walk over its keys is one run of memory.

use crate::arch::HeadGroup;
use crate::disjoint::Disjoint;
use crate::limits::HEAD_WIDTH_MAX;
use crate::{KV_PAGE_TOKENS, Kernels, Parallel, QUANT_BLOCK};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvKind {
    /// 32-bit floats: exact.
    F32,
    /// IEEE halves.
    F16,
    /// 8-bit codes with a half as scale for each 32.
    Q8_0,
}

impl KvKind {
    /// Bytes of one head's keys or values at one position; `None` if the width is zero, too large, or, for
    /// Q8_0, no multiple of 32.
    pub fn head_bytes(self, head_width: usize) -> Option<usize> {
        if head_width == 0 || head_width > HEAD_WIDTH_MAX {
            return None;
        }
        match self {
            KvKind::F32 => Some(4 * head_width),
            KvKind::F16 => Some(2 * head_width),
            KvKind::Q8_0 if head_width.is_multiple_of(QUANT_BLOCK) => {
                Some(head_width / QUANT_BLOCK * (2 + QUANT_BLOCK))
            }
            KvKind::Q8_0 => None,
        }
    }
}

/// What one position of one block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// How values are kept.
    pub kind: KvKind,
    /// Key heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_width: usize,
}

impl KvShape {
    /// Bytes of 32 rows of one head.
    fn run_bytes(&self) -> usize {
        let head =
            self.kind.head_bytes(self.head_width).expect("the width suits the kind; callers checked it");
        KV_PAGE_TOKENS * head
    }

    /// Bytes of one page of one block.
    ///
    /// # Panics
    /// If [`KvKind::head_bytes`] refuses the width.
    pub fn page_bytes(&self) -> usize {
        2 * self.kv_heads * self.run_bytes()
    }
}

/// One row that attends.
#[derive(Clone, Copy, Debug)]
pub struct AttentionQuery<'a> {
    /// `[heads * head_width]`
    pub query: &'a [f32],
    /// The session's pages for this block; page `i` covers positions `32 i .. 32 i + 32`.
    pub pages: &'a [&'a [u8]],
    /// First position to attend to.
    pub first: usize,
    /// End of the positions, exclusive, greater than `first`.
    pub end: usize,
}

/// Rows that attend in one block.
#[derive(Clone, Copy, Debug)]
pub struct AttentionJob<'a> {
    /// What the pages hold.
    pub shape: KvShape,
    /// Query heads, a multiple of the key heads; head `h` uses key head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Factor of every score.
    pub scale: f32,
    /// The rows.
    pub queries: &'a [AttentionQuery<'a>],
}

impl Kernels {
    /// Writes one position's keys and values, `[kv_heads * head_width]` each, into slot `slot` of a page.
    ///
    /// # Panics
    /// If a length does not fit the shape.
    pub fn kv_store(self, shape: &KvShape, page: &mut [u8], slot: usize, keys: &[f32], values: &[f32]) {
        assert_eq!(page.len(), shape.page_bytes(), "a page of another shape");
        let width = shape.head_width;
        assert!(keys.len() == shape.kv_heads * width && values.len() == keys.len(), "rows of another shape");
        assert!(slot < KV_PAGE_TOKENS, "a page has {KV_PAGE_TOKENS} slots");
        let run = shape.run_bytes();
        let head = run / KV_PAGE_TOKENS;
        for (index, (keys, values)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate() {
            let start = 2 * index * run + slot * head;
            self.store_head(shape.kind, keys, &mut page[start..start + head]);
            self.store_head(shape.kind, values, &mut page[start + run..start + run + head]);
        }
    }

    /// Attends for every row of the job; `out` is `[queries][heads * head_width]`.
    ///
    /// # Panics
    /// If a length does not fit the job, or a row's range is empty or beyond its pages.
    pub fn attention(self, pool: &dyn Parallel, job: &AttentionJob<'_>, out: &mut [f32]) {
        let AttentionJob { shape, heads, scale, queries } = *job;
        let (width, kv_heads) = (shape.head_width, shape.kv_heads);
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads over {kv_heads} key heads");
        assert_eq!(out.len(), queries.len() * heads * width, "results of another shape");
        for query in queries {
            assert_eq!(query.query.len(), heads * width, "a query of another shape");
            assert!(
                query.first < query.end && query.end <= query.pages.len() * KV_PAGE_TOKENS,
                "a broken range"
            );
            assert!(
                query.pages.iter().all(|page| page.len() == shape.page_bytes()),
                "a page of another shape"
            );
        }
        let group_values = heads / kv_heads * width;
        let run = shape.run_bytes();
        let shared = Disjoint::new(out);
        pool.run(queries.len() * kv_heads, &|task| {
            let (row, kv_head) = (task / kv_heads, task % kv_heads);
            let query = &queries[row];
            let group = HeadGroup {
                kind: shape.kind,
                head_width: width,
                scale,
                query: &query.query[kv_head * group_values..][..group_values],
                pages: query.pages,
                keys_offset: 2 * kv_head * run,
                values_offset: (2 * kv_head + 1) * run,
                first: query.first,
                end: query.end,
            };
            let start = (row * kv_heads + kv_head) * group_values;
            // SAFETY: each task has its own row and heads.
            self.attend(&group, unsafe { shared.part(start..start + group_values) });
        });
    }
}
