//! Conversion between 32-bit and 16-bit floats.
//!
//! Exact upwards, to the nearest with ties to even downwards, on every machine the same bits as the hardware
//! instructions (`vcvtph2ps`, `vcvtps2ph`, `fcvt`): denormals are kept, a NaN stays one and becomes quiet.

/// An IEEE half as `f32`: exact.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let value = if magnitude >= 0x7c00 {
        // Infinity, or NaN with its quiet bit set.
        let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
        0x7f80_0000 | quiet | (magnitude & 0x3ff) << 13
    } else if magnitude >= 0x0400 {
        (magnitude << 13) + ((127 - 15) << 23)
    } else {
        // Denormal: an integer times 2^-24, which is exact in f32.
        (magnitude as f32 * (1.0 / 16_777_216.0)).to_bits()
    };
    f32::from_bits(sign | value)
}

/// The nearest IEEE half, ties to even; too large becomes infinity.
#[inline]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00 | (magnitude >> 13 & 0x3ff) as u16;
    }
    if magnitude >= 0x4780_0000 {
        // 65536 and above; what lies between 65520 and it becomes infinity by rounding below.
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        // Below the smallest normal half: adding 0.5 leaves the wanted integer in the low bits, rounded by
        // hardware.
        let shifted = f32::from_bits(magnitude) + 0.5;
        return sign | (shifted.to_bits() - 0.5f32.to_bits()) as u16;
    }
    let odd = magnitude >> 13 & 1;
    let rounded = magnitude - ((127 - 15) << 23) + 0xfff + odd;
    sign | (rounded >> 13) as u16
}

/// A bfloat16 as `f32`: exact.
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bfloat16, ties to even; a NaN becomes quiet.
#[inline]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x0040;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
