//! One transformer block, for every family.
//!
//! What families differ in are fields of [`ModelSpec`] and optional weights; there is one order of steps.
//! Rows of all sessions in a batch go through together, so each weight is read once a pass. Each row's result
//! depends on its own session alone: batches, chunks and threads never change a bit of it.

use kwaainet_kernels::{
    Activations, AttentionJob, AttentionQuery, KV_PAGE_TOKENS, Kernels, Parallel, Product, RopeTable,
    for_each_row,
};

use crate::kv::{KvCache, SessionId};
use crate::spec::{Activation, ModelSpec};
use crate::weights::{BlockWeights, Weight, Weights};

/// Where each row of a batch belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) session: SessionId,
    pub(crate) position: usize,
}

/// Buffers of one pass, allocated when the engine opens for the largest batch.
pub(crate) struct Scratch {
    /// The residual stream: [rows][hidden].
    pub(crate) hidden: Vec<f32>,
    /// A normed row going into a matrix product: [rows][hidden].
    pub(crate) normed: Activations,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Activations,
    gated: Activations,
    up: Vec<f32>,
    /// What a half of the block adds to the stream: [rows][hidden].
    added: Vec<f32>,
}

impl Scratch {
    pub(crate) fn new(spec: &ModelSpec, rows: usize) -> Self {
        let query_width = spec.heads * spec.head_width;
        let kv_width = spec.kv_heads * spec.head_width;
        Scratch {
            hidden: vec![0.0; rows * spec.hidden],
            normed: Activations::with_capacity(rows, spec.hidden),
            query: vec![0.0; rows * query_width],
            key: vec![0.0; rows * kv_width],
            value: vec![0.0; rows * kv_width],
            attended: Activations::with_capacity(rows, query_width),
            gated: Activations::with_capacity(rows, spec.feed_forward),
            up: vec![0.0; rows * spec.feed_forward],
            added: vec![0.0; rows * spec.hidden],
        }
    }

    /// Bytes that [`Scratch::new`] takes.
    pub(crate) fn bytes_for(spec: &ModelSpec, rows: usize) -> usize {
        let query_width = spec.heads * spec.head_width;
        let kv_width = spec.kv_heads * spec.head_width;
        let floats = 2 * spec.hidden + query_width + 2 * kv_width + spec.feed_forward;
        rows * floats * size_of::<f32>()
            + Activations::bytes_for(rows, spec.hidden)
            + Activations::bytes_for(rows, query_width)
            + Activations::bytes_for(rows, spec.feed_forward)
    }
}

/// A matrix to multiply rows by, its bias, and where the result goes: [rows][matrix rows].
type Factor<'a> = (&'a Weight, &'a Option<Vec<f32>>, &'a mut [f32]);

/// One block of the engine's range.
#[derive(Clone, Copy)]
pub(crate) struct BlockHere<'a> {
    pub(crate) weights: &'a BlockWeights,
    /// Its number within the range.
    pub(crate) local: usize,
    /// Its sliding window, if it has one.
    pub(crate) window: Option<usize>,
    pub(crate) rope: &'a RopeTable,
}

/// What every block of a pass computes with.
pub(crate) struct Compute<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) pool: &'a dyn Parallel,
    pub(crate) spec: &'a ModelSpec,
    pub(crate) weights: &'a Weights,
    /// The rows of the pass.
    pub(crate) rows: &'a [Row],
}

impl Compute<'_> {
    /// Runs one block over the rows in `scratch.hidden`, in place.
    pub(crate) fn block(&self, block: &BlockHere<'_>, kv: &mut KvCache, scratch: &mut Scratch) {
        self.attention_half(block, kv, scratch);
        self.feed_forward_half(block.weights, scratch);
    }

    fn attention_half(&self, here: &BlockHere<'_>, kv: &mut KvCache, scratch: &mut Scratch) {
        let (block, rows) = (here.weights, self.rows);
        let (spec, kernels) = (self.spec, self.kernels);
        let query_width = spec.heads * spec.head_width;
        let kv_width = spec.kv_heads * spec.head_width;
        let Scratch { hidden, normed, query, key, value, attended, added, .. } = scratch;
        let query = &mut query[..rows.len() * query_width];
        let key = &mut key[..rows.len() * kv_width];
        let value = &mut value[..rows.len() * kv_width];

        self.norm_rows(hidden, &block.attention_norm, rows.len(), normed);
        self.multiply(
            normed,
            [
                (&block.query, &block.query_bias, &mut *query),
                (&block.key, &block.key_bias, &mut *key),
                (&block.value, &block.value_bias, &mut *value),
            ],
        );
        for (heads, width, norm) in
            [(&mut *query, query_width, &block.query_norm), (&mut *key, kv_width, &block.key_norm)]
        {
            for_each_row(self.pool, heads, width, &|row, heads| {
                self.norm_heads(heads, norm.as_deref());
                kernels.rope(heads, spec.head_width, here.rope, rows[row].position);
            });
        }
        let pairs = key.chunks_exact(kv_width).zip(value.chunks_exact(kv_width));
        for (row, (key, value)) in rows.iter().zip(pairs) {
            let shape = *kv.shape();
            let page = kv.page_mut(row.session, here.local, row.position);
            kernels.kv_store(&shape, page, row.position % KV_PAGE_TOKENS, key, value);
        }
        attended.reset(rows.len(), query_width);
        self.attend(here, kv, query, attended.values_mut());
        let added = &mut added[..rows.len() * spec.hidden];
        self.multiply(attended, [(&block.attention_output, &block.attention_output_bias, &mut *added)]);
        self.add_to_stream(hidden, added, block.post_attention_norm.as_deref());
    }

    fn attend(&self, here: &BlockHere<'_>, kv: &KvCache, query: &[f32], out: &mut [f32]) {
        let rows = self.rows;
        let spec = self.spec;
        let query_width = spec.heads * spec.head_width;
        // Rows of one session lie together, in order, so its pages are listed once.
        let runs = rows.chunk_by(|a, b| a.session == b.session);
        let pages: Vec<Vec<&[u8]>> =
            runs.map(|run| kv.pages(run[0].session, here.local, run[run.len() - 1].position + 1)).collect();
        let mut queries = Vec::with_capacity(rows.len());
        let mut index = 0;
        for (run, pages) in rows.chunk_by(|a, b| a.session == b.session).zip(&pages) {
            for row in run {
                let end = row.position + 1;
                let first = here.window.map_or(0, |window| end.saturating_sub(window));
                let query = &query[index * query_width..][..query_width];
                queries.push(AttentionQuery { query, pages, first, end });
                index += 1;
            }
        }
        let job = AttentionJob {
            shape: *kv.shape(),
            heads: spec.heads,
            scale: spec.query_scale,
            queries: &queries,
        };
        self.kernels.attention(self.pool, &job, out);
    }

    fn feed_forward_half(&self, block: &BlockWeights, scratch: &mut Scratch) {
        let (spec, kernels, rows) = (self.spec, self.kernels, self.rows.len());
        let Scratch { hidden, normed, gated, up, added, .. } = scratch;
        let width = spec.feed_forward;
        self.norm_rows(hidden, &block.feed_forward_norm, rows, normed);
        gated.reset(rows, width);
        let up = &mut up[..rows * width];
        self.multiply(normed, [(&block.gate, &None, gated.values_mut()), (&block.up, &None, &mut *up)]);
        match spec.activation {
            Activation::SiluGated => kernels.swiglu_rows(self.pool, gated.values_mut(), up, width),
            Activation::GeluTanhGated => kernels.geglu_rows(self.pool, gated.values_mut(), up, width),
        }
        let added = &mut added[..rows * spec.hidden];
        self.multiply(gated, [(&block.down, &None, &mut *added)]);
        self.add_to_stream(hidden, added, block.post_feed_forward_norm.as_deref());
    }

    /// Norms the first `rows` rows of the stream into `normed`.
    pub(crate) fn norm_rows(&self, hidden: &[f32], weight: &[f32], rows: usize, normed: &mut Activations) {
        let width = self.spec.hidden;
        normed.reset(rows, width);
        let rows = &hidden[..rows * width];
        self.kernels.rms_norm_rows(self.pool, rows, weight, self.spec.norm_epsilon, normed.values_mut());
    }

    /// Norms each head's part of a row in place, if the family does.
    fn norm_heads(&self, heads: &mut [f32], weight: Option<&[f32]>) {
        let Some(weight) = weight else { return };
        let mut normed = [0.0; crate::limits::HEAD_WIDTH_MAX];
        for head in heads.chunks_exact_mut(weight.len()) {
            let normed = &mut normed[..head.len()];
            self.kernels.rms_norm(head, weight, self.spec.norm_epsilon, normed);
            head.copy_from_slice(normed);
        }
    }

    fn add_to_stream(&self, hidden: &mut [f32], added: &mut [f32], norm: Option<&[f32]>) {
        let width = self.spec.hidden;
        if let Some(weight) = norm {
            let mut normed = vec![0.0; width];
            for row in added.chunks_exact_mut(width) {
                self.kernels.rms_norm(row, weight, self.spec.norm_epsilon, &mut normed);
                row.copy_from_slice(&normed);
            }
        }
        let added = &*added;
        for_each_row(self.pool, &mut hidden[..added.len()], width, &|row, hidden| {
            self.kernels.add(hidden, &added[row * width..][..width]);
        });
    }

    /// Multiplies the same rows by several matrices in one go.
    pub(crate) fn multiply<const COUNT: usize>(&self, x: &mut Activations, products: [Factor<'_>; COUNT]) {
        if products.iter().any(|(weight, _, _)| !weight.is_float()) {
            self.kernels.quantize(self.pool, x);
        }
        let mut products = products.map(|(weight, bias, out)| Product {
            weights: self.weights.matrix(weight),
            bias: bias.as_deref(),
            out,
        });
        self.kernels.matmul(self.pool, x, &mut products);
    }
}
