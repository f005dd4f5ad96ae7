//! What a part of a model needs in memory, computed from headers before anything is loaded.
//!
//! The sum is printed and compared with what is free. What doesn't fit is refused with both numbers and the
//! nearest things that would: a cache of a smaller type, a shorter context, fewer blocks.

use std::fmt;

use kwaainet_kernels::{KV_PAGE_TOKENS, KvKind, KvShape, RopeTable};

use crate::block::Scratch;
use crate::engine::{EngineOptions, logit_rows_max};
use crate::error::Error;
use crate::files::ModelFiles;
use crate::kv::pages_for;
use crate::limits::PROCESS_OVERHEAD_BYTES;
use crate::memory::Residence;
use crate::spec::ModelSpec;
use crate::weights::WeightBytes;

/// Bytes of memory by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Weights of the range, mapped from files: the system may drop and read them again.
    pub weights_bytes: u64,
    /// Those of them that are in memory at once: all, or when they are streamed two blocks and what is
    /// outside of blocks.
    pub weights_resident_bytes: u64,
    /// Weights read for each token: [`Budget::weights_bytes`] less an embedding table that is no head too.
    pub weights_read_bytes: u64,
    /// Those of the weights that lie in packed copies, in the cache folder or in memory.
    pub packed_bytes: u64,
    /// The KV cache.
    pub kv_bytes: u64,
    /// Buffers of a pass and rotation tables.
    pub scratch_bytes: u64,
    /// Code, stacks, tokenizer: an allowance.
    pub process_bytes: u64,
    /// What the machine can give, if it tells.
    pub available_bytes: Option<u64>,
}

impl Budget {
    /// Everything together.
    pub fn total_bytes(&self) -> u64 {
        self.weights_resident_bytes + self.kv_bytes + self.scratch_bytes + self.process_bytes
    }

    /// Computes what `options` need of `files`.
    ///
    /// # Errors
    /// When a tensor of the range is missing or the KV cache can't have the type asked for.
    pub fn of(files: &ModelFiles, options: &EngineOptions) -> Result<Budget, Error> {
        let spec = files.spec();
        let weights = WeightBytes::of(files, &options.part(spec))?;
        let blocks = options.block_range(spec).len();
        Ok(Budget {
            weights_bytes: weights.total,
            weights_resident_bytes: match options.residence {
                Residence::Streamed => streamed_bytes(&weights),
                Residence::Mapped | Residence::Locked => weights.total,
            },
            weights_read_bytes: weights.read_per_token,
            packed_bytes: weights.packed,
            kv_bytes: kv_bytes(spec, options, options.context(spec), options.kv)? * blocks as u64,
            scratch_bytes: scratch_bytes(spec, options),
            process_bytes: PROCESS_OVERHEAD_BYTES,
            available_bytes: options.memory_bytes_max.or_else(crate::memory::available_bytes),
        })
    }

    /// Refuses what doesn't fit, with the numbers and the nearest things that would fit.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`].
    pub fn check(&self, files: &ModelFiles, options: &EngineOptions) -> Result<(), Error> {
        let Some(available) = self.available_bytes else { return Ok(()) };
        if self.total_bytes() <= available {
            return Ok(());
        }
        let suggestions = self.suggestions(files, options, available)?;
        let advice = if suggestions.is_empty() {
            "No setting makes this model fit here; take a smaller model or a smaller quantisation.".to_owned()
        } else {
            format!("What would fit: {}.", suggestions.join("; or "))
        };
        Err(Error::DoesNotFit {
            what: format!(
                "{} needs {} and {} can be had: {self}. {advice}",
                files.spec().name,
                megabytes(self.total_bytes()),
                megabytes(available)
            ),
        })
    }

    fn suggestions(
        &self,
        files: &ModelFiles,
        options: &EngineOptions,
        available: u64,
    ) -> Result<Vec<String>, Error> {
        let spec = files.spec();
        let range = options.block_range(spec);
        let mut found = Vec::new();
        let without_kv = self.total_bytes() - self.kv_bytes;
        let blocks = range.len() as u64;
        for kind in [KvKind::F16, KvKind::Q8_0] {
            let Ok(bytes) = kv_bytes(spec, options, options.context(spec), kind) else { continue };
            if bytes * blocks < self.kv_bytes && without_kv + bytes * blocks <= available {
                found.push(format!("--kv {}", kv_name(kind)));
                break;
            }
        }
        let weights = WeightBytes::of(files, &options.part(spec))?;
        if self.total_bytes() - self.weights_resident_bytes + streamed_bytes(&weights) <= available {
            found.push("--stream, which reads the weights from the disk for each token".to_owned());
        }
        if let Some(room) = available.checked_sub(without_kv) {
            let per_page = kv_bytes(spec, options, KV_PAGE_TOKENS, options.kv)? * blocks;
            let tokens = (room / per_page.max(1)) as usize * KV_PAGE_TOKENS;
            if tokens > 0 {
                found.push(format!("--context {tokens}"));
            }
        }
        let per_block = weights.block_max + self.kv_bytes / blocks.max(1);
        let outside = self.total_bytes() - blocks * per_block.min(self.total_bytes() / blocks.max(1));
        if let Some(fitting) = available.checked_sub(outside).map(|room| room / per_block.max(1))
            && fitting > 0
            && fitting < blocks
        {
            found.push(format!("{fitting} of its {blocks} blocks, the others on other nodes"));
        }
        Ok(found)
    }
}

/// Weights in memory at once while they are streamed: a block that is computed, the next one, and what is
/// outside of blocks.
fn streamed_bytes(weights: &WeightBytes) -> u64 {
    weights.total.min(2 * weights.block_max + weights.outside_blocks)
}

/// Bytes of KV cache for one block.
fn kv_bytes(spec: &ModelSpec, options: &EngineOptions, context: usize, kind: KvKind) -> Result<u64, Error> {
    if kind.head_bytes(spec.head_width).is_none() {
        let width = spec.head_width;
        return Err(Error::request(format!(
            "a Q8_0 KV cache needs heads whose width is a multiple of 32 and this model's are \
             {width} wide; take f16"
        )));
    }
    let shape = KvShape { kind, kv_heads: spec.kv_heads, head_width: spec.head_width };
    Ok((pages_for(context) * options.sessions_max) as u64 * shape.page_bytes() as u64)
}

fn scratch_bytes(spec: &ModelSpec, options: &EngineOptions) -> u64 {
    let rows = options.batch_tokens_max;
    let tables = 1 + usize::from(spec.rope_local.is_some());
    let rope = RopeTable::bytes_for(spec.rotary_width, options.context(spec)) * tables;
    let logits =
        if options.head { logit_rows_max(spec, options) * spec.vocabulary * size_of::<f32>() } else { 0 };
    (Scratch::bytes_for(spec, rows) + rope + logits) as u64
}

/// The name that `--kv` knows a type by.
pub fn kv_name(kind: KvKind) -> &'static str {
    match kind {
        KvKind::F32 => "f32",
        KvKind::F16 => "f16",
        KvKind::Q8_0 => "q8_0",
    }
}

/// Bytes as a person reads them.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "weights {} + KV cache {} + scratch {} + process {}",
            megabytes(self.weights_resident_bytes),
            megabytes(self.kv_bytes),
            megabytes(self.scratch_bytes),
            megabytes(self.process_bytes)
        )
    }
}
