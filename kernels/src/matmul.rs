//! Products of activations with weights: how the work is cut, and where results go.
//!
//! The unit is a strip of up to eight rows. A task is some strips in a row; within it strips are taken in
//! chunks that stay in the cache while all tokens pass over them in tiles, so weights are read from memory
//! once. Nothing of this changes a result: each one is the sum over a whole row, computed by one kernel call.

use crate::arch::SUM_COLUMNS;
use crate::arch::{Codes, Floats};
use crate::disjoint::Disjoint;
use crate::formats::Format;
use crate::limits::{
    CHUNK_WEIGHT_BYTES_MAX, QUANTIZE_VALUES_ALONE_MAX, TASK_WEIGHT_BYTES_MIN, TASKS_PER_THREAD,
    TILE_ACTIVATION_BYTES_MAX, TILE_TOKENS_MAX, TILE_TOKENS_MIN,
};
use crate::matrix::{Activations, Layout, Matrix};
use crate::{Kernels, PANEL_ROWS, Parallel, QUANT_BLOCK};

/// One matrix to multiply by, and where the result goes.
pub struct Product<'a> {
    /// The weights.
    pub weights: Matrix<'a>,
    /// Added to every row of the result, `[weights.rows()]`.
    pub bias: Option<&'a [f32]>,
    /// The result, `[tokens][weights.rows()]`.
    pub out: &'a mut [f32],
}

/// A product whose result several tasks write.
struct Shared<'a> {
    weights: Matrix<'a>,
    bias: Option<&'a [f32]>,
    out: Disjoint<'a, f32>,
    /// The first task that belongs to it.
    first_task: usize,
    strips_per_task: usize,
}

/// A tile of activations in the form that a format eats.
enum Tile<'a> {
    Codes(Codes<'a>),
    Floats(Floats<'a>),
}

impl Kernels {
    /// Quantises all rows of `x` for products with quantised weights.
    pub fn quantize(self, pool: &dyn Parallel, x: &mut Activations) {
        if x.is_quantized() {
            return;
        }
        let columns = x.columns();
        let padded = columns.next_multiple_of(QUANT_BLOCK);
        let tokens = x.tokens();
        let (values, codes, scales, sums) = x.quantize_parts();
        let (codes, scales, sums) = (Disjoint::new(codes), Disjoint::new(scales), Disjoint::new(sums));
        let row = |token: usize| {
            let part = |per: usize| token * padded / per..(token + 1) * padded / per;
            // SAFETY: each token has its own part of the three buffers, and one task.
            let (codes, scales, sums) = unsafe {
                (codes.part(part(1)), scales.part(part(QUANT_BLOCK)), sums.part(part(SUM_COLUMNS)))
            };
            self.quantize_row(&values[token * columns..(token + 1) * columns], codes, scales, sums);
        };
        if values.len() <= QUANTIZE_VALUES_ALONE_MAX {
            (0..tokens).for_each(row);
        } else {
            pool.run(tokens, &row);
        }
    }

    /// out = x W^T (+ bias) for each product, all in one go.
    ///
    /// # Panics If a length does not fit, or weights are quantised and [`Kernels::quantize`] was not called
    /// since the values of `x` changed.
    pub fn matmul(self, pool: &dyn Parallel, x: &Activations, products: &mut [Product<'_>]) {
        let mut tasks = 0;
        let total: usize = products.iter().map(|product| product.weights.bytes().len()).sum();
        let task_bytes = (total / (pool.threads() * TASKS_PER_THREAD)).max(TASK_WEIGHT_BYTES_MIN);
        let mut shared = alloc::vec::Vec::with_capacity(products.len());
        for product in products {
            let weights = product.weights;
            assert_eq!(weights.columns(), x.columns(), "weights for rows of another width");
            assert_eq!(product.out.len(), x.tokens() * weights.rows(), "a result of another shape");
            assert!(product.bias.is_none_or(|bias| bias.len() == weights.rows()), "a bias of another length");
            assert!(weights.format().is_float() || x.is_quantized(), "activations were not quantised");
            let strips_per_task = (task_bytes / weights.strip_bytes().max(1)).max(1);
            let out = Disjoint::new(product.out);
            shared.push(Shared { weights, bias: product.bias, out, first_task: tasks, strips_per_task });
            tasks += weights.strips().div_ceil(strips_per_task);
        }
        if x.tokens() == 0 {
            return;
        }
        pool.run(tasks, &|task| {
            let product = &shared[shared.partition_point(|product| product.first_task <= task) - 1];
            let first = (task - product.first_task) * product.strips_per_task;
            let end = (first + product.strips_per_task).min(product.weights.strips());
            self.multiply_strips(product, first, end, x);
        });
    }

    fn multiply_strips(self, product: &Shared<'_>, first: usize, end: usize, x: &Activations) {
        let weights = &product.weights;
        let is_float = weights.format().is_float();
        let token_bytes = x.columns() * if is_float { 4 } else { 1 };
        let tile_tokens =
            (TILE_ACTIVATION_BYTES_MAX / token_bytes.max(1)).clamp(TILE_TOKENS_MIN, TILE_TOKENS_MAX);
        let chunk = (CHUNK_WEIGHT_BYTES_MAX / weights.strip_bytes().max(1)).max(1);
        for chunk_start in (first..end).step_by(chunk) {
            let chunk_end = (chunk_start + chunk).min(end);
            for token in (0..x.tokens()).step_by(tile_tokens) {
                let tokens = token..(token + tile_tokens).min(x.tokens());
                let tile = match is_float {
                    true => Tile::Floats(x.floats(tokens.clone())),
                    false => Tile::Codes(x.codes(tokens.clone())),
                };
                let mut results = [[0.0; PANEL_ROWS]; TILE_TOKENS_MAX];
                let results = &mut results[..tokens.len()];
                for strip in chunk_start..chunk_end {
                    self.multiply_strip(weights, strip, &tile, results);
                    scatter(product, strip, tokens.start, results);
                }
            }
        }
    }

    fn multiply_strip(self, weights: &Matrix<'_>, strip: usize, x: &Tile<'_>, out: &mut [[f32; PANEL_ROWS]]) {
        let (bytes, count) = (weights.strip(strip), weights.strip_rows(strip));
        match (weights.format(), weights.layout(), x) {
            (Format::F32, _, Tile::Floats(x)) => self.strip_f32(bytes, count, x, out),
            (Format::F16, _, Tile::Floats(x)) => self.strip_f16(bytes, count, x, out),
            (Format::BF16, _, Tile::Floats(x)) => self.strip_bf16(bytes, count, x, out),
            (Format::Q4_0, Layout::Panels, Tile::Codes(x)) => self.strip_q4_0(bytes, x, out),
            (Format::Q8_0, Layout::Panels, Tile::Codes(x)) => self.strip_q8_0(bytes, x, out),
            (Format::Q4K, Layout::Panels, Tile::Codes(x)) => self.strip_q4_k(bytes, x, out),
            (Format::Q6K, Layout::Panels, Tile::Codes(x)) => self.strip_q6_k(bytes, x, out),
            (format, Layout::Rows, Tile::Codes(x)) => self.strip_rows(format, bytes, count, x, out),
            _ => unreachable!("only four formats have panels, and tiles are made for the format"),
        }
    }
}

/// Puts a strip's results into their places, with the bias.
fn scatter(product: &Shared<'_>, strip: usize, first_token: usize, results: &[[f32; PANEL_ROWS]]) {
    let (rows, count) = (product.weights.rows(), product.weights.strip_rows(strip));
    let row = strip * PANEL_ROWS;
    for (token, result) in results.iter().enumerate() {
        let start = (first_token + token) * rows + row;
        // SAFETY: a strip belongs to one task, and these are the places of its rows.
        let out = unsafe { product.out.part(start..start + count) };
        out.copy_from_slice(&result[..count]);
        if let Some(bias) = product.bias {
            for (out, bias) in out.iter_mut().zip(&bias[row..]) {
                *out += *bias;
            }
        }
    }
}
