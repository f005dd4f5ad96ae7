//! Panels times int8 activations, four products in each 64-bit multiplication.
//!
//! Eight bytes of a panel are four columns of two rows. Their even bytes, masked out, are numbers a, b (first row)
//! and c, d (second row) in fields of sixteen bits; times `x_b + x_a * 2^16` the second field gathers
//! `a x_a + b x_b` and the fourth `c x_a + d x_b`: two columns of both rows. The other fields gather what is of no
//! use. Codes count from their middle, so that sums stay within a field for as many columns as [`Panel::WORDS`] says,
//! and a field's sign borrows from the next one in a known way. Eight-bit codes have no room for that; theirs are
//! two fields of 32 bits and two products a multiplication.
//!
//! For any rv64gc. The middle is subtracted once from a whole sum: it is the same number for all rows.

use crate::arch::{Codes, CodesBlock, portable};
use crate::math::fused;
use crate::pack::{panel_block_bytes, panel_bytes};
use crate::unpack::half_at;
use crate::{Format, INTERLEAVED_TOKENS, PANEL_ROWS};

/// A one in each of four fields.
const ONES: u64 = 0x0001_0001_0001_0001;

/// Added to a sum of four signed fields it stops the lower three from borrowing from their neighbours.
const HALVES: u64 = 0x8000_8000_8000;

/// Words of 32 columns: for every four columns the even ones and the odd ones.
const WORDS: usize = 16;

/// One token's 32 columns, ready to be multiplied.
#[derive(Clone, Copy)]
struct Token {
    /// For each word two codes, in the fields that a panel's words ask for.
    words: [u64; WORDS],
    /// For each run of words that share a sum, what the middle of the codes adds to it.
    middles: [u64; 4],
    /// What the codes' middle takes from the sum of 32 unsigned codes.
    missing: i32,
    scale: f32,
    total: f32,
}

/// What a row's group is multiplied with.
struct Row {
    scale: f32,
    parts: [i32; 2],
    minimum: Option<f32>,
}

/// One panel format with codes of at most six bits.
trait Panel {
    const FORMAT: Format;
    /// The middle of the codes, which count from zero in the words.
    const MIDDLE: u64;
    /// Whether the format's codes count from zero too.
    const UNSIGNED: bool;
    /// Words whose products fit one sum of sixteen bits.
    const WORDS: usize;

    /// The codes of rows `2 pair` and `2 pair + 1`: even columns, odd columns of every four.
    fn words(block: &[u64], group: usize, pair: usize) -> [u64; WORDS];

    /// `halves` are those of the row's block: scale and minimum.
    fn row(block: &[u8], group: usize, row: usize, halves: [f32; 2]) -> Row;
}

/// Scales and minimums of a block's rows as floats; formats without minimums have none to use.
type Halves = [[f32; 2]; PANEL_ROWS];

struct Q4_0;
struct Q5_0;
struct Q4K;
struct Q5K;
struct Q6K;

/// Words of eight bytes in the longest block of a panel, Q6_K's.
const BLOCK_WORDS_MAX: usize = 1680 / 8;

/// Eight bytes, of rows `2 pair` and `2 pair + 1`, of the vector at byte `offset`.
#[inline(always)]
fn eight(block: &[u64], offset: usize, pair: usize) -> u64 {
    u64::from_le(block[offset / 8 + pair])
}

const NIBBLES: u64 = 15 * ONES;

/// Nibbles of 32 columns, the low ones before the high ones.
#[inline(always)]
fn low_then_high(block: &[u64], offset: usize, pair: usize) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for v in 0..4 {
        let bytes = eight(block, offset + 32 * v, pair);
        words[2 * v] = bytes & NIBBLES;
        words[2 * v + 1] = bytes >> 8 & NIBBLES;
        words[8 + 2 * v] = bytes >> 4 & NIBBLES;
        words[8 + 2 * v + 1] = bytes >> 12 & NIBBLES;
    }
    words
}

/// Low (`shift` 0) or high (4) nibbles of 32 columns.
#[inline(always)]
fn nibbles(block: &[u64], offset: usize, pair: usize, shift: usize) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for v in 0..8 {
        let bytes = eight(block, offset + 32 * v, pair) >> shift;
        words[2 * v] = bytes & NIBBLES;
        words[2 * v + 1] = bytes >> 8 & NIBBLES;
    }
    words
}

/// Adds the fifth bits, bit `v` of each byte of the vector at `offset` to words `2 v` and `2 v + 1`.
#[inline(always)]
fn add_fifth_bits(words: &mut [u64; WORDS], block: &[u64], offset: usize, pair: usize) {
    let bits = eight(block, offset, pair);
    for v in 0..8 {
        words[2 * v] |= (bits >> v & ONES) << 4;
        words[2 * v + 1] |= (bits >> (v + 8) & ONES) << 4;
    }
}

impl Panel for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    const MIDDLE: u64 = 8;
    const UNSIGNED: bool = false;
    const WORDS: usize = 16; // 32 * 8 * 127 = 32512

    #[inline(always)]
    fn words(block: &[u64], _: usize, pair: usize) -> [u64; WORDS] {
        low_then_high(block, 16, pair)
    }

    #[inline(always)]
    fn row(_: &[u8], _: usize, _: usize, [scale, _]: [f32; 2]) -> Row {
        Row { scale, parts: [1, 1], minimum: None }
    }
}

impl Panel for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    const MIDDLE: u64 = 16;
    const UNSIGNED: bool = false;
    const WORDS: usize = 8; // 16 * 16 * 127 = 32512

    #[inline(always)]
    fn words(block: &[u64], _: usize, pair: usize) -> [u64; WORDS] {
        let mut words = low_then_high(block, 48, pair);
        add_fifth_bits(&mut words, block, 16, pair);
        words
    }

    #[inline(always)]
    fn row(_: &[u8], _: usize, _: usize, [scale, _]: [f32; 2]) -> Row {
        Row { scale, parts: [1, 1], minimum: None }
    }
}

/// Scale and minimum of a row of Q4_K or Q5_K.
#[inline(always)]
fn row_with_minimum(block: &[u8], group: usize, row: usize, [scale, minimum]: [f32; 2]) -> Row {
    let part = |offset: usize| f32::from(block[offset + PANEL_ROWS * group + row]);
    Row { scale: scale * part(32), parts: [1, 1], minimum: Some(minimum * part(96)) }
}

impl Panel for Q4K {
    const FORMAT: Format = Format::Q4K;
    const MIDDLE: u64 = 8;
    const UNSIGNED: bool = true;
    const WORDS: usize = 16;

    #[inline(always)]
    fn words(block: &[u64], group: usize, pair: usize) -> [u64; WORDS] {
        nibbles(block, 160 + 256 * (group / 2), pair, 4 * (group % 2))
    }

    #[inline(always)]
    fn row(block: &[u8], group: usize, row: usize, halves: [f32; 2]) -> Row {
        row_with_minimum(block, group, row, halves)
    }
}

impl Panel for Q5K {
    const FORMAT: Format = Format::Q5K;
    const MIDDLE: u64 = 16;
    const UNSIGNED: bool = true;
    const WORDS: usize = 8;

    #[inline(always)]
    fn words(block: &[u64], group: usize, pair: usize) -> [u64; WORDS] {
        let offset = 160 + 320 * (group / 2);
        let mut words = nibbles(block, offset + 64, pair, 4 * (group % 2));
        add_fifth_bits(&mut words, block, offset + 32 * (group % 2), pair);
        words
    }

    #[inline(always)]
    fn row(block: &[u8], group: usize, row: usize, halves: [f32; 2]) -> Row {
        row_with_minimum(block, group, row, halves)
    }
}

impl Panel for Q6K {
    const FORMAT: Format = Format::Q6K;
    const MIDDLE: u64 = 32;
    const UNSIGNED: bool = false;
    const WORDS: usize = 4; // 8 * 32 * 127 = 32512

    #[inline(always)]
    fn words(block: &[u64], group: usize, pair: usize) -> [u64; WORDS] {
        let (half, quarter) = (group / 4, group % 4);
        let upper = 144 + 768 * half;
        let mut words = nibbles(block, upper + 256 + 256 * (quarter % 2), pair, 4 * (quarter / 2));
        for v in 0..8 {
            let bytes = eight(block, upper + 32 * v, pair) >> (2 * quarter);
            words[2 * v] |= (bytes & (3 * ONES)) << 4;
            words[2 * v + 1] |= (bytes >> 8 & (3 * ONES)) << 4;
        }
        words
    }

    #[inline(always)]
    fn row(block: &[u8], group: usize, row: usize, [scale, _]: [f32; 2]) -> Row {
        let part = |half: usize| i32::from(block[16 + PANEL_ROWS * (2 * group + half) + row] as i8);
        Row { scale, parts: [part(0), part(1)], minimum: None }
    }
}

impl Token {
    const NONE: Token = Token { words: [0; WORDS], middles: [0; 4], missing: 0, scale: 0.0, total: 0.0 };

    #[inline(always)]
    fn new<P: Panel>(x: &CodesBlock<'_>, total: f32) -> Token {
        let code = |column: usize| i64::from(x.codes[column]) as u64;
        let mut token = Token { scale: x.scale, total, ..Token::NONE };
        for (k, word) in token.words.iter_mut().enumerate() {
            let column = k / 2 * 4 + k % 2;
            *word = (code(column) << 16).wrapping_add(code(column + 2));
        }
        for (middle, words) in token.middles.iter_mut().zip(token.words.chunks_exact(P::WORDS)) {
            let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
            *middle = sum.wrapping_mul(P::MIDDLE * ONES).wrapping_sub(HALVES);
        }
        if P::UNSIGNED {
            token.missing = P::MIDDLE as i32 * (i32::from(x.sums[0]) + i32::from(x.sums[1]));
        }
        token
    }

    /// Sums of both rows for both halves of the columns; a sum that was not parted counts for the first half.
    #[inline(always)]
    fn dot<P: Panel>(&self, words: &[u64; WORDS]) -> [[i32; 2]; 2] {
        let mut sums = [[0; 2]; 2];
        let runs = words.chunks_exact(P::WORDS).zip(self.words.chunks_exact(P::WORDS)).zip(self.middles);
        for (run, ((words, x), middle)) in runs.enumerate() {
            let products = words.iter().zip(x).map(|(word, x)| word.wrapping_mul(*x));
            let sum = products.fold(0u64, u64::wrapping_add).wrapping_sub(middle);
            let half = &mut sums[run * P::WORDS / 8];
            half[0] += (sum >> 16 & 0xffff) as i32 - 0x8000;
            half[1] += (sum as i64 >> 48) as i32;
        }
        sums
    }
}

/// Both views of a panel's blocks: bytes, and words of eight, which a core without unaligned loads reads well.
struct Blocks<'a> {
    bytes: &'a [u8],
    /// The same bytes, if they begin at a multiple of eight.
    words: Option<&'a [u64]>,
    block_bytes: usize,
    /// Where a block's words are copied to if they do not.
    copy: [u64; BLOCK_WORDS_MAX],
}

impl<'a> Blocks<'a> {
    fn new(bytes: &'a [u8], block_bytes: usize) -> Blocks<'a> {
        // SAFETY: any eight bytes are a number.
        let (before, words, behind) = unsafe { bytes.align_to::<u64>() };
        let words = (before.is_empty() && behind.is_empty()).then_some(words);
        Blocks { bytes, words, block_bytes, copy: [0; BLOCK_WORDS_MAX] }
    }

    /// Block `index`.
    #[inline(always)]
    fn block(&mut self, index: usize) -> (&'a [u8], &[u64]) {
        let bytes = &self.bytes[index * self.block_bytes..][..self.block_bytes];
        let count = self.block_bytes / 8;
        match self.words {
            Some(words) => (bytes, &words[index * count..][..count]),
            None => {
                for (word, bytes) in self.copy.iter_mut().zip(bytes.as_chunks().0) {
                    *word = u64::from_ne_bytes(*bytes);
                }
                (bytes, &self.copy[..count])
            }
        }
    }
}

/// One panel or two neighbours of one format times one tile of tokens; `out` is `[panel][token][row]` from the
/// tile's first token on, `stride` tokens from a panel to the next.
#[inline(always)]
fn multiply<P: Panel>(panels: &mut [Blocks<'_>], x: &Codes<'_>, out: &mut [[f32; PANEL_ROWS]], stride: usize) {
    let groups = P::FORMAT.block_columns() / 32;
    let mut tokens = [Token::NONE; INTERLEAVED_TOKENS];
    let tokens = &mut tokens[..x.tokens];
    let mut halves = [Halves::default(); 2];
    for index in 0..x.columns / 32 {
        for (t, token) in tokens.iter_mut().enumerate() {
            *token = Token::new::<P>(&x.block(t, index), x.totals[index * x.tokens + t]);
        }
        for (number, (panel, halves)) in panels.iter_mut().zip(&mut halves).enumerate() {
            let (group, (bytes, block)) = (index % groups, panel.block(index / groups));
            if group == 0 {
                for (row, [scale, minimum]) in halves.iter_mut().enumerate() {
                    *scale = half_at(bytes, 2 * row);
                    if P::UNSIGNED {
                        *minimum = half_at(bytes, 16 + 2 * row);
                    }
                }
            }
            let out = &mut out[number * stride..][..x.tokens];
            for pair in 0..PANEL_ROWS / 2 {
                let words = P::words(block, group, pair);
                let row = |which: usize| P::row(bytes, group, 2 * pair + which, halves[2 * pair + which]);
                let rows = [row(0), row(1)];
                for (token, out) in tokens.iter().zip(out.iter_mut()) {
                    let sums = token.dot::<P>(&words);
                    for (which, row) in rows.iter().enumerate() {
                        let out = &mut out[2 * pair + which];
                        let sum = row.parts[0] * sums[0][which] + row.parts[1] * sums[1][which];
                        *out = fused((sum + token.missing) as f32, row.scale * token.scale, *out);
                        if let Some(minimum) = row.minimum {
                            *out = fused(-minimum, token.total, *out);
                        }
                    }
                }
            }
        }
    }
}

/// As [`multiply`], for Q8_0.
fn multiply_q8_0(panels: &mut [Blocks<'_>], x: &Codes<'_>, out: &mut [[f32; PANEL_ROWS]], stride: usize) {
    const BYTES: u64 = 0x0000_00ff_0000_00ff;
    for index in 0..x.columns / 32 {
        for (number, panel) in panels.iter_mut().enumerate() {
            let (bytes, words) = panel.block(index);
            let scales: [f32; PANEL_ROWS] = core::array::from_fn(|row| half_at(bytes, 2 * row));
            for (t, out) in out[number * stride..][..x.tokens].iter_mut().enumerate() {
                let x = x.block(t, index);
                let middle = 128 * (i64::from(x.sums[0]) + i64::from(x.sums[1]));
                let mut sums = [0u64.wrapping_sub((middle as u64).wrapping_mul(0x1_0000_0001)); PANEL_ROWS / 2];
                for (v, codes) in x.codes.as_chunks::<4>().0.iter().enumerate() {
                    let codes = codes.map(|code| i64::from(code) as u64);
                    for (pair, sum) in sums.iter_mut().enumerate() {
                        // From -128..128 to 0..256.
                        let bytes = eight(words, 16 + 32 * v, pair) ^ 0x8080_8080_8080_8080;
                        for (j, code) in codes.iter().enumerate() {
                            *sum = sum.wrapping_add((bytes >> (8 * j) & BYTES).wrapping_mul(*code));
                        }
                    }
                }
                for (pair, sum) in sums.into_iter().enumerate() {
                    let first = sum as i32;
                    let second = (sum.wrapping_sub(i64::from(first) as u64) >> 32) as i32;
                    for (which, sum) in [first, second].into_iter().enumerate() {
                        let row = 2 * pair + which;
                        out[row] = fused(sum as f32, scales[row] * x.scale, out[row]);
                    }
                }
            }
        }
    }
}

/// One or two panels of any format that has them; `out` is `[panel][token][row]`.
///
/// # Panics
/// If lengths do not belong together.
pub(crate) fn multiply_panels(format: Format, panels: &[u8], x: &Codes<'_>, out: &mut [[f32; PANEL_ROWS]]) {
    type Multiply = fn(&mut [Blocks<'_>], &Codes<'_>, &mut [[f32; PANEL_ROWS]], usize);
    let multiply: Multiply = match format {
        Format::Q4_0 => multiply::<Q4_0>,
        Format::Q5_0 => multiply::<Q5_0>,
        Format::Q8_0 => multiply_q8_0,
        Format::Q4K => multiply::<Q4K>,
        Format::Q5K => multiply::<Q5K>,
        Format::Q6K => multiply::<Q6K>,
        _ => return portable::multiply_panels(format, panels, x, out),
    };
    out.fill([0.0; PANEL_ROWS]);
    let panel_bytes = panel_bytes(format, x.columns).expect("columns are whole blocks");
    let block_bytes = panel_block_bytes(format).expect("it has panels");
    let (first, second) = panels.split_at(panel_bytes);
    let mut panels = [Blocks::new(first, block_bytes), Blocks::new(second, block_bytes)];
    let panels = &mut panels[..if second.is_empty() { 1 } else { 2 }];
    let mut token = 0;
    for tile in x.tiles() {
        multiply(panels, &tile, &mut out[token..], x.tokens);
        token += tile.tokens;
    }
}
