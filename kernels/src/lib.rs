//! Quantised arithmetic of transformer blocks, for each kind of chip.
//!
//! It exists so that the rest of the house can multiply, norm, rotate and attend without knowing which chip
//! it runs on: every kernel set gives the same bits as the portable one, for any batch, split and number of
//! threads. So prefill equals decode, and an answer does not depend on where its parts were computed.
//!
//! [`Kernels`] is the face: chosen once, copied freely. Weights are a [`Matrix`] over bytes that lie
//! anywhere, in the file's order or in panels ([`pack`]); activations are [`Activations`]; threads come in as
//! [`Parallel`].

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod arch;
mod attention;
mod disjoint;
mod dispatch;
mod encode;
mod formats;
mod half;
mod kernels;
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
pub use dispatch::KernelSet;
pub use encode::{EncodeError, encode};
pub use formats::{Format, decode};
pub use half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
pub use kernels::{Kernels, UnavailableError};
pub use matmul::Product;
pub use matrix::{Activations, HalfSums, Layout, Matrix, ShapeError};
pub use parallel::{Parallel, Sequential, for_each_row};
pub use rope::{RopePairing, RopeScaling, RopeTable};

/// Rows interleaved in a panel, and rows in a strip.
pub const PANEL_ROWS: usize = 8;

/// Columns that share one activation scale.
pub const QUANT_BLOCK: usize = 32;

/// Tokens whose quantised activations are interleaved.
pub const INTERLEAVED_TOKENS: usize = 8;

/// Tokens in one page of the KV cache.
pub const KV_PAGE_TOKENS: usize = 32;
