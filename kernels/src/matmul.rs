//! Matrix products: cut into tasks of weight rows, walked so that weights are read from memory once.
//!
//! A task is a run of strips (eight rows). Within it, chunks of strips that fit the second-level cache meet
//! tiles of tokens that fit beside them. How the work is cut never changes a sum.

use alloc::vec::Vec;
use core::ops::Range;

use crate::disjoint::Disjoint;
use crate::dispatch::KernelSet;
use crate::limits::{
    CHUNK_WEIGHT_BYTES_MAX, FLOAT_CHUNK_BYTES_MAX, FLOAT_TILE_BYTES_MAX, FLOAT_TILE_TOKENS_MAX,
    FLOAT_TILE_TOKENS_MIN, PANELS_TOGETHER_MAX, TASK_SHARED_WEIGHT_BYTES_MAX, TASK_WEIGHT_BYTES_MAX,
    TASK_WEIGHT_BYTES_MIN, TASKS_PER_THREAD, TILE_ACTIVATION_BYTES_MAX, TILE_TOKENS_MAX, TILE_TOKENS_MIN,
};
use crate::{Activations, Format, INTERLEAVED_TOKENS, Layout, Matrix, PANEL_ROWS, Parallel};

/// One matrix to multiply with, and where the result goes.
pub struct Product<'a> {
    /// `[rows][columns]`; columns are those of the activations.
    pub weights: Matrix<'a>,
    /// Added to every result row, `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// `[tokens][rows]`
    pub out: &'a mut [f32],
}

/// A product as its tasks see it.
struct Job<'a> {
    weights: Matrix<'a>,
    bias: Option<&'a [f32]>,
    out: Disjoint<'a, f32>,
    strips_per_task: usize,
}

impl Job<'_> {
    fn tasks(&self) -> usize {
        self.weights.strips().div_ceil(self.strips_per_task)
    }
}

pub(crate) fn matmul(set: KernelSet, pool: &dyn Parallel, x: &Activations, products: &mut [Product<'_>]) {
    let task_bytes = task_weight_bytes(pool.threads(), x.tokens(), products);
    let jobs: Vec<Job<'_>> = products.iter_mut().map(|product| job(product, x, task_bytes)).collect();
    let tasks = jobs.iter().map(Job::tasks).sum();
    pool.run(tasks, &|mut task| {
        for job in &jobs {
            match task.checked_sub(job.tasks()) {
                Some(rest) => task = rest,
                None => {
                    let first = task * job.strips_per_task;
                    let end = (first + job.strips_per_task).min(job.weights.strips());
                    return run(set, job, x, first..end);
                }
            }
        }
    });
}

/// Weight bytes for one task: about eight tasks for each thread, none tiny and none long; one thread has one
/// task.
fn task_weight_bytes(threads: usize, tokens: usize, products: &[Product<'_>]) -> usize {
    if threads <= 1 {
        return usize::MAX;
    }
    let bytes: usize = products.iter().map(|product| product.weights.bytes().len()).sum();
    let many = tokens > INTERLEAVED_TOKENS;
    let max = if many { TASK_SHARED_WEIGHT_BYTES_MAX } else { TASK_WEIGHT_BYTES_MAX };
    (bytes / (threads * TASKS_PER_THREAD)).clamp(TASK_WEIGHT_BYTES_MIN, max)
}

fn job<'a>(product: &'a mut Product<'_>, x: &Activations, task_bytes: usize) -> Job<'a> {
    let weights = product.weights;
    let (rows, format) = (weights.rows(), weights.format());
    assert_eq!(weights.columns(), x.columns(), "weights and activations differ in columns");
    assert_eq!(product.out.len(), x.tokens() * rows, "the result does not hold tokens x rows");
    assert!(product.bias.is_none_or(|bias| bias.len() == rows), "the bias is not one value for each row");
    assert!(format.is_float() || x.is_quantized(), "{} needs quantised activations", format.name());
    let strips_per_task = (task_bytes / weights.strip_bytes().max(1)).max(1);
    let strips_per_task = strips_per_task.min(weights.strips()).max(1).next_multiple_of(PANELS_TOGETHER_MAX);
    Job { weights, bias: product.bias, out: Disjoint::new(product.out), strips_per_task }
}

/// The results of a tile, `[panel][token][row]`.
type Sums = [[f32; PANEL_ROWS]];

/// The strips of one task, over all tokens.
fn run(set: KernelSet, job: &Job<'_>, x: &Activations, strips: Range<usize>) {
    // Few tokens come often, and clearing room for many takes as long as a few rows.
    if x.tokens() <= TILE_TOKENS_MIN {
        walk(set, job, x, strips, &mut [[0.0; PANEL_ROWS]; PANELS_TOGETHER_MAX * TILE_TOKENS_MIN]);
    } else {
        walk(set, job, x, strips, &mut [[0.0; PANEL_ROWS]; PANELS_TOGETHER_MAX * TILE_TOKENS_MAX]);
    }
}

/// Chunk by chunk and tile by tile; `sums` has room for the results of a tile.
fn walk(set: KernelSet, job: &Job<'_>, x: &Activations, strips: Range<usize>, sums: &mut Sums) {
    let strip_bytes = job.weights.strip_bytes().max(1);
    let together = if job.weights.layout() == Layout::Panels { set.panels_together() } else { 1 };
    let is_float = job.weights.format().is_float();
    let chunk_bytes = if is_float { FLOAT_CHUNK_BYTES_MAX } else { CHUNK_WEIGHT_BYTES_MAX };
    let strips_per_chunk = (chunk_bytes / strip_bytes).max(1).next_multiple_of(together);
    let tile_tokens = tile_tokens(job.weights.format(), x.columns());
    for chunk in strips.clone().step_by(strips_per_chunk) {
        for first in (0..x.tokens()).step_by(tile_tokens) {
            let tokens = first..(first + tile_tokens).min(x.tokens());
            let end = (chunk + strips_per_chunk).min(strips.end);
            for strip in (chunk..end).step_by(together) {
                tile(set, job, x, strip..end.min(strip + together), tokens.clone(), sums);
            }
        }
    }
}

/// Tokens of a tile.
fn tile_tokens(format: Format, columns: usize) -> usize {
    let (bytes, bytes_max, min, max) = if format.is_float() {
        (4 * columns, FLOAT_TILE_BYTES_MAX, FLOAT_TILE_TOKENS_MIN, FLOAT_TILE_TOKENS_MAX)
    } else {
        (columns, TILE_ACTIVATION_BYTES_MAX, TILE_TOKENS_MIN, TILE_TOKENS_MAX)
    };
    (bytes_max / bytes.max(1)).clamp(min, max) / min * min
}

/// A strip, or some panels, times one tile of tokens, scattered to the result.
fn tile(
    set: KernelSet,
    job: &Job<'_>,
    x: &Activations,
    strips: Range<usize>,
    tokens: Range<usize>,
    sums: &mut Sums,
) {
    let weights = &job.weights;
    let (format, bytes) = (weights.format(), weights.strips_bytes(strips.clone()));
    let sums = &mut sums[..strips.len() * tokens.len()];
    let count = weights.strip_rows(strips.start);
    match weights.layout() {
        Layout::Panels => set.multiply_panels(format, bytes, &x.codes(tokens.clone()), sums),
        Layout::Rows if format.is_float() => {
            set.multiply_floats(format, bytes, count, &x.floats(tokens.clone()), sums)
        }
        Layout::Rows => set.multiply_rows(format, bytes, count, &x.codes(tokens.clone()), sums),
    }
    for (strip, sums) in strips.zip(sums.chunks_exact(tokens.len())) {
        let (row, count) = (strip * PANEL_ROWS, weights.strip_rows(strip));
        for (token, sums) in tokens.clone().zip(sums) {
            let start = token * weights.rows() + row;
            // SAFETY: these rows belong to this strip alone, and each strip to one task.
            let out = unsafe { job.out.part(start..start + count) };
            match job.bias {
                None => out.copy_from_slice(&sums[..count]),
                Some(bias) => {
                    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[row..]) {
                        *out = *sum + *bias;
                    }
                }
            }
        }
    }
}
