//! Quantising weights: for models that come as floats and shall be smaller.
//!
//! Block by block and without state, so that a loader can do a few rows at a time.

use core::fmt;

use crate::formats::Format;
use crate::half::{f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::math::{reduce8, round_ties_even, square_root};

/// The format can be read here but not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeError {
    format: Format,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.format.name();
        write!(f, "weights can not be quantised to {name} here; choose F32, F16, BF16, Q8_0, Q4_0 or Q4_K")
    }
}

impl core::error::Error for EncodeError {}

/// Columns of a Q4_K sub-block.
const SUB_BLOCK: usize = 32;

/// Steps from the lowest to the highest of four-bit codes.
const STEPS: f32 = 15.0;

/// Ranges that are tried around the plain one of a Q4_K sub-block, in tenths of a step.
const SCALE_TRIALS: core::ops::RangeInclusive<i32> = -10..=10;

/// Encodes `values`, whole blocks, to `out` in the file's own order.
///
/// # Panics
/// If `values` is not whole blocks or `out` not exactly their bytes.
pub fn encode(format: Format, values: &[f32], out: &mut [u8]) -> Result<(), EncodeError> {
    assert_eq!(format.row_bytes(values.len()), Some(out.len()), "values and bytes do not fit");
    let block: fn(&[f32], &mut [u8]) = match format {
        Format::F32 => |values, out| out.copy_from_slice(&values[0].to_le_bytes()),
        Format::F16 => |values, out| out.copy_from_slice(&f32_to_f16(values[0]).to_le_bytes()),
        Format::BF16 => |values, out| out.copy_from_slice(&f32_to_bf16(values[0]).to_le_bytes()),
        Format::Q8_0 => encode_q8_0,
        Format::Q4_0 => encode_q4_0,
        Format::Q4K => encode_q4_k,
        _ => return Err(EncodeError { format }),
    };
    let blocks = values.chunks_exact(format.block_columns());
    blocks.zip(out.chunks_exact_mut(format.block_bytes())).for_each(|(values, out)| block(values, out));
    Ok(())
}

/// 1 / value, or zero for zero: what is too small to be divided by becomes zero.
fn inverse(value: f32) -> f32 {
    let inverse = 1.0 / value;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The value that a half holds of it, and its bytes.
fn half(value: f32) -> (f32, [u8; 2]) {
    let bits = f32_to_f16(value.clamp(-65504.0, 65504.0));
    (f16_to_f32(bits), bits.to_le_bytes())
}

fn encode_q8_0(values: &[f32], out: &mut [u8]) {
    let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let (scale, bytes) = half(largest / 127.0);
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&bytes);
    for (code, value) in out[2..].iter_mut().zip(values) {
        *code = round_ties_even((value * inverse).clamp(-127.0, 127.0)) as i8 as u8;
    }
}

/// The value of largest size gets the code -8, the one code without an opposite.
fn encode_q4_0(values: &[f32], out: &mut [u8]) {
    let largest = values
        .iter()
        .fold(0.0, |largest: f32, value| if value.abs() > largest.abs() { *value } else { largest });
    let (scale, bytes) = half(largest / -8.0);
    let inverse = inverse(scale);
    let code = |value: f32| round_ties_even((value * inverse).clamp(-8.0, 7.0)) as i8 + 8;
    out[..2].copy_from_slice(&bytes);
    for (index, byte) in out[2..].iter_mut().enumerate() {
        *byte = code(values[index]) as u8 | (code(values[index + 16]) as u8) << 4;
    }
}

/// Scale and (positive) minimum of one sub-block: value = scale * code - minimum.
#[derive(Clone, Copy, Default)]
struct Steps {
    scale: f32,
    minimum: f32,
}

impl Steps {
    /// What gives a value's code, a whole number from 0 to 15.
    #[inline(always)]
    fn coder(self) -> impl Fn(f32) -> f32 {
        let inverse = inverse(self.scale);
        move |value| round_ties_even(((value + self.minimum) * inverse).clamp(0.0, STEPS))
    }
}

fn encode_q4_k(values: &[f32], out: &mut [u8]) {
    let mut steps = [Steps::default(); 8];
    for (steps, values) in steps.iter_mut().zip(values.chunks_exact(SUB_BLOCK)) {
        *steps = fit(values);
    }
    let largest = |part: fn(&Steps) -> f32| steps.iter().map(part).fold(0.0, f32::max);
    let (scale, scale_bytes) = half(largest(|steps| steps.scale) / 63.0);
    let (minimum, minimum_bytes) = half(largest(|steps| steps.minimum) / 63.0);
    out[..2].copy_from_slice(&scale_bytes);
    out[2..4].copy_from_slice(&minimum_bytes);
    out[4..].fill(0);
    for (index, (steps, values)) in steps.iter().zip(values.chunks_exact(SUB_BLOCK)).enumerate() {
        let six_bits =
            |value: f32, unit: f32| round_ties_even((value * inverse(unit)).clamp(0.0, 63.0)) as u8;
        let (scale_code, minimum_code) = (six_bits(steps.scale, scale), six_bits(steps.minimum, minimum));
        store_scale_and_minimum(&mut out[4..16], index, scale_code, minimum_code);
        // The codes are chosen for the steps as they are stored, not as they were wished.
        let stored =
            Steps { scale: scale * f32::from(scale_code), minimum: minimum * f32::from(minimum_code) };
        let code = stored.coder();
        let bytes = &mut out[16 + SUB_BLOCK * (index / 2)..][..SUB_BLOCK];
        for (byte, value) in bytes.iter_mut().zip(values) {
            *byte |= (code(*value) as u8) << (4 * (index % 2));
        }
    }
}

/// The inverse of `unpack::scale_and_minimum`.
fn store_scale_and_minimum(packed: &mut [u8], index: usize, scale: u8, minimum: u8) {
    if index < 4 {
        packed[index] |= scale;
        packed[index + 4] |= minimum;
    } else {
        packed[index + 4] |= scale & 15 | (minimum & 15) << 4;
        packed[index - 4] |= scale >> 4 << 6;
        packed[index] |= minimum >> 4 << 6;
    }
}

/// The steps with the least weighted squared error: codes from a few trial scales, then for each the best
/// line through them in closed form. Large values weigh more, since they move a dot product more.
fn fit(values: &[f32]) -> Steps {
    let (mut low, mut high) = (0.0f32, f32::MIN);
    for value in values {
        (low, high) = (low.min(*value), high.max(*value));
    }
    let square = lanes(values, |value| [value * value])[0] / SUB_BLOCK as f32;
    let typical = square_root(square);
    let range = (high - low).max(0.0);
    let mut best = Steps { scale: range / STEPS, minimum: -low };
    let mut best_error = error(values, typical, best);
    for trial in SCALE_TRIALS {
        let scale = range / (STEPS + 0.1 * trial as f32);
        let candidate = line(values, typical, Steps { scale, minimum: -low });
        let found = error(values, typical, candidate);
        if found < best_error {
            (best, best_error) = (candidate, found);
        }
    }
    best
}

/// Sums of `N` terms over all values, in eight lanes so that a vector unit can take part.
#[inline(always)]
fn lanes<const N: usize>(values: &[f32], terms: impl Fn(f32) -> [f32; N]) -> [f32; N] {
    let mut sums = [[0.0; 8]; N];
    for values in values.as_chunks::<8>().0 {
        for (lane, value) in values.iter().enumerate() {
            for (sums, term) in sums.iter_mut().zip(terms(*value)) {
                sums[lane] += term;
            }
        }
    }
    sums.map(|lanes| reduce8(&lanes))
}

fn error(values: &[f32], typical: f32, steps: Steps) -> f32 {
    let code = steps.coder();
    lanes(values, |value| {
        let difference = steps.scale * code(value) - steps.minimum - value;
        [(typical + value.abs()) * difference * difference]
    })[0]
}

/// Weighted least squares of the values over the codes that `steps` gives; a minimum below zero is held at
/// zero.
fn line(values: &[f32], typical: f32, steps: Steps) -> Steps {
    let code = steps.coder();
    let [w, wc, wcc, wx, wcx] = lanes(values, |value| {
        let (weight, code) = (typical + value.abs(), code(value));
        [weight, weight * code, weight * code * code, weight * value, weight * code * value]
    });
    let determinant = w * wcc - wc * wc;
    if determinant <= 0.0 {
        return steps;
    }
    let (scale, minimum) = ((w * wcx - wc * wx) / determinant, (wc * wcx - wcc * wx) / determinant);
    if minimum >= 0.0 { Steps { scale, minimum } } else { Steps { scale: wcx * inverse(wcc), minimum: 0.0 } }
}
