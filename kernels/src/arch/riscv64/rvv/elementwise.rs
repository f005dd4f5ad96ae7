//! Single rows: the exponential, norms, gates, rotations and quantisation.
//!
//! Rows are walked in groups of four or eight registers, whatever their length, each value by the steps of
//! the portable set. Sums over a row run in sixteen lanes, as that set defines, and are folded in Rust.
//!
//! For V 1.0. Instructions for a value of a row of 1024 at 256 bits, and portable's: norms 0.55 and 16.6,
//! gates 2.1 and 45, quantising 2.5 and 35. Rotations of neighbours use segment loads, which some cores take
//! apart slowly.

use crate::arch::{CodesMut, portable};
use crate::math::{reduce16, square_root};
use crate::{HalfSums, QUANT_BLOCK, RopePairing};

/// Values that are summed apart.
const LANES: usize = 16;

/// What the exponential multiplies and adds, in the order of its steps.
#[rustfmt::skip]
static EXP: [f32; 14] = [
    portable::EXP_LOW, portable::EXP_HIGH, core::f32::consts::LOG2_E, portable::LN_2_HIGH, portable::LN_2_LOW,
    portable::EXP_POLYNOMIAL[0], portable::EXP_POLYNOMIAL[1], portable::EXP_POLYNOMIAL[2],
    portable::EXP_POLYNOMIAL[3], portable::EXP_POLYNOMIAL[4], portable::EXP_POLYNOMIAL[5],
    1.0, 0.0, f32::INFINITY,
];

/// Adds `sum * r + coefficient` to the polynomial: the coefficient is number `offset / 4` of [`EXP`].
macro_rules! exp_step {
    ($offset:literal) => {
        concat!("flw {f}, ", $offset, "({exp})\n", "vfmv.v.f v28, {f}\n", "vfmadd.vv v24, v12, v28\n")
    };
}

/// e^x of the group v8 in the group v24, 32-bit elements in groups of four; destroys v0 and v12 to v31.
macro_rules! exp {
    () => {
        concat!(
            "flw {f}, 0({exp})\n",
            "vfmax.vf v12, v8, {f}\n",
            "flw {f}, 4({exp})\n",
            "vfmin.vf v12, v12, {f}\n",
            "flw {f}, 8({exp})\n",
            "vfmul.vf v16, v12, {f}\n",
            "vfcvt.x.f.v v20, v16\n",
            "vfcvt.f.x.v v16, v20\n",
            "flw {f}, 12({exp})\n",
            "vfnmsac.vf v12, {f}, v16\n",
            "flw {f}, 16({exp})\n",
            "vfnmsac.vf v12, {f}, v16\n",
            "flw {f}, 20({exp})\n",
            "vfmv.v.f v24, {f}\n",
            exp_step!("24"),
            exp_step!("28"),
            exp_step!("32"),
            exp_step!("36"),
            exp_step!("40"),
            "vfmul.vv v28, v12, v12\n",
            "vfmadd.vv v24, v28, v12\n",
            "flw {f}, 44({exp})\n",
            "vfadd.vf v24, v24, {f}\n",
            "li {t0}, 127\n",
            "vadd.vx v20, v20, {t0}\n",
            "vsll.vi v20, v20, 23\n",
            "vfmul.vv v24, v24, v20\n",
            // The bounds come last, and what is no number stays what it is.
            "flw {f}, 0({exp})\n",
            "vmflt.vf v0, v8, {f}\n",
            "flw {f}, 48({exp})\n",
            "vfmerge.vfm v24, v24, {f}, v0\n",
            "flw {f}, 4({exp})\n",
            "vmfgt.vf v0, v8, {f}\n",
            "flw {f}, 52({exp})\n",
            "vfmerge.vfm v24, v24, {f}, v0\n",
            "vmfne.vv v0, v8, v8\n",
            "vmerge.vvm v24, v24, v8, v0\n",
        )
    };
}

/// x = e^(x - largest).
///
/// # Safety
/// The core has V.
pub(super) unsafe fn exp_below(x: &mut [f32], largest: f32) {
    // SAFETY: reads and writes the row alone: every step takes at most what is left of it.
    unsafe {
        vector_asm!([
            "2:",
            "vsetvli {vl}, {left}, e32, m4, ta, ma",
            "vle32.v v8, ({x})",
            "vfsub.vf v8, v8, {largest}",
            exp!(),
            "vse32.v v24, ({x})",
            "sub {left}, {left}, {vl}",
            "slli {vl}, {vl}, 2",
            "add {x}, {x}, {vl}",
            "bnez {left}, 2b",
        ],
            x = inout(reg) x.as_mut_ptr() => _,
            left = inout(reg) x.len() => _,
            largest = in(freg) largest,
            exp = in(reg) EXP.as_ptr(),
            vl = out(reg) _,
            t0 = out(reg) _,
            f = out(freg) _,
        );
    }
}

/// gate = gate / (1 + e^exponent) * up: `exponent` makes v8 from the gate in v4.
macro_rules! gated {
    ($(#[$comment:meta])* $name:ident, $($exponent:expr),*) => {
        $(#[$comment])*
        ///
        /// # Safety
        /// The core has V.
        pub(crate) unsafe fn $name(gate: &mut [f32], up: &[f32]) {
            assert_eq!(gate.len(), up.len(), "gate and up differ in length");
            // SAFETY: reads and writes both rows alone: every step takes at most what is left of them.
            unsafe {
                vector_asm!([
                    "j 3f",
                    "2:",
                    "vsetvli {vl}, {left}, e32, m4, ta, ma",
                    "vle32.v v4, ({gate})",
                    $($exponent,)*
                    exp!(),
                    "flw {f}, 44({exp})",
                    "vfadd.vf v24, v24, {f}",
                    "vfdiv.vv v24, v4, v24",
                    "vle32.v v8, ({up})",
                    "vfmul.vv v24, v24, v8",
                    "vse32.v v24, ({gate})",
                    "sub {left}, {left}, {vl}",
                    "slli {vl}, {vl}, 2",
                    "add {gate}, {gate}, {vl}",
                    "add {up}, {up}, {vl}",
                    "3:",
                    "bnez {left}, 2b",
                    "# {cubic} {linear}", // not every gate needs these
                ],
                    gate = inout(reg) gate.as_mut_ptr() => _,
                    up = inout(reg) up.as_ptr() => _,
                    left = inout(reg) gate.len() => _,
                    exp = in(reg) EXP.as_ptr(),
                    cubic = in(freg) portable::GELU_CUBIC,
                    linear = in(freg) portable::GELU_LINEAR,
                    vl = out(reg) _,
                    t0 = out(reg) _,
                    f = out(freg) _,
                );
            }
        }
    };
}

gated!(
    /// gate = gate / (1 + e^-gate) * up.
    swiglu,
    "vfneg.v v8, v4"
);

gated!(
    /// gate = GELU(gate) * up, in the portable form with one exponential.
    geglu,
    "vfmul.vv v8, v4, v4",
    "vfmv.v.f v12, {linear}",
    "vfmacc.vf v12, {cubic}, v8",
    "vfmul.vv v8, v4, v12"
);

/// Sixteen lanes of `x`, lane `l` folding the values `k` with `k % 16 == l` in ascending order: `fold` takes
/// the values in v4 into v8.
macro_rules! lanes {
    ($x:expr, $fold:literal) => {{
        let (x, mut lanes): (&[f32], _) = ($x, [0f32; LANES]);
        // SAFETY: reads the row alone and writes sixteen lanes; lanes without a value are left undisturbed.
        unsafe {
            vector_asm!([
                "vsetivli zero, 16, e32, m4, ta, ma",
                "vmv.v.i v8, 0",
                "j 3f",
                "2:",
                "vle32.v v4, ({x})",
                $fold,
                "addi {x}, {x}, 64",
                "addi {left}, {left}, -16",
                "3:",
                "bgeu {left}, {sixteen}, 2b",
                "beqz {left}, 4f",
                "vsetvli zero, {left}, e32, m4, tu, ma",
                "vle32.v v4, ({x})",
                $fold,
                "4:",
                "vsetivli zero, 16, e32, m4, ta, ma",
                "vse32.v v8, ({lanes})",
            ],
                x = inout(reg) x.as_ptr() => _,
                left = inout(reg) x.len() => _,
                sixteen = in(reg) LANES,
                lanes = in(reg) lanes.as_mut_ptr(),
            );
        }
        lanes
    }};
}

/// The largest of `x`, passing over what is no number, and minus infinity.
///
/// # Safety
/// The core has V.
pub(super) unsafe fn largest(x: &[f32]) -> f32 {
    let mut largest = f32::NEG_INFINITY;
    // SAFETY: reads the row alone: every step takes at most what is left of it.
    unsafe {
        vector_asm!([
            "vsetivli zero, 1, e32, m1, ta, ma",
            "vfmv.s.f v0, {largest}",
            "j 3f",
            "2:",
            "vsetvli {vl}, {left}, e32, m8, ta, ma",
            "vle32.v v8, ({x})",
            "vfredmax.vs v0, v8, v0",
            "sub {left}, {left}, {vl}",
            "slli {vl}, {vl}, 2",
            "add {x}, {x}, {vl}",
            "3:",
            "bnez {left}, 2b",
            "vfmv.f.s {largest}, v0",
        ],
            x = inout(reg) x.as_ptr() => _,
            left = inout(reg) x.len() => _,
            largest = inout(freg) largest,
            vl = out(reg) _,
        );
    }
    largest
}

/// x = e^(x - max) / sum; the sum in sixteen lanes, then every value times 1 / sum.
///
/// # Safety
/// The core has V.
pub(crate) unsafe fn softmax(x: &mut [f32]) {
    if x.is_empty() {
        return;
    }
    // SAFETY: the core has V.
    unsafe { exp_below(x, largest(x)) };
    let sum = reduce16(&lanes!(x, "vfadd.vv v8, v8, v4"));
    // SAFETY: the core has V.
    unsafe { scale(x, 1.0 / sum) };
}

/// out = (x * (1 / sqrt(mean of squares + epsilon))) * weight; squares summed in sixteen lanes.
///
/// # Safety
/// The core has V.
pub(crate) unsafe fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "a norm's lengths differ");
    let squares = reduce16(&lanes!(x, "vfmacc.vv v8, v4, v4"));
    let factor = 1.0 / square_root(squares / x.len() as f32 + epsilon);
    // SAFETY: reads and writes the rows alone: every step takes at most what is left of them.
    unsafe {
        vector_asm!([
            "j 3f",
            "2:",
            "vsetvli {vl}, {left}, e32, m8, ta, ma",
            "vle32.v v8, ({x})",
            "vle32.v v16, ({weight})",
            "vfmul.vf v8, v8, {factor}",
            "vfmul.vv v8, v8, v16",
            "vse32.v v8, ({out})",
            "sub {left}, {left}, {vl}",
            "slli {vl}, {vl}, 2",
            "add {x}, {x}, {vl}",
            "add {weight}, {weight}, {vl}",
            "add {out}, {out}, {vl}",
            "3:",
            "bnez {left}, 2b",
        ],
            x = inout(reg) x.as_ptr() => _,
            weight = inout(reg) weight.as_ptr() => _,
            out = inout(reg) out.as_mut_ptr() => _,
            left = inout(reg) x.len() => _,
            factor = in(freg) factor,
            vl = out(reg) _,
        );
    }
}

/// x += y.
///
/// # Safety
/// The core has V.
pub(crate) unsafe fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "what is added differs in length");
    // SAFETY: reads and writes both rows alone: every step takes at most what is left of them.
    unsafe {
        vector_asm!([
            "j 3f",
            "2:",
            "vsetvli {vl}, {left}, e32, m8, ta, ma",
            "vle32.v v8, ({x})",
            "vle32.v v16, ({y})",
            "vfadd.vv v8, v8, v16",
            "vse32.v v8, ({x})",
            "sub {left}, {left}, {vl}",
            "slli {vl}, {vl}, 2",
            "add {x}, {x}, {vl}",
            "add {y}, {y}, {vl}",
            "3:",
            "bnez {left}, 2b",
        ],
            x = inout(reg) x.as_mut_ptr() => _,
            y = inout(reg) y.as_ptr() => _,
            left = inout(reg) x.len() => _,
            vl = out(reg) _,
        );
    }
}

/// x *= factor.
///
/// # Safety
/// The core has V.
pub(crate) unsafe fn scale(x: &mut [f32], factor: f32) {
    // SAFETY: reads and writes the row alone: every step takes at most what is left of it.
    unsafe {
        vector_asm!([
            "j 3f",
            "2:",
            "vsetvli {vl}, {left}, e32, m8, ta, ma",
            "vle32.v v8, ({x})",
            "vfmul.vf v8, v8, {factor}",
            "vse32.v v8, ({x})",
            "sub {left}, {left}, {vl}",
            "slli {vl}, {vl}, 2",
            "add {x}, {x}, {vl}",
            "3:",
            "bnez {left}, 2b",
        ],
            x = inout(reg) x.as_mut_ptr() => _,
            left = inout(reg) x.len() => _,
            factor = in(freg) factor,
            vl = out(reg) _,
        );
    }
}

/// Rotates pairs: `load` brings the first values to v4 and the second ones to v8, `store` takes them from
/// there and steps on; cosines come in v12, sines in v16.
macro_rules! rotate {
    ([$($load:literal)*], [$($store:literal)*], $head:expr, $behind:expr, $cosines:expr, $sines:expr) => {
        // SAFETY: the caller has checked that the head holds a pair for each cosine and each sine; every step
        // takes at most what is left of them.
        unsafe {
            vector_asm!([
                "j 3f",
                "2:",
                "vsetvli {vl}, {left}, e32, m4, ta, ma",
                $($load,)*
                "vle32.v v12, ({cosines})",
                "vle32.v v16, ({sines})",
                "vfmul.vv v20, v8, v16",
                "vfmul.vv v24, v4, v16",
                "vfmsub.vv v4, v12, v20", // a c - b s, the first product fused
                "vfmadd.vv v8, v12, v24", // b c + a s
                "sub {left}, {left}, {vl}",
                "slli {vl}, {vl}, 2",
                $($store,)*
                "add {cosines}, {cosines}, {vl}",
                "add {sines}, {sines}, {vl}",
                "3:",
                "bnez {left}, 2b",
                "# {behind}", // neighbours have none
            ],
                head = inout(reg) $head => _,
                behind = inout(reg) $behind => _,
                cosines = inout(reg) $cosines.as_ptr() => _,
                sines = inout(reg) $sines.as_ptr() => _,
                left = inout(reg) $cosines.len() => _,
                vl = out(reg) _,
            );
        }
    };
}

/// Rotates the first `2 * cosines.len()` values of one head, as the portable one.
///
/// # Safety
/// The core has V.
pub(crate) unsafe fn rope_rotate(head: &mut [f32], cosines: &[f32], sines: &[f32], pairing: RopePairing) {
    let pairs = cosines.len();
    assert!(sines.len() == pairs && head.len() >= 2 * pairs, "a head is narrower than its rotation");
    let head = head.as_mut_ptr();
    let behind = head.wrapping_add(pairs);
    match pairing {
        RopePairing::Interleaved => rotate!(
            ["vlseg2e32.v v4, ({head})"],
            ["vsseg2e32.v v4, ({head})" "add {head}, {head}, {vl}" "add {head}, {head}, {vl}"],
            head,
            behind,
            cosines,
            sines
        ),
        RopePairing::Halves => rotate!(
            ["vle32.v v4, ({head})" "vle32.v v8, ({behind})"],
            ["vse32.v v4, ({head})" "vse32.v v8, ({behind})"
                "add {head}, {head}, {vl}" "add {behind}, {behind}, {vl}"],
            head,
            behind,
            cosines,
            sines
        ),
    }
}

/// Quantises up to 32 values, filled up with zeros, and returns their scale.
///
/// # Safety
/// The core has V.
pub(super) unsafe fn quantize_block(values: &[f32], codes: &mut [i8; QUANT_BLOCK]) -> f32 {
    let values = &values[..values.len().min(QUANT_BLOCK)];
    let largest: f32;
    // SAFETY: reads the values alone.
    unsafe {
        vector_asm!([
            "vsetvli zero, {count}, e32, m8, ta, ma",
            "vle32.v v8, ({values})",
            "vfabs.v v8, v8",
            "vmv.s.x v0, zero",
            "vfredmax.vs v0, v8, v0",
            "vfmv.f.s {largest}, v0",
        ],
            values = in(reg) values.as_ptr(),
            count = in(reg) values.len(),
            largest = out(freg) largest,
        );
    }
    let inverse = 127.0 / largest;
    if values.len() < QUANT_BLOCK || inverse == f32::INFINITY {
        codes.fill(0);
        if inverse == f32::INFINITY {
            return 0.0;
        }
    }
    // SAFETY: reads the values and writes as many codes, at most 32. The dynamic rounding mode is to nearest,
    // ties to even.
    unsafe {
        vector_asm!([
            "vsetvli zero, {count}, e32, m8, ta, ma",
            "vle32.v v8, ({values})",
            "vfmul.vf v8, v8, {inverse}",
            "vmfne.vv v0, v8, v8",
            "vfcvt.x.f.v v8, v8",
            "vmerge.vim v8, v8, 0, v0", // what is no number becomes 0
            "vsetvli zero, {count}, e16, m4, ta, ma",
            "vnsrl.wi v16, v8, 0",
            "vsetvli zero, {count}, e8, m2, ta, ma",
            "vnsrl.wi v24, v16, 0",
            "vse8.v v24, ({codes})",
        ],
            values = in(reg) values.as_ptr(),
            count = in(reg) values.len(),
            inverse = in(freg) inverse,
            codes = in(reg) codes.as_mut_ptr(),
        );
    }
    largest / 127.0
}

/// Sums of both halves of 32 codes.
///
/// # Safety
/// The core has V.
unsafe fn half_sums(codes: &[i8; QUANT_BLOCK]) -> HalfSums {
    let (first, second): (i64, i64);
    // SAFETY: reads the 32 codes alone.
    unsafe {
        vector_asm!([
            "vsetivli zero, 16, e8, m1, ta, ma",
            "vle8.v v8, ({codes})",
            "addi {first}, {codes}, 16",
            "vle8.v v9, ({first})",
            "vmv.v.i v10, 0",
            "vwredsum.vs v11, v8, v10",
            "vwredsum.vs v12, v9, v10",
            "vsetivli zero, 1, e16, m1, ta, ma",
            "vmv.x.s {first}, v11",
            "vmv.x.s {second}, v12",
        ],
            codes = in(reg) codes.as_ptr(),
            first = out(reg) first,
            second = out(reg) second,
        );
    }
    [first as i16, second as i16]
}

/// Quantises the rows of one tile, as the portable one.
///
/// # Safety
/// The core has V.
pub(crate) unsafe fn quantize_tile(values: &[f32], out: CodesMut<'_>) {
    // SAFETY: the core has V.
    let quantize = |values: &[f32], codes: &mut [i8; QUANT_BLOCK]| unsafe { quantize_block(values, codes) };
    // SAFETY: the core has V.
    out.fill(values, quantize, |codes| unsafe { half_sums(codes) });
}
