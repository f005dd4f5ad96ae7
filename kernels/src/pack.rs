//! Panels: eight rows of weights interleaved, in the order that vector kernels eat.
//!
//! A panel holds for each block first the eight rows' scales and then vectors of 32 bytes: byte `4 * row + j`
//! of vector `v` belongs to columns `4v + j` of the eight rows, so that one 256-bit register holds four
//! columns of eight rows, and a dot product by groups of four bytes fills one sum for each row. Per block of
//! - **Q8_0** (272 bytes, 32 columns): 8 halves `d`, 8 vectors of codes.
//! - **Q4_0**, **IQ4_NL** (144 bytes, 32 columns): 8 halves `d`, 4 vectors of nibbles: low is column
//!   `4v + j`, high is `16 + 4v + j`.
//! - **Q5_0** (176 bytes, 32 columns): 8 halves `d`, a vector of fifth bits, 4 vectors of nibbles as Q4_0.
//!   Bit `v` of byte `4 * row + j` of the fifth bits belongs to column `4v + j`.
//! - **Q4_K** (1184 bytes, 256 columns): 8 halves `d`, 8 halves `dmin`, 8 x 8 bytes scales (sub-block, row),
//!   8 x 8 bytes minimums, then for each pair of sub-blocks 8 vectors of nibbles, the even sub-block low.
//! - **Q5_K** (1440 bytes, 256 columns): as Q4_K, and before the nibbles of each pair of sub-blocks a vector
//!   of fifth bits for the even one and one for the odd one, each as in Q5_0.
//! - **Q6_K** (1680 bytes, 256 columns): 8 halves `d`, 16 x 8 bytes scales (sub-block, row), then for each
//!   half of 128 columns 8 vectors of upper bits and 16 vectors of nibbles, both as the format packs them
//!   within a row.
//!
//! The last panel of a matrix is filled with zero bytes, which decode to zero.

use crate::PANEL_ROWS;
use crate::formats::Format;
use crate::unpack::scale_and_minimum;

/// Bytes of one block of a panel; `None` for formats without panels.
pub(crate) fn panel_block_bytes(format: Format) -> Option<usize> {
    match format {
        Format::Q4_0 | Format::Iq4Nl => Some(144),
        Format::Q5_0 => Some(176),
        Format::Q8_0 => Some(272),
        Format::Q4K => Some(1184),
        Format::Q5K => Some(1440),
        Format::Q6K => Some(1680),
        _ => None,
    }
}

/// Bytes of one panel of eight rows; `None` if the format has none, for broken columns or on overflow.
pub fn panel_bytes(format: Format, columns: usize) -> Option<usize> {
    let block = panel_block_bytes(format)?;
    format.row_bytes(columns)?;
    (columns / format.block_columns()).checked_mul(block)
}

/// Bytes of a whole matrix in panels, the last one filled up; `None` as for [`panel_bytes`].
pub fn packed_bytes(format: Format, rows: usize, columns: usize) -> Option<usize> {
    panel_bytes(format, columns)?.checked_mul(rows.div_ceil(PANEL_ROWS))
}

/// Packs one panel: `rows` holds one to eight rows in the file's order, `out` takes [`panel_bytes`].
///
/// # Panics
/// If the format has no panels or a length does not fit.
pub fn pack_panel(format: Format, columns: usize, rows: &[u8], out: &mut [u8]) {
    let row_bytes = format.row_bytes(columns).expect("columns are whole blocks");
    assert_eq!(panel_bytes(format, columns), Some(out.len()), "the panel's length does not fit");
    out.fill(0);
    if row_bytes == 0 {
        return;
    }
    assert!(rows.len().is_multiple_of(row_bytes), "rows are not whole");
    assert!(rows.len() / row_bytes <= PANEL_ROWS, "more rows than a panel holds");
    let block_bytes = panel_block_bytes(format).expect("its length was just computed");
    for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
        let blocks = bytes.chunks_exact(format.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(block_bytes)) {
            pack_block(format, block, row, out);
        }
    }
}

fn pack_block(format: Format, block: &[u8], row: usize, out: &mut [u8]) {
    match format {
        Format::Q4_0 | Format::Iq4Nl | Format::Q8_0 => {
            out[2 * row..][..2].copy_from_slice(&block[..2]);
            interleave(&block[2..], row, &mut out[16..]);
        }
        Format::Q5_0 => {
            out[2 * row..][..2].copy_from_slice(&block[..2]);
            interleave_bits(|column| block[2 + column / 8] >> (column % 8) & 1, row, &mut out[16..]);
            interleave(&block[6..], row, &mut out[48..]);
        }
        Format::Q4K => {
            pack_scales_and_minimums(block, row, out);
            interleave(&block[16..], row, &mut out[160..]);
        }
        Format::Q5K => {
            pack_scales_and_minimums(block, row, out);
            for pair in 0..4 {
                let out = &mut out[160 + 320 * pair..];
                for half in 0..2 {
                    let group = 2 * pair + half;
                    interleave_bits(|column| block[16 + column] >> group & 1, row, &mut out[32 * half..]);
                }
                interleave(&block[48 + 32 * pair..][..32], row, &mut out[64..]);
            }
        }
        Format::Q6K => {
            out[2 * row..][..2].copy_from_slice(&block[208..]);
            for index in 0..16 {
                out[16 + PANEL_ROWS * index + row] = block[192 + index];
            }
            for half in 0..2 {
                interleave(&block[128 + 32 * half..][..32], row, &mut out[144 + 768 * half..]);
                interleave(&block[64 * half..][..64], row, &mut out[400 + 768 * half..]);
            }
        }
        _ => unreachable!("only formats with panels are packed"),
    }
}

/// What Q4_K and Q5_K begin with: two halves and eight pairs of six bits.
fn pack_scales_and_minimums(block: &[u8], row: usize, out: &mut [u8]) {
    out[2 * row..][..2].copy_from_slice(&block[..2]);
    out[16 + 2 * row..][..2].copy_from_slice(&block[2..4]);
    let packed = block[4..].first_chunk().expect("blocks are whole");
    for index in 0..8 {
        let (scale, minimum) = scale_and_minimum(packed, index);
        out[32 + PANEL_ROWS * index + row] = scale;
        out[96 + PANEL_ROWS * index + row] = minimum;
    }
}

/// Lays the bytes of one row into its words of successive vectors.
fn interleave(bytes: &[u8], row: usize, out: &mut [u8]) {
    for (word, vector) in bytes.chunks_exact(4).zip(out.chunks_exact_mut(4 * PANEL_ROWS)) {
        vector[4 * row..][..4].copy_from_slice(word);
    }
}

/// Lays one bit for each of 32 columns of one row into its word of one vector of zero bytes.
fn interleave_bits(bit: impl Fn(usize) -> u8, row: usize, out: &mut [u8]) {
    for column in 0..32 {
        out[4 * row + column % 4] |= bit(column) << (column / 4);
    }
}
