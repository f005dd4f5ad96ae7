//! Attention of the query heads that share one key head.
//!
//! A page's keys, and then its values, are widened once for all query heads of the group; scores of four
//! positions are summed side by side, because one sum alone waits for its own multiply-adds. Steps and orders
//! are the portable set's.

use core::arch::x86_64::*;

use super::sum8;
use crate::arch::{HeadGroup, portable};
use crate::half::f16_to_f32;
use crate::{KV_PAGE_TOKENS, KvKind, QUANT_BLOCK};

/// Widest head that is done here; the widened page lies on the stack (32 KB). No supported family has a wider
/// one.
const WIDTH_MAX: usize = 256;

/// Query heads that are done at once; their running sums lie on the stack.
const HEADS_MAX: usize = 64;

/// Attends for every query head of the group; `out` is laid out as the query.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn attend(group: &HeadGroup<'_>, out: &mut [f32]) {
    let width = group.head_width;
    let heads = group.query.len() / width;
    if !width.is_multiple_of(8) || width > WIDTH_MAX || heads > HEADS_MAX {
        return portable::attend(group, out);
    }
    let head_bytes = group.kind.head_bytes(width).expect("the shape was checked");
    let mut widened = [0.0f32; WIDTH_MAX * KV_PAGE_TOKENS];
    let mut largest = [f32::NEG_INFINITY; HEADS_MAX];
    let mut sums = [0.0f32; HEADS_MAX];
    let mut weights = [[0.0f32; KV_PAGE_TOKENS]; HEADS_MAX];
    let mut corrections = [0.0f32; HEADS_MAX];
    out.fill(0.0);
    for (page, slots) in group.clipped_pages() {
        let count = slots.len();
        let run = slots.start * head_bytes..slots.end * head_bytes;
        widen(group.kind, &page[group.keys_offset..][run.clone()], head_bytes, width, &mut widened);
        for (head, query) in group.query.chunks_exact(width).enumerate() {
            let weights = &mut weights[head][..count];
            scores(query, &widened[..count * width], group.scale, weights);
            let before = largest[head];
            largest[head] = weights.iter().copied().fold(before, f32::max);
            for weight in weights.iter_mut() {
                *weight -= largest[head];
            }
            let mut page_sum = 0.0;
            exponentials(weights);
            for weight in weights.iter() {
                page_sum += *weight;
            }
            corrections[head] = portable::exp(before - largest[head]);
            sums[head] = sums[head] * corrections[head] + page_sum;
        }
        widen(group.kind, &page[group.values_offset..][run], head_bytes, width, &mut widened);
        for (head, out) in out.chunks_exact_mut(width).enumerate() {
            add_values(out, corrections[head], &weights[head][..count], &widened[..count * width]);
        }
    }
    for (out, sum) in out.chunks_exact_mut(width).zip(sums) {
        let factor = 1.0 / sum;
        out.iter_mut().for_each(|out| *out *= factor);
    }
}

/// Rows of the cache as floats, `[rows][width]`.
#[target_feature(enable = "avx2,fma,f16c")]
fn widen(kind: KvKind, bytes: &[u8], head_bytes: usize, width: usize, out: &mut [f32]) {
    match kind {
        KvKind::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        KvKind::F16 => {
            for (out, bytes) in out.as_chunks_mut::<8>().0.iter_mut().zip(bytes.as_chunks::<16>().0) {
                // SAFETY: 16 bytes are read and eight floats written; neither asks for alignment.
                unsafe {
                    let halves = _mm_loadu_si128(bytes.as_ptr().cast());
                    _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
                }
            }
        }
        KvKind::Q8_0 => {
            for (out, row) in out.chunks_exact_mut(width).zip(bytes.chunks_exact(head_bytes)) {
                let blocks = row.chunks_exact(2 + QUANT_BLOCK);
                for (out, block) in out.as_chunks_mut::<QUANT_BLOCK>().0.iter_mut().zip(blocks) {
                    let scale = _mm256_set1_ps(f16_to_f32(u16::from_le_bytes([block[0], block[1]])));
                    let codes = block[2..].as_chunks::<8>().0;
                    for (out, codes) in out.as_chunks_mut::<8>().0.iter_mut().zip(codes) {
                        // SAFETY: eight bytes are read and eight floats written; neither asks for alignment.
                        unsafe {
                            let codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(codes.as_ptr().cast()));
                            _mm256_storeu_ps(
                                out.as_mut_ptr(),
                                _mm256_mul_ps(scale, _mm256_cvtepi32_ps(codes)),
                            );
                        }
                    }
                }
            }
        }
    }
}

/// scale * (query . key) for every key, `[keys][width]`.
#[target_feature(enable = "avx2,fma,f16c")]
fn scores(query: &[f32], keys: &[f32], scale: f32, out: &mut [f32]) {
    let width = query.len();
    let mut fours = keys.chunks_exact(4 * width);
    let mut outs = out.chunks_exact_mut(4);
    for (keys, out) in fours.by_ref().zip(outs.by_ref()) {
        dots::<4>(query, keys, scale, out);
    }
    for (key, out) in fours.remainder().chunks_exact(width).zip(outs.into_remainder().chunks_exact_mut(1)) {
        dots::<1>(query, key, scale, out);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<const N: usize>(query: &[f32], keys: &[f32], scale: f32, out: &mut [f32]) {
    let width = query.len();
    assert!(keys.len() == N * width && out.len() == N && width.is_multiple_of(8));
    let mut sums = [_mm256_setzero_ps(); N];
    for column in (0..width).step_by(8) {
        // SAFETY: `column + 8 <= width`, and there are `N` keys of that width.
        unsafe {
            let query = _mm256_loadu_ps(query.as_ptr().add(column));
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum =
                    _mm256_fmadd_ps(query, _mm256_loadu_ps(keys.as_ptr().add(index * width + column)), *sum);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = scale * sum8(sum);
    }
}

/// x = e^x.
#[target_feature(enable = "avx2,fma,f16c")]
fn exponentials(x: &mut [f32]) {
    let (eights, rest) = x.as_chunks_mut::<8>();
    for values in eights {
        // SAFETY: eight values are there; nothing asks for alignment.
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), super::elementwise::exp(_mm256_loadu_ps(values.as_ptr())))
        };
    }
    rest.iter_mut().for_each(|value| *value = portable::exp(*value));
}

/// out = out * correction + sum of weights[i] * values[i], `[positions][width]`, in the order of positions.
#[target_feature(enable = "avx2,fma,f16c")]
fn add_values(out: &mut [f32], correction: f32, weights: &[f32], values: &[f32]) {
    let width = out.len();
    assert!(values.len() == weights.len() * width && width.is_multiple_of(8));
    let correction = _mm256_set1_ps(correction);
    let mut column = 0;
    while column < width {
        // Four registers of columns at a time where there are as many, so that sums don't wait for
        // themselves.
        let registers = if width - column >= 32 { 4 } else { 1 };
        let mut sums = [_mm256_setzero_ps(); 4];
        // SAFETY: `column + 8 * registers <= width`, and there is a row of that width for each weight.
        unsafe {
            for (index, sum) in sums.iter_mut().enumerate().take(registers) {
                *sum = _mm256_mul_ps(_mm256_loadu_ps(out.as_ptr().add(column + 8 * index)), correction);
            }
            for (position, weight) in weights.iter().enumerate() {
                let weight = _mm256_set1_ps(*weight);
                let row = values.as_ptr().add(position * width + column);
                for (index, sum) in sums.iter_mut().enumerate().take(registers) {
                    *sum = _mm256_fmadd_ps(weight, _mm256_loadu_ps(row.add(8 * index)), *sum);
                }
            }
            for (index, sum) in sums.iter().enumerate().take(registers) {
                _mm256_storeu_ps(out.as_mut_ptr().add(column + 8 * index), *sum);
            }
        }
        column += 8 * registers;
    }
}
