//! Ways to break a file, the same in every run.

/// Numbers that only look random: the same in every run (SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Changes up to eight bytes of the first `header` ones: flips, extremes and copies from elsewhere.
pub fn disturb(bytes: &mut [u8], header: usize, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(8) {
        let at = numbers.below(header);
        bytes[at] = match numbers.below(5) {
            0 => 0,
            1 => 0xff,
            2 => bytes[at] ^ 1 << numbers.below(8),
            3 => bytes[numbers.below(header)],
            _ => numbers.next() as u8,
        };
    }
}

/// Overwrites bytes in their place.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
