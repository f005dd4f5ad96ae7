//! Model files in, tokens out.
//!
//! An engine is opened for a range of blocks of one model. It reads weights where they lie in mapped files,
//! keeps the KV cache of its sessions in preallocated pages, and turns token ids or hidden rows into hidden
//! rows or logits. It knows no network, no command line and no config file.

mod answer;
mod block;
pub mod budget;
pub mod chat;
pub mod cores;
pub mod disk;
pub mod engine;
pub mod error;
pub mod files;
pub mod kv;
pub mod likelihood;
pub mod limits;
pub mod logprobs;
pub mod memory;
mod packed;
pub mod random;
pub mod request;
pub mod sampler;
pub mod scheduler;
pub mod spec;
pub mod stop;
pub mod tokenizer;
pub mod weights;

pub use error::Error;
