//! Weights and activations: checked views and buffers with their shapes.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::arch::{Codes, CodesMut, Floats};
use crate::formats::{Format, decode};
use crate::pack::{packed_bytes, panel_bytes};
use crate::{INTERLEAVED_TOKENS, PANEL_ROWS, QUANT_BLOCK, unpack};

/// In which order a matrix's bytes lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Row by row, as model files store it.
    Rows,
    /// Eight rows interleaved, see [`crate::pack`].
    Panels,
}

/// A weight matrix of `rows` outputs and `columns` inputs; no alignment is promised of its bytes.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    format: Format,
    layout: Layout,
    rows: usize,
    columns: usize,
    bytes: &'a [u8],
}

/// Why bytes are not the matrix they are said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError {
    format: Format,
    layout: Layout,
    rows: usize,
    columns: usize,
    found_bytes: usize,
    wanted_bytes: Option<usize>,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShapeError { format, layout, rows, columns, found_bytes, wanted_bytes } = self;
        let name = format.name();
        match wanted_bytes {
            Some(wanted) => write!(
                f,
                "a {name} matrix of {rows} x {columns} in {layout:?} takes {wanted} bytes, \
                 found {found_bytes}"
            ),
            None if *layout == Layout::Panels && !format.has_panels() => {
                write!(f, "{name} has no panels; give its rows in the file's order")
            }
            None => write!(
                f,
                "a {name} matrix can not be {rows} x {columns}: rows are whole blocks of {} columns",
                format.block_columns()
            ),
        }
    }
}

impl core::error::Error for ShapeError {}

impl<'a> Matrix<'a> {
    /// A view of `bytes` as a matrix; the length must be exactly that of the shape.
    pub fn new(
        format: Format,
        layout: Layout,
        rows: usize,
        columns: usize,
        bytes: &'a [u8],
    ) -> Result<Self, ShapeError> {
        let wanted_bytes = match layout {
            Layout::Rows => format.row_bytes(columns).and_then(|row| row.checked_mul(rows)),
            Layout::Panels => packed_bytes(format, rows, columns),
        };
        if wanted_bytes == Some(bytes.len()) {
            Ok(Matrix { format, layout, rows, columns, bytes })
        } else {
            Err(ShapeError { format, layout, rows, columns, found_bytes: bytes.len(), wanted_bytes })
        }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How the values are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// In which order they are stored.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The bytes as they lie.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Decodes one row to `out` (`columns` long), from either layout the same bits.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {}", self.rows);
        assert_eq!(out.len(), self.columns, "a row has {} values", self.columns);
        match self.layout {
            Layout::Rows => {
                let row_bytes = self.bytes.len() / self.rows;
                decode(self.format, &self.bytes[row * row_bytes..][..row_bytes], out);
            }
            Layout::Panels => {
                let panel = self.strip(row / PANEL_ROWS);
                let blocks = self.columns / self.format.block_columns();
                let groups = self.format.block_columns() / unpack::GROUP;
                for (index, out) in out.chunks_exact_mut(unpack::GROUP).enumerate() {
                    let block_bytes = panel.len() / blocks;
                    let block = &panel[index / groups * block_bytes..][..block_bytes];
                    unpack::panel(self.format, block, index % groups, row % PANEL_ROWS).decode(out);
                }
            }
        }
    }

    /// Strips of up to eight rows, the unit in which kernels work.
    pub(crate) fn strips(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Rows of strip `index`: eight, or fewer in the last.
    pub(crate) fn strip_rows(&self, index: usize) -> usize {
        (self.rows - index * PANEL_ROWS).min(PANEL_ROWS)
    }

    /// Bytes of a full strip.
    pub(crate) fn strip_bytes(&self) -> usize {
        let bytes = match self.layout {
            Layout::Rows => self.format.row_bytes(self.columns).map(|row| row * PANEL_ROWS),
            Layout::Panels => panel_bytes(self.format, self.columns),
        };
        bytes.expect("the shape was checked in new")
    }

    /// The bytes of strip `index`.
    fn strip(&self, index: usize) -> &'a [u8] {
        self.strips_bytes(index..index + 1)
    }

    /// The bytes of neighbouring strips.
    pub(crate) fn strips_bytes(&self, strips: Range<usize>) -> &'a [u8] {
        let full = self.strip_bytes();
        // In the file's order the last strip may have fewer rows.
        &self.bytes[strips.start * full..self.bytes.len().min(strips.end * full)]
    }
}

/// Sums of the codes of the two halves of 32 columns; as a pair, because one instruction multiplies and adds
/// both.
pub type HalfSums = [i16; 2];

/// A cache line of values: rows of whole lines are read without crossing one, which halves the rate of wide
/// loads.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([f32; Line::VALUES]);

impl Line {
    const VALUES: usize = 16;

    /// The first `length` values.
    fn flatten(lines: &[Line], length: usize) -> &[f32] {
        assert!(length <= lines.len() * Line::VALUES, "more values than there are");
        // SAFETY: lines are sixteen floats each and nothing else, one behind the other.
        unsafe { core::slice::from_raw_parts(lines.as_ptr().cast(), length) }
    }

    fn flatten_mut(lines: &mut [Line], length: usize) -> &mut [f32] {
        assert!(length <= lines.len() * Line::VALUES, "more values than there are");
        // SAFETY: as above, and borrowed alone.
        unsafe { core::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), length) }
    }
}

/// Rows of activations: floats and, after [`crate::Kernels::quantize`], 8-bit codes with one scale for 32
/// columns.
///
/// Codes are `round(x * (127 / largest))`, ties to even, the scale `largest / 127`; a block whose largest
/// value is so small that `127 / largest` overflows is zero. Sums of the codes of each 16 columns are kept
/// beside them, because formats with an offset need them. Buffers only grow, so that a pass allocates nothing
/// once the largest was seen.
#[derive(Default)]
pub struct Activations {
    tokens: usize,
    columns: usize,
    quantized: bool,
    values: Vec<Line>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<HalfSums>,
    totals: Vec<f32>,
}

impl Activations {
    /// Empty rows.
    pub fn new() -> Self {
        Activations::default()
    }

    /// Room for `tokens` rows of `columns`; the values are unspecified until written.
    pub fn with_capacity(tokens: usize, columns: usize) -> Self {
        let mut activations = Activations::new();
        activations.reset(tokens, columns);
        activations
    }

    /// Takes another shape; values are unspecified afterwards and codes no longer hold.
    pub fn reset(&mut self, tokens: usize, columns: usize) {
        fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
            if buffer.len() < length {
                buffer.resize(length, T::default());
            }
        }
        let padded = columns.next_multiple_of(QUANT_BLOCK);
        grow(&mut self.values, (tokens * columns).div_ceil(Line::VALUES));
        grow(&mut self.codes, tokens * padded);
        grow(&mut self.scales, tokens * padded / QUANT_BLOCK);
        grow(&mut self.sums, tokens * padded / QUANT_BLOCK);
        grow(&mut self.totals, tokens * padded / QUANT_BLOCK);
        (self.tokens, self.columns, self.quantized) = (tokens, columns, false);
    }

    /// The values, `[tokens][columns]`.
    pub fn values(&self) -> &[f32] {
        Line::flatten(&self.values, self.tokens * self.columns)
    }

    /// The values to write, `[tokens][columns]`; codes no longer hold.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.quantized = false;
        Line::flatten_mut(&mut self.values, self.tokens * self.columns)
    }

    /// Rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that rows of this shape take.
    pub fn bytes_for(tokens: usize, columns: usize) -> usize {
        let padded = columns.saturating_add(QUANT_BLOCK - 1) / QUANT_BLOCK * QUANT_BLOCK;
        let row = columns.saturating_mul(4).saturating_add(padded).saturating_add(padded / 32 * 12);
        row.saturating_mul(tokens)
    }

    /// Codes, scales and the sums of both halves of the codes, for each 32 columns (the last filled up) of
    /// each token; `None` until [`crate::Kernels::quantize`] made them.
    ///
    /// Tokens are interleaved in tiles of [`crate::INTERLEAVED_TOKENS`], the last one having what remains:
    /// `[tile][group of 32 columns][token of the tile]`.
    pub fn quantized(&self) -> Option<(&[i8], &[f32], &[HalfSums])> {
        let x = self.codes(0..self.tokens);
        self.quantized.then_some((x.codes, x.scales, x.sums))
    }

    /// Whether the codes belong to the values.
    pub(crate) fn is_quantized(&self) -> bool {
        self.quantized
    }

    /// Values to read with the buffers of all tokens to fill; marks the codes as valid.
    pub(crate) fn quantize_parts(&mut self) -> (&[f32], CodesMut<'_>) {
        self.quantized = true;
        let codes = self.tokens * self.columns.next_multiple_of(QUANT_BLOCK);
        let out = CodesMut {
            tokens: self.tokens,
            codes: &mut self.codes[..codes],
            scales: &mut self.scales[..codes / QUANT_BLOCK],
            sums: &mut self.sums[..codes / QUANT_BLOCK],
            totals: &mut self.totals[..codes / QUANT_BLOCK],
        };
        (Line::flatten(&self.values, self.tokens * self.columns), out)
    }

    /// The rows of `tokens` as floats.
    pub(crate) fn floats(&self, tokens: Range<usize>) -> Floats<'_> {
        let values = &self.values()[tokens.start * self.columns..tokens.end * self.columns];
        Floats { tokens: tokens.len(), columns: self.columns, values }
    }

    /// The rows of `tokens` as codes: whole tiles, or all to the last; columns are whole blocks where this is
    /// used.
    pub(crate) fn codes(&self, tokens: Range<usize>) -> Codes<'_> {
        let columns = self.columns.next_multiple_of(QUANT_BLOCK);
        let last = if tokens.end == self.tokens { 0 } else { tokens.end % INTERLEAVED_TOKENS };
        debug_assert!(tokens.start.is_multiple_of(INTERLEAVED_TOKENS) && last == 0, "tiles are not whole");
        let (start, end) = (tokens.start * columns, tokens.end * columns);
        Codes {
            tokens: tokens.len(),
            columns,
            codes: &self.codes[start..end],
            scales: &self.scales[start / QUANT_BLOCK..end / QUANT_BLOCK],
            sums: &self.sums[start / QUANT_BLOCK..end / QUANT_BLOCK],
            totals: &self.totals[start / QUANT_BLOCK..end / QUANT_BLOCK],
        }
    }
}
