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

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a finite half from its fields.
    fn plain(bits: u16) -> f64 {
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let size = match exponent {
            0 => fraction * 2f64.powi(-24),
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        };
        if bits >> 15 == 1 { -size } else { size }
    }

    #[test]
    fn every_half_is_exact_and_comes_back() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits);
            match bits & 0x7fff {
                0x7c00 => assert!(value.is_infinite()),
                0x7c01.. => assert!(value.is_nan()),
                _ => assert_eq!(f64::from(value), plain(bits)),
            }
            // Not-a-numbers come back quiet.
            let quiet = if bits & 0x7fff > 0x7c00 { 0x200 } else { 0 };
            assert_eq!(f32_to_f16(value), bits | quiet, "{bits:#x}");
            assert_eq!(value.is_sign_negative(), bits >> 15 == 1);
        }
    }

    #[test]
    fn between_two_halves_the_nearest_and_then_the_even_is_taken() {
        for low in 0..0x7bffu16 {
            let middle = (f16_to_f32(low) + f16_to_f32(low + 1)) / 2.0;
            let even = low + low % 2;
            assert_eq!(f32_to_f16(middle), even, "{low:#x}");
            assert_eq!(f32_to_f16(middle.next_down()), low, "{low:#x}");
            assert_eq!(f32_to_f16(middle.next_up()), low + 1, "{low:#x}");
            assert_eq!(f32_to_f16(-middle), even | 0x8000, "{low:#x}");
        }
        assert_eq!(f32_to_f16(65519.99), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(1e30), 0x7c00);
    }

    #[test]
    fn bfloat16_rounds_to_the_nearest_and_then_the_even() {
        assert_eq!(f32_to_bf16(1.0), 0x3f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8001)), 0x3f81);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
        assert!(bf16_to_f32(f32_to_bf16(f32::from_bits(0x7f80_0001))).is_nan());
        assert_eq!(bf16_to_f32(0xc049), -3.140625);
    }
}
