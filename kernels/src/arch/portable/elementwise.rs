//! What a block does to single rows: norms, activations, rotations, quantisation.

use crate::arch::{CodesMut, SUM_COLUMNS};
use crate::math::{fused, reduce16, round_ties_even, square_root};
use crate::{QUANT_BLOCK, RopePairing};

/// Below this `exp` is zero (the true value is below 1.7e-38).
pub(crate) const EXP_LOW: f32 = -87.0;
/// Above this `exp` is infinite (the true value is above 1.6e38).
pub(crate) const EXP_HIGH: f32 = 88.0;
/// ln 2 in two parts: the first has few bits, so that its products with small integers are exact.
pub(crate) const LN_2_HIGH: f32 = 0.693_359_4;
/// The rest of ln 2.
pub(crate) const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Coefficients of (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2, highest power first (Cephes, `expf`).
pub(crate) const EXP_POLYNOMIAL: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1];
/// -2 sqrt(2 / pi): the factor of x in the tanh form of GELU.
pub(crate) const GELU_LINEAR: f32 = -1.595_769;
/// The same times 0.044715: the factor of x^3.
pub(crate) const GELU_CUBIC: f32 = -0.071_354_814;

/// Largest error of `exp` within its range, in units in the last place (measured at two million points: see
/// tests).
#[cfg(test)]
const EXP_ERROR_ULP_MAX: f64 = 1.0;

/// e^x: x = n ln 2 + r with integer n, then a polynomial in r and n into the exponent.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(EXP_LOW, EXP_HIGH);
    let n = round_ties_even(clamped * core::f32::consts::LOG2_E);
    let r = fused(n, -LN_2_LOW, fused(n, -LN_2_HIGH, clamped));
    let mut sum = EXP_POLYNOMIAL[0];
    for coefficient in &EXP_POLYNOMIAL[1..] {
        sum = fused(sum, r, *coefficient);
    }
    let power = fused(sum, r * r, r) + 1.0;
    let exponent = f32::from_bits(((n as i32 + 127) as u32) << 23);
    match x {
        x if x < EXP_LOW => 0.0,
        x if x > EXP_HIGH => f32::INFINITY,
        _ => power * exponent,
    }
}

/// gate = gate / (1 + e^-gate) * up.
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * *up;
    }
}

/// gate = GELU(gate) * up in its tanh form, written with one exponential: x (1 + tanh u) / 2 = x / (1 +
/// e^-2u).
pub(crate) fn geglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let exponent = *gate * fused(GELU_CUBIC, *gate * *gate, GELU_LINEAR);
        *gate = *gate / (1.0 + exp(exponent)) * *up;
    }
}

/// x += y.
#[inline(always)]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += *y;
    }
}

/// x *= factor.
#[inline(always)]
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// Sixteen lanes of `values`, lane `l` folding the values `k` with `k % 16 == l` in ascending order.
#[inline(always)]
fn lanes(values: &[f32], fold: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    let mut lanes = [0.0; 16];
    for values in values.chunks(16) {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = fold(*lane, *value);
        }
    }
    lanes
}

/// x = e^(x - max) / sum; the sum in sixteen lanes, then every value times 1 / sum.
pub(crate) fn softmax(x: &mut [f32]) {
    softmax_by(x, |x, largest| x.iter_mut().for_each(|x| *x = exp(*x - largest)));
}

/// [`softmax`] around a function that turns every value into e^(value - largest).
#[inline(always)]
pub(crate) fn softmax_by(x: &mut [f32], exp_below: impl Fn(&mut [f32], f32)) {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    exp_below(x, largest);
    let sum = reduce16(&lanes(x, |sum, value| sum + value));
    scale(x, 1.0 / sum);
}

/// out = (x * (1 / sqrt(mean of squares + epsilon))) * weight; squares summed in sixteen lanes.
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let squares = reduce16(&lanes(x, |sum, value| fused(value, value, sum)));
    let factor = 1.0 / square_root(squares / x.len() as f32 + epsilon);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = *x * factor * *weight;
    }
}

/// Rotates the first `2 * cosines.len()` values of one head: (a, b) becomes (a c - b s, b c + a s), the first
/// product of each sum fused.
#[inline(always)]
pub(crate) fn rope_rotate(head: &mut [f32], cosines: &[f32], sines: &[f32], pairing: RopePairing) {
    let rotate = |a: &mut f32, b: &mut f32, cosine: f32, sine: f32| {
        let (old_a, old_b) = (*a, *b);
        *a = fused(old_a, cosine, -(old_b * sine));
        *b = fused(old_b, cosine, old_a * sine);
    };
    let pairs = cosines.iter().zip(sines);
    match pairing {
        RopePairing::Interleaved => {
            for ([a, b], (cosine, sine)) in head.as_chunks_mut().0.iter_mut().zip(pairs) {
                rotate(a, b, *cosine, *sine);
            }
        }
        RopePairing::Halves => {
            let (low, high) = head.split_at_mut(cosines.len());
            for ((a, b), (cosine, sine)) in low.iter_mut().zip(high).zip(pairs) {
                rotate(a, b, *cosine, *sine);
            }
        }
    }
}

/// Quantises up to 32 values, filled up with zeros, as [`crate::Activations`] describes; returns their scale.
pub(crate) fn quantize_block(values: &[f32], codes: &mut [i8; QUANT_BLOCK]) -> f32 {
    let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let inverse = 127.0 / largest;
    codes.fill(0);
    if inverse == f32::INFINITY {
        return 0.0;
    }
    for (code, value) in codes.iter_mut().zip(values) {
        *code = round_ties_even(*value * inverse) as i8;
    }
    largest / 127.0
}

/// Quantises the rows of one tile.
pub(crate) fn quantize_tile(values: &[f32], out: CodesMut<'_>) {
    out.fill(values, quantize_block, |codes| {
        let (halves, _) = codes.as_chunks::<SUM_COLUMNS>();
        core::array::from_fn(|half| halves[half].iter().map(|code| i16::from(*code)).sum())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units in the last place of the true value.
    fn error_ulp(x: f32) -> f64 {
        let wanted = f64::from(x).exp();
        let unit = f64::from((wanted as f32).next_up() - wanted as f32);
        (f64::from(exp(x)) - wanted).abs() / unit
    }

    #[test]
    fn exp_is_within_its_bound_over_its_whole_range() {
        let steps = 2_000_000;
        let at = |step: u32| EXP_LOW + (EXP_HIGH - EXP_LOW) * (step as f32 / steps as f32);
        let largest = (0..=steps).map(|step| error_ulp(at(step))).fold(0.0, f64::max);
        println!("largest error of exp: {largest} ulp");
        assert!(largest <= EXP_ERROR_ULP_MAX, "{largest} ulp");
    }

    #[test]
    fn exp_is_exact_at_zero_and_ends_where_it_says() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(EXP_LOW.next_down()), 0.0);
        assert_eq!(exp(EXP_HIGH.next_up()), f32::INFINITY);
        assert!(exp(EXP_LOW) > 0.0 && exp(EXP_HIGH).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }
}
