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
const NONLINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

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
    fn plain(scale: f32, code: impl Fn(usize) -> i8) -> Group {
        Group { codes: core::array::from_fn(code), scale, parts: [1, 1], minimum: None }
    }

    fn with_minimum(mut self, scale: f32, parts: [i32; 2]) -> Group {
        self.minimum = Some(Minimum { scale, parts });
        self
    }

    fn with_parts(mut self, parts: [i32; 2]) -> Group {
        self.parts = parts;
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
#[inline]
pub(crate) fn half_at(bytes: &[u8], offset: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[offset], bytes[offset + 1]]))
}

/// The low (`high` = 0) or high (1) four bits.
#[inline]
fn nibble(byte: u8, high: usize) -> u8 {
    byte >> (4 * high) & 15
}

/// Scale and minimum of sub-block `index` from the twelve bytes of Q4_K and Q5_K: six bits each.
#[inline]
pub(crate) fn scale_and_minimum(packed: &[u8], index: usize) -> (u8, u8) {
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
    match format {
        Format::Q4_0 => Group::plain(half_at(block, 0), |k| nibble(block[2 + k % 16], k / 16) as i8 - 8),
        Format::Q4_1 => Group::plain(half_at(block, 0), |k| nibble(block[4 + k % 16], k / 16) as i8)
            .with_minimum(-half_at(block, 2), [1, 1]),
        Format::Q5_0 => {
            let fifth = fifth_bits(block, 2);
            Group::plain(half_at(block, 0), |k| (nibble(block[6 + k % 16], k / 16) | fifth(k)) as i8 - 16)
        }
        Format::Q5_1 => {
            let fifth = fifth_bits(block, 4);
            Group::plain(half_at(block, 0), |k| (nibble(block[8 + k % 16], k / 16) | fifth(k)) as i8)
                .with_minimum(-half_at(block, 2), [1, 1])
        }
        Format::Q8_0 => Group::plain(half_at(block, 0), |k| block[2 + k] as i8),
        Format::Q2K => {
            let (half, pair) = (group / 4, group % 4);
            let parts = [block[2 * group], block[2 * group + 1]];
            Group::plain(half_at(block, 80), |k| (block[16 + 32 * half + k] >> (2 * pair) & 3) as i8)
                .with_parts(parts.map(|part| i32::from(part & 15)))
                .with_minimum(half_at(block, 82), parts.map(|part| i32::from(part >> 4)))
        }
        Format::Q3K => {
            let (half, pair) = (group / 4, group % 4);
            let part = |index: usize| {
                let low = nibble(block[96 + index % 8], index / 8);
                let high = block[104 + index % 4] >> (2 * (index / 4)) & 3;
                i32::from(low | high << 4) - 32
            };
            Group::plain(half_at(block, 108), |k| {
                let low = (block[32 + 32 * half + k] >> (2 * pair) & 3) as i8;
                low + 4 * (block[k] >> group & 1) as i8 - 4
            })
            .with_parts([part(2 * group), part(2 * group + 1)])
        }
        Format::Q4K => {
            let (scale, minimum) = scale_and_minimum(&block[4..16], group);
            Group::plain(half_at(block, 0) * f32::from(scale), |k| {
                nibble(block[16 + 32 * (group / 2) + k], group % 2) as i8
            })
            .with_minimum(half_at(block, 2) * f32::from(minimum), [1, 1])
        }
        Format::Q5K => {
            let (scale, minimum) = scale_and_minimum(&block[4..16], group);
            Group::plain(half_at(block, 0) * f32::from(scale), |k| {
                let low = nibble(block[48 + 32 * (group / 2) + k], group % 2);
                (low | (block[16 + k] >> group & 1) << 4) as i8
            })
            .with_minimum(half_at(block, 2) * f32::from(minimum), [1, 1])
        }
        Format::Q6K => {
            let (half, quarter) = (group / 4, group % 4);
            Group::plain(half_at(block, 208), |k| {
                let low = nibble(block[64 * half + 32 * (quarter % 2) + k], quarter / 2);
                let high = block[128 + 32 * half + k] >> (2 * quarter) & 3;
                (low | high << 4) as i8 - 32
            })
            .with_parts([block[192 + 2 * group], block[193 + 2 * group]].map(|part| i32::from(part as i8)))
        }
        Format::Iq4Nl => {
            Group::plain(half_at(block, 0), |k| NONLINEAR[usize::from(nibble(block[2 + k % 16], k / 16))])
        }
        Format::Iq4Xs => {
            let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * group) & 3;
            let part = i32::from(nibble(block[4 + group / 2], group % 2)) | i32::from(high) << 4;
            Group::plain(half_at(block, 0) * (part - 32) as f32, |k| {
                NONLINEAR[usize::from(nibble(block[8 + 16 * group + k % 16], k / 16))]
            })
        }
        Format::F32 | Format::F16 | Format::BF16 => unreachable!("floats are not quantised"),
    }
}

/// The fifth bit of column k of Q5_0 and Q5_1, at its place in the code.
#[inline(always)]
fn fifth_bits(block: &[u8], offset: usize) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([block[offset], block[offset + 1], block[offset + 2], block[offset + 3]]);
    move |k| ((bits >> k & 1) as u8) << 4
}

/// Group `group` of row `row` (0..8) of one block of a panel; the layouts are described in [`crate::pack`].
#[inline(always)]
pub(crate) fn panel(format: Format, block: &[u8], group: usize, row: usize) -> Group {
    // Byte of column 4v+j of this row in vector v.
    let word = |column: usize| 4 * PANEL_ROWS * (column / 4) + 4 * row + column % 4;
    match format {
        Format::Q4_0 => {
            Group::plain(half_at(block, 2 * row), |k| nibble(block[16 + word(k % 16)], k / 16) as i8 - 8)
        }
        Format::Q8_0 => Group::plain(half_at(block, 2 * row), |k| block[16 + word(k)] as i8),
        Format::Q4K => {
            let scale = f32::from(block[32 + PANEL_ROWS * group + row]);
            let minimum = f32::from(block[96 + PANEL_ROWS * group + row]);
            Group::plain(half_at(block, 2 * row) * scale, |k| {
                nibble(block[160 + 256 * (group / 2) + word(k)], group % 2) as i8
            })
            .with_minimum(half_at(block, 16 + 2 * row) * minimum, [1, 1])
        }
        Format::Q6K => {
            let (half, quarter) = (group / 4, group % 4);
            let part = |index: usize| i32::from(block[16 + PANEL_ROWS * index + row] as i8);
            Group::plain(half_at(block, 2 * row), |k| {
                let high = block[144 + 768 * half + word(k)] >> (2 * quarter) & 3;
                let low = nibble(block[400 + 768 * half + 256 * (quarter % 2) + word(k)], quarter / 2);
                (low | high << 4) as i8 - 32
            })
            .with_parts([part(2 * group), part(2 * group + 1)])
        }
        _ => unreachable!("only formats with panels are packed"),
    }
}
