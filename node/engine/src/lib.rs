//! Model files in, tokens out.
//!
//! An engine is opened for a range of blocks of one model. It reads weights where they lie in mapped files, keeps the
//! KV cache of its sessions in preallocated pages, and turns token ids or hidden rows into hidden rows or logits.
//! It knows no network, no command line and no config file.

pub mod error;
pub mod limits;
pub mod logprobs;
pub mod random;
pub mod sampler;
pub mod stop;

pub use error::Error;
