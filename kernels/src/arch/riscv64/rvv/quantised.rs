//! Panels times int8 activations.
//!
//! A vector of a panel is eight rows by four columns. Where registers have 256 bits or more two panels are
//! walked together: a *unit* is such a vector of one panel, or of both behind each other, in a group of two
//! registers. Four codes of a token, broadcast over a unit, meet it in one widening multiplication, and sums
//! never cross rows until the end of 32 columns: products are summed in 16 bits as long as they fit, then
//! neighbours are added (a narrowing shift takes every second lane) until one 32-bit sum a row is left.
//! Weights are unpacked once for all tokens of a tile, in the registers v0 to v15: 32 columns of sixteen
//! rows.
//!
//! All loops step by the element counts of units (`n32`, `n16`, `n8`), so that the same code runs at any
//! register length; longer registers than a unit needs are left partly empty.
//!
//! For V 1.0 (`vwmul`, `vwmacc`, `vnsrl`, `vfmacc`). Instructions for 32 weights and a token, all that a
//! product takes but quantising included, of a matrix of 1024 columns, against the best of ggml 0.26's
//! kernels (which want Zvfh too), counted under qemu:
//!
//! | bits | tokens | Q4_0 | ggml | Q8_0 | ggml | Q4_K | ggml |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | 256 | 1 | 9.9 | 13.0 | 11.3 | 20.9 | 11.2 | 15.2 |
//! | 256 | 8 | 4.3 | 7.0 | 5.2 | 11.9 | 4.7 | 7.6 |
//! | 128 | 1 | 15.3 | 27.9 | 17.3 | 20.9 | 16.5 | 24.0 |
//! | 128 | 8 | 7.6 | 27.9 | 9.3 | 20.9 | 8.1 | 24.0 |
//!
//! Portable takes 732 (Q4_0, one token). Time on a real chip is unknown; a core that is slow with groups of
//! registers, or with stores that are read back soon (the sums of a token), would show it.

use crate::arch::{Codes, portable};
use crate::pack::panel_bytes;
use crate::unpack::NONLINEAR;
use crate::{Format, INTERLEAVED_TOKENS, PANEL_ROWS};

use super::register_bytes;

/// Registers of this many bytes hold a unit of two panels in two registers.
const PAIR_REGISTER_BYTES: usize = 32;

/// What a walk over one or two panels needs; pointers at the first group of the first token.
struct Walk {
    /// The first panel.
    panel: *const u8,
    /// Bytes from the first panel to what lies 32 bytes before the second one; 0 if there is none.
    delta: usize,
    blocks: usize,
    /// Tokens of the tile, at least one.
    tokens: usize,
    codes: *const i8,
    scales: *const f32,
    totals: *const f32,
    /// `[token][panel][row]`, zeros to begin with.
    sums: *mut f32,
}

/// Loads successive vectors of both panels into the units at the given registers, from `at` on, which moves.
/// The second panel's come first, with the 32 bytes before each (the first panel lies there), and the first
/// panel's overwrite those.
macro_rules! load_units {
    ($($register:literal)*) => {
        concat!(
            "beqz {delta}, 5f\n",
            "vsetvli zero, {n32}, e8, m2, ta, ma\n",
            "add {t0}, {at}, {delta}\n",
            $("vle8.v v", $register, ", ({t0})\n", "addi {t0}, {t0}, 32\n",)*
            "5:\n",
            "vsetvli zero, {c32}, e8, m2, tu, ma\n",
            $("vle8.v v", $register, ", ({at})\n", "addi {at}, {at}, 32\n",)*
        )
    };
}

/// The halves of each row at `offset` from `at` as 32-bit floats in the two registers from `to` on; destroys
/// v0 and v16 to v19. The bits of a half, moved to where a float has them, are its 2^-112th part, and exactly
/// so when it is denormal; infinity and what is no number get their exponent afterwards.
macro_rules! load_halves {
    ($to:literal, $offset:literal) => {
        concat!(
            "beqz {delta}, 5f\n",
            "vsetvli zero, {c32}, e8, m1, ta, ma\n",
            "add {t0}, {at}, {delta}\n",
            "addi {t0}, {t0}, 16 + ",
            $offset,
            "\n",
            "vle8.v v16, ({t0})\n",
            "5:\n",
            "vsetivli zero, 16, e8, m1, tu, ma\n",
            "addi {t0}, {at}, ",
            $offset,
            "\n",
            "vle8.v v16, ({t0})\n",
            "vsetvli zero, {n8}, e16, m1, ta, ma\n",
            "li {t0}, 0x7c00\n",
            "vand.vx v17, v16, {t0}\n",
            "vmseq.vx v0, v17, {t0}\n",
            "lui {t0}, 2\n", // 2^13
            "vwmul.vx v18, v16, {t0}\n",
            "vsetvli zero, {n8}, e32, m2, ta, mu\n",
            "li {t0}, -0x70000001\n", // 0x8fffffff: all but the copies of the sign
            "vand.vx v18, v18, {t0}\n",
            "vfmul.vf v",
            $to,
            ", v18, {two112}\n",
            "lui {t0}, 0x7f800\n",
            "vor.vx v",
            $to,
            ", v",
            $to,
            ", {t0}, v0.t\n",
        )
    };
}

/// Eight bytes of each panel at `parts`, and eight at `step` behind them, extended by `extend` to 32 bits in
/// v28 and v30; destroys v16 and v17.
macro_rules! load_parts {
    ($step:literal, $extend:literal) => {
        concat!(
            "beqz {delta}, 5f\n",
            "vsetivli zero, 16, e8, m1, ta, ma\n",
            "add {t0}, {parts}, {delta}\n",
            "addi {t0}, {t0}, 24\n",
            "vle8.v v16, ({t0})\n",
            "addi {t0}, {t0}, ",
            $step,
            "\n",
            "vle8.v v17, ({t0})\n",
            "5:\n",
            "vsetivli zero, 8, e8, m1, tu, ma\n",
            "vle8.v v16, ({parts})\n",
            "addi {t0}, {parts}, ",
            $step,
            "\n",
            "vle8.v v17, ({t0})\n",
            "vsetvli zero, {n8}, e32, m2, ta, ma\n",
            $extend,
            ".vf4 v28, v16\n",
            $extend,
            ".vf4 v30, v17\n",
        )
    };
}

/// Scale and minimum of a sub-block of Q4_K or Q5_K: its bytes times the halves kept at `kept`, in v28 and
/// v30.
macro_rules! load_scale_and_minimum {
    () => {
        concat!(
            load_parts!("64", "vzext"),
            "addi {parts}, {parts}, 8\n",
            "vfcvt.f.xu.v v28, v28\n",
            "vfcvt.f.xu.v v30, v30\n",
            "vle32.v v16, ({kept})\n",
            "addi {t0}, {kept}, 64\n",
            "vle32.v v18, ({t0})\n",
            "vfmul.vv v28, v16, v28\n",
            "vfmul.vv v30, v18, v30\n",
        )
    };
}

/// Adds a fifth bit to eight units of nibbles: bit `n` of v16 to unit `n`.
macro_rules! add_fifth_bits {
    () => {
        concat!(
            "vsetvli zero, {n32}, e8, m2, ta, ma\n",
            "li {t0}, 16\n",
            add_fifth_bits!("0", "vsll.vi v18, v16, 4"),
            add_fifth_bits!("2", "vsll.vi v18, v16, 3"),
            add_fifth_bits!("4", "vsll.vi v18, v16, 2"),
            add_fifth_bits!("6", "vsll.vi v18, v16, 1"),
            add_fifth_bits!("8", "vmv.v.v v18, v16"),
            add_fifth_bits!("10", "vsrl.vi v18, v16, 1"),
            add_fifth_bits!("12", "vsrl.vi v18, v16, 2"),
            add_fifth_bits!("14", "vsrl.vi v18, v16, 3"),
        )
    };
    ($unit:literal, $shift:literal) => {
        concat!($shift, "\n", "vand.vx v18, v18, {t0}\n", "vor.vv v", $unit, ", v", $unit, ", v18\n")
    };
}

/// Runs `body` for every token of the tile.
macro_rules! each_token {
    ($($body:expr),*) => {
        concat!(
            "mv {token}, {tokens}\n",
            "mv {sum}, {sums}\n",
            "3:\n",
            $($body,)*
            "addi {token}, {token}, -1\n",
            "bnez {token}, 3b\n",
        )
    };
}

/// Broadcasts two words of the token's codes to v16 and v18.
macro_rules! two_words {
    ($a:literal, $b:literal) => {
        concat!(
            "vsetvli zero, {n8}, e32, m2, ta, ma\n",
            "lw {t0}, ",
            $a,
            "({x})\n",
            "lw {t1}, ",
            $b,
            "({x})\n",
            "vmv.v.x v16, {t0}\n",
            "vmv.v.x v18, {t1}\n",
            "vsetvli zero, {n32}, e8, m2, ta, ma\n",
        )
    };
}

/// Broadcasts four words of the token's codes to v16, v18, v20 and v22.
macro_rules! four_words {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "vsetvli zero, {n8}, e32, m2, ta, ma\n",
            "lw {t0}, ",
            $a,
            "({x})\n",
            "lw {t1}, ",
            $b,
            "({x})\n",
            "lw {t2}, ",
            $c,
            "({x})\n",
            "lw {t3}, ",
            $d,
            "({x})\n",
            "vmv.v.x v16, {t0}\n",
            "vmv.v.x v18, {t1}\n",
            "vmv.v.x v20, {t2}\n",
            "vmv.v.x v22, {t3}\n",
            "vsetvli zero, {n32}, e8, m2, ta, ma\n",
        )
    };
}

/// Four 16-bit sums a row in v24 to one 32-bit sum a row in v20.
macro_rules! sum_rows {
    () => {
        concat!(
            "vsetvli zero, {n16}, e16, m2, ta, ma\n",
            "vnsrl.wi v16, v24, 0\n",
            "vnsrl.wi v18, v24, 16\n",
            "vwadd.vv v20, v16, v18\n",
            "vsetvli zero, {n8}, e32, m2, ta, ma\n",
            "vnsrl.wi v16, v20, 0\n",
            "vnsrl.wx v18, v20, {c32}\n",
            "vadd.vv v20, v16, v18\n",
        )
    };
}

/// 32 columns whose products (eight in a lane) fit 16 bits; row sums in v20.
macro_rules! dot_narrow {
    () => {
        concat!(
            four_words!("0", "4", "8", "12"),
            "vwmul.vv v24, v0, v16\n",
            "vwmacc.vv v24, v2, v18\n",
            "vwmacc.vv v24, v4, v20\n",
            "vwmacc.vv v24, v6, v22\n",
            four_words!("16", "20", "24", "28"),
            "vwmacc.vv v24, v8, v16\n",
            "vwmacc.vv v24, v10, v18\n",
            "vwmacc.vv v24, v12, v20\n",
            "vwmacc.vv v24, v14, v22\n",
            sum_rows!(),
        )
    };
}

/// 32 columns of eight-bit codes: two products fit 16 bits (a token's code is never -128), so every second
/// step widens to the 32-bit sums in v24 to v31; row sums in v20, the kept scale in v18.
macro_rules! dot_wide {
    () => {
        concat!(
            dot_wide!("0", "4", "0", "2", "vwcvt.x.x.v v24, v20"),
            dot_wide!("8", "12", "4", "6", "vwadd.wv v24, v24, v20"),
            dot_wide!("16", "20", "8", "10", "vwadd.wv v24, v24, v20"),
            dot_wide!("24", "28", "12", "14", "vwadd.wv v24, v24, v20"),
            "vsetvli zero, {n16}, e32, m4, ta, ma\n",
            "vnsrl.wi v16, v24, 0\n",
            "vnsrl.wx v20, v24, {c32}\n",
            "vadd.vv v24, v16, v20\n",
            "vsetvli zero, {n8}, e32, m2, ta, ma\n",
            "vnsrl.wi v16, v24, 0\n",
            "vnsrl.wx v18, v24, {c32}\n",
            "vadd.vv v20, v16, v18\n",
            "vle32.v v18, ({kept})\n",
        )
    };
    ($a:literal, $b:literal, $unit_a:literal, $unit_b:literal, $widen:literal) => {
        concat!(
            two_words!($a, $b),
            "vwmul.vv v20, v",
            $unit_a,
            ", v16\n",
            "vwmacc.vv v20, v",
            $unit_b,
            ", v18\n",
            "vsetvli zero, {n32}, e16, m4, ta, ma\n",
            $widen,
            "\n",
        )
    };
}

/// 32 columns of six-bit codes: each half's row sums times its part (v28, v30); row sums in v20, the kept
/// scale in v18.
macro_rules! dot_parts {
    () => {
        concat!(
            four_words!("0", "4", "8", "12"),
            "vwmul.vv v24, v0, v16\n",
            "vwmacc.vv v24, v2, v18\n",
            "vwmacc.vv v24, v4, v20\n",
            "vwmacc.vv v24, v6, v22\n",
            sum_rows!(),
            "vmul.vv v20, v20, v28\n",
            "addi {t0}, {kept}, 64\n",
            "vse32.v v20, ({t0})\n",
            four_words!("16", "20", "24", "28"),
            "vwmul.vv v24, v8, v16\n",
            "vwmacc.vv v24, v10, v18\n",
            "vwmacc.vv v24, v12, v20\n",
            "vwmacc.vv v24, v14, v22\n",
            sum_rows!(),
            "addi {t0}, {kept}, 64\n",
            "vle32.v v16, ({t0})\n",
            "vmacc.vv v16, v20, v30\n",
            "vmv.v.v v20, v16\n",
            "vle32.v v18, ({kept})\n",
        )
    };
}

/// Adds the row sums in v20, times the rows' scales in register `scale` and the token's, to the token's sums,
/// and goes to the next token.
macro_rules! add_scaled {
    ($scale:literal, $minimum:expr) => {
        concat!(
            "flw {f}, ({scales})\n",
            "addi {scales}, {scales}, 4\n",
            "addi {x}, {x}, 32\n",
            "vfcvt.f.x.v v20, v20\n",
            "vfmul.vf v22, v",
            $scale,
            ", {f}\n",
            "vle32.v v24, ({sum})\n",
            "vfmacc.vv v24, v20, v22\n",
            $minimum,
            "vse32.v v24, ({sum})\n",
            "add {sum}, {sum}, {n32}\n",
        )
    };
}

/// Within [`add_scaled`]: subtracts the rows' minimums in v30 times the token's total.
macro_rules! subtract_minimum {
    () => {
        concat!("flw {f}, ({totals})\n", "addi {totals}, {totals}, 4\n", "vfnmsac.vf v24, {f}, v30\n",)
    };
}

/// The function that walks the panels of one format: its block, which is run `blocks` times.
macro_rules! walk {
    ($(#[$comment:meta])* $name:ident, $($block:expr),*) => {
        $(#[$comment])*
        ///
        /// # Safety
        /// The core has V; the panels have `blocks` blocks, and the tile as many columns and at most eight
        /// tokens.
        unsafe fn $name(walk: &Walk) {
            let panels = if walk.delta == 0 { 1 } else { 2 };
            let mut kept = [0f32; 2 * 2 * PANEL_ROWS];
            // SAFETY: reads stay within the panels and the tile, writes within `sums` and `kept`, whose
            // lengths the loops count down from.
            unsafe {
                vector_asm!([
                    "2:",
                    $($block,)*
                    "addi {blocks}, {blocks}, -1",
                    "bnez {blocks}, 2b",
                    // Not every format needs all of these.
                    "# {totals} {kept} {parts} {pairs} {t2} {t3} {table}",
                ],
                    at = inout(reg) walk.panel => _,
                    delta = in(reg) walk.delta,
                    blocks = inout(reg) walk.blocks => _,
                    tokens = in(reg) walk.tokens,
                    x = inout(reg) walk.codes => _,
                    scales = inout(reg) walk.scales => _,
                    totals = inout(reg) walk.totals => _,
                    sums = in(reg) walk.sums,
                    kept = in(reg) kept.as_mut_ptr(),
                    n32 = in(reg) 32 * panels,
                    n16 = in(reg) 16 * panels,
                    n8 = in(reg) 8 * panels,
                    c32 = in(reg) 32,
                    table = in(reg) NONLINEAR.as_ptr(),
                    two112 = in(freg) f32::from_bits((127 + 112) << 23),
                    token = out(reg) _,
                    sum = out(reg) _,
                    parts = out(reg) _,
                    pairs = out(reg) _,
                    t0 = out(reg) _,
                    t1 = out(reg) _,
                    t2 = out(reg) _,
                    t3 = out(reg) _,
                    f = out(freg) _,
                );
            }
        }
    };
}

walk!(
    /// Q4_0: nibbles become signed when their highest bit is turned over.
    q4_0,
    load_halves!("28", "0"),
    "addi {at}, {at}, 16",
    load_units!("0" "2" "4" "6"),
    "vsetvli {t0}, zero, e8, m8, ta, ma",
    "li {t0}, 0x88",
    "vxor.vx v0, v0, {t0}",
    "vsra.vi v8, v0, 4",
    "vsll.vi v0, v0, 4",
    "vsra.vi v0, v0, 4",
    each_token!(dot_narrow!(), add_scaled!("28", ""))
);

walk!(
    /// Q5_0.
    q5_0,
    load_halves!("28", "0"),
    "addi {at}, {at}, 16",
    load_units!("16"),
    load_units!("0" "2" "4" "6"),
    "vsetvli {t0}, zero, e8, m8, ta, ma",
    "vsrl.vi v8, v0, 4",
    "vand.vi v0, v0, 15",
    add_fifth_bits!(),
    "vsetvli {t0}, zero, e8, m8, ta, ma",
    "vadd.vi v0, v0, -16",
    "vadd.vi v8, v8, -16",
    each_token!(dot_narrow!(), add_scaled!("28", ""))
);

walk!(
    /// Q8_0.
    q8_0,
    load_halves!("28", "0"),
    "vse32.v v28, ({kept})",
    "addi {at}, {at}, 16",
    load_units!("0" "2" "4" "6" "8" "10" "12" "14"),
    each_token!(dot_wide!(), add_scaled!("18", ""))
);

/// Looks sixteen registers of nibbles up in a table.
macro_rules! look_up {
    ($table:literal: $($to:literal $from:literal)*) => {
        concat!($("vrgather.vv v", $to, ", v", $table, ", v", $from, "\n",)*)
    };
}

walk!(
    /// IQ4_NL: nibbles are looked up, register by register, because a look-up in a group takes time with its
    /// square.
    iq4_nl,
    load_halves!("28", "0"),
    "vse32.v v28, ({kept})",
    "addi {at}, {at}, 16",
    load_units!("24" "26" "28" "30"),
    "vsetivli zero, 16, e8, m1, ta, ma",
    "vle8.v v8, ({table})",
    "vsetvli {t0}, zero, e8, m8, ta, ma",
    "vand.vi v16, v24, 15",
    "vsrl.vi v24, v24, 4",
    "vsetvli {t0}, zero, e8, m1, ta, ma",
    look_up!("8": "0" "16" "1" "17" "2" "18" "3" "19" "4" "20" "5" "21" "6" "22" "7" "23"),
    "vmv1r.v v16, v8",
    look_up!("16": "8" "24" "9" "25" "10" "26" "11" "27" "12" "28" "13" "29" "14" "30" "15" "31"),
    each_token!(dot_wide!(), add_scaled!("18", ""))
);

/// What Q4_K and Q5_K begin with: the halves of scales and minimums, kept in memory; `parts` at the
/// sub-blocks' and `at` at the codes.
macro_rules! begin_sub_blocks {
    () => {
        concat!(
            load_halves!("28", "0"),
            "vse32.v v28, ({kept})\n",
            load_halves!("28", "16"),
            "addi {t0}, {kept}, 64\n",
            "vse32.v v28, ({t0})\n",
            "addi {parts}, {at}, 32\n",
            "addi {at}, {at}, 160\n",
            "li {pairs}, 4\n",
        )
    };
}

walk!(
    /// Q4_K: the nibbles of two sub-blocks share their bytes, which are loaded for each of them anew.
    q4_k,
    begin_sub_blocks!(),
    "4:",
    load_scale_and_minimum!(),
    load_units!("0" "2" "4" "6" "8" "10" "12" "14"),
    "vsetvli {t0}, zero, e8, m8, ta, ma",
    "vand.vi v0, v0, 15",
    "vand.vi v8, v8, 15",
    each_token!(dot_narrow!(), add_scaled!("28", subtract_minimum!())),
    load_scale_and_minimum!(),
    "addi {at}, {at}, -256",
    load_units!("0" "2" "4" "6" "8" "10" "12" "14"),
    "vsetvli {t0}, zero, e8, m8, ta, ma",
    "vsrl.vi v0, v0, 4",
    "vsrl.vi v8, v8, 4",
    each_token!(dot_narrow!(), add_scaled!("28", subtract_minimum!())),
    "addi {pairs}, {pairs}, -1",
    "bnez {pairs}, 4b"
);

walk!(
    /// Q5_K: as Q4_K, and a vector of fifth bits for each sub-block.
    q5_k,
    begin_sub_blocks!(),
    "4:",
    load_scale_and_minimum!(),
    load_units!("16"),
    "addi {at}, {at}, 32",
    load_units!("0" "2" "4" "6" "8" "10" "12" "14"),
    "vsetvli {t0}, zero, e8, m8, ta, ma",
    "vand.vi v0, v0, 15",
    "vand.vi v8, v8, 15",
    add_fifth_bits!(),
    each_token!(dot_narrow!(), add_scaled!("28", subtract_minimum!())),
    load_scale_and_minimum!(),
    "addi {at}, {at}, -288",
    load_units!("16"),
    load_units!("0" "2" "4" "6" "8" "10" "12" "14"),
    "vsetvli {t0}, zero, e8, m8, ta, ma",
    "vsrl.vi v0, v0, 4",
    "vsrl.vi v8, v8, 4",
    add_fifth_bits!(),
    each_token!(dot_narrow!(), add_scaled!("28", subtract_minimum!())),
    "addi {pairs}, {pairs}, -1",
    "bnez {pairs}, 4b"
);

/// 32 columns of Q6_K, a quarter of a half of a block; `at` stands at the half's upper bits plus `before`,
/// the quarter's lower bits lie `lower` behind their beginning, and are taken out by `nibble`, the upper ones
/// by `upper`. Leaves `at` 256 behind the beginning of the upper bits.
macro_rules! q6_k_quarter {
    ($to_lower:literal, $to_upper:literal, $nibble:literal $amount:literal, $upper:literal) => {
        concat!(
            "addi {at}, {at}, ", $to_lower, "\n",
            load_units!("0" "2" "4" "6" "8" "10" "12" "14"),
            "addi {at}, {at}, ", $to_upper, "\n",
            load_units!("16" "18" "20" "22" "24" "26" "28" "30"),
            "vsetvli {t0}, zero, e8, m8, ta, ma\n",
            $nibble, " v0, v0, ", $amount, "\n",
            $nibble, " v8, v8, ", $amount, "\n",
            "li {t0}, 0x30\n",
            $upper,
            "vand.vx v16, v16, {t0}\n",
            "vand.vx v24, v24, {t0}\n",
            "vor.vv v0, v0, v16\n",
            "vor.vv v8, v8, v24\n",
            "li {t0}, -32\n",
            "vadd.vx v0, v0, {t0}\n",
            "vadd.vx v8, v8, {t0}\n",
            load_parts!("8", "vsext"),
            "addi {parts}, {parts}, 16\n",
            each_token!(dot_parts!(), add_scaled!("18", "")),
        )
    };
}

walk!(
    /// Q6_K.
    q6_k,
    load_halves!("28", "0"),
    "vse32.v v28, ({kept})",
    "addi {parts}, {at}, 16",
    "addi {at}, {at}, 144",
    "li {pairs}, 2",
    "4:",
    q6_k_quarter!("256", "-512", "vand.vi" "15", "vsll.vi v16, v16, 4\n vsll.vi v24, v24, 4\n"),
    q6_k_quarter!("256", "-768", "vand.vi" "15", "vsll.vi v16, v16, 2\n vsll.vi v24, v24, 2\n"),
    q6_k_quarter!("0", "-512", "vsrl.vi" "4", ""),
    q6_k_quarter!("256", "-768", "vsrl.vi" "4", "vsrl.vi v16, v16, 2\n vsrl.vi v24, v24, 2\n"),
    "addi {at}, {at}, 512",
    "addi {pairs}, {pairs}, -1",
    "bnez {pairs}, 4b"
);

/// One or two panels of any format that has them; `out` is `[panel][token][row]`.
///
/// # Safety
/// The core has V.
///
/// # Panics
/// If lengths do not belong together.
pub(crate) unsafe fn multiply_panels(
    format: Format,
    panels: &[u8],
    x: &Codes<'_>,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let walk: unsafe fn(&Walk) = match format {
        Format::Q4_0 => q4_0,
        Format::Q5_0 => q5_0,
        Format::Q8_0 => q8_0,
        Format::Q4K => q4_k,
        Format::Q5K => q5_k,
        Format::Q6K => q6_k,
        Format::Iq4Nl => iq4_nl,
        _ => return portable::multiply_panels(format, panels, x, out),
    };
    let (groups, blocks) = (x.columns / 32, x.columns / format.block_columns());
    let panel_bytes = panel_bytes(format, x.columns).expect("columns are whole blocks");
    assert!(x.codes.len() == x.tokens * x.columns, "codes of other columns");
    assert!(x.scales.len() == x.tokens * groups, "scales of other columns");
    assert!(x.totals.len() == x.tokens * groups, "totals of other columns");
    if blocks == 0 || x.tokens == 0 {
        return out.fill([0.0; PANEL_ROWS]);
    }
    let count = panels.len() / panel_bytes;
    assert!(count * panel_bytes == panels.len() && out.len() == count * x.tokens, "results of other panels");
    // SAFETY: the core has V.
    let together = if unsafe { register_bytes() } < PAIR_REGISTER_BYTES { 1 } else { 2 };
    let all_tokens = x.tokens;
    for first in (0..count).step_by(together) {
        let both = together.min(count - first);
        let mut token = 0;
        for x in x.tiles() {
            let mut sums = [[0.0; PANEL_ROWS]; 2 * INTERLEAVED_TOKENS];
            // SAFETY: the core has V; panels, codes, scales and sums have the lengths checked above.
            unsafe {
                walk(&Walk {
                    panel: panels[first * panel_bytes..].as_ptr(),
                    delta: if both == 2 { panel_bytes - 32 } else { 0 },
                    blocks,
                    tokens: x.tokens,
                    codes: x.codes.as_ptr(),
                    scales: x.scales.as_ptr(),
                    totals: x.totals.as_ptr(),
                    sums: sums.as_mut_ptr().cast(),
                });
            }
            for (t, sums) in sums[..both * x.tokens].chunks_exact(both).enumerate() {
                for (panel, sums) in sums.iter().enumerate() {
                    out[(first + panel) * all_tokens + token + t] = *sums;
                }
            }
            token += x.tokens;
        }
    }
}
