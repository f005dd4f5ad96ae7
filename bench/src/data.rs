//! The data of a race: valid random blocks in any format, and activations.

use kwaainet_kernels::{Format, f32_to_bf16, f32_to_f16};

/// Marsaglia's xorshift64: fast, and good enough for weights that mean nothing.
pub struct Random(u64);

impl Random {
    /// Numbers that a seed (not zero) always gives again.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between -1 and 1.
    fn value(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Activations.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

/// Where the 16-bit scales of a block lie.
fn scales(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_0 | Format::Q8_0 | Format::Iq4Nl => &[0],
        Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q6K => &[208],
        _ => &[],
    }
}

/// `rows` rows in the file's order: random bits, with scales that keep the products in bounds.
pub fn weights(format: Format, rows: usize, columns: usize, random: &mut Random) -> Vec<u8> {
    let row_bytes = format.row_bytes(columns).expect("the columns are whole blocks");
    let mut bytes = Vec::with_capacity(rows * row_bytes + 8);
    if format.is_float() {
        for _ in 0..rows * columns {
            match format {
                Format::F16 => bytes.extend(f32_to_f16(random.value()).to_le_bytes()),
                Format::BF16 => bytes.extend(f32_to_bf16(random.value()).to_le_bytes()),
                _ => bytes.extend(random.value().to_le_bytes()),
            }
        }
        return bytes;
    }
    while bytes.len() < rows * row_bytes {
        bytes.extend(random.word().to_le_bytes());
    }
    bytes.truncate(rows * row_bytes);
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for &offset in scales(format) {
            let scale = f32_to_f16(0.01 * (1.5 + random.value()));
            block[offset..offset + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}
