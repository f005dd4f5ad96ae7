//! The block formats of GGUF: one table of names and sizes, and decoding.
//!
//! A block is the smallest run of columns that can be read alone. The numbers are those of the GGUF
//! specification and of the `ggml` type list; how each block's bits are laid out is in `unpack.rs`.

use crate::half::{bf16_to_f32, f16_to_f32};
use crate::unpack;

/// How a weight row is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// 4 bits, one scale for 32 columns.
    Q4_0,
    /// 4 bits, scale and minimum for 32 columns.
    Q4_1,
    /// 5 bits, one scale for 32 columns.
    Q5_0,
    /// 5 bits, scale and minimum for 32 columns.
    Q5_1,
    /// 8 bits, one scale for 32 columns.
    Q8_0,
    /// 2 bits, 4-bit scales and minimums for 16 columns, in blocks of 256.
    Q2K,
    /// 3 bits, 6-bit scales for 16 columns, in blocks of 256.
    Q3K,
    /// 4 bits, 6-bit scales and minimums for 32 columns, in blocks of 256.
    Q4K,
    /// 5 bits, 6-bit scales and minimums for 32 columns, in blocks of 256.
    Q5K,
    /// 6 bits, 8-bit scales for 16 columns, in blocks of 256.
    Q6K,
    /// 4 bits into a fixed table of unequal steps, one scale for 32 columns.
    Iq4Nl,
    /// As [`Format::Iq4Nl`], 6-bit scales for 32 columns, in blocks of 256.
    Iq4Xs,
}

/// One line of the table: format, number in GGUF, name, columns and bytes of a block.
type Line = (Format, u32, &'static str, usize, usize);

const TABLE: [Line; 15] = [
    (Format::F32, 0, "F32", 1, 4),
    (Format::F16, 1, "F16", 1, 2),
    (Format::BF16, 30, "BF16", 1, 2),
    (Format::Q4_0, 2, "Q4_0", 32, 18),
    (Format::Q4_1, 3, "Q4_1", 32, 20),
    (Format::Q5_0, 6, "Q5_0", 32, 22),
    (Format::Q5_1, 7, "Q5_1", 32, 24),
    (Format::Q8_0, 8, "Q8_0", 32, 34),
    (Format::Q2K, 10, "Q2_K", 256, 84),
    (Format::Q3K, 11, "Q3_K", 256, 110),
    (Format::Q4K, 12, "Q4_K", 256, 144),
    (Format::Q5K, 13, "Q5_K", 256, 176),
    (Format::Q6K, 14, "Q6_K", 256, 210),
    (Format::Iq4Nl, 20, "IQ4_NL", 32, 18),
    (Format::Iq4Xs, 23, "IQ4_XS", 256, 136),
];

impl Format {
    /// Every format, in the order of the enum.
    pub fn all() -> impl Iterator<Item = Format> {
        TABLE.iter().map(|line| line.0)
    }

    /// The format with this number in a GGUF tensor table, if it is one of ours.
    pub fn from_ggml(id: u32) -> Option<Format> {
        TABLE.iter().find(|line| line.1 == id).map(|line| line.0)
    }

    /// Its number in a GGUF tensor table.
    pub fn ggml_id(self) -> u32 {
        self.line().1
    }

    /// Its name as GGUF tools write it, such as `Q4_K` or `IQ4_NL`.
    pub fn name(self) -> &'static str {
        self.line().2
    }

    /// The format of that name; case and underscores do not matter (`q4_k`, `Q4K`).
    pub fn from_name(name: &str) -> Option<Format> {
        let letters = |text: &'static str| text.bytes().filter(|byte| *byte != b'_');
        let wanted = || name.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_uppercase());
        TABLE.iter().find(|line| letters(line.2).eq(wanted())).map(|line| line.0)
    }

    /// Columns in one block: 1, 32 or 256.
    pub fn block_columns(self) -> usize {
        self.line().3
    }

    /// Bytes in one block.
    pub fn block_bytes(self) -> usize {
        self.line().4
    }

    /// Bytes of one row; `None` if `columns` is no multiple of the block or the number overflows.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        if !columns.is_multiple_of(self.block_columns()) {
            return None;
        }
        (columns / self.block_columns()).checked_mul(self.block_bytes())
    }

    /// Whether its values are floats, multiplied with float activations; all others eat quantised ones.
    pub fn is_float(self) -> bool {
        matches!(self, Format::F32 | Format::F16 | Format::BF16)
    }

    /// Whether it can be packed in panels of eight rows (see [`crate::pack`]).
    pub fn has_panels(self) -> bool {
        crate::pack::panel_block_bytes(self).is_some()
    }

    fn line(self) -> &'static Line {
        // The table is in the enum's order; a test holds it to that.
        &TABLE[self as usize]
    }
}

/// Decodes `bytes`, whole blocks in the file's own order, to `out`.
///
/// The same bits as `ggml` gives: each product and sum is rounded once, none are fused.
///
/// # Panics
/// If `out` is not whole blocks or `bytes` not exactly their bytes.
pub fn decode(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        format.row_bytes(out.len()),
        Some(bytes.len()),
        "{} values of {} do not take {} bytes",
        out.len(),
        format.name(),
        bytes.len()
    );
    match format {
        Format::F32 => decode_values(bytes, out, f32::from_le_bytes),
        Format::F16 => decode_values(bytes, out, |bytes| f16_to_f32(u16::from_le_bytes(bytes))),
        Format::BF16 => decode_values(bytes, out, |bytes| bf16_to_f32(u16::from_le_bytes(bytes))),
        _ => {
            let groups = format.block_columns() / unpack::GROUP;
            for (index, out) in out.chunks_exact_mut(unpack::GROUP).enumerate() {
                let block = &bytes[index / groups * format.block_bytes()..][..format.block_bytes()];
                unpack::rows(format, block, index % groups).decode(out);
            }
        }
    }
}

fn decode_values<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (values, _) = bytes.as_chunks::<N>();
    for (out, bytes) in out.iter_mut().zip(values) {
        *out = value(*bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, format) in Format::all().enumerate() {
            assert_eq!(format as usize, index);
        }
    }

    #[test]
    fn numbers_and_names_lead_back_to_the_format() {
        for format in Format::all() {
            assert_eq!(Format::from_ggml(format.ggml_id()), Some(format));
            assert_eq!(Format::from_name(format.name()), Some(format));
            assert_eq!(Format::from_name(&format.name().to_lowercase().replace('_', "")), Some(format));
        }
        assert_eq!(Format::from_ggml(4), None);
        assert_eq!(Format::from_name("q4"), None);
        assert_eq!(Format::from_name(""), None);
    }

    #[test]
    fn a_row_is_whole_blocks_or_nothing() {
        assert_eq!(Format::Q4K.row_bytes(512), Some(288));
        assert_eq!(Format::Q4K.row_bytes(511), None);
        assert_eq!(Format::Q8_0.row_bytes(0), Some(0));
        assert_eq!(Format::F32.row_bytes(usize::MAX), None);
    }
}
