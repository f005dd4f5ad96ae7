//! Norms, activations and quantisation of single rows.
//!
//! The same steps as the portable set, eight values at a time; what is left over at the end of a row goes to
//! the portable functions, whose values don't depend on their neighbours.

use core::arch::x86_64::*;

use super::sum16;
use crate::QUANT_BLOCK;
use crate::arch::SUM_COLUMNS;
use crate::arch::portable::{
    self, EXP_HIGH, EXP_LOW, EXP_POLYNOMIAL, GELU_CUBIC, GELU_LINEAR, LN_2_HIGH, LN_2_LOW,
};

/// Adding and subtracting it rounds to the nearest integer, ties to even.
const ROUNDING_SHIFT: f32 = 12_582_912.0;

/// Eight values of a slice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(values: &[f32; 8]) -> __m256 {
    // SAFETY: eight values are there; the load asks for no alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(values: &mut [f32; 8], register: __m256) {
    // SAFETY: eight values are there; the store asks for no alignment.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), register) }
}

/// e^x, as the portable `exp`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exp(x: __m256) -> __m256 {
    let (low, high) = (_mm256_set1_ps(EXP_LOW), _mm256_set1_ps(EXP_HIGH));
    let clamped = _mm256_min_ps(_mm256_max_ps(x, low), high);
    let shift = _mm256_set1_ps(ROUNDING_SHIFT);
    let powers = _mm256_mul_ps(clamped, _mm256_set1_ps(core::f32::consts::LOG2_E));
    let n = _mm256_sub_ps(_mm256_add_ps(powers, shift), shift);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(-LN_2_HIGH), clamped);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(-LN_2_LOW), r);
    let mut sum = _mm256_set1_ps(EXP_POLYNOMIAL[0]);
    for coefficient in &EXP_POLYNOMIAL[1..] {
        sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(*coefficient));
    }
    let power = _mm256_add_ps(_mm256_fmadd_ps(sum, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0));
    let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
    let value = _mm256_mul_ps(power, _mm256_castsi256_ps(exponent));
    let value = _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, low), value);
    let infinite = _mm256_cmp_ps::<_CMP_GT_OQ>(x, high);
    _mm256_blendv_ps(value, _mm256_set1_ps(f32::INFINITY), infinite)
}

/// gate = silu(gate) * up.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
    let length = gate.len().min(up.len());
    let (gates, gate_rest) = gate[..length].as_chunks_mut::<8>();
    let (ups, up_rest) = up[..length].as_chunks::<8>();
    let (one, sign) = (_mm256_set1_ps(1.0), _mm256_set1_ps(-0.0));
    for (gate, up) in gates.iter_mut().zip(ups) {
        let x = load(gate);
        let divisor = _mm256_add_ps(one, exp(_mm256_xor_ps(x, sign)));
        store(gate, _mm256_mul_ps(_mm256_div_ps(x, divisor), load(up)));
    }
    portable::swiglu(gate_rest, up_rest);
}

/// gate = gelu(gate) * up.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn geglu(gate: &mut [f32], up: &[f32]) {
    let length = gate.len().min(up.len());
    let (gates, gate_rest) = gate[..length].as_chunks_mut::<8>();
    let (ups, up_rest) = up[..length].as_chunks::<8>();
    let one = _mm256_set1_ps(1.0);
    let (cubic, linear) = (_mm256_set1_ps(GELU_CUBIC), _mm256_set1_ps(GELU_LINEAR));
    for (gate, up) in gates.iter_mut().zip(ups) {
        let x = load(gate);
        let exponent = _mm256_mul_ps(x, _mm256_fmadd_ps(cubic, _mm256_mul_ps(x, x), linear));
        let divisor = _mm256_add_ps(one, exp(exponent));
        store(gate, _mm256_mul_ps(_mm256_div_ps(x, divisor), load(up)));
    }
    portable::geglu(gate_rest, up_rest);
}

/// out = (x * (1 / sqrt(mean of squares + epsilon))) * weight.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let mut sums = [_mm256_setzero_ps(); 2];
    let (chunks, rest) = x.as_chunks::<16>();
    let mut last = [0.0; 16];
    last[..rest.len()].copy_from_slice(rest);
    // A lane beyond the row adds 0 * 0 to a sum that is not negative: nothing.
    for chunk in chunks.iter().chain([&last]) {
        for (sum, values) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            let values = load(values);
            *sum = _mm256_fmadd_ps(values, values, *sum);
        }
    }
    let factor = 1.0 / (sum16(sums[0], sums[1]) / x.len() as f32 + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = *x * factor * *weight;
    }
}

/// Codes, scales and sums of one row, as [`crate::Activations`] describes.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantize_row(values: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let (blocks, rest) = values.as_chunks::<QUANT_BLOCK>();
    let (code_blocks, code_rest) = codes.as_chunks_mut::<QUANT_BLOCK>();
    if !rest.is_empty() {
        let whole = blocks.len();
        let codes = code_blocks[whole..].as_flattened_mut();
        portable::quantize_row(rest, codes, &mut scales[whole..], &mut sums[2 * whole..]);
    }
    debug_assert!(code_rest.is_empty());
    for (index, (values, codes)) in blocks.iter().zip(code_blocks).enumerate() {
        let parts: [__m256; 4] = core::array::from_fn(|part| load(&values.as_chunks::<8>().0[part]));
        let sign = _mm256_set1_ps(-0.0);
        let size = |part: usize| _mm256_andnot_ps(sign, parts[part]);
        let largest = _mm256_max_ps(_mm256_max_ps(size(0), size(1)), _mm256_max_ps(size(2), size(3)));
        let four = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps::<1>(largest));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        let largest = _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
        let inverse = 127.0 / largest;
        let sums = &mut sums[2 * index..2 * index + 2];
        if inverse == f32::INFINITY {
            scales[index] = 0.0;
            codes.fill(0);
            sums.fill(0);
            continue;
        }
        scales[index] = largest / 127.0;
        let inverse = _mm256_set1_ps(inverse);
        let rounded = |part: usize| _mm256_cvtps_epi32(_mm256_mul_ps(parts[part], inverse));
        let low = _mm256_packs_epi32(rounded(0), rounded(1));
        let high = _mm256_packs_epi32(rounded(2), rounded(3));
        // Packing works within halves of a register; the permutation puts the groups of four in order again.
        let packed = _mm256_packs_epi16(low, high);
        let packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: 32 codes are there; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), packed) };
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), packed);
        let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        let half = |fours: __m128i| {
            let two = _mm_add_epi32(fours, _mm_shuffle_epi32::<0b01_00_11_10>(fours));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
        };
        sums[0] = half(_mm256_castsi256_si128(fours));
        sums[1] = half(_mm256_extracti128_si256::<1>(fours));
    }
    debug_assert_eq!(SUM_COLUMNS * 2, QUANT_BLOCK);
}
