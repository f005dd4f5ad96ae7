//! Many tokens times rows of floats, in tiles of registers.
//!
//! Weights become f32 once for all tokens, and tiles of rows and tokens share every load. Sixteen lanes for
//! each row and token, as the portable set defines. Columns are walked in blocks whose weights stay in the
//! first-level cache; lanes wait in memory from one block to the next. Columns that are no multiple of
//! sixteen, and fewer tokens than a tile, are walked by the set `avx2`.

use core::arch::x86_64::*;

use super::avx2::{Weight, sum16};
use crate::arch::Floats;
use crate::limits::FLOAT_TILE_TOKENS_MAX;

/// Columns of a block: 16 KiB of weights as f32.
const BLOCK_COLUMNS: usize = 512;

/// Lanes of a dot product.
const LANES: usize = 16;

/// Rows of a strip.
const ROWS: usize = 8;

/// What begins with a cache line.
#[repr(align(64))]
struct Aligned<T>(T);

/// The lanes of one row and token while they wait.
type Sums = [f32; LANES];

/// Sixteen lanes in one width of registers, and the tile that fills them.
///
/// # Safety
/// Of all functions: the CPU has what the width needs, the caller is compiled for it, and what is read or
/// written is there, without alignment.
pub(super) trait Lanes: Sized {
    /// Tokens of a tile.
    const TOKENS: usize;
    type Lanes: Copy;

    unsafe fn zero() -> Self::Lanes;
    unsafe fn load(at: *const f32) -> Self::Lanes;
    unsafe fn store(lanes: Self::Lanes, at: *mut f32);
    unsafe fn fused(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes;
    /// All rows of a block times some tokens, `all` of them or as many as a tile has, in a function that is
    /// compiled for the features.
    unsafe fn multiply(block: &Block<'_>, x: *const f32, sums: &mut [[Sums; ROWS]]);
}

/// 256 bits, two of them.
pub(super) struct Ymm;
/// 512 bits.
pub(super) struct Zmm;

impl Lanes for Ymm {
    const TOKENS: usize = 3;
    type Lanes = [__m256; 2];

    #[inline(always)]
    unsafe fn zero() -> Self::Lanes {
        // SAFETY: the contract of the trait.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::Lanes {
        // SAFETY: the contract of the trait.
        unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(lanes: Self::Lanes, at: *mut f32) {
        // SAFETY: the contract of the trait.
        unsafe {
            _mm256_storeu_ps(at, lanes[0]);
            _mm256_storeu_ps(at.add(8), lanes[1]);
        }
    }

    #[inline(always)]
    unsafe fn fused(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        // SAFETY: the contract of the trait.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn multiply(block: &Block<'_>, x: *const f32, sums: &mut [[Sums; ROWS]]) {
        // SAFETY: the same contract.
        unsafe {
            match sums.len() {
                Self::TOKENS => tiles::<Self, 2, { Self::TOKENS }>(block, x, sums),
                _ => tiles_of_one::<Self, 4>(block, x, sums),
            }
        }
    }
}

impl Lanes for Zmm {
    const TOKENS: usize = 6;
    type Lanes = __m512;

    #[inline(always)]
    unsafe fn zero() -> Self::Lanes {
        // SAFETY: the contract of the trait.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::Lanes {
        // SAFETY: the contract of the trait.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(lanes: Self::Lanes, at: *mut f32) {
        // SAFETY: the contract of the trait.
        unsafe { _mm512_storeu_ps(at, lanes) }
    }

    #[inline(always)]
    unsafe fn fused(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        // SAFETY: the contract of the trait.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn multiply(block: &Block<'_>, x: *const f32, sums: &mut [[Sums; ROWS]]) {
        // SAFETY: the same contract.
        unsafe {
            match sums.len() {
                Self::TOKENS => tiles::<Self, 4, { Self::TOKENS }>(block, x, sums),
                _ => tiles_of_one::<Self, 8>(block, x, sums),
            }
        }
    }
}

/// Columns of eight rows as f32, and how they lie in the whole.
pub(super) struct Block<'a> {
    weights: &'a [[f32; BLOCK_COLUMNS]; ROWS],
    /// Columns here, a multiple of [`LANES`].
    columns: usize,
    /// Values from one token to the next.
    stride: usize,
    /// Whether lanes begin here.
    first: bool,
}

/// All rows times `T` tokens, `R` rows at a time.
///
/// # Safety
/// As [`Lanes`]; `x` has the block's columns of `T` tokens; `R` divides the rows.
#[inline(always)]
unsafe fn tiles<L: Lanes, const R: usize, const T: usize>(
    block: &Block<'_>,
    x: *const f32,
    sums: &mut [[Sums; ROWS]],
) {
    for row in (0..ROWS).step_by(R) {
        // SAFETY: rows, columns and tokens are within what the caller has.
        unsafe {
            let weights = block.weights[row].as_ptr();
            let mut acc = [[L::zero(); T]; R];
            if !block.first {
                for r in 0..R {
                    for t in 0..T {
                        acc[r][t] = L::load(sums[t][row + r].as_ptr());
                    }
                }
            }
            for column in (0..block.columns).step_by(LANES) {
                let mut rows = [L::zero(); R];
                for r in 0..R {
                    rows[r] = L::load(weights.add(r * BLOCK_COLUMNS + column));
                }
                for t in 0..T {
                    let values = L::load(x.add(t * block.stride + column));
                    for r in 0..R {
                        acc[r][t] = L::fused(rows[r], values, acc[r][t]);
                    }
                }
            }
            for r in 0..R {
                for t in 0..T {
                    L::store(acc[r][t], sums[t][row + r].as_mut_ptr());
                }
            }
        }
    }
}

/// All rows times each token by itself.
///
/// # Safety
/// As [`tiles`], for as many tokens as there are sums.
#[inline(always)]
unsafe fn tiles_of_one<L: Lanes, const R: usize>(
    block: &Block<'_>,
    x: *const f32,
    sums: &mut [[Sums; ROWS]],
) {
    for (token, sums) in sums.chunks_exact_mut(1).enumerate() {
        // SAFETY: the token is one of the caller's.
        unsafe { tiles::<L, R, 1>(block, x.add(token * block.stride), sums) };
    }
}

/// Up to eight rows times at most [`FLOAT_TILE_TOKENS_MAX`] tokens, for columns that are a multiple of
/// [`LANES`]; `out[token][row]`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C, and what `L` needs; `bytes` has `count` rows and `x` its tokens.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<L: Lanes, W: Weight>(
    bytes: &[u8],
    count: usize,
    x: &Floats<'_>,
    out: &mut [[f32; ROWS]],
) {
    assert!(out.len() == x.tokens && x.tokens <= FLOAT_TILE_TOKENS_MAX, "more tokens than sums");
    let mut weights = Aligned([[0.0; BLOCK_COLUMNS]; ROWS]);
    let mut sums = Aligned([[[0.0; LANES]; ROWS]; FLOAT_TILE_TOKENS_MAX]);
    let sums = &mut sums.0[..x.tokens];
    for start in (0..x.columns).step_by(BLOCK_COLUMNS) {
        let columns = BLOCK_COLUMNS.min(x.columns - start);
        for (row, weights) in weights.0.iter_mut().enumerate().take(count) {
            for (index, eight) in weights[..columns].as_chunks_mut::<8>().0.iter_mut().enumerate() {
                // SAFETY: the row has these columns; eight floats, no alignment asked.
                unsafe {
                    let from = bytes.as_ptr().add((row * x.columns + start + 8 * index) * W::BYTES);
                    _mm256_storeu_ps(eight.as_mut_ptr(), W::load8(from));
                }
            }
        }
        let block = Block { weights: &weights.0, columns, stride: x.columns, first: start == 0 };
        for (index, sums) in sums.chunks_mut(L::TOKENS).enumerate() {
            // SAFETY: the tokens of these sums have the block's columns.
            unsafe {
                let x = x.values.as_ptr().add(index * L::TOKENS * x.columns + start);
                L::multiply(&block, x, sums);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums.iter()) {
        for row in 0..count {
            let at = sums[row].as_ptr();
            // SAFETY: sixteen lanes.
            out[row] = unsafe { sum16(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) };
        }
    }
}
