//! Quantised rows in the file's order, for the formats that have no panels.
//!
//! Each group of 32 columns is taken apart by the portable code and multiplied here, half by half, with a sum
//! across lanes at the end. For V 1.0. It loses to a panel by far, so what can be packed should be.

use crate::arch::Codes;
use crate::math::fused;
use crate::unpack::{self, GROUP, Group};
use crate::{Format, PANEL_ROWS};

/// Dot products of both halves of 32 columns.
///
/// # Safety
/// The core has V.
unsafe fn dot_halves(weights: &[i8; GROUP], codes: &[i8; GROUP]) -> [i32; 2] {
    let (first, second): (i64, i64);
    // SAFETY: reads 32 weights and 32 codes alone.
    unsafe {
        vector_asm!([
            "vsetivli zero, 16, e8, m1, ta, ma",
            "vle8.v v8, ({weights})",
            "addi {first}, {weights}, 16",
            "vle8.v v9, ({first})",
            "vle8.v v10, ({codes})",
            "addi {first}, {codes}, 16",
            "vle8.v v11, ({first})",
            "vwmul.vv v12, v8, v10",
            "vwmul.vv v14, v9, v11",
            "vsetivli zero, 16, e16, m2, ta, ma",
            "vmv.v.i v16, 0",
            "vwredsum.vs v18, v12, v16",
            "vwredsum.vs v20, v14, v16",
            "vsetivli zero, 1, e32, m1, ta, ma",
            "vmv.x.s {first}, v18",
            "vmv.x.s {second}, v20",
        ],
            weights = in(reg) weights.as_ptr(),
            codes = in(reg) codes.as_ptr(),
            first = out(reg) first,
            second = out(reg) second,
        );
    }
    [first as i32, second as i32]
}

/// Adds group `index` of row `row` to every token's sum.
///
/// # Safety
/// The core has V.
unsafe fn add_group(group: &Group, index: usize, row: usize, x: &Codes<'_>, out: &mut [[f32; PANEL_ROWS]]) {
    for (token, out) in out.iter_mut().enumerate() {
        let block = x.block(token, index);
        // SAFETY: the core has V.
        let halves = unsafe { dot_halves(&group.codes, block.codes) };
        let sum = group.parts[0] * halves[0] + group.parts[1] * halves[1];
        let mut total = fused(sum as f32, group.scale * block.scale, out[row]);
        if let Some(minimum) = &group.minimum {
            let sums = block.sums.map(i32::from);
            let sum = minimum.parts[0] * sums[0] + minimum.parts[1] * sums[1];
            total = fused(-minimum.scale, sum as f32 * block.scale, total);
        }
        out[row] = total;
    }
}

/// Up to eight rows of any quantised format in the file's order; `out[token][row]`.
///
/// # Safety
/// The core has V.
pub(crate) unsafe fn multiply_rows(
    format: Format,
    rows: &[u8],
    count: usize,
    x: &Codes<'_>,
    out: &mut [[f32; PANEL_ROWS]],
) {
    out.fill([0.0; PANEL_ROWS]);
    let groups = format.block_columns() / GROUP;
    let row_bytes = format.row_bytes(x.columns).expect("columns are whole blocks");
    for row in 0..count {
        let blocks = rows[row * row_bytes..][..row_bytes].chunks_exact(format.block_bytes());
        for (block, bytes) in blocks.enumerate() {
            for group in 0..groups {
                let taken_apart = unpack::rows(format, bytes, group);
                // SAFETY: the core has V.
                unsafe { add_group(&taken_apart, block * groups + group, row, x, out) };
            }
        }
    }
}
