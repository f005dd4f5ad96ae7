//! Exact dot products of 32 columns: weight codes of one or two panels with the codes of some tokens.
//!
//! AVX2 multiplies bytes to pairs of 16 bits and keeps sums there as long as they fit; VNNI adds four
//! products to 32 bits at once. Both want weights without sign and activations with one, so codes are counted
//! from their lowest value, and the sum of the activations, known in advance, puts that right.
//!
//! AVX2 takes codes of eight bits as two nibbles, so that 16-bit sums hold over all of a group; moving signs
//! to the activations (`vpsignb`) widens every product at once and takes as many instructions.

use core::arch::x86_64::*;

use super::panels::{Panel, Sink};
use super::registers::{Block, Twice, Width, Ymm, Zmm};
use super::tiles::{Walk, walk_blocks};
use crate::{HalfSums, QUANT_BLOCK};

/// One group of 32 columns of some tokens, which lie beside each other.
#[derive(Clone, Copy)]
pub(super) struct Tokens {
    pub codes: *const i8,
    pub scales: *const f32,
    pub sums: *const HalfSums,
    pub totals: *const f32,
}

impl Tokens {
    /// What lies `count` groups of single tokens further.
    #[inline(always)]
    pub fn skip(self, count: usize) -> Tokens {
        Tokens {
            codes: self.codes.wrapping_add(count * QUANT_BLOCK),
            scales: self.scales.wrapping_add(count),
            sums: self.sums.wrapping_add(count),
            totals: self.totals.wrapping_add(count),
        }
    }

    /// Four codes of a token from vector `vector` on, as they lie.
    #[inline(always)]
    unsafe fn word(self, token: usize, vector: usize) -> i32 {
        // SAFETY: a group has eight words, and the caller these tokens.
        unsafe { self.codes.add(token * QUANT_BLOCK + 4 * vector).cast::<i32>().read_unaligned() }
    }

    /// The sums of both halves of a token, as they lie.
    #[inline(always)]
    unsafe fn sums(self, token: usize) -> i32 {
        // SAFETY: the caller has these tokens; two numbers of 16 bits are one of 32.
        unsafe { self.sums.add(token).cast::<i32>().read_unaligned() }
    }
}

/// Vectors of four columns in a group.
pub(super) const VECTORS: usize = 8;

/// How sums of products are made.
///
/// # Safety
/// Of all functions: as [`Width`]; the pointers of `x` lead to `T` tokens of one group.
pub(super) trait Dots: Sized {
    type Width: Width;
    /// Codes of eight bits, made ready to be multiplied several times.
    type Wide;

    /// Factors of both halves of a group, for each row.
    type Parts;

    /// [`walk_blocks`] in a function that is compiled for the features.
    unsafe fn walk<P: Panel, S: Sink<Self>>(walk: Walk, sink: &mut S);

    /// Reads factors: bytes with sign, those of the second half behind those of the first.
    unsafe fn load_parts(block: Block) -> Self::Parts;

    /// For each token the sums of (code - `OFFSET`) * activation; codes are at most `MAX`, which is 15 or 31.
    unsafe fn dot<const T: usize, const MAX: u32, const OFFSET: i16>(
        codes: &Codes<Self>,
        x: Tokens,
    ) -> Sums<Self, T>;

    /// Makes codes of eight bits ready.
    unsafe fn widen(codes: Codes<Self>) -> Self::Wide;

    /// For each token the sums of (code - 128) * activation.
    unsafe fn dot_wide<const T: usize>(codes: &Self::Wide, x: Tokens) -> Sums<Self, T>;

    /// For each token the sum over both halves of the half's factor times the sum of (code - 32) *
    /// activation; codes are at most 63.
    unsafe fn dot_parts<const T: usize>(codes: &Codes<Self>, parts: &Self::Parts, x: Tokens)
    -> Sums<Self, T>;
}

/// The codes of a group.
pub(super) type Codes<D> = [<<D as Dots>::Width as Width>::Ints; VECTORS];

/// What comes out: whole numbers, as floats.
type Sums<D, const T: usize> = [<<D as Dots>::Width as Width>::Floats; T];

/// AVX2: `vpmaddubsw` and `vpmaddwd`.
pub(super) struct Avx2;

impl Avx2 {
    #[inline(always)]
    unsafe fn to_floats<const T: usize>(sums: [__m256i; T]) -> [__m256; T] {
        // SAFETY: the contract of the trait.
        unsafe {
            let mut floats = [_mm256_setzero_ps(); T];
            for t in 0..T {
                floats[t] = _mm256_cvtepi32_ps(sums[t]);
            }
            floats
        }
    }

    /// Sums of 16 bits over vectors `from..from + count` for each token, none of them beyond 16 bits.
    #[inline(always)]
    unsafe fn pairs<const T: usize>(
        codes: &[__m256i; VECTORS],
        from: usize,
        count: usize,
        x: Tokens,
    ) -> [__m256i; T] {
        // SAFETY: the contract of the trait.
        unsafe {
            let mut pairs = [_mm256_setzero_si256(); T];
            for v in from..from + count {
                for t in 0..T {
                    let product = _mm256_maddubs_epi16(codes[v], _mm256_set1_epi32(x.word(t, v)));
                    pairs[t] = if v == from { product } else { _mm256_add_epi16(pairs[t], product) };
                }
            }
            pairs
        }
    }
}

impl Dots for Avx2 {
    type Width = Ymm;
    /// Low and high nibbles.
    type Wide = [[__m256i; VECTORS]; 2];
    /// Each row's factor twice in its 32 bits, for the first and for the second half, so that one
    /// multiplication applies it and widens sums of 16 bits; then both, times 32.
    type Parts = [__m256i; 3];

    #[inline(always)]
    unsafe fn load_parts(block: Block) -> Self::Parts {
        // SAFETY: the contract of the trait.
        unsafe {
            let (first, second) = (Ymm::load_signed_bytes(block), Ymm::load_signed_bytes(block.skip(8)));
            let second_upper = _mm256_slli_epi32::<16>(second);
            [
                _mm256_blend_epi16::<0xAA>(first, _mm256_slli_epi32::<16>(first)),
                _mm256_blend_epi16::<0xAA>(second, second_upper),
                _mm256_slli_epi16::<5>(_mm256_blend_epi16::<0xAA>(first, second_upper)),
            ]
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn walk<P: Panel, S: Sink<Self>>(walk: Walk, sink: &mut S) {
        // SAFETY: the same contract.
        unsafe { walk_blocks::<P, Self, S>(walk, sink) }
    }

    #[inline(always)]
    unsafe fn dot<const T: usize, const MAX: u32, const OFFSET: i16>(
        codes: &[__m256i; VECTORS],
        x: Tokens,
    ) -> [__m256; T] {
        // SAFETY: the contract of the trait.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = [_mm256_setzero_si256(); T];
            if MAX <= 15 {
                // Eight vectors of two products of at most 15 * 127: 30480.
                let pairs = Self::pairs::<T>(codes, 0, 8, x);
                for t in 0..T {
                    sums[t] = _mm256_madd_epi16(pairs[t], ones);
                }
            } else {
                // Four vectors of two products of at most 31 * 127: 31496.
                let (first, second) = (Self::pairs::<T>(codes, 0, 4, x), Self::pairs::<T>(codes, 4, 4, x));
                for t in 0..T {
                    sums[t] = _mm256_add_epi32(
                        _mm256_madd_epi16(first[t], ones),
                        _mm256_madd_epi16(second[t], ones),
                    );
                }
            }
            for t in 0..T {
                if OFFSET != 0 {
                    let offset = _mm256_madd_epi16(_mm256_set1_epi32(x.sums(t)), _mm256_set1_epi16(-OFFSET));
                    sums[t] = _mm256_add_epi32(sums[t], offset);
                }
            }
            Self::to_floats(sums)
        }
    }

    #[inline(always)]
    unsafe fn widen(codes: [__m256i; VECTORS]) -> Self::Wide {
        // SAFETY: the contract of the trait.
        unsafe {
            let nibble = _mm256_set1_epi8(15);
            let mut wide = [[nibble; VECTORS]; 2];
            for v in 0..VECTORS {
                wide[0][v] = _mm256_and_si256(codes[v], nibble);
                wide[1][v] = _mm256_and_si256(_mm256_srli_epi16::<4>(codes[v]), nibble);
            }
            wide
        }
    }

    #[inline(always)]
    unsafe fn dot_wide<const T: usize>([low, high]: &Self::Wide, x: Tokens) -> [__m256; T] {
        // SAFETY: the contract of the trait.
        unsafe {
            let low = Self::pairs::<T>(low, 0, 8, x);
            let mut sums = [_mm256_setzero_si256(); T];
            for t in 0..T {
                let offset = _mm256_madd_epi16(_mm256_set1_epi32(x.sums(t)), _mm256_set1_epi16(-128));
                sums[t] = _mm256_add_epi32(offset, _mm256_madd_epi16(low[t], _mm256_set1_epi16(1)));
            }
            let high = Self::pairs::<T>(high, 0, 8, x);
            for t in 0..T {
                sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(high[t], _mm256_set1_epi16(16)));
            }
            Self::to_floats(sums)
        }
    }

    #[inline(always)]
    unsafe fn dot_parts<const T: usize>(
        codes: &[__m256i; VECTORS],
        parts: &Self::Parts,
        x: Tokens,
    ) -> [__m256; T] {
        // SAFETY: the contract of the trait.
        unsafe {
            let [twice_first, twice_second, both] = *parts;
            let mut sums = [_mm256_setzero_si256(); T];
            for t in 0..T {
                sums[t] = _mm256_madd_epi16(_mm256_set1_epi32(x.sums(t)), both);
            }
            let mut scaled = [_mm256_setzero_si256(); T];
            for from in [0, 2, 4, 6] {
                // Two vectors of two products of at most 63 * 127: 32004.
                let pairs = Self::pairs::<T>(codes, from, 2, x);
                let twice = if from < 4 { twice_first } else { twice_second };
                for t in 0..T {
                    scaled[t] = _mm256_add_epi32(scaled[t], _mm256_madd_epi16(pairs[t], twice));
                }
            }
            for t in 0..T {
                sums[t] = _mm256_sub_epi32(scaled[t], sums[t]);
            }
            Self::to_floats(sums)
        }
    }
}

/// VNNI in one width and encoding.
///
/// # Safety
/// As [`Width`].
pub(super) trait Vnni: Sized {
    type Width: Width;
    /// [`walk_blocks`] in a function that is compiled for the features.
    unsafe fn walk<P: Panel, S: Sink<Self>>(walk: Walk, sink: &mut S);
    /// Adds to each 32 bits the products of four codes without sign with four activations.
    unsafe fn add_bytes(sums: Ints<Self>, codes: Ints<Self>, word: i32) -> Ints<Self>;
}

type Ints<V> = <<V as Vnni>::Width as Width>::Ints;

/// 256 bits as AVX-VNNI encodes it (VEX).
pub(super) struct Vex256;
/// 256 bits as AVX-512 encodes it (EVEX).
pub(super) struct Evex256;
/// 512 bits, two of them. Broadcasts to 512 bits come one a cycle where two multiplications could use one
/// each, so each has to serve two.
pub(super) struct Evex512;

macro_rules! vnni {
    ($name:ident, $features:literal, $width:ty, |$sums:ident, $codes:ident, $word:ident| $add_bytes:expr) => {
        impl Vnni for $name {
            type Width = $width;

            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn walk<P: Panel, S: Sink<Self>>(walk: Walk, sink: &mut S) {
                // SAFETY: the same contract.
                unsafe { walk_blocks::<P, Self, S>(walk, sink) }
            }

            #[inline(always)]
            unsafe fn add_bytes($sums: Ints<Self>, $codes: Ints<Self>, $word: i32) -> Ints<Self> {
                // SAFETY: the contract of the trait.
                unsafe { $add_bytes }
            }
        }
    };
}

vnni!(Vex256, "avxvnni,avx2,fma,f16c", Ymm, |sums, codes, word| {
    _mm256_dpbusd_avx_epi32(sums, codes, _mm256_set1_epi32(word))
});
vnni!(Evex256, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", Ymm, |sums, codes, word| {
    _mm256_dpbusd_epi32(sums, codes, _mm256_set1_epi32(word))
});
vnni!(
    Evex512,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c",
    Twice<Zmm>,
    |sums, codes, word| {
        let word = _mm512_set1_epi32(word);
        [_mm512_dpbusd_epi32(sums[0], codes[0], word), _mm512_dpbusd_epi32(sums[1], codes[1], word)]
    }
);

/// What the codes' offsets take from the sum: each half's sum times its factor.
#[inline(always)]
unsafe fn offset<W: Width>(factors: [i16; 2], sums: i32) -> W::Ints {
    let factors = i32::from(factors[0] as u16) | i32::from(factors[1]) << 16;
    // SAFETY: the caller keeps the contract of the trait.
    unsafe { W::multiply_pairs(W::splat_ints(sums), W::splat_ints(factors)) }
}

/// Adds vectors `from..to` to the sums of each token.
#[inline(always)]
unsafe fn add_vectors<V: Vnni, const T: usize>(
    sums: &mut [Ints<V>; T],
    codes: &[Ints<V>; VECTORS],
    (from, to): (usize, usize),
    x: Tokens,
) {
    for v in from..to {
        for t in 0..T {
            // SAFETY: the caller keeps the contract of the trait.
            sums[t] = unsafe { V::add_bytes(sums[t], codes[v], x.word(t, v)) };
        }
    }
}

/// Sums of (code - from) * activation over all vectors.
#[inline(always)]
unsafe fn dot_from<V: Vnni, const T: usize>(
    codes: &[Ints<V>; VECTORS],
    from: i16,
    x: Tokens,
) -> [<V::Width as Width>::Floats; T] {
    // SAFETY: the caller keeps the contract of the trait.
    unsafe {
        let mut sums = [V::Width::no_ints(); T];
        if from != 0 {
            for t in 0..T {
                sums[t] = offset::<V::Width>([-from; 2], x.sums(t));
            }
        }
        add_vectors::<V, T>(&mut sums, codes, (0, VECTORS), x);
        let mut floats = [V::Width::zero(); T];
        for t in 0..T {
            floats[t] = V::Width::to_floats(sums[t]);
        }
        floats
    }
}

impl<V: Vnni> Dots for V {
    type Width = V::Width;
    type Wide = [Ints<V>; VECTORS];
    type Parts = [<V::Width as Width>::Floats; 2];

    #[inline(always)]
    unsafe fn load_parts(block: Block) -> Self::Parts {
        // SAFETY: the same contract.
        unsafe {
            [
                V::Width::to_floats(V::Width::load_signed_bytes(block)),
                V::Width::to_floats(V::Width::load_signed_bytes(block.skip(8))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn walk<P: Panel, S: Sink<Self>>(walk: Walk, sink: &mut S) {
        // SAFETY: the same contract.
        unsafe { <V as Vnni>::walk::<P, S>(walk, sink) }
    }

    #[inline(always)]
    unsafe fn dot<const T: usize, const MAX: u32, const OFFSET: i16>(
        codes: &Codes<Self>,
        x: Tokens,
    ) -> Sums<Self, T> {
        // SAFETY: the same contract.
        unsafe { dot_from::<V, T>(codes, OFFSET, x) }
    }

    #[inline(always)]
    unsafe fn widen(codes: Codes<Self>) -> Self::Wide {
        codes
    }

    #[inline(always)]
    unsafe fn dot_wide<const T: usize>(codes: &Self::Wide, x: Tokens) -> Sums<Self, T> {
        // SAFETY: the same contract.
        unsafe { dot_from::<V, T>(codes, 128, x) }
    }

    #[inline(always)]
    unsafe fn dot_parts<const T: usize>(
        codes: &Codes<Self>,
        parts: &Self::Parts,
        x: Tokens,
    ) -> Sums<Self, T> {
        // SAFETY: the contract of the trait.
        unsafe {
            // Whole numbers below 2^24 all the way (16 * 32 * 127 * 128 twice), so that floats are exact.
            let mut first = [V::Width::no_ints(); T];
            let mut second = [V::Width::no_ints(); T];
            for t in 0..T {
                first[t] = offset::<V::Width>([-32, 0], x.sums(t));
                second[t] = offset::<V::Width>([0, -32], x.sums(t));
            }
            add_vectors::<V, T>(&mut first, codes, (0, VECTORS / 2), x);
            add_vectors::<V, T>(&mut second, codes, (VECTORS / 2, VECTORS), x);
            let mut sums = [V::Width::zero(); T];
            for t in 0..T {
                let (first, second) = (V::Width::to_floats(first[t]), V::Width::to_floats(second[t]));
                sums[t] = V::Width::fused(second, parts[1], V::Width::mul(first, parts[0]));
            }
            sums
        }
    }
}
