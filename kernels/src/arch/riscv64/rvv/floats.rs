//! Rows of F32, F16 and BF16 times f32 activations.
//!
//! Sixteen lanes a row and token, as the portable set defines, in a group of four registers (enough at 128
//! bits). Four rows share the loads of one token's values when decoding; one row, converted once, meets four
//! tokens when a prompt is read. Weights are loaded as bytes, because a file may hold them at odd addresses.
//!
//! For V 1.0, without Zvfh: halves take seven instructions for sixteen of them. 32 weights of F16 and a token
//! take 35 instructions at one token and 17 at eight, portable 829. Lanes stay sixteen at any length of
//! registers, so that longer ones gain nothing here, and a chip with Zvfh could do with less.

use crate::Format;
use crate::PANEL_ROWS;
use crate::arch::{Floats, portable};
use crate::math::reduce16;

/// Rows or tokens that are walked together.
const TOGETHER: usize = 4;

/// Columns that are walked at once: the lanes of a dot product.
const LANES: usize = 16;

/// Dot products, before their lanes are summed.
type Lanes = [[f32; LANES]; TOGETHER];

/// Four weight rows times one token's values, or one times four: `single` points at what there is one of,
/// `four` at the first of what there are four of, `stride` bytes apart.
struct Walk {
    single: *const u8,
    four: *const u8,
    stride: usize,
    columns: usize,
}

/// Sixteen or `count` weights from v4 on, loaded as bytes, to floats in v12.
macro_rules! f32_weights {
    () => {
        "vmv4r.v v12, v4\n"
    };
}

macro_rules! bf16_weights {
    () => {
        concat!("vzext.vf2 v12, v4\n", "vsll.vi v12, v12, 16\n")
    };
}

/// A half's bits, moved to where a float has them, are its 2^-112th part; infinity and what is no number get
/// their exponent afterwards.
macro_rules! f16_weights {
    () => {
        concat!(
            "vzext.vf2 v12, v4\n",
            "vand.vx v12, v12, {inf16}\n",
            "vmseq.vx v0, v12, {inf16}\n",
            "vsext.vf2 v12, v4\n",
            "vsll.vi v12, v12, 13\n",
            "vand.vx v12, v12, {sign_once}\n",
            "vfmul.vf v12, v12, {two112}\n",
            "vor.vx v12, v12, {inf32}, v0.t\n",
        )
    };
}

/// One step of a walk over `lanes` columns, whose weights take `bytes`: four rows and one token, or one row
/// and four tokens.
macro_rules! step {
    (decode, $weights:ident, $lanes:literal) => {
        concat!(
            "vsetvli zero, ", $lanes, ", e32, m4, tu, mu\n",
            "vle32.v v8, ({single})\n",
            step!(@row $weights, $lanes, "mv {at}, {four}\n", "v16"),
            step!(@row $weights, $lanes, "add {at}, {at}, {stride}\n", "v20"),
            step!(@row $weights, $lanes, "add {at}, {at}, {stride}\n", "v24"),
            step!(@row $weights, $lanes, "add {at}, {at}, {stride}\n", "v28"),
        )
    };
    (@row $weights:ident, $lanes:literal, $next:literal, $sum:literal) => {
        concat!(
            $next,
            "vsetvli zero, {bytes}, e8, m4, ta, ma\n",
            "vle8.v v4, ({at})\n",
            "vsetvli zero, ", $lanes, ", e32, m4, tu, mu\n",
            $weights!(),
            "vfmacc.vv ", $sum, ", v12, v8\n",
        )
    };
    (prefill, $weights:ident, $lanes:literal) => {
        concat!(
            "vsetvli zero, {bytes}, e8, m4, ta, ma\n",
            "vle8.v v4, ({single})\n",
            "vsetvli zero, ", $lanes, ", e32, m4, tu, mu\n",
            $weights!(),
            "vle32.v v8, ({four})\n",
            "vfmacc.vv v16, v12, v8\n",
            "add {at}, {four}, {stride}\n",
            "vle32.v v8, ({at})\n",
            "vfmacc.vv v20, v12, v8\n",
            "add {at}, {at}, {stride}\n",
            "vle32.v v8, ({at})\n",
            "vfmacc.vv v24, v12, v8\n",
            "add {at}, {at}, {stride}\n",
            "vle32.v v8, ({at})\n",
            "vfmacc.vv v28, v12, v8\n",
        )
    };
}

/// A function that walks all columns: `kind` as in [`step`], and the bytes by which both pointers move.
macro_rules! walk {
    ($name:ident, $kind:ident, $weights:ident, $bytes:literal, $single_step:literal, $four_step:literal) => {
        /// # Safety
        /// The core has V; what is single has the columns, and so have the four.
        unsafe fn $name(walk: &Walk, lanes: &mut Lanes) {
            // SAFETY: steps of sixteen columns, then of what is left, within each row; lanes without a column
            // are left undisturbed.
            unsafe {
                vector_asm!([
                    "vsetivli zero, 16, e32, m4, ta, ma",
                    "vmv.v.i v16, 0",
                    "vmv.v.i v20, 0",
                    "vmv.v.i v24, 0",
                    "vmv.v.i v28, 0",
                    "j 3f",
                    "2:",
                    step!($kind, $weights, "{sixteen}"),
                    concat!("addi {single}, {single}, ", $single_step),
                    concat!("addi {four}, {four}, ", $four_step),
                    "addi {left}, {left}, -16",
                    "3:",
                    "bgeu {left}, {sixteen}, 2b",
                    "beqz {left}, 4f",
                    "mul {bytes}, {left}, {weight_bytes}",
                    step!($kind, $weights, "{left}"),
                    "4:",
                    "vsetivli zero, 16, e32, m4, ta, ma",
                    "vse32.v v16, ({lanes})",
                    "addi {lanes}, {lanes}, 64",
                    "vse32.v v20, ({lanes})",
                    "addi {lanes}, {lanes}, 64",
                    "vse32.v v24, ({lanes})",
                    "addi {lanes}, {lanes}, 64",
                    "vse32.v v28, ({lanes})",
                    "# {two112} {inf16} {inf32} {sign_once}", // halves need these
                ],
                    single = inout(reg) walk.single => _,
                    four = inout(reg) walk.four => _,
                    stride = in(reg) walk.stride,
                    left = inout(reg) walk.columns => _,
                    sixteen = in(reg) LANES,
                    weight_bytes = in(reg) $bytes,
                    bytes = inout(reg) LANES * $bytes => _,
                    lanes = inout(reg) lanes.as_mut_ptr() => _,
                    at = out(reg) _,
                    two112 = in(freg) f32::from_bits((127 + 112) << 23),
                    inf16 = in(reg) 0x7c00,
                    inf32 = in(reg) 0x7f80_0000,
                    sign_once = in(reg) -0x7000_0001i64,
                );
            }
        }
    };
}

walk!(decode_f32, decode, f32_weights, 4, "64", "64");
walk!(decode_f16, decode, f16_weights, 2, "64", "32");
walk!(decode_bf16, decode, bf16_weights, 2, "64", "32");
walk!(prefill_f32, prefill, f32_weights, 4, "64", "64");
walk!(prefill_f16, prefill, f16_weights, 2, "32", "64");
walk!(prefill_bf16, prefill, bf16_weights, 2, "32", "64");

/// Up to eight rows of a float format times every token; `out[token][row]`.
///
/// # Safety
/// The core has V.
///
/// # Panics
/// If lengths do not belong together.
pub(crate) unsafe fn multiply_floats(
    format: Format,
    rows: &[u8],
    count: usize,
    x: &Floats<'_>,
    out: &mut [[f32; PANEL_ROWS]],
) {
    type Walks = (usize, unsafe fn(&Walk, &mut Lanes), unsafe fn(&Walk, &mut Lanes));
    let (bytes, decode, prefill): Walks = match format {
        Format::F32 => (4, decode_f32, prefill_f32),
        Format::F16 => (2, decode_f16, prefill_f16),
        Format::BF16 => (2, decode_bf16, prefill_bf16),
        _ => return portable::multiply_floats(format, rows, count, x, out),
    };
    let row_bytes = x.columns * bytes;
    assert!(count <= PANEL_ROWS && rows.len() == count * row_bytes, "rows of other columns");
    assert!(x.values.len() == x.tokens * x.columns && out.len() == x.tokens, "values of other columns");
    out.fill([0.0; PANEL_ROWS]);
    let sums = |walk: unsafe fn(&Walk, &mut Lanes), single: *const u8, four: *const u8, stride: usize| {
        let mut lanes = [[0.0; LANES]; TOGETHER];
        // SAFETY: the core has V; below, all rows lie in `rows` and all values in `x`, as checked above.
        unsafe { walk(&Walk { single, four, stride, columns: x.columns }, &mut lanes) };
        lanes.map(|lanes| reduce16(&lanes))
    };
    let row_at = |row: usize| rows[row * row_bytes..].as_ptr();
    let values_at = |token: usize| x.values[token * x.columns..].as_ptr().cast();
    let whole = x.tokens / TOGETHER * TOGETHER;
    for row in 0..count {
        for token in (0..whole).step_by(TOGETHER) {
            let sums = sums(prefill, row_at(row), values_at(token), 4 * x.columns);
            for (out, sum) in out[token..].iter_mut().zip(sums) {
                out[row] = sum;
            }
        }
    }
    for (token, out) in out.iter_mut().enumerate().skip(whole) {
        let (fours, rest) = out[..count].as_chunks_mut::<TOGETHER>();
        for (index, four) in fours.iter_mut().enumerate() {
            *four = sums(decode, values_at(token), row_at(index * TOGETHER), row_bytes);
        }
        // What is left is walked row by row, each in the place of four.
        for (index, sum) in rest.iter_mut().enumerate() {
            [*sum, ..] = sums(decode, values_at(token), row_at(fours.len() * TOGETHER + index), 0);
        }
    }
}
