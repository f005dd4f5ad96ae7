//! Rotary position embedding: the angles of every position, computed once.
//!
//! Angles are computed in 64 bits with `libm`, whose results are the same on every machine, and then rounded.

use alloc::vec::Vec;
use core::f64::consts::PI;

/// Which two values of a head are rotated together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RopePairing {
    /// (0, 1), (2, 3), ...: Llama in GGUF.
    Interleaved,
    /// (i, i + half the width): Hugging Face and NeoX.
    Halves,
}

/// How a context longer than the trained one is reached.
#[derive(Clone, PartialEq, Debug)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, those between blended.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f32,
        /// Turns within the original context below which a frequency counts as low.
        low_frequency_factor: f32,
        /// Turns above which it counts as high.
        high_frequency_factor: f32,
        /// The context before scaling, in tokens.
        original_context: f32,
    },
    /// YaRN (Peng et al., 2023): a ramp between divided and kept, and longer vectors.
    Yarn {
        /// Divisor of low frequencies.
        factor: f32,
        /// The context before scaling, in tokens.
        original_context: f32,
        /// Turns within the original context above which a frequency is kept.
        beta_fast: f32,
        /// Turns below which it is divided.
        beta_slow: f32,
        /// Factor of sine and cosine.
        attention_factor: f32,
    },
    /// A divisor for each inverse frequency: GGUF's `rope_freqs.weight`.
    Factors(
        /// `rotary_width / 2` divisors.
        Vec<f32>,
    ),
}

/// Cosines and sines of all positions of a context.
pub struct RopeTable {
    rotary_width: usize,
    pairing: RopePairing,
    /// For each position `rotary_width / 2` cosines, then as many sines.
    angles: Vec<f32>,
}

impl RopeTable {
    /// The table for `context_tokens` positions; `rotary_width` values of each head are rotated.
    ///
    /// # Panics
    /// If the width is odd, or factors are not one for each pair.
    pub fn new(
        rotary_width: usize,
        theta: f32,
        scaling: &RopeScaling,
        pairing: RopePairing,
        context_tokens: usize,
    ) -> RopeTable {
        assert!(rotary_width.is_multiple_of(2), "values are rotated in pairs");
        let (frequencies, length) = inverse_frequencies(rotary_width, theta, scaling);
        let mut angles = Vec::with_capacity(context_tokens * rotary_width);
        for position in 0..context_tokens {
            let angle = |frequency: &f64| position as f64 * frequency;
            angles.extend(frequencies.iter().map(|frequency| (libm::cos(angle(frequency)) * length) as f32));
            angles.extend(frequencies.iter().map(|frequency| (libm::sin(angle(frequency)) * length) as f32));
        }
        RopeTable { rotary_width, pairing, angles }
    }

    /// Bytes that such a table takes.
    pub fn bytes_for(rotary_width: usize, context_tokens: usize) -> usize {
        rotary_width.saturating_mul(context_tokens).saturating_mul(size_of::<f32>())
    }

    /// Values of each head that are rotated.
    pub fn rotary_width(&self) -> usize {
        self.rotary_width
    }

    /// Which values are rotated together.
    pub fn pairing(&self) -> RopePairing {
        self.pairing
    }

    /// Cosines and sines of one position.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        self.angles[position * self.rotary_width..][..self.rotary_width].split_at(self.rotary_width / 2)
    }
}

/// Radians a position for each pair, and the factor of sine and cosine.
fn inverse_frequencies(width: usize, theta: f32, scaling: &RopeScaling) -> (Vec<f64>, f64) {
    let theta = f64::from(theta);
    let plain = (0..width / 2).map(|pair| libm::pow(theta, -2.0 * pair as f64 / width as f64));
    match *scaling {
        RopeScaling::None => (plain.collect(), 1.0),
        RopeScaling::Linear { factor } => (plain.map(|each| each / f64::from(factor)).collect(), 1.0),
        RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
            let (low, high) = (f64::from(low_frequency_factor), f64::from(high_frequency_factor));
            let scaled = plain.map(|each| {
                let turns = f64::from(original_context) * each / (2.0 * PI);
                let kept = if turns > high {
                    1.0
                } else if turns < low {
                    0.0
                } else {
                    (turns - low) / (high - low)
                };
                each * kept + each / f64::from(factor) * (1.0 - kept)
            });
            (scaled.collect(), 1.0)
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
            // The pair that makes so many turns within the original context.
            let pair = |turns: f32| {
                let ratio = f64::from(original_context) / (f64::from(turns) * 2.0 * PI);
                width as f64 * libm::log(ratio) / (2.0 * libm::log(theta))
            };
            let first = libm::floor(pair(beta_fast)).max(0.0);
            let last = libm::ceil(pair(beta_slow)).min(width as f64 - 1.0);
            // A ramp of no width would divide by zero; a thousandth is a step.
            let span = if last == first { 0.001 } else { last - first };
            let scaled = plain.enumerate().map(|(index, each)| {
                let divided = ((index as f64 - first) / span).clamp(0.0, 1.0);
                each * (1.0 - divided) + each / f64::from(factor) * divided
            });
            (scaled.collect(), f64::from(attention_factor))
        }
        RopeScaling::Factors(ref factors) => {
            assert_eq!(factors.len(), width / 2, "one factor for each pair");
            (plain.zip(factors).map(|(each, factor)| each / f64::from(*factor)).collect(), 1.0)
        }
    }
}
