//! Attention over a paged cache: its types, the layout of a page, and how the work is split.
//!
//! A page holds 32 tokens of one block of the model: for each key head 32 rows of keys, then 32 rows of
//! values.

use crate::arch::HeadGroup;
use crate::disjoint::Disjoint;
use crate::dispatch::KernelSet;
use crate::limits::{HEAD_WIDTH_MAX, TASKS_PER_THREAD};
use crate::{KV_PAGE_TOKENS, Parallel, QUANT_BLOCK};

/// How the cache stores keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum KvKind {
    /// 32-bit floats.
    F32,
    /// IEEE halves.
    F16,
    /// 8 bits, one half as scale for 32 values.
    Q8_0,
}

impl KvKind {
    /// Bytes of one head's keys or values of one token; `None` if Q8_0 meets a width that is no multiple of
    /// 32, or the width is beyond any model.
    pub fn head_bytes(self, head_width: usize) -> Option<usize> {
        if head_width > HEAD_WIDTH_MAX {
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

    /// Its name: `f32`, `f16`, `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            KvKind::F32 => "f32",
            KvKind::F16 => "f16",
            KvKind::Q8_0 => "q8_0",
        }
    }
}

/// The shape of one block's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvShape {
    /// How values are stored.
    pub kind: KvKind,
    /// Key heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_width: usize,
}

impl KvShape {
    /// Bytes of one page.
    ///
    /// # Panics
    /// If the kind can not store that width (see [`KvKind::head_bytes`]) or the number overflows.
    pub fn page_bytes(&self) -> usize {
        let bytes = self.kv_heads.checked_mul(2 * KV_PAGE_TOKENS * self.head_bytes());
        bytes.expect("a page is smaller than the address space")
    }

    /// Bytes of one head's row.
    pub(crate) fn head_bytes(&self) -> usize {
        let bytes = self.kind.head_bytes(self.head_width);
        bytes.expect("the kind of cache can store heads of this width")
    }
}

/// One query row and what it sees.
#[derive(Clone, Copy)]
pub struct AttentionQuery<'a> {
    /// `[heads * head_width]`, rotated.
    pub query: &'a [f32],
    /// The session's pages; page `i` covers positions `32 i .. 32 i + 32`. Pages before `first` may be empty
    /// slices.
    pub pages: &'a [&'a [u8]],
    /// First position seen.
    pub first: usize,
    /// End of the positions seen, exclusive; when it is not beyond `first` the result is zero.
    pub end: usize,
}

/// Queries of any sessions over the caches of one block.
#[derive(Clone, Copy)]
pub struct AttentionJob<'a> {
    /// The cache's shape.
    pub shape: KvShape,
    /// Query heads; a multiple of the key heads. Head `h` uses key head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Factor of every score.
    pub scale: f32,
    /// The queries.
    pub queries: &'a [AttentionQuery<'a>],
}

pub(crate) fn attention(set: KernelSet, pool: &dyn Parallel, job: &AttentionJob<'_>, out: &mut [f32]) {
    let KvShape { kind, kv_heads, head_width } = job.shape;
    let width = job.heads * head_width;
    assert!(kv_heads > 0 && job.heads.is_multiple_of(kv_heads), "query heads are a multiple of key heads");
    assert_eq!(out.len(), job.queries.len() * width, "the result does not hold queries x heads");
    let page_bytes = job.shape.page_bytes();
    for query in job.queries {
        check(query, width, page_bytes);
    }
    let half_bytes = KV_PAGE_TOKENS * job.shape.head_bytes();
    let group_width = width / kv_heads;
    let out = Disjoint::new(out);
    let pairs = job.queries.len() * kv_heads;
    let pairs_per_task = pairs.div_ceil(pool.threads() * TASKS_PER_THREAD).max(1);
    pool.run(pairs.div_ceil(pairs_per_task), &|task| {
        for pair in task * pairs_per_task..((task + 1) * pairs_per_task).min(pairs) {
            let (query, head) = (&job.queries[pair / kv_heads], pair % kv_heads);
            // SAFETY: every pair is taken once, and owns this part of the result.
            let out = unsafe { out.part(pair * group_width..(pair + 1) * group_width) };
            if query.first >= query.end {
                out.fill(0.0);
                continue;
            }
            let group = HeadGroup {
                kind,
                head_width,
                scale: job.scale,
                query: &query.query[head * group_width..(head + 1) * group_width],
                pages: query.pages,
                keys_offset: 2 * head * half_bytes,
                values_offset: (2 * head + 1) * half_bytes,
                first: query.first,
                end: query.end,
            };
            set.attend(&group, out);
        }
    });
}

fn check(query: &AttentionQuery<'_>, width: usize, page_bytes: usize) {
    assert_eq!(query.query.len(), width, "a query row has {width} values");
    if query.first < query.end {
        let pages = query.first / KV_PAGE_TOKENS..query.end.div_ceil(KV_PAGE_TOKENS);
        assert!(pages.end <= query.pages.len(), "a query sees positions beyond its pages");
        let fits = query.pages[pages].iter().all(|page| page.len() == page_bytes);
        assert!(fits, "a page's length does not fit its shape");
    }
}
