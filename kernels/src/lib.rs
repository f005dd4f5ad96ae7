//! Quantised arithmetic of transformer blocks, for each kind of chip.
//!
//! It exists so that the rest of the house can multiply, norm, rotate and attend without knowing which chip
//! it runs on. Every kernel set gives the same bits as the portable one: integer sums are exact, and float
//! operations come in one defined order with explicit fused multiply-adds. So a result depends neither on the
//! chip, nor on how many rows went through together, nor on the number of threads.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod arch;
mod attention;
mod disjoint;
mod dispatch;
mod encode;
mod formats;
mod half;
pub mod limits;
mod math;
mod matmul;
mod matrix;
pub mod pack;
mod parallel;
#[cfg(feature = "std")]
pub mod pool;
mod rope;
mod unpack;

pub use attention::{AttentionJob, AttentionQuery, KvKind, KvShape};
pub use dispatch::{KernelSet, Kernels, UnavailableError};
pub use encode::{EncodeError, encode};
pub use formats::{Format, decode};
pub use half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
pub use matmul::Product;
pub use matrix::{Activations, Layout, Matrix, ShapeError};
pub use parallel::{Parallel, Sequential, for_each_row};
pub use rope::{RopePairing, RopeScaling, RopeTable};

/// Rows interleaved in a panel, and rows of a strip.
pub const PANEL_ROWS: usize = 8;

/// Columns that share one activation scale.
pub const QUANT_BLOCK: usize = 32;

/// Positions in one page of the KV cache.
pub const KV_PAGE_TOKENS: usize = 32;
