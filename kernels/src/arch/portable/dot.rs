//! Dot products of a strip of up to eight weight rows with a tile of activations.
//!
//! A strip is unpacked once for all tokens of the tile. Results are sums over the whole row,
//! `out[token][row]`, of one panel after the other.

use crate::PANEL_ROWS;
use crate::arch::{Codes, Floats, SUM_COLUMNS};
use crate::formats::Format;
use crate::half::{bf16_to_f32, f16_to_f32};
use crate::math::{fused, reduce16};
use crate::pack::{panel_block_bytes, panel_bytes};
use crate::unpack::{self, GROUP, Group};

/// Columns that are summed apart in a float dot product.
const LANES: usize = 16;

/// Adds one group of 32 columns of one row to every token's sum: integers first, then one fused multiply-add
/// for the scale and one for the minimum.
fn accumulate(group: &Group, index: usize, row: usize, x: &Codes<'_>, out: &mut [[f32; PANEL_ROWS]]) {
    for (token, out) in out.iter_mut().enumerate() {
        let block = x.block(token, index);
        let half = |half: usize| -> i32 {
            let range = half * SUM_COLUMNS..(half + 1) * SUM_COLUMNS;
            group.codes[range.clone()]
                .iter()
                .zip(&block.codes[range])
                .map(|(w, x)| i32::from(*w) * i32::from(*x))
                .sum()
        };
        let sum = group.parts[0] * half(0) + group.parts[1] * half(1);
        let mut total = fused(sum as f32, group.scale * block.scale, out[row]);
        if let Some(minimum) = &group.minimum {
            let sums = block.sums.map(i32::from);
            let sum = minimum.parts[0] * sums[0] + minimum.parts[1] * sums[1];
            total = fused(-minimum.scale, sum as f32 * block.scale, total);
        }
        out[row] = total;
    }
}

/// Walks `count` rows of `groups` groups, each taken apart by `unpack(row, group)`.
#[inline(always)]
fn strip(count: usize, x: &Codes<'_>, out: &mut [[f32; PANEL_ROWS]], unpack: impl Fn(usize, usize) -> Group) {
    debug_assert_eq!(out.len(), x.tokens);
    out.fill([0.0; PANEL_ROWS]);
    for row in 0..count {
        for index in 0..x.columns / GROUP {
            accumulate(&unpack(row, index), index, row, x, out);
        }
    }
}

/// One or two panels of any format that has them; `out` is `[panel][token][row]`.
pub(crate) fn multiply_panels(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; PANEL_ROWS]]) {
    #[inline(always)]
    fn of(format: Format, panel: &[u8], x: &Codes<'_>, out: &mut [[f32; PANEL_ROWS]]) {
        let block_bytes = panel_block_bytes(format).expect("only formats with panels are packed");
        let groups = format.block_columns() / GROUP;
        strip(PANEL_ROWS, x, out, |row, index| {
            let block = &panel[index / groups * block_bytes..][..block_bytes];
            unpack::panel(format, block, index % groups, row)
        });
    }
    let panel_bytes = panel_bytes(format, x.columns).expect("only formats with panels are packed");
    for (index, out) in out.chunks_exact_mut(x.tokens.max(1)).enumerate() {
        let panel = &panels[index * panel_bytes..][..panel_bytes];
        // A call for each format, so that each becomes a loop of its own.
        match format {
            Format::Q4_0 => of(Format::Q4_0, panel, x, out),
            Format::Q5_0 => of(Format::Q5_0, panel, x, out),
            Format::Q8_0 => of(Format::Q8_0, panel, x, out),
            Format::Q4K => of(Format::Q4K, panel, x, out),
            Format::Q5K => of(Format::Q5K, panel, x, out),
            Format::Q6K => of(Format::Q6K, panel, x, out),
            Format::Iq4Nl => of(Format::Iq4Nl, panel, x, out),
            _ => unreachable!("{} has no panels", format.name()),
        }
    }
}

/// `count` rows of any quantised format in the file's order.
pub(crate) fn multiply_rows(
    format: Format,
    rows: &[u8],
    count: usize,
    x: &Codes<'_>,
    out: &mut [[f32; PANEL_ROWS]],
) {
    #[inline(always)]
    fn of(format: Format, rows: &[u8], count: usize, x: &Codes<'_>, out: &mut [[f32; PANEL_ROWS]]) {
        let groups = format.block_columns() / GROUP;
        let blocks = x.columns / format.block_columns();
        strip(count, x, out, |row, index| {
            let block = (row * blocks + index / groups) * format.block_bytes();
            unpack::rows(format, &rows[block..][..format.block_bytes()], index % groups)
        });
    }
    // A call for each format, so that each becomes a loop of its own.
    match format {
        Format::Q4_0 => of(Format::Q4_0, rows, count, x, out),
        Format::Q4_1 => of(Format::Q4_1, rows, count, x, out),
        Format::Q5_0 => of(Format::Q5_0, rows, count, x, out),
        Format::Q5_1 => of(Format::Q5_1, rows, count, x, out),
        Format::Q8_0 => of(Format::Q8_0, rows, count, x, out),
        Format::Q2K => of(Format::Q2K, rows, count, x, out),
        Format::Q3K => of(Format::Q3K, rows, count, x, out),
        Format::Q4K => of(Format::Q4K, rows, count, x, out),
        Format::Q5K => of(Format::Q5K, rows, count, x, out),
        Format::Q6K => of(Format::Q6K, rows, count, x, out),
        Format::Iq4Nl => of(Format::Iq4Nl, rows, count, x, out),
        Format::Iq4Xs => of(Format::Iq4Xs, rows, count, x, out),
        Format::F32 | Format::F16 | Format::BF16 => unreachable!("floats are not quantised"),
    }
}

/// `count` rows of values of `N` bytes: lane `l` sums the columns `k` with `k % 16 == l`, ascending.
#[inline(always)]
fn strip_values<const N: usize>(
    rows: &[u8],
    count: usize,
    x: &Floats<'_>,
    out: &mut [[f32; PANEL_ROWS]],
    value: impl Fn([u8; N]) -> f32,
) {
    debug_assert_eq!(out.len(), x.tokens);
    out.fill([0.0; PANEL_ROWS]);
    if x.columns == 0 {
        return;
    }
    for (row, bytes) in rows.chunks_exact(x.columns * N).take(count).enumerate() {
        let weights = bytes.as_chunks::<N>().0;
        for (out, values) in out.iter_mut().zip(x.values.chunks_exact(x.columns)) {
            let mut lanes = [0.0; LANES];
            for (weights, values) in weights.chunks(LANES).zip(values.chunks(LANES)) {
                for ((lane, weight), x) in lanes.iter_mut().zip(weights).zip(values) {
                    *lane = fused(value(*weight), *x, *lane);
                }
            }
            out[row] = reduce16(&lanes);
        }
    }
}

/// `count` rows of a float format.
pub(crate) fn multiply_floats(
    format: Format,
    rows: &[u8],
    count: usize,
    x: &Floats<'_>,
    out: &mut [[f32; PANEL_ROWS]],
) {
    match format {
        Format::F32 => strip_values(rows, count, x, out, f32::from_le_bytes),
        Format::F16 => strip_values(rows, count, x, out, |bytes| f16_to_f32(u16::from_le_bytes(bytes))),
        Format::BF16 => strip_values(rows, count, x, out, |bytes| bf16_to_f32(u16::from_le_bytes(bytes))),
        _ => unreachable!("{} is no float format", format.name()),
    }
}
