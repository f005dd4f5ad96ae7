//! Quantising floats to block formats, for models that come as floats.
//!
//! Q8_0 and Q4_0 follow the definitions of the formats; Q4_K searches scale and minimum of each sub-block by
//! weighted least squares, because rounding to the nearest step of the plain range costs a third more error.

use core::fmt;

use crate::QUANT_BLOCK;
use crate::formats::Format;
use crate::half::{f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::math::round_ties_even;

/// Largest finite half.
const HALF_MAX: f32 = 65504.0;

/// Why values can't be quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeError {
    format: Format,
    not_finite: bool,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.format.name();
        if self.not_finite {
            write!(f, "a weight is not a finite number, so it can't be stored as {name}")
        } else {
            write!(f, "weights can be quantised to F32, F16, BF16, Q8_0, Q4_0 and Q4_K, not to {name}")
        }
    }
}

impl core::error::Error for EncodeError {}

/// Stores `values`, whole blocks, as `format`.
///
/// # Errors
/// For formats that are only read, and for values that are not finite in a quantised format.
///
/// # Panics
/// If `out` is not exactly the bytes of the values.
pub fn encode(format: Format, values: &[f32], out: &mut [u8]) -> Result<(), EncodeError> {
    assert_eq!(format.row_bytes(values.len()), Some(out.len()), "bytes of another length");
    if !format.is_float() && values.iter().any(|value| !value.is_finite()) {
        return Err(EncodeError { format, not_finite: true });
    }
    let blocks = values.chunks_exact(format.block_columns()).zip(out.chunks_exact_mut(format.block_bytes()));
    match format {
        Format::F32 => blocks.for_each(|(value, out)| out.copy_from_slice(&value[0].to_le_bytes())),
        Format::F16 => {
            blocks.for_each(|(value, out)| out.copy_from_slice(&f32_to_f16(value[0]).to_le_bytes()))
        }
        Format::BF16 => {
            blocks.for_each(|(value, out)| out.copy_from_slice(&f32_to_bf16(value[0]).to_le_bytes()))
        }
        Format::Q8_0 => blocks.for_each(|(values, out)| encode_q8_0(values, out)),
        Format::Q4_0 => blocks.for_each(|(values, out)| encode_q4_0(values, out)),
        Format::Q4K => blocks.for_each(|(values, out)| encode_q4_k(values, out)),
        _ => return Err(EncodeError { format, not_finite: false }),
    }
    Ok(())
}

/// Writes a scale as a half and gives it back as it will be read.
fn store_half(value: f32, out: &mut [u8]) -> f32 {
    let bits = f32_to_f16(value.clamp(-HALF_MAX, HALF_MAX));
    out.copy_from_slice(&bits.to_le_bytes());
    f16_to_f32(bits)
}

fn inverse(value: f32) -> f32 {
    let inverse = 1.0 / value;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The nearest of `0..=most`.
fn nearest(value: f32, most: f32) -> f32 {
    round_ties_even(value.clamp(0.0, most))
}

fn encode_q8_0(values: &[f32], out: &mut [u8]) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    store_half(scale, &mut out[..2]);
    let inverse = inverse(scale);
    for (out, value) in out[2..].iter_mut().zip(values) {
        *out = round_ties_even((value * inverse).clamp(-127.0, 127.0)) as i8 as u8;
    }
}

/// The value of largest size becomes -8 steps, so that all sixteen steps are used.
fn encode_q4_0(values: &[f32], out: &mut [u8]) {
    let extreme = values
        .iter()
        .fold(0.0f32, |extreme, value| if value.abs() > extreme.abs() { *value } else { extreme });
    let scale = extreme / -8.0;
    store_half(scale, &mut out[..2]);
    let inverse = inverse(scale);
    let code = |value: f32| nearest(value * inverse + 8.0, 15.0) as u8;
    for index in 0..QUANT_BLOCK / 2 {
        out[2 + index] = code(values[index]) | code(values[index + QUANT_BLOCK / 2]) << 4;
    }
}

/// Scale and minimum (value = scale * code - minimum, both at least 0) of 32 values that leave the least
/// weighted error.
fn fit_scale_and_minimum(values: &[f32]) -> (f32, f32) {
    let mean_square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
    let spread = crate::math::square_root(mean_square);
    let low = values.iter().copied().fold(0.0, f32::min);
    let high = values.iter().copied().fold(0.0, f32::max);
    if high <= low {
        return (0.0, 0.0);
    }
    let error = |scale: f32, minimum: f32| -> f32 {
        let inverse = inverse(scale);
        values
            .iter()
            .map(|value| {
                let code = nearest((value + minimum) * inverse, 15.0);
                let difference = scale * code - minimum - value;
                (spread + value.abs()) * difference * difference
            })
            .sum()
    };
    let mut best = ((high - low) / 15.0, -low);
    let mut best_error = error(best.0, best.1);
    for step in 0..=20 {
        // Codes for a slightly different range, then the scale and minimum that fit these codes best.
        let inverse = (14.0 + 0.1 * step as f32) / (high - low);
        let (mut weights, mut codes, mut squares, mut sums, mut products) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for value in values {
            let weight = spread + value.abs();
            let code = nearest((value - low) * inverse, 15.0);
            weights += weight;
            codes += weight * code;
            squares += weight * code * code;
            sums += weight * value;
            products += weight * code * value;
        }
        let determinant = weights * squares - codes * codes;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (weights * products - codes * sums) / determinant;
        let mut minimum = (codes * products - squares * sums) / determinant;
        if minimum < 0.0 {
            (minimum, scale) = (0.0, products / squares);
        }
        if !(scale > 0.0 && scale.is_finite() && minimum.is_finite()) {
            continue;
        }
        let candidate = error(scale, minimum);
        if candidate < best_error {
            (best, best_error) = ((scale, minimum), candidate);
        }
    }
    best
}

fn encode_q4_k(values: &[f32], out: &mut [u8]) {
    let mut fits = [(0.0f32, 0.0f32); 8];
    for (fit, values) in fits.iter_mut().zip(values.chunks_exact(QUANT_BLOCK)) {
        *fit = fit_scale_and_minimum(values);
    }
    let largest = |part: fn(&(f32, f32)) -> f32| fits.iter().map(part).fold(0.0, f32::max);
    let (head, codes) = out.split_at_mut(16);
    let (scales, packed) = head.split_at_mut(4);
    let scale = store_half(largest(|fit| fit.0) / 63.0, &mut scales[..2]);
    let minimum = store_half(largest(|fit| fit.1) / 63.0, &mut scales[2..]);
    let (inverse_scale, inverse_minimum) = (inverse(scale), inverse(minimum));
    packed.fill(0);
    codes.fill(0);
    for (index, (fit, values)) in fits.iter().zip(values.chunks_exact(QUANT_BLOCK)).enumerate() {
        let part = nearest(fit.0 * inverse_scale, 63.0) as u8;
        let lower = nearest(fit.1 * inverse_minimum, 63.0) as u8;
        if index < 4 {
            packed[index] |= part;
            packed[index + 4] |= lower;
        } else {
            packed[index + 4] = part & 15 | (lower & 15) << 4;
            packed[index - 4] |= part >> 4 << 6;
            packed[index] |= lower >> 4 << 6;
        }
        // Codes are chosen for scale and minimum as they were rounded.
        let inverse = inverse(scale * f32::from(part));
        let offset = minimum * f32::from(lower);
        for (column, value) in values.iter().enumerate() {
            let code = nearest((value + offset) * inverse, 15.0) as u8;
            codes[QUANT_BLOCK * (index / 2) + column] |= code << (4 * (index % 2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;
    use alloc::vec;
    use alloc::vec::Vec;

    fn sample(count: usize) -> Vec<f32> {
        let mut state = 7u32;
        (0..count)
            .map(|_| {
                let mut sum = 0.0;
                for _ in 0..4 {
                    state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                    sum += (state >> 8) as f32 / 16_777_216.0 - 0.5;
                }
                sum * 0.05
            })
            .collect()
    }

    /// Root mean square error, relative to the root mean square of the values.
    fn error_of(format: Format, values: &[f32]) -> f32 {
        let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
        encode(format, values, &mut bytes).unwrap();
        let mut back = vec![0.0; values.len()];
        decode(format, &bytes, &mut back);
        let square = |sum: f32, value: f32| sum + value * value;
        let error = values.iter().zip(&back).map(|(a, b)| a - b).fold(0.0, square);
        (error / values.iter().copied().fold(0.0, square)).sqrt()
    }

    #[test]
    fn floats_come_back_within_their_formats_error() {
        let values = sample(4096);
        assert_eq!(error_of(Format::F32, &values), 0.0);
        for (format, bound) in [
            (Format::F16, 3e-4),
            (Format::BF16, 2.5e-3),
            (Format::Q8_0, 0.006),
            (Format::Q4_0, 0.09),
            (Format::Q4K, 0.075),
        ] {
            let error = error_of(format, &values);
            assert!(error < bound && error > bound / 10.0, "{}: {error}", format.name());
        }
    }

    #[test]
    fn zeros_constants_and_extremes_survive() {
        for values in [[0.0; 256], [1.0; 256], [-3.5; 256], [60000.0; 256], [1e-30; 256]] {
            for format in [Format::Q8_0, Format::Q4_0, Format::Q4K] {
                let mut bytes = vec![0; format.row_bytes(256).unwrap()];
                encode(format, &values, &mut bytes).unwrap();
                let mut back = vec![0.0; 256];
                decode(format, &bytes, &mut back);
                for (value, back) in values.iter().zip(&back) {
                    assert!(
                        (value - back).abs() <= value.abs() * 0.02 + 1e-6,
                        "{}: {value} {back}",
                        format.name()
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_or_not_writable_is_refused_with_a_sentence() {
        let mut bytes = [0; 34];
        let error = encode(Format::Q8_0, &[f32::NAN; 32], &mut bytes).unwrap_err();
        assert!(alloc::string::ToString::to_string(&error).contains("not a finite number"));
        let mut bytes = [0; 210];
        let error = encode(Format::Q6K, &[0.0; 256], &mut bytes).unwrap_err();
        assert!(alloc::string::ToString::to_string(&error).contains("not to Q6_K"));
    }
}
