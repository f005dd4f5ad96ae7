//! Random numbers that depend on a seed and a position, and on nothing else.
//!
//! A generator with a state would have to be handed over when a node is replaced in the middle of a text.
//! Philox needs none: the number for the n-th token is a function of the seed and n, so whoever samples that
//! token draws the same.
//!
//! Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011
//! (Philox4x32 with ten rounds).

use crate::Error;

/// Multipliers of the two halves of a round (table 2 of the paper).
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What each round adds to the key: the golden ratio and the square root of three less one, as 32-bit
/// fractions.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Rounds: the count that the authors recommend, with a margin over the seven that pass every test.
const ROUNDS: usize = 10;

/// Philox4x32-10: four random words for a counter and a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut words = counter;
    let mut key = key;
    for _ in 0..ROUNDS {
        let left = u64::from(MULTIPLIERS[0]) * u64::from(words[0]);
        let right = u64::from(MULTIPLIERS[1]) * u64::from(words[2]);
        words = [
            (right >> 32) as u32 ^ words[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ words[3] ^ key[1],
            left as u32,
        ];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    words
}

/// A number in [0, 1), uniform in steps of 2^-53, for the draw at `index` under `seed`.
pub fn uniform(seed: u64, index: u64) -> f64 {
    let words = philox([index as u32, (index >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(words[1]) << 32 | u64::from(words[0])) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// A seed from the operating system, for requests that name none.
///
/// # Errors
/// When the system has no source of randomness.
pub fn seed_from_system() -> Result<u64, Error> {
    getrandom::u64().map_err(|error| {
        Error::unsupported(format!(
            "asked the operating system for a random seed, and it has none to give ({error}); \
             name a seed in the request"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that the authors publish with Random123 (kat_vectors, philox4x32 with 10 rounds).
    #[test]
    fn the_published_vectors_come_out() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        const BINS: usize = 100;
        const DRAWS: u64 = 100_000;
        let mut counts = [0u64; BINS];
        for index in 0..DRAWS {
            let number = uniform(7, index);
            assert!((0.0..1.0).contains(&number), "draw {index} is {number}");
            counts[(number * BINS as f64) as usize] += 1;
        }
        let expected = DRAWS as f64 / BINS as f64;
        let chi_square: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
        // 99 degrees of freedom: mean 99, standard deviation 14; the seed is fixed, so this never flickers.
        assert!((50.0..160.0).contains(&chi_square), "chi-square {chi_square}");
    }

    #[test]
    fn seeds_and_positions_beyond_32_bits_count() {
        assert_ne!(uniform(1, 5), uniform(1 | 1 << 32, 5));
        assert_ne!(uniform(1, 5), uniform(1, 5 | 1 << 32));
        assert_eq!(uniform(u64::MAX, u64::MAX), uniform(u64::MAX, u64::MAX));
    }

    #[test]
    fn the_system_gives_different_seeds() {
        let seeds: Vec<u64> =
            (0..4).map(|_| seed_from_system().expect("this machine has randomness")).collect();
        assert!(seeds.windows(2).all(|pair| pair[0] != pair[1]), "{seeds:?}");
    }
}
