//! What the kernels' tests share.
//!
//! Numbers that repeat only after two thousand million, weights of every format, and the way to the test
//! data.

#![allow(dead_code, reason = "each test file uses its own part")]

use kwaainet_kernels::{Activations, Format, Kernels, Layout, Matrix, PANEL_ROWS, f32_to_f16, pack};

/// Lehmer's generator modulo the prime 2^31 - 1, so that its period is no power of two.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        let mut numbers = Numbers(seed % 2_147_483_646 + 1);
        (0..8).for_each(|_| _ = numbers.next());
        numbers
    }

    pub fn next(&mut self) -> u32 {
        self.0 = self.0 * 48_271 % 2_147_483_647;
        self.0 as u32
    }

    /// Evenly between -1 and 1.
    pub fn unit(&mut self) -> f32 {
        self.next() as f32 / 1_073_741_823.5 - 1.0
    }

    /// Roughly normal, with standard deviation 1.
    pub fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.unit()).sum::<f32>() * 0.866
    }

    pub fn byte(&mut self) -> u8 {
        (self.next() >> 11) as u8
    }

    pub fn row(&mut self, length: usize, scale: f32) -> Vec<f32> {
        (0..length).map(|_| self.normal() * scale).collect()
    }
}

/// Where the half-precision scales and minimums lie in a block of a quantised format.
fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
        _ => &[0],
    }
}

/// Rows of random codes in the file's order, whose scales are around `scale` (beyond what a half holds: its
/// largest).
pub fn weights(format: Format, rows: usize, columns: usize, scale: f32, numbers: &mut Numbers) -> Vec<u8> {
    let bytes = rows * format.row_bytes(columns).expect("whole blocks");
    let half = |value: f32| f32_to_f16(value.clamp(-65504.0, 65504.0)).to_le_bytes();
    match format {
        Format::F32 => (0..rows * columns).flat_map(|_| (numbers.unit() * scale).to_le_bytes()).collect(),
        Format::F16 => (0..rows * columns).flat_map(|_| half(numbers.unit() * scale)).collect(),
        Format::BF16 => (0..rows * columns)
            .flat_map(|_| kwaainet_kernels::f32_to_bf16(numbers.unit() * scale).to_le_bytes())
            .collect(),
        _ => {
            let mut out: Vec<u8> = (0..bytes).map(|_| numbers.byte()).collect();
            for block in out.chunks_exact_mut(format.block_bytes()) {
                for offset in halves(format) {
                    block[*offset..][..2].copy_from_slice(&half(numbers.unit() * scale));
                }
            }
            out
        }
    }
}

/// The same matrix in panels.
pub fn packed(format: Format, rows: usize, columns: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; pack::packed_bytes(format, rows, columns).expect("it has panels")];
    let (panel, row) = (pack::panel_bytes(format, columns).unwrap(), format.row_bytes(columns).unwrap());
    if panel > 0 {
        for (rows, out) in bytes.chunks(PANEL_ROWS * row).zip(out.chunks_mut(panel)) {
            pack::pack_panel(format, columns, rows, out);
        }
    }
    out
}

/// The layouts that a format has.
pub fn layouts(format: Format) -> &'static [Layout] {
    if format.has_panels() { &[Layout::Rows, Layout::Panels] } else { &[Layout::Rows] }
}

/// A copy of bytes that begins at an odd address when `offset` is odd.
pub struct Shifted(Vec<u64>, usize, usize);

impl Shifted {
    pub fn new(bytes: &[u8], offset: usize) -> Self {
        let mut words = vec![0u64; (bytes.len() + offset).div_ceil(8) + 1];
        for (index, byte) in bytes.iter().enumerate() {
            let at = index + offset;
            words[at / 8] |= u64::from(*byte) << (8 * (at % 8));
        }
        Shifted(words, offset, bytes.len())
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the words are initialised and eight bytes each, little-endian on every machine that we run
        // on.
        let all = unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), 8 * self.0.len()) };
        &all[self.1..][..self.2]
    }
}

/// Activations of these rows, quantised.
pub fn activations(tokens: usize, columns: usize, values: &[f32]) -> Activations {
    let mut x = Activations::with_capacity(tokens, columns);
    x.values_mut().copy_from_slice(values);
    Kernels::PORTABLE.quantize(&kwaainet_kernels::Sequential, &mut x);
    x
}

/// x * weights^T on one thread.
pub fn product(kernels: Kernels, x: &Activations, weights: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.tokens() * weights.rows()];
    let mut products = [kwaainet_kernels::Product { weights, bias, out: &mut out }];
    kernels.matmul(&kwaainet_kernels::Sequential, x, &mut products);
    out
}

/// Demands the same bits; where one is no number both have to be none.
#[track_caller]
pub fn assert_same_bits(found: &[f32], wanted: &[f32], what: &dyn std::fmt::Display) {
    assert_eq!(found.len(), wanted.len(), "{what}: lengths");
    for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
        assert!(same, "{what}: value {index} is {found:e}, wanted {wanted:e}");
    }
}

/// A file of the shared test data, or `None` with a line that says which test was skipped.
pub fn shared(test: &str, path: &str) -> Option<Vec<u8>> {
    let folder = std::env::var_os("KWAAINET_SHARED").map_or_else(
        || std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
        std::path::PathBuf::from,
    );
    if !folder.is_dir() {
        println!("skipped: {test}: no ../shared");
        return None;
    }
    Some(std::fs::read(folder.join(path)).expect("the shared folder is whole"))
}

/// The bytes of one tensor of a SafeTensors file whose header is plain JSON as its writer makes it.
pub fn tensor<'a>(file: &'a [u8], name: &str) -> &'a [u8] {
    let header_bytes = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&file[8..8 + header_bytes]).unwrap();
    let entry = &header[header.find(&format!("\"{name}\":")).expect("the tensor is there")..];
    let offsets = &entry[entry.find("\"data_offsets\":").unwrap() + 15..];
    let list = &offsets[offsets.find('[').unwrap() + 1..offsets.find(']').unwrap()];
    let mut numbers = list.split(',').map(|number| number.trim().parse::<usize>().unwrap());
    let (start, end) = (numbers.next().unwrap(), numbers.next().unwrap());
    &file[8 + header_bytes..][start..end]
}

/// The floats of a tensor.
pub fn floats(file: &[u8], name: &str) -> Vec<f32> {
    tensor(file, name).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
