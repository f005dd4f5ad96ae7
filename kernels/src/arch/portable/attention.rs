//! Attention of the query heads that share one key head, page by page.
//!
//! The softmax is taken in one walk over the cache: sums are rescaled whenever a page brings a larger score
//! (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).

use super::elementwise::{exp, quantize_block};
use crate::arch::HeadGroup;
use crate::half::{f16_to_f32, f32_to_f16};
use crate::limits::HEAD_WIDTH_MAX;
use crate::math::{fused, reduce8};
use crate::unpack::half_at;
use crate::{KV_PAGE_TOKENS, KvKind, QUANT_BLOCK};

/// Largest value of an IEEE half.
pub(crate) const HALF_MAX: f32 = 65504.0;

/// Attends for every query head of the group; `out` is laid out as the query.
pub(crate) fn attend(group: &HeadGroup<'_>, out: &mut [f32]) {
    let width = group.head_width;
    let head_bytes = group.kind.head_bytes(width).expect("the shape was checked");
    let mut row = [0.0; HEAD_WIDTH_MAX];
    let row = &mut row[..width];
    for (query, out) in group.query.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let (mut largest, mut sum) = (f32::NEG_INFINITY, 0.0);
        out.fill(0.0);
        for (page, slots) in group.clipped_pages() {
            let mut weights = [0.0; KV_PAGE_TOKENS];
            let weights = &mut weights[..slots.len()];
            let before = largest;
            for (slot, weight) in slots.clone().zip(weights.iter_mut()) {
                load_head(group.kind, &page[group.keys_offset + slot * head_bytes..][..head_bytes], row);
                *weight = group.scale * dot8(query, row);
                largest = largest.max(*weight);
            }
            let correction = exp(before - largest);
            let mut page_sum = 0.0;
            for weight in weights.iter_mut() {
                *weight = exp(*weight - largest);
                page_sum += *weight;
            }
            sum = sum * correction + page_sum;
            out.iter_mut().for_each(|out| *out *= correction);
            for (slot, weight) in slots.zip(weights.iter()) {
                load_head(group.kind, &page[group.values_offset + slot * head_bytes..][..head_bytes], row);
                for (out, value) in out.iter_mut().zip(row.iter()) {
                    *out = fused(*weight, *value, *out);
                }
            }
        }
        let factor = 1.0 / sum;
        out.iter_mut().for_each(|out| *out *= factor);
    }
}

/// Eight lanes by `k % 8`, each ascending, then `reduce8`.
fn dot8(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = fused(*a, *b, *lane);
        }
    }
    reduce8(&lanes)
}

/// One head's row of the cache as floats.
fn load_head(kind: KvKind, bytes: &[u8], out: &mut [f32]) {
    match kind {
        KvKind::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        KvKind::F16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f16_to_f32(u16::from_le_bytes(*bytes));
            }
        }
        KvKind::Q8_0 => {
            for (out, block) in out.chunks_mut(QUANT_BLOCK).zip(bytes.chunks_exact(2 + QUANT_BLOCK)) {
                let scale = half_at(block, 0);
                for (out, code) in out.iter_mut().zip(&block[2..]) {
                    *out = scale * f32::from(*code as i8);
                }
            }
        }
    }
}

/// One head's row into the cache. Halves round to nearest; Q8_0 takes the codes of `quantize_block` and its
/// scale as a half, at most the largest finite one.
pub(crate) fn store_head(kind: KvKind, values: &[f32], bytes: &mut [u8]) {
    match kind {
        KvKind::F32 => {
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
        }
        KvKind::F16 => {
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = f32_to_f16(*value).to_le_bytes();
            }
        }
        KvKind::Q8_0 => {
            let blocks = values.chunks_exact(QUANT_BLOCK).zip(bytes.chunks_exact_mut(2 + QUANT_BLOCK));
            for (values, block) in blocks {
                let mut codes = [0; QUANT_BLOCK];
                let scale = quantize_block(values, &mut codes);
                block[..2].copy_from_slice(&f32_to_f16(scale.min(HALF_MAX)).to_le_bytes());
                for (byte, code) in block[2..].iter_mut().zip(codes) {
                    *byte = code as u8;
                }
            }
        }
    }
}
