//! Attention of the query heads that share one key head: keys and values are read once for four of them.
//!
//! A key row becomes floats once and meets four heads in eight lanes each, as the portable set defines; the
//! lanes of a page's scores are summed together. Values are taken by columns: a piece of four heads' results
//! stays in registers while all of a page's rows are added to it. Scores, sums and results take the steps of
//! the portable set in its order.
//!
//! For V 1.0, without Zvfh. Four heads of 64 over 64 tokens of halves take 6.4 instructions for a column and
//! token at 256 bits, portable 253. Storing halves is left to portable, because it happens once a token.

use super::elementwise::{exp_below, largest, quantize_block, scale};
use super::register_bytes;
use crate::arch::{HeadGroup, portable};
use crate::half::{f16_to_f32, f32_to_f16};
use crate::limits::HEAD_WIDTH_MAX;
use crate::unpack::half_at;
use crate::{KV_PAGE_TOKENS, KvKind, QUANT_BLOCK};

/// Query heads that walk the cache together, where there are as many.
const HEADS: usize = 4;

/// Lanes of a score.
const LANES: usize = 8;

/// Floats from one head's weights to the next one's: a page's, and one for the correction.
const WEIGHTS: usize = KV_PAGE_TOKENS + 1;

/// What conversions read: the bits of infinity, of a half and of a float; all bits but the copies of a half's
/// sign; 2^112.
static HALF: [u32; 4] = [0x7c00, 0x7f80_0000, 0x8fff_ffff, (127 + 112) << 23];

/// `{n}` values of a cached row at `{row}` as floats in the group v8; destroys v0, v4 to v7 and v12 to v15.
macro_rules! load_values {
    (F32) => {
        concat!(
            "slli {t0}, {n}, 2\n",
            "vsetvli zero, {t0}, e8, m4, ta, ma\n",
            "vle8.v v8, ({row})\n",
            "vsetvli zero, {n}, e32, m4, ta, ma\n",
        )
    };
    (F16) => {
        concat!(
            "slli {t0}, {n}, 1\n",
            "vsetvli zero, {t0}, e8, m2, ta, ma\n",
            "vle8.v v4, ({row})\n",
            "vsetvli zero, {n}, e32, m4, ta, mu\n",
            "lw {t0}, 0({half})\n",
            "vsext.vf2 v8, v4\n",
            "vand.vx v12, v8, {t0}\n",
            "vmseq.vx v0, v12, {t0}\n",
            "lw {t0}, 8({half})\n",
            "vsll.vi v8, v8, 13\n",
            "vand.vx v8, v8, {t0}\n",
            "flw {f}, 12({half})\n",
            "lw {t0}, 4({half})\n",
            "vfmul.vf v8, v8, {f}\n",
            "vor.vx v8, v8, {t0}, v0.t\n",
        )
    };
    (Q8_0) => {
        concat!(
            "vsetvli zero, {n}, e8, m1, ta, ma\n",
            "vle8.v v4, ({row})\n",
            "vsetvli zero, {n}, e32, m4, ta, ma\n",
            "flw {f}, ({scales})\n",
            "vsext.vf4 v8, v4\n",
            "vfcvt.f.x.v v8, v8\n",
            "vfmul.vf v8, v8, {f}\n",
        )
    };
}

/// Some values of a cached row, as floats.
///
/// # Safety
/// The core has V; `row` holds `out.len()` values of `kind` without their scale, which is `scale` where the
/// kind has one.
unsafe fn load_row(kind: KvKind, row: *const u8, scale: f32, out: &mut [f32]) {
    macro_rules! load {
        ($kind:ident, $shift:literal) => {
            // SAFETY: every step takes at most what is left of both rows.
            unsafe {
                vector_asm!([
                    "2:",
                    "vsetvli {n}, {left}, e32, m4, ta, ma",
                    load_values!($kind),
                    "vse32.v v8, ({out})",
                    "sub {left}, {left}, {n}",
                    concat!("slli {t0}, {n}, ", $shift),
                    "add {row}, {row}, {t0}",
                    "slli {t0}, {n}, 2",
                    "add {out}, {out}, {t0}",
                    "bnez {left}, 2b",
                    "# {half} {scales} {f}", // not every kind needs these
                ],
                    row = inout(reg) row => _,
                    out = inout(reg) out.as_mut_ptr() => _,
                    left = inout(reg) out.len() => _,
                    half = in(reg) HALF.as_ptr(),
                    scales = in(reg) &raw const scale,
                    n = out(reg) _,
                    t0 = out(reg) _,
                    f = out(freg) _,
                );
            }
        };
    }
    match kind {
        KvKind::F32 => load!(F32, "2"),
        KvKind::F16 => load!(F16, "1"),
        KvKind::Q8_0 => load!(Q8_0, "0"),
    }
}

/// A whole row of a head, as floats.
///
/// # Safety
/// The core has V; `bytes` is a row of `out.len()` values.
unsafe fn load_head(kind: KvKind, bytes: &[u8], out: &mut [f32]) {
    if kind == KvKind::Q8_0 {
        for (block, out) in bytes.chunks_exact(2 + QUANT_BLOCK).zip(out.chunks_exact_mut(QUANT_BLOCK)) {
            // SAFETY: the block's codes lie behind its scale.
            unsafe { load_row(kind, block[2..].as_ptr(), half_at(block, 0), out) };
        }
    } else {
        // SAFETY: as many values as the contract says.
        unsafe { load_row(kind, bytes.as_ptr(), 1.0, out) };
    }
}

/// `H` query heads in one walk over the cache.
struct Heads<'a, const H: usize> {
    /// `[H][width]`
    query: &'a [f32],
    /// `[H][width]`
    out: &'a mut [f32],
    width: usize,
    largest: [f32; H],
    sum: [f32; H],
}

/// One of two texts: for four heads, or for one.
macro_rules! heads {
    (4, $one:expr, $more:expr) => {
        concat!($one, $more)
    };
    (1, $one:expr, $more:expr) => {
        $one
    };
}

/// Functions for `H` heads, 4 or 1.
macro_rules! for_heads {
    ($heads:tt) => {
        impl Heads<'_, $heads> {
            /// Eight lanes of the product of one key with each head, at `lanes`, one head a page of them
            /// behind the other.
            ///
            /// # Safety
            /// The core has V; `key` is as wide as the heads; there is room at `lanes`.
            unsafe fn dot(&self, key: &[f32], lanes: *mut f32) {
                // SAFETY: steps of eight columns, then of what is left, within key and queries; lanes without
                // a column are left undisturbed.
                unsafe {
                    vector_asm!([
                        "vsetivli zero, 8, e32, m2, ta, ma",
                        "vmv.v.i v16, 0",
                        "vmv.v.i v18, 0",
                        "vmv.v.i v20, 0",
                        "vmv.v.i v22, 0",
                        "j 3f",
                        "2:",
                        "vsetvli zero, {n}, e32, m2, tu, ma",
                        "vle32.v v8, ({key})",
                        "vle32.v v10, ({query})",
                        "vfmacc.vv v16, v8, v10",
                        heads!($heads, "", "add {at}, {query}, {stride}\n\
                            vle32.v v10, ({at})\n vfmacc.vv v18, v8, v10\n add {at}, {at}, {stride}\n\
                            vle32.v v10, ({at})\n vfmacc.vv v20, v8, v10\n add {at}, {at}, {stride}\n\
                            vle32.v v10, ({at})\n vfmacc.vv v22, v8, v10\n"),
                        "addi {key}, {key}, 32",
                        "addi {query}, {query}, 32",
                        "addi {left}, {left}, -8",
                        "3:",
                        "bge {left}, {n}, 2b",
                        "mv {n}, {left}",
                        "bgtz {left}, 2b",
                        "vsetivli zero, 8, e32, m2, ta, ma",
                        "vse32.v v16, ({lanes})",
                        heads!($heads, "", "addi {lanes}, {lanes}, 1024\n vse32.v v18, ({lanes})\n\
                            addi {lanes}, {lanes}, 1024\n vse32.v v20, ({lanes})\n\
                            addi {lanes}, {lanes}, 1024\n vse32.v v22, ({lanes})\n"),
                        "# {stride} {at}", // one head needs none of these
                    ],
                        key = inout(reg) key.as_ptr() => _,
                        query = inout(reg) self.query.as_ptr() => _,
                        left = inout(reg) self.width => _,
                        n = inout(reg) LANES => _,
                        lanes = inout(reg) lanes => _,
                        stride = in(reg) 4 * self.width,
                        at = out(reg) _,
                    );
                }
            }

            /// Adds a page's weighted values to `n` columns from `column` on; `scales` are the rows' where
            /// the kind has them.
            ///
            /// # Safety
            /// The core has V; the first of `count` rows of `row_bytes` has these columns at `row`; they fit
            /// four registers.
            unsafe fn add_columns(
                &mut self,
                kind: KvKind,
                (row, row_bytes, count): (*const u8, usize, usize),
                scales: &[f32; KV_PAGE_TOKENS],
                weights: &[[f32; WEIGHTS]; $heads],
                (column, n): (usize, usize),
            ) {
                macro_rules! add {
                    ($kind:ident) => {
                        // SAFETY: reads `count` rows' columns, weights and scales, and changes the heads'
                        // columns.
                        unsafe {
                            vector_asm!([
                                "vsetvli zero, {n}, e32, m4, ta, ma",
                                "vle32.v v16, ({out})",
                                "flw {f}, 128({weights})",
                                "vfmul.vf v16, v16, {f}",
                                heads!($heads, "", "add {at}, {out}, {stride}\n vle32.v v20, ({at})\n\
                                    flw {f}, 260({weights})\n vfmul.vf v20, v20, {f}\n\
                                    add {at}, {at}, {stride}\n vle32.v v24, ({at})\n\
                                    flw {f}, 392({weights})\n vfmul.vf v24, v24, {f}\n\
                                    add {at}, {at}, {stride}\n vle32.v v28, ({at})\n\
                                    flw {f}, 524({weights})\n vfmul.vf v28, v28, {f}\n"),
                                "2:",
                                load_values!($kind),
                                "flw {f}, 0({weights})",
                                "vfmacc.vf v16, {f}, v8",
                                heads!($heads, "", "flw {f}, 132({weights})\n vfmacc.vf v20, {f}, v8\n\
                                    flw {f}, 264({weights})\n vfmacc.vf v24, {f}, v8\n\
                                    flw {f}, 396({weights})\n vfmacc.vf v28, {f}, v8\n"),
                                "add {row}, {row}, {row_bytes}",
                                "addi {weights}, {weights}, 4",
                                "addi {scales}, {scales}, 4",
                                "addi {count}, {count}, -1",
                                "bnez {count}, 2b",
                                "vse32.v v16, ({out})",
                                heads!($heads, "", "add {at}, {out}, {stride}\n vse32.v v20, ({at})\n\
                                    add {at}, {at}, {stride}\n vse32.v v24, ({at})\n\
                                    add {at}, {at}, {stride}\n vse32.v v28, ({at})\n"),
                                "# {half} {stride} {at} {t0}", // not every kind and number needs these
                            ],
                                out = in(reg) self.out[column..].as_mut_ptr(),
                                stride = in(reg) 4 * self.width,
                                row = inout(reg) row => _,
                                row_bytes = in(reg) row_bytes,
                                count = inout(reg) count => _,
                                weights = inout(reg) weights.as_ptr() => _,
                                scales = inout(reg) scales.as_ptr() => _,
                                n = in(reg) n,
                                half = in(reg) HALF.as_ptr(),
                                at = out(reg) _,
                                t0 = out(reg) _,
                                f = out(freg) _,
                            );
                        }
                    };
                }
                match kind {
                    KvKind::F32 => add!(F32),
                    KvKind::F16 => add!(F16),
                    KvKind::Q8_0 => add!(Q8_0),
                }
            }

            /// Attends to `count` rows of a page, at `keys` and `values`.
            ///
            /// # Safety
            /// The core has V.
            unsafe fn attend_page(
                &mut self,
                group: &HeadGroup<'_>,
                keys: &[u8],
                values: &[u8],
                row: &mut [f32],
            ) {
                let (kind, width) = (group.kind, self.width);
                let row_bytes = kind.head_bytes(width).expect("the shape was checked");
                let count = keys.len() / row_bytes;
                assert!(count <= KV_PAGE_TOKENS && values.len() == keys.len(), "more rows than a page has");
                let fits = self.query.len() == $heads * width && self.out.len() == $heads * width;
                assert!(fits, "heads of another width");
                let mut lanes = [[[0f32; LANES]; KV_PAGE_TOKENS]; $heads];
                for (slot, bytes) in keys.chunks_exact(row_bytes).enumerate() {
                    // SAFETY: the core has V; the row is as wide as the heads, and the slot lies in `lanes`.
                    unsafe {
                        load_head(kind, bytes, row);
                        self.dot(row, (&raw mut lanes).cast::<f32>().add(slot * LANES));
                    }
                }
                let mut weights = [[0f32; WEIGHTS]; $heads];
                for (head, weights) in weights.iter_mut().enumerate() {
                    // SAFETY: the core has V.
                    unsafe {
                        scores(&lanes[head][..count], group.scale, weights);
                        let before = self.largest[head];
                        self.largest[head] = before.max(largest(&weights[..count]));
                        weights[KV_PAGE_TOKENS] = before;
                        exp_below(&mut weights[..count], self.largest[head]);
                        exp_below(&mut weights[KV_PAGE_TOKENS..], self.largest[head]);
                        self.sum[head] =
                            self.sum[head] * weights[KV_PAGE_TOKENS] + ordered_sum(&weights[..count]);
                    }
                }
                // SAFETY: the core has V. A group of four registers holds as many floats as one has bytes.
                let columns_max = unsafe { register_bytes() };
                let mut column = 0;
                while column < width {
                    let mut n = columns_max.min(width - column);
                    let mut scales = [0.0; KV_PAGE_TOKENS];
                    let mut offset = column * row_bytes / width;
                    if kind == KvKind::Q8_0 {
                        n = n.min(QUANT_BLOCK);
                        let block = column / QUANT_BLOCK * (2 + QUANT_BLOCK);
                        offset = block + 2 + column % QUANT_BLOCK;
                        for (scale, row) in scales.iter_mut().zip(values.chunks_exact(row_bytes)) {
                            *scale = f16_to_f32(u16::from_le_bytes([row[block], row[block + 1]]));
                        }
                    }
                    // SAFETY: the core has V; all rows have `n` columns at this offset, and the heads too.
                    unsafe {
                        let rows = (values[offset..].as_ptr(), row_bytes, count);
                        self.add_columns(kind, rows, &scales, &weights, (column, n));
                    }
                    column += n;
                }
            }

            /// Walks all pages of the group's range.
            ///
            /// # Safety
            /// The core has V.
            unsafe fn attend(&mut self, group: &HeadGroup<'_>) {
                let row_bytes = group.kind.head_bytes(self.width).expect("the shape was checked");
                let mut row = [0.0; HEAD_WIDTH_MAX];
                self.out.fill(0.0);
                for (page, slots) in group.clipped_pages() {
                    let rows = |offset: usize| {
                        &page[offset + slots.start * row_bytes..][..slots.len() * row_bytes]
                    };
                    let (keys, values) = (rows(group.keys_offset), rows(group.values_offset));
                    // SAFETY: the core has V.
                    unsafe { self.attend_page(group, keys, values, &mut row[..self.width]) };
                }
                for (out, sum) in self.out.chunks_exact_mut(self.width).zip(self.sum) {
                    // SAFETY: the core has V.
                    unsafe { scale(out, 1.0 / sum) };
                }
            }
        }
    };
}

for_heads!(4);
for_heads!(1);

/// Sums the lanes of some scores, and scales them.
///
/// # Safety
/// The core has V; `out` has room for them.
unsafe fn scores(lanes: &[[f32; LANES]], scale: f32, out: &mut [f32]) {
    // SAFETY: every step takes at most what is left of the scores.
    unsafe {
        vector_asm!([
            "2:",
            "vsetvli {vl}, {left}, e32, m1, ta, ma",
            "vlseg8e32.v v8, ({lanes})",
            "vfadd.vv v8, v8, v12",
            "vfadd.vv v10, v10, v14",
            "vfadd.vv v9, v9, v13",
            "vfadd.vv v11, v11, v15",
            "vfadd.vv v8, v8, v10",
            "vfadd.vv v9, v9, v11",
            "vfadd.vv v8, v8, v9",
            "vfmul.vf v8, v8, {scale}",
            "vse32.v v8, ({out})",
            "sub {left}, {left}, {vl}",
            "slli {vl}, {vl}, 2",
            "add {out}, {out}, {vl}",
            "slli {vl}, {vl}, 3",
            "add {lanes}, {lanes}, {vl}",
            "bnez {left}, 2b",
        ],
            lanes = inout(reg) lanes.as_ptr() => _,
            left = inout(reg) lanes.len() => _,
            out = inout(reg) out.as_mut_ptr() => _,
            scale = in(freg) scale,
            vl = out(reg) _,
        );
    }
}

/// The sum of a page's weights, one after the other.
///
/// # Safety
/// The core has V.
unsafe fn ordered_sum(weights: &[f32]) -> f32 {
    assert!(weights.len() <= KV_PAGE_TOKENS, "more weights than a page has");
    let sum;
    // SAFETY: reads the weights alone; 32 fit eight registers.
    unsafe {
        vector_asm!([
            "vsetvli zero, {count}, e32, m8, ta, ma",
            "vle32.v v8, ({weights})",
            "vmv.s.x v0, zero",
            "vfredosum.vs v0, v8, v0",
            "vfmv.f.s {sum}, v0",
        ],
            weights = in(reg) weights.as_ptr(),
            count = in(reg) weights.len(),
            sum = out(freg) sum,
        );
    }
    sum
}

/// Attends for every query head of the group; `out` is laid out as the query.
///
/// # Safety
/// The core has V.
pub(crate) unsafe fn attend(group: &HeadGroup<'_>, out: &mut [f32]) {
    let width = group.head_width;
    let heads = group.query.len() / width;
    let mut head = 0;
    while head < heads {
        macro_rules! attend_heads {
            ($heads:literal) => {{
                let range = head * width..(head + $heads) * width;
                let mut heads = Heads::<$heads> {
                    query: &group.query[range.clone()],
                    out: &mut out[range],
                    width,
                    largest: [f32::NEG_INFINITY; $heads],
                    sum: [0.0; $heads],
                };
                // SAFETY: the core has V.
                unsafe { heads.attend(group) };
                head += $heads;
            }};
        }
        if heads - head >= HEADS { attend_heads!(4) } else { attend_heads!(1) }
    }
}

/// One head's row into the cache, as the portable one.
///
/// # Safety
/// The core has V.
pub(crate) unsafe fn store_head(kind: KvKind, values: &[f32], bytes: &mut [u8]) {
    if kind != KvKind::Q8_0 {
        return portable::store_head(kind, values, bytes);
    }
    let blocks = values.as_chunks::<QUANT_BLOCK>().0.iter().zip(bytes.chunks_exact_mut(2 + QUANT_BLOCK));
    for (values, block) in blocks {
        let mut codes = [0; QUANT_BLOCK];
        // SAFETY: the core has V.
        let scale = unsafe { quantize_block(values, &mut codes) };
        block[..2].copy_from_slice(&f32_to_f16(scale.min(portable::HALF_MAX)).to_le_bytes());
        for (byte, code) in block[2..].iter_mut().zip(codes) {
            *byte = code as u8;
        }
    }
}
