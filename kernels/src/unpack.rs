//! The bits of every quantised format, taken apart into one common shape.
//!
//! Whatever the format, 32 columns are small integer codes, a float scale, an integer scale for each half,
//! and perhaps a minimum to subtract. Decoding and the portable dot products both start here, so that each
//! format's layout is written down once for the file's order and once for panels.

use crate::PANEL_ROWS;
use crate::formats::Format;
use crate::half::f16_to_f32;

/// Columns that are taken apart at once.
pub(crate) const GROUP: usize = 32;

/// The values of the non-linear 4-bit formats.
pub(crate) const NONLINEAR: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 columns of one row: value = (scale * part) * code - minimum * part', the parts by half of 16 columns.
pub(crate) struct Group {
    pub codes: [i8; GROUP],
    pub scale: f32,
    pub parts: [i32; 2],
    pub minimum: Option<Minimum>,
}

/// What is subtracted from every value of a half.
pub(crate) struct Minimum {
    pub scale: f32,
    pub parts: [i32; 2],
}

impl Group {
    #[inline(always)]
    fn new(scale: f32, codes: [i8; GROUP]) -> Group {
        Group { codes, scale, parts: [1, 1], minimum: None }
    }

    #[inline(always)]
    fn with_parts(mut self, parts: [i32; 2]) -> Group {
        self.parts = parts;
        self
    }

    #[inline(always)]
    fn with_minimum(mut self, scale: f32, parts: [i32; 2]) -> Group {
        self.minimum = Some(Minimum { scale, parts });
        self
    }

    /// The values, each product rounded as `ggml` rounds it.
    pub fn decode(&self, out: &mut [f32]) {
        for (index, (out, code)) in out.iter_mut().zip(self.codes).enumerate() {
            let half = index / (GROUP / 2);
            let value = (self.scale * self.parts[half] as f32) * f32::from(code);
            *out = match &self.minimum {
                None => value,
                Some(minimum) => value - minimum.scale * minimum.parts[half] as f32,
            };
        }
    }
}

/// The half-precision number at `offset`.
#[inline(always)]
pub(crate) fn half_at(bytes: &[u8], offset: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes(*field(bytes, offset)))
}

/// The `N` bytes at `offset`.
#[inline(always)]
fn field<const N: usize>(bytes: &[u8], offset: usize) -> &[u8; N] {
    bytes[offset..].first_chunk().expect("blocks are whole")
}

/// The `N` bytes of row `row` in the vectors at `offset` of a panel: four from each.
#[inline(always)]
fn words<const N: usize>(panel: &[u8], offset: usize, row: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let vectors = panel[offset..][..PANEL_ROWS * N].chunks_exact(4 * PANEL_ROWS);
    for (bytes, vector) in bytes.chunks_exact_mut(4).zip(vectors) {
        bytes.copy_from_slice(&vector[4 * row..][..4]);
    }
    bytes
}

/// The low four bits of all bytes, then the high ones.
#[inline(always)]
fn low_then_high(bytes: &[u8; GROUP / 2]) -> [u8; GROUP] {
    let mut codes = [0; GROUP];
    let (low, high) = codes.split_at_mut(GROUP / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    codes
}

/// The fifth bits of row `row` in the vector at `offset` of a panel, bit `k` for column `k`.
#[inline(always)]
fn fifth_bits(panel: &[u8], offset: usize, row: usize) -> [u8; 4] {
    let bits = field::<4>(panel, offset + 4 * row);
    let column = |k: usize| u32::from(bits[k % 4] >> (k / 4) & 1) << k;
    (0..GROUP).map(column).fold(0, |bits, bit| bits | bit).to_le_bytes()
}

/// The low (`which` = 0) or high (1) four bits of every byte.
#[inline(always)]
fn nibbles(bytes: &[u8; GROUP], which: usize) -> [u8; GROUP] {
    bytes.map(|byte| byte >> (4 * which) & 15)
}

/// Codes of Q6_K from nibbles and two upper bits, which lie at `2 * quarter` of theirs.
#[inline(always)]
fn six_bits(low: &[u8; GROUP], high: &[u8; GROUP], quarter: usize) -> [i8; GROUP] {
    let low = nibbles(low, quarter / 2);
    core::array::from_fn(|k| (low[k] | (high[k] >> (2 * quarter) & 3) << 4) as i8 - 32)
}

/// Codes of Q5_0 and Q5_1: nibbles, and the fifth bit of column `k` at bit `k`.
#[inline(always)]
fn five_bits(low: &[u8; GROUP / 2], fifth: &[u8; 4]) -> [u8; GROUP] {
    let (low, fifth) = (low_then_high(low), u32::from_le_bytes(*fifth));
    core::array::from_fn(|k| low[k] | ((fifth >> k & 1) as u8) << 4)
}

/// Scale and minimum of sub-block `index` from the twelve bytes of Q4_K and Q5_K: six bits each.
#[inline]
pub(crate) fn scale_and_minimum(packed: &[u8; 12], index: usize) -> (u8, u8) {
    if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let (low, high) = (packed[index + 4], (packed[index - 4] >> 6, packed[index] >> 6));
        (low & 15 | high.0 << 4, low >> 4 | high.1 << 4)
    }
}

/// Group `group` (0, or 0..8 in formats of 256 columns) of one block in the file's order.
#[inline(always)]
pub(crate) fn rows(format: Format, block: &[u8], group: usize) -> Group {
    let block = &block[..format.block_bytes()];
    // Formats of 256 columns: which half of 128 columns, and which of the four groups that share its bytes.
    let (half, quarter) = (group / 4, group % 4);
    match format {
        Format::Q4_0 => {
            Group::new(half_at(block, 0), low_then_high(field(block, 2)).map(|code| code as i8 - 8))
        }
        Format::Q4_1 => Group::new(half_at(block, 0), low_then_high(field(block, 4)).map(|code| code as i8))
            .with_minimum(-half_at(block, 2), [1, 1]),
        Format::Q5_0 => {
            let codes = five_bits(field(block, 6), field(block, 2));
            Group::new(half_at(block, 0), codes.map(|code| code as i8 - 16))
        }
        Format::Q5_1 => {
            let codes = five_bits(field(block, 8), field(block, 4));
            Group::new(half_at(block, 0), codes.map(|code| code as i8))
                .with_minimum(-half_at(block, 2), [1, 1])
        }
        Format::Q8_0 => Group::new(half_at(block, 0), field(block, 2).map(|code| code as i8)),
        Format::Q2K => {
            let codes = field(block, 16 + 32 * half).map(|byte| (byte >> (2 * quarter) & 3) as i8);
            let parts = *field(block, 2 * group);
            Group::new(half_at(block, 80), codes)
                .with_parts(parts.map(|part: u8| i32::from(part & 15)))
                .with_minimum(half_at(block, 82), parts.map(|part| i32::from(part >> 4)))
        }
        Format::Q3K => {
            let (low, high) = (field::<GROUP>(block, 32 + 32 * half), field::<GROUP>(block, 0));
            let code = |k: usize| (low[k] >> (2 * quarter) & 3 | (high[k] >> group & 1) << 2) as i8 - 4;
            let part = |index: usize| {
                let low = block[96 + index % 8] >> (4 * (index / 8)) & 15;
                let high = block[104 + index % 4] >> (2 * (index / 4)) & 3;
                i32::from(low | high << 4) - 32
            };
            Group::new(half_at(block, 108), core::array::from_fn(code))
                .with_parts([part(2 * group), part(2 * group + 1)])
        }
        Format::Q4K => {
            let (scale, minimum) = scale_and_minimum(field(block, 4), group);
            let codes = nibbles(field(block, 16 + 32 * (group / 2)), group % 2).map(|code| code as i8);
            Group::new(half_at(block, 0) * f32::from(scale), codes)
                .with_minimum(half_at(block, 2) * f32::from(minimum), [1, 1])
        }
        Format::Q5K => {
            let (scale, minimum) = scale_and_minimum(field(block, 4), group);
            let low = nibbles(field(block, 48 + 32 * (group / 2)), group % 2);
            let fifth = field::<GROUP>(block, 16).map(|byte| (byte >> group & 1) << 4);
            let codes = core::array::from_fn(|k| (low[k] | fifth[k]) as i8);
            Group::new(half_at(block, 0) * f32::from(scale), codes)
                .with_minimum(half_at(block, 2) * f32::from(minimum), [1, 1])
        }
        Format::Q6K => {
            let low = field(block, 64 * half + 32 * (quarter % 2));
            let codes = six_bits(low, field(block, 128 + 32 * half), quarter);
            let parts = field::<2>(block, 192 + 2 * group).map(|part| i32::from(part as i8));
            Group::new(half_at(block, 208), codes).with_parts(parts)
        }
        Format::Iq4Nl => Group::new(half_at(block, 0), nonlinear(field(block, 2))),
        Format::Iq4Xs => {
            let high = u16::from_le_bytes(*field(block, 2)) >> (2 * group) & 3;
            let part = i32::from(block[4 + group / 2] >> (4 * (group % 2)) & 15) | i32::from(high) << 4;
            Group::new(half_at(block, 0) * (part - 32) as f32, nonlinear(field(block, 8 + 16 * group)))
        }
        Format::F32 | Format::F16 | Format::BF16 => unreachable!("floats are not quantised"),
    }
}

/// Nibbles looked up in the table of unequal steps.
#[inline(always)]
fn nonlinear(bytes: &[u8; GROUP / 2]) -> [i8; GROUP] {
    low_then_high(bytes).map(|code| NONLINEAR[usize::from(code & 15)])
}

/// Group `group` of row `row` (0..8) of one block of a panel; the layouts are described in [`crate::pack`].
#[inline(always)]
pub(crate) fn panel(format: Format, block: &[u8], group: usize, row: usize) -> Group {
    match format {
        Format::Q4_0 => {
            let codes = low_then_high(&words(block, 16, row)).map(|code| code as i8 - 8);
            Group::new(half_at(block, 2 * row), codes)
        }
        Format::Iq4Nl => Group::new(half_at(block, 2 * row), nonlinear(&words(block, 16, row))),
        Format::Q5_0 => {
            let codes = five_bits(&words(block, 48, row), &fifth_bits(block, 16, row));
            Group::new(half_at(block, 2 * row), codes.map(|code| code as i8 - 16))
        }
        Format::Q8_0 => Group::new(half_at(block, 2 * row), words(block, 16, row).map(|code| code as i8)),
        Format::Q4K => {
            let codes = nibbles(&words(block, 160 + 256 * (group / 2), row), group % 2);
            scaled_with_minimum(block, group, row, codes)
        }
        Format::Q5K => {
            let pair = 160 + 320 * (group / 2);
            let low = nibbles(&words(block, pair + 64, row), group % 2);
            let fifth = u32::from_le_bytes(fifth_bits(block, pair + 32 * (group % 2), row));
            let codes = core::array::from_fn(|k| low[k] | ((fifth >> k & 1) as u8) << 4);
            scaled_with_minimum(block, group, row, codes)
        }
        Format::Q6K => {
            let (half, quarter) = (group / 4, group % 4);
            let low = words(block, 400 + 768 * half + 256 * (quarter % 2), row);
            let codes = six_bits(&low, &words(block, 144 + 768 * half, row), quarter);
            let part = |index: usize| i32::from(block[16 + PANEL_ROWS * index + row] as i8);
            Group::new(half_at(block, 2 * row), codes).with_parts([part(2 * group), part(2 * group + 1)])
        }
        _ => unreachable!("only formats with panels are packed"),
    }
}

/// Codes of Q4_K or Q5_K with the scale and the minimum of their sub-block and row of a panel.
#[inline(always)]
fn scaled_with_minimum(block: &[u8], group: usize, row: usize, codes: [u8; GROUP]) -> Group {
    let scale = f32::from(block[32 + PANEL_ROWS * group + row]);
    let minimum = f32::from(block[96 + PANEL_ROWS * group + row]);
    Group::new(half_at(block, 2 * row) * scale, codes.map(|code| code as i8))
        .with_minimum(half_at(block, 16 + 2 * row) * minimum, [1, 1])
}
