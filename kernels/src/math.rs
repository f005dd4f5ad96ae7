//! The few float functions that `core` lacks, the same bits on every machine.

/// a * b + c, rounded once.
#[inline(always)]
pub(crate) fn fused(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(feature = "std")]
    return a.mul_add(b, c);
    #[cfg(not(feature = "std"))]
    return libm::fmaf(a, b, c);
}

/// The correctly rounded square root.
#[inline(always)]
pub(crate) fn square_root(value: f32) -> f32 {
    #[cfg(feature = "std")]
    return value.sqrt();
    #[cfg(not(feature = "std"))]
    return libm::sqrtf(value);
}

/// What pushes the fraction out of a float: 1.5 * 2^23.
pub(crate) const ROUND_SHIFT: f32 = 12_582_912.0;

/// The nearest integer, ties to even, for values below 2^22 in size: adding 1.5 * 2^23 pushes the fraction
/// out.
#[inline(always)]
pub(crate) fn round_ties_even(value: f32) -> f32 {
    (value + ROUND_SHIFT) - ROUND_SHIFT
}

/// Sum of eight lanes in the order of a 256-bit register that is folded in halves.
#[inline(always)]
pub(crate) fn reduce8(a: &[f32; 8]) -> f32 {
    ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
}

/// Sum of sixteen lanes: two registers added, then [`reduce8`].
#[inline(always)]
pub(crate) fn reduce16(a: &[f32; 16]) -> f32 {
    reduce8(&core::array::from_fn(|lane| a[lane] + a[lane + 8]))
}
