//! `kwaainet inspect`: what is in a model's files, and what it would need here.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use argh::FromArgs;
use kwaainet_engine::budget::Budget;
use kwaainet_engine::files::ModelFiles;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::model::{Choice, budget_line};

/// tell what is in a model's files and what it would need here
#[derive(FromArgs)]
#[argh(subcommand, name = "inspect")]
#[argh(example = "{command_name} qwen3-0.6b-q4_k_m.gguf")]
pub struct Inspect {
    /// a GGUF file or a Hugging Face folder (default: the small story-teller inside the binary)
    #[argh(positional)]
    model: Option<PathBuf>,
    /// tokens of prompt and answer together (default: what the model was made for, at most 4096)
    #[argh(option)]
    context: Option<usize>,
    /// sessions at once (default: 1)
    #[argh(option, default = "1")]
    sessions: usize,
    /// how keys and values are kept: f16, q8_0 or f32 (default: f16)
    #[argh(option)]
    kv: Option<String>,
    /// what to make of float weights: keep, f32, q8_0, q4_0 or q4_k (default: keep)
    #[argh(option)]
    quantize: Option<String>,
    /// list all tensors
    #[argh(switch)]
    tensors: bool,
    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

/// Bytes and tensors of each type in a part of a model.
#[derive(Default)]
struct Part {
    bytes: u64,
    types: BTreeMap<String, u64>,
}

impl Inspect {
    /// Prints the description.
    pub fn execute(self) -> Result<Exit, Failure> {
        let choice = Choice {
            path: self.model.clone(),
            context_tokens: self.context,
            kv: self.kv.clone(),
            quantize: self.quantize.clone(),
            ..Choice::default()
        };
        let files = choice.files()?;
        let budget = Budget::of(&files, &choice.options(self.sessions)?)?;
        let text = if self.json {
            format!("{}\n", self.to_json(&files, &budget))
        } else {
            self.to_text(&files, &budget)
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(Exit::Success)
    }

    fn to_text(&self, files: &ModelFiles, budget: &Budget) -> String {
        let spec = files.spec();
        let mut lines = vec![format!("{} ({})", spec.name, spec.architecture)];
        for (path, bytes) in files.files() {
            lines.push(format!("  {} {:.1} MB", path.display(), bytes as f64 / 1e6));
        }
        lines.push(format!(
            "{} blocks, hidden {}, {} heads and {} KV heads of {}, feed-forward {}, vocabulary {}, \
             context {}",
            spec.blocks,
            spec.hidden,
            spec.heads,
            spec.kv_heads,
            spec.head_width,
            spec.feed_forward,
            spec.vocabulary,
            spec.context_tokens
        ));
        lines.push(format!("{:.1} million parameters", files.parameters() as f64 / 1e6));
        for (key, value) in files.describe() {
            lines.push(format!("  {key}: {value}"));
        }
        lines.push("Parts:".into());
        for (name, part) in parts(files) {
            let types: Vec<_> = part.types.iter().map(|(name, count)| format!("{count} {name}")).collect();
            lines.push(format!("  {name:<12} {:>10.2} MB  {}", part.bytes as f64 / 1e6, types.join(", ")));
        }
        if self.tensors {
            lines.push("Tensors:".into());
            for tensor in files.tensor_table() {
                let (bytes, offset) = (tensor.bytes, tensor.offset);
                let shape = format!("{:?}", tensor.shape);
                lines.push(format!(
                    "  {:<48} {:<8} {shape:<16} {bytes} bytes at {offset} of file {}",
                    tensor.name, tensor.type_name, tensor.file
                ));
            }
        }
        lines.push(budget_line(budget));
        lines.push(match budget.available_bytes {
            Some(free) if budget.total_bytes() > free => {
                "It does not fit here; `run` tells what would.".into()
            }
            Some(_) => "It fits.".to_owned(),
            None => "This system doesn't tell whether it fits.".into(),
        });
        lines.join("\n") + "\n"
    }

    fn to_json(&self, files: &ModelFiles, budget: &Budget) -> Value {
        let spec = files.spec();
        let paths = files.files().into_iter();
        let paths: Vec<_> =
            paths.map(|(path, bytes)| json!({"path": path.display().to_string(), "bytes": bytes})).collect();
        let parts: Vec<_> = parts(files)
            .into_iter()
            .map(|(name, part)| json!({"name": name, "bytes": part.bytes, "types": part.types}))
            .collect();
        let description: serde_json::Map<String, Value> =
            files.describe().iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        let mut object = json!({
            "name": spec.name,
            "architecture": spec.architecture,
            "files": paths,
            "blocks": spec.blocks,
            "hidden": spec.hidden,
            "heads": spec.heads,
            "kv_heads": spec.kv_heads,
            "head_width": spec.head_width,
            "feed_forward": spec.feed_forward,
            "vocabulary": spec.vocabulary,
            "context_tokens": spec.context_tokens,
            "parameters": files.parameters(),
            "metadata": description,
            "parts": parts,
            "budget": {
                "weights_bytes": budget.weights_bytes,
                "weights_read_bytes": budget.weights_read_bytes,
                "kv_bytes": budget.kv_bytes,
                "scratch_bytes": budget.scratch_bytes,
                "process_bytes": budget.process_bytes,
                "total_bytes": budget.total_bytes(),
                "available_bytes": budget.available_bytes,
            },
        });
        if self.tensors {
            let tensors = files.tensor_table().iter().map(|tensor| {
                json!({
                    "name": tensor.name,
                    "type": tensor.type_name,
                    "shape": tensor.shape,
                    "bytes": tensor.bytes,
                    "file": tensor.file,
                    "offset": tensor.offset,
                })
            });
            object["tensors"] = tensors.collect();
        }
        object
    }
}

/// The parts of a model in order: what is outside blocks, then each block.
fn parts(files: &ModelFiles) -> Vec<(String, Part)> {
    let mut parts: BTreeMap<Option<usize>, Part> = BTreeMap::new();
    for tensor in files.tensor_table() {
        let part = parts.entry(block_of(&tensor.name)).or_default();
        part.bytes += tensor.bytes;
        *part.types.entry(tensor.type_name.clone()).or_default() += 1;
    }
    let name = |block: Option<usize>| block.map_or("outside".into(), |block| format!("block {block}"));
    parts.into_iter().map(|(block, part)| (name(block), part)).collect()
}

/// The block that a tensor's name tells: `blk.3.attn_q.weight`, `model.layers.3.mlp.up_proj.weight`.
fn block_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_by_name() {
        assert_eq!(block_of("blk.3.attn_q.weight"), Some(3));
        assert_eq!(block_of("model.layers.12.mlp.up_proj.weight"), Some(12));
        assert_eq!(block_of("token_embd.weight"), None);
    }
}
