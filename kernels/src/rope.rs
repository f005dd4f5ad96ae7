//! Rotary position embedding: tables of cosines and sines, the same bits on every machine.
//!
//! Su et al., "RoFormer", 2021; the scalings are those of the model families that use them. Angles are
//! computed in double precision with `libm`, because the C library's sine differs from machine to machine.

use alloc::vec::Vec;

/// Which values of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// (0, 1), (2, 3), ...: Llama's own order, kept in GGUF files of that architecture.
    Interleaved,
    /// (i, i + n / 2): Hugging Face's order.
    Halves,
}

/// How the rotation is stretched for contexts beyond the first training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's: long waves are stretched, short ones kept, those between blended.
    Llama3 {
        /// The divisor of long waves.
        factor: f32,
        /// Waves longer than the context by this factor are long.
        low_frequency_factor: f32,
        /// Waves shorter than the context by this factor are short.
        high_frequency_factor: f32,
        /// Positions of the first training.
        original_context: f32,
    },
    /// YaRN (Peng et al., 2023, section 3): a ramp over dimensions, and scaled cosines and sines.
    Yarn {
        /// The divisor of long waves.
        factor: f32,
        /// Positions of the first training.
        original_context: f32,
        /// Rotations within the context above which a dimension is kept.
        beta_fast: f32,
        /// Rotations below which it is stretched.
        beta_slow: f32,
        /// Factor of cosines and sines.
        attention_factor: f32,
    },
    /// Each frequency has its own divisor, one for each pair (GGUF's `rope_freqs.weight`).
    Factors(Vec<f32>),
}

/// Cosines and sines for every position of a context.
#[derive(Clone, Debug)]
pub struct RopeTable {
    pub(crate) pairing: RopePairing,
    pub(crate) pairs: usize,
    /// `[positions][pairs]`
    cosines: Vec<f32>,
    /// `[positions][pairs]`
    sines: Vec<f32>,
}

impl RopeTable {
    /// The table of a head whose first `rotary_width` values turn, for positions `0..context_tokens`.
    pub fn new(
        rotary_width: usize,
        theta: f32,
        scaling: &RopeScaling,
        pairing: RopePairing,
        context_tokens: usize,
    ) -> RopeTable {
        let pairs = rotary_width / 2;
        let frequencies: Vec<f64> =
            (0..pairs).map(|pair| frequency(pair, rotary_width, theta, scaling)).collect();
        let amplitude = match scaling {
            RopeScaling::Yarn { attention_factor, .. } => f64::from(*attention_factor),
            _ => 1.0,
        };
        let mut cosines = Vec::with_capacity(context_tokens * pairs);
        let mut sines = Vec::with_capacity(context_tokens * pairs);
        for position in 0..context_tokens {
            for frequency in &frequencies {
                // The reference multiplies in single precision; so must the angle here, or long contexts
                // drift apart.
                let angle = f64::from(position as f32 * *frequency as f32);
                cosines.push((libm::cos(angle) * amplitude) as f32);
                sines.push((libm::sin(angle) * amplitude) as f32);
            }
        }
        RopeTable { pairing, pairs, cosines, sines }
    }

    /// Bytes that a table takes.
    pub fn bytes_for(rotary_width: usize, context_tokens: usize) -> usize {
        context_tokens.saturating_mul(rotary_width / 2).saturating_mul(2 * size_of::<f32>())
    }

    /// Positions the table has.
    pub fn context_tokens(&self) -> usize {
        self.cosines.len().checked_div(self.pairs).unwrap_or(usize::MAX)
    }

    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.pairs..(position + 1) * self.pairs;
        (&self.cosines[range.clone()], &self.sines[range])
    }
}

/// Radians that pair `pair` turns with each position.
fn frequency(pair: usize, rotary_width: usize, theta: f32, scaling: &RopeScaling) -> f64 {
    let theta = f64::from(theta);
    let plain = libm::pow(theta, -2.0 * pair as f64 / rotary_width as f64);
    match scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear { factor } => plain / f64::from(*factor),
        RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
            let (low, high) = (f64::from(*low_frequency_factor), f64::from(*high_frequency_factor));
            let waves = f64::from(*original_context) * plain / core::f64::consts::TAU;
            if waves < low {
                plain / f64::from(*factor)
            } else if waves > high {
                plain
            } else {
                let blend = (waves - low) / (high - low);
                (1.0 - blend) * plain / f64::from(*factor) + blend * plain
            }
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
            let context = f64::from(*original_context);
            // The dimension that turns `rotations` times within the first training's context.
            let dimension = |rotations: f32| {
                rotary_width as f64 * libm::log(context / (f64::from(rotations) * core::f64::consts::TAU))
                    / (2.0 * libm::log(theta))
            };
            let low = libm::floor(dimension(*beta_fast)).max(0.0);
            let high = libm::ceil(dimension(*beta_slow)).min(rotary_width as f64 - 1.0);
            let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            plain / f64::from(*factor) * ramp + plain * (1.0 - ramp)
        }
        RopeScaling::Factors(factors) => plain / f64::from(factors.get(pair).copied().unwrap_or(1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_position_does_not_turn_and_the_first_pair_turns_by_one_radian() {
        let table = RopeTable::new(8, 10000.0, &RopeScaling::None, RopePairing::Halves, 3);
        assert_eq!(table.at(0), (&[1.0; 4][..], &[0.0; 4][..]));
        assert_eq!(table.at(1).0[0], libm::cos(1.0) as f32);
        assert_eq!(table.at(2).1[0], libm::sin(2.0) as f32);
        assert_eq!(table.context_tokens(), 3);
    }

    #[test]
    fn linear_scaling_by_two_is_half_the_speed() {
        let plain = RopeTable::new(8, 100.0, &RopeScaling::None, RopePairing::Halves, 2);
        let half = RopeTable::new(8, 100.0, &RopeScaling::Linear { factor: 2.0 }, RopePairing::Halves, 3);
        assert_eq!(plain.at(1), half.at(2));
    }

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192.0,
        };
        let plain = |pair| frequency(pair, 128, 500000.0, &RopeScaling::None);
        assert_eq!(frequency(0, 128, 500000.0, &scaling), plain(0));
        assert!((frequency(63, 128, 500000.0, &scaling) / (plain(63) / 8.0) - 1.0).abs() < 1e-12);
        let middle = frequency(30, 128, 500000.0, &scaling) / plain(30);
        assert!(middle > 1.0 / 8.0 && middle < 1.0, "{middle}");
    }

    #[test]
    fn yarn_keeps_fast_dimensions_and_stretches_slow_ones() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 32768.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.1386,
        };
        let plain = |pair| frequency(pair, 128, 1e6, &RopeScaling::None);
        assert_eq!(frequency(0, 128, 1e6, &scaling), plain(0));
        assert!((frequency(63, 128, 1e6, &scaling) * 4.0 / plain(63) - 1.0).abs() < 1e-12);
    }
}
