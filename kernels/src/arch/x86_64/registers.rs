//! Registers of 256 and 512 bits behind one face: four columns of eight or sixteen rows.
//!
//! Everything here is inlined into functions that ask for the features, so that one source serves every set
//! of this instruction set architecture.

use core::arch::x86_64::*;

/// Where the same block of neighbouring panels lies.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// The block in the first panel.
    pub at: *const u8,
    /// Bytes from there to the same block of the next panel.
    pub step: usize,
}

impl Block {
    /// What lies `offset` bytes further in each panel.
    #[inline(always)]
    pub fn skip(self, offset: usize) -> Block {
        Block { at: self.at.wrapping_add(offset), step: self.step }
    }
}

/// One width of registers.
///
/// # Safety
/// Of all functions: the CPU has what the width needs (AVX2, FMA and F16C, or AVX-512 F, BW, DQ and VL beside
/// them), the caller is compiled for it, and what is read or written is there, without alignment.
pub(super) trait Width {
    /// Panels side by side.
    const PANELS: usize;
    /// Bytes, 16-bit or 32-bit integers.
    type Ints: Copy;
    /// One float for each row.
    type Floats: Copy;

    /// One vector of 32 bytes of each panel.
    unsafe fn load(block: Block) -> Self::Ints;
    /// Eight IEEE halves of each panel.
    unsafe fn load_halves(block: Block) -> Self::Floats;
    /// Eight bytes of each panel as whole numbers of 32 bits, without sign.
    unsafe fn load_bytes(block: Block) -> Self::Ints;
    /// Eight bytes of each panel as whole numbers of 32 bits, with sign.
    unsafe fn load_signed_bytes(block: Block) -> Self::Ints;
    unsafe fn splat_bytes(byte: u8) -> Self::Ints;
    unsafe fn and(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn or(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn xor(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// 16-bit lanes shifted left.
    unsafe fn shift_left<const BITS: u32>(a: Self::Ints) -> Self::Ints;
    /// 16-bit lanes shifted right, zeros coming in.
    unsafe fn shift_right<const BITS: u32>(a: Self::Ints) -> Self::Ints;
    /// The byte of the table that each byte, below 16, names.
    unsafe fn lookup(table: &[u8; 16], indices: Self::Ints) -> Self::Ints;
    unsafe fn to_floats(a: Self::Ints) -> Self::Floats;
    unsafe fn no_ints() -> Self::Ints;
    /// 32 bits in every lane.
    unsafe fn splat_ints(value: i32) -> Self::Ints;
    /// Sums of two products of 16 bits each.
    unsafe fn multiply_pairs(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn zero() -> Self::Floats;
    unsafe fn splat(value: *const f32) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a * b + c, rounded once.
    unsafe fn fused(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// c - a * b, rounded once.
    unsafe fn fused_minus(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Eight floats to each panel's result, `step` results apart.
    unsafe fn store(a: Self::Floats, out: *mut [f32; 8], step: usize);
}

/// 256 bits: one panel.
pub(super) struct Ymm;

/// 512 bits: two panels.
pub(super) struct Zmm;

macro_rules! width {
    ($name:ident, $panels:literal, $ints:ty, $floats:ty, {
        $(
            fn $function:ident $(<const $bits:ident: u32>)?
            ($($argument:ident: $type:ty),*) -> $result:ty $body:block
        )*
    }) => {
        impl Width for $name {
            const PANELS: usize = $panels;
            type Ints = $ints;
            type Floats = $floats;
            $(
                #[inline(always)]
                unsafe fn $function $(<const $bits: u32>)? ($($argument: $type),*) -> $result {
                    // SAFETY: the features and the bytes are there by the contract of the trait.
                    unsafe { $body }
                }
            )*
        }
    };
}

width!(Ymm, 1, __m256i, __m256, {
    fn load(block: Block) -> __m256i {
        _mm256_loadu_si256(block.at.cast())
    }
    fn load_halves(block: Block) -> __m256 {
        _mm256_cvtph_ps(_mm_loadu_si128(block.at.cast()))
    }
    fn load_bytes(block: Block) -> __m256i {
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(block.at.cast()))
    }
    fn load_signed_bytes(block: Block) -> __m256i {
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(block.at.cast()))
    }
    fn splat_bytes(byte: u8) -> __m256i {
        _mm256_set1_epi8(byte as i8)
    }
    fn and(a: __m256i, b: __m256i) -> __m256i {
        _mm256_and_si256(a, b)
    }
    fn or(a: __m256i, b: __m256i) -> __m256i {
        _mm256_or_si256(a, b)
    }
    fn xor(a: __m256i, b: __m256i) -> __m256i {
        _mm256_xor_si256(a, b)
    }
    fn shift_left<const BITS: u32>(a: __m256i) -> __m256i {
        _mm256_sll_epi16(a, _mm_cvtsi32_si128(BITS as i32))
    }
    fn shift_right<const BITS: u32>(a: __m256i) -> __m256i {
        _mm256_srl_epi16(a, _mm_cvtsi32_si128(BITS as i32))
    }
    fn lookup(table: &[u8; 16], indices: __m256i) -> __m256i {
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), indices)
    }
    fn to_floats(a: __m256i) -> __m256 {
        _mm256_cvtepi32_ps(a)
    }
    fn no_ints() -> __m256i {
        _mm256_setzero_si256()
    }
    fn splat_ints(value: i32) -> __m256i {
        _mm256_set1_epi32(value)
    }
    fn multiply_pairs(a: __m256i, b: __m256i) -> __m256i {
        _mm256_madd_epi16(a, b)
    }
    fn zero() -> __m256 {
        _mm256_setzero_ps()
    }
    fn splat(value: *const f32) -> __m256 {
        _mm256_set1_ps(value.read_unaligned())
    }
    fn mul(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }
    fn fused(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }
    fn fused_minus(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fnmadd_ps(a, b, c)
    }
    fn store(a: __m256, out: *mut [f32; 8], _step: usize) -> () {
        _mm256_storeu_ps(out.cast(), a)
    }
});

width!(Zmm, 2, __m512i, __m512, {
    fn load(block: Block) -> __m512i {
        let low = _mm512_castsi256_si512(_mm256_loadu_si256(block.at.cast()));
        _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(block.at.add(block.step).cast()))
    }
    fn load_halves(block: Block) -> __m512 {
        let low = _mm_loadu_si128(block.at.cast());
        let high = _mm_loadu_si128(block.at.add(block.step).cast());
        _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high))
    }
    fn load_bytes(block: Block) -> __m512i {
        let low = block.at.cast::<i64>().read_unaligned();
        let high = block.at.add(block.step).cast::<i64>().read_unaligned();
        _mm512_cvtepu8_epi32(_mm_set_epi64x(high, low))
    }
    fn load_signed_bytes(block: Block) -> __m512i {
        let low = block.at.cast::<i64>().read_unaligned();
        let high = block.at.add(block.step).cast::<i64>().read_unaligned();
        _mm512_cvtepi8_epi32(_mm_set_epi64x(high, low))
    }
    fn splat_bytes(byte: u8) -> __m512i {
        _mm512_set1_epi8(byte as i8)
    }
    fn and(a: __m512i, b: __m512i) -> __m512i {
        _mm512_and_si512(a, b)
    }
    fn or(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, b)
    }
    fn xor(a: __m512i, b: __m512i) -> __m512i {
        _mm512_xor_si512(a, b)
    }
    fn shift_left<const BITS: u32>(a: __m512i) -> __m512i {
        _mm512_slli_epi16::<BITS>(a)
    }
    fn shift_right<const BITS: u32>(a: __m512i) -> __m512i {
        _mm512_srli_epi16::<BITS>(a)
    }
    fn lookup(table: &[u8; 16], indices: __m512i) -> __m512i {
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), indices)
    }
    fn to_floats(a: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(a)
    }
    fn no_ints() -> __m512i {
        _mm512_setzero_si512()
    }
    fn splat_ints(value: i32) -> __m512i {
        _mm512_set1_epi32(value)
    }
    fn multiply_pairs(a: __m512i, b: __m512i) -> __m512i {
        _mm512_madd_epi16(a, b)
    }
    fn zero() -> __m512 {
        _mm512_setzero_ps()
    }
    fn splat(value: *const f32) -> __m512 {
        _mm512_set1_ps(value.read_unaligned())
    }
    fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    fn fused(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    fn fused_minus(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fnmadd_ps(a, b, c)
    }
    fn store(a: __m512, out: *mut [f32; 8], step: usize) -> () {
        _mm256_storeu_ps(out.cast(), _mm512_castps512_ps256(a));
        _mm256_storeu_ps(out.add(step).cast(), _mm512_extractf32x8_ps::<1>(a))
    }
});

/// Two registers that are filled and used alike: what is the same for all rows is fetched once.
pub(super) struct Twice<W>(core::marker::PhantomData<W>);

impl<W: Width> Width for Twice<W> {
    const PANELS: usize = 2 * W::PANELS;
    type Ints = [W::Ints; 2];
    type Floats = [W::Floats; 2];

    #[inline(always)]
    unsafe fn load(block: Block) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::load(block), W::load(upper::<W>(block))] }
    }

    #[inline(always)]
    unsafe fn load_halves(block: Block) -> Self::Floats {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::load_halves(block), W::load_halves(upper::<W>(block))] }
    }

    #[inline(always)]
    unsafe fn load_bytes(block: Block) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::load_bytes(block), W::load_bytes(upper::<W>(block))] }
    }

    #[inline(always)]
    unsafe fn load_signed_bytes(block: Block) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::load_signed_bytes(block), W::load_signed_bytes(upper::<W>(block))] }
    }

    #[inline(always)]
    unsafe fn splat_bytes(byte: u8) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::splat_bytes(byte), W::splat_bytes(byte)] }
    }

    #[inline(always)]
    unsafe fn and(a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::and(a[0], b[0]), W::and(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn or(a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::or(a[0], b[0]), W::or(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn xor(a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::xor(a[0], b[0]), W::xor(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn shift_left<const BITS: u32>(a: Self::Ints) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::shift_left::<BITS>(a[0]), W::shift_left::<BITS>(a[1])] }
    }

    #[inline(always)]
    unsafe fn shift_right<const BITS: u32>(a: Self::Ints) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::shift_right::<BITS>(a[0]), W::shift_right::<BITS>(a[1])] }
    }

    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], indices: Self::Ints) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::lookup(table, indices[0]), W::lookup(table, indices[1])] }
    }

    #[inline(always)]
    unsafe fn to_floats(a: Self::Ints) -> Self::Floats {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::to_floats(a[0]), W::to_floats(a[1])] }
    }

    #[inline(always)]
    unsafe fn no_ints() -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::no_ints(), W::no_ints()] }
    }

    #[inline(always)]
    unsafe fn splat_ints(value: i32) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::splat_ints(value), W::splat_ints(value)] }
    }

    #[inline(always)]
    unsafe fn multiply_pairs(a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::multiply_pairs(a[0], b[0]), W::multiply_pairs(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Floats {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::zero(), W::zero()] }
    }

    #[inline(always)]
    unsafe fn splat(value: *const f32) -> Self::Floats {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::splat(value), W::splat(value)] }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::mul(a[0], b[0]), W::mul(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn fused(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::fused(a[0], b[0], c[0]), W::fused(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    unsafe fn fused_minus(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: the contract of the trait is that of each half.
        unsafe { [W::fused_minus(a[0], b[0], c[0]), W::fused_minus(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    unsafe fn store(a: Self::Floats, out: *mut [f32; 8], step: usize) {
        // SAFETY: the contract of the trait is that of each half.
        unsafe {
            W::store(a[0], out, step);
            W::store(a[1], out.add(W::PANELS * step), step);
        }
    }
}

/// The panels of the upper half.
#[inline(always)]
fn upper<W: Width>(block: Block) -> Block {
    block.skip(W::PANELS * block.step)
}
