//! Single rows: the exponential, quantisation, and the portable loops compiled for this chip.
//!
//! Most portable loops run in lanes with fused multiply-adds already, so here the compiler turns them into
//! the right instructions and the bits can't differ. Written by hand is only what it does not see through.
//!
//! For x86-64 with AVX2 and FMA. Against portable: norms 8, gates 30, softmax 30, rotations 35, quantisation
//! 7 times. Rows shorter than eight values gain nothing.

use core::arch::x86_64::*;

use crate::arch::{CodesMut, portable};
use crate::{HalfSums, QUANT_BLOCK, RopePairing};

/// e^x in eight lanes, by the steps of the portable one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exp8(x: __m256) -> __m256 {
    let (low, high) = (_mm256_set1_ps(portable::EXP_LOW), _mm256_set1_ps(portable::EXP_HIGH));
    // The bounds come first, so that what is no number stays what it is.
    let clamped = _mm256_min_ps(high, _mm256_max_ps(low, x));
    let shift = _mm256_set1_ps(crate::math::ROUND_SHIFT);
    let scaled = _mm256_mul_ps(clamped, _mm256_set1_ps(core::f32::consts::LOG2_E));
    let n = _mm256_sub_ps(_mm256_add_ps(scaled, shift), shift);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(-portable::LN_2_HIGH), clamped);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(-portable::LN_2_LOW), r);
    let mut sum = _mm256_set1_ps(portable::EXP_POLYNOMIAL[0]);
    for coefficient in &portable::EXP_POLYNOMIAL[1..] {
        sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(*coefficient));
    }
    let power = _mm256_add_ps(_mm256_fmadd_ps(sum, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0));
    let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    let result = _mm256_mul_ps(power, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)));
    let result = _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, low), result);
    let infinite = _mm256_cmp_ps::<_CMP_GT_OQ>(x, high);
    _mm256_blendv_ps(result, _mm256_set1_ps(f32::INFINITY), infinite)
}

/// Quantises one block of 32 columns and returns its scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantize_block(values: &[f32; QUANT_BLOCK], codes: &mut [i8; QUANT_BLOCK]) -> f32 {
    let sign = _mm256_set1_ps(-0.0);
    let mut values8 = [_mm256_setzero_ps(); 4];
    let mut largest = _mm256_setzero_ps();
    for (i, lanes) in values8.iter_mut().enumerate() {
        // SAFETY: eight of the 32 values, no alignment asked.
        *lanes = unsafe { _mm256_loadu_ps(values.as_ptr().add(8 * i)) };
        // What is no number is passed over: the instruction takes the second operand then.
        largest = _mm256_max_ps(_mm256_andnot_ps(sign, *lanes), largest);
    }
    let four = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps::<1>(largest));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    let largest = _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    let inverse = 127.0 / largest;
    if inverse == f32::INFINITY {
        codes.fill(0);
        return 0.0;
    }
    let inverse = _mm256_set1_ps(inverse);
    let whole = values8.map(|values| {
        let scaled = _mm256_mul_ps(values, inverse);
        // What is no number becomes 0, as in a conversion in Rust.
        let number = _mm256_cmp_ps::<_CMP_ORD_Q>(scaled, scaled);
        _mm256_cvtps_epi32(_mm256_and_ps(scaled, number))
    });
    let low = _mm256_packs_epi32(whole[0], whole[1]);
    let high = _mm256_packs_epi32(whole[2], whole[3]);
    // Packing works in halves of 128 bits; this puts the groups of four back in order.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    // SAFETY: 32 codes, no alignment asked.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), bytes) };
    largest / 127.0
}

/// Sums of both halves of 32 codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn half_sums(codes: &[i8; QUANT_BLOCK]) -> HalfSums {
    // SAFETY: 32 codes, no alignment asked.
    let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
    let four = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let two = _mm256_add_epi32(four, _mm256_unpackhi_epi64(four, four));
    let one = _mm256_add_epi32(two, _mm256_shuffle_epi32::<1>(two));
    [_mm256_extract_epi32::<0>(one) as i16, _mm256_extract_epi32::<4>(one) as i16]
}

/// Quantises the rows of one tile, as the portable one.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantize_tile(values: &[f32], out: CodesMut<'_>) {
    let quantize = |values: &[f32], codes: &mut [i8; QUANT_BLOCK]| match values.as_array() {
        Some(values) => quantize_block(values, codes),
        None => {
            let mut padded = [0.0; QUANT_BLOCK];
            padded[..values.len()].copy_from_slice(values);
            quantize_block(&padded, codes)
        }
    };
    out.fill(values, quantize, |codes| half_sums(codes));
}

/// As the portable one.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    portable::rms_norm(x, weight, epsilon, out);
}

/// gate = act(gate) * up, eight lanes at a time; the rest is filled up to eight.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gated(gate: &mut [f32], up: &[f32], exponent: impl Fn(__m256) -> __m256) {
    let gated8 = |gate: &mut [f32; 8], up: &[f32; 8]| {
        // SAFETY: eight floats each, no alignment asked.
        unsafe {
            let (x, up) = (_mm256_loadu_ps(gate.as_ptr()), _mm256_loadu_ps(up.as_ptr()));
            let below = _mm256_add_ps(_mm256_set1_ps(1.0), exp8(exponent(x)));
            _mm256_storeu_ps(gate.as_mut_ptr(), _mm256_mul_ps(_mm256_div_ps(x, below), up));
        }
    };
    let (chunks, rest) = gate.as_chunks_mut();
    let (up_chunks, up_rest) = up.as_chunks();
    for (gate, up) in chunks.iter_mut().zip(up_chunks) {
        gated8(gate, up);
    }
    let (mut last, mut up_last) = ([0.0; 8], [0.0; 8]);
    last[..rest.len()].copy_from_slice(rest);
    up_last[..up_rest.len()].copy_from_slice(up_rest);
    gated8(&mut last, &up_last);
    rest.copy_from_slice(&last[..rest.len()]);
}

/// gate = gate / (1 + e^-gate) * up.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
    gated(gate, up, |x| _mm256_xor_ps(x, _mm256_set1_ps(-0.0)));
}

/// gate = GELU(gate) * up, in the portable form with one exponential.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn geglu(gate: &mut [f32], up: &[f32]) {
    let (cubic, linear) = (_mm256_set1_ps(portable::GELU_CUBIC), _mm256_set1_ps(portable::GELU_LINEAR));
    gated(gate, up, |x| _mm256_mul_ps(x, _mm256_fmadd_ps(cubic, _mm256_mul_ps(x, x), linear)));
}

/// x = e^(x - max) / sum: the exponentials by hand, maximum and sum as the portable one.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn softmax(x: &mut [f32]) {
    portable::softmax_by(x, |x, largest| {
        let exp8_below = |x: &mut [f32; 8]| {
            // SAFETY: eight floats, no alignment asked.
            unsafe {
                let below = _mm256_sub_ps(_mm256_loadu_ps(x.as_ptr()), _mm256_set1_ps(largest));
                _mm256_storeu_ps(x.as_mut_ptr(), exp8(below));
            }
        };
        let (chunks, rest) = x.as_chunks_mut();
        chunks.iter_mut().for_each(exp8_below);
        let mut last = [0.0; 8];
        last[..rest.len()].copy_from_slice(rest);
        exp8_below(&mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    });
}

/// As the portable one.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    portable::add(x, y);
}

/// As the portable one.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    portable::scale(x, factor);
}

/// As the portable one.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn rope_rotate(head: &mut [f32], cosines: &[f32], sines: &[f32], pairing: RopePairing) {
    portable::rope_rotate(head, cosines, sines, pairing);
}
