//! What a GGUF's metadata say about the model.
//!
//! The keys are `ARCHITECTURE.key`. Some of what matters is implied by the architecture's name and stands
//! nowhere in the file: which columns of a head turn together, Gemma 3's pattern of windows and its second
//! rotary base.

use kwaainet_kernels::{Format, RopePairing, RopeScaling};

use super::TensorInfo;
use super::gguf::{Array, Header, Value};
use super::hugging_face::{SUPPORTED, yarn_attention_factor};
use crate::Error;
use crate::limits::HEAD_WIDTH_MAX;
use crate::spec::{Activation, ModelSpec, Rope};

/// Every n-th block of Gemma 3 attends to everything.
const GEMMA3_WINDOW_PATTERN: usize = 6;
/// The rotary base of Gemma 3's sliding blocks.
const GEMMA3_THETA_LOCAL: f32 = 10_000.0;
/// The one Gemma 3 (27B) whose query scale is that of `hidden / heads`, told apart by its count of blocks.
const GEMMA3_BLOCKS_27B: usize = 62;

/// The keys of one architecture.
struct Keys<'h, 'a> {
    header: &'h Header<'a>,
    architecture: &'a str,
}

impl Keys<'_, '_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A count, which some writers repeat for each block: then all have to be equal.
    fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        let key = self.key(key);
        let count = match self.header.get(&key) {
            Some(Value::Array(Array::Numbers(numbers))) => {
                let mut numbers = numbers.iter();
                let first = numbers.next();
                if numbers.any(|number| Some(number) != first) {
                    return Err(Error::unsupported(format!(
                        "{} has a {key} that differs from block to block; {SUPPORTED}",
                        self.header.file()
                    )));
                }
                let count = first.and_then(|number| number.as_unsigned());
                Some(count.ok_or_else(|| self.header.broken(&key, "should hold counts"))?)
            }
            _ => self.header.unsigned(&key)?,
        };
        match count.map(usize::try_from) {
            None => Ok(None),
            Some(Ok(count)) => Ok(Some(count)),
            Some(Err(_)) => Err(self.header.broken(&key, "is more than this machine can count")),
        }
    }

    fn required_count(&self, key: &str) -> Result<usize, Error> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    fn float(&self, key: &str) -> Result<Option<f32>, Error> {
        self.header.float(&self.key(key))
    }

    fn missing(&self, key: &str) -> Error {
        Error::broken(self.header.file(), format!("the metadata key {} is missing", self.key(key)))
    }

    /// Fails if a number that changes the arithmetic is there and is not 0.
    fn refuse(&self, key: &str) -> Result<(), Error> {
        match self.header.get(&self.key(key)) {
            None | Some(Value::Unsigned(0) | Value::Signed(0) | Value::Boolean(false)) => Ok(()),
            Some(Value::Float(value)) if *value == 0.0 => Ok(()),
            Some(value) => Err(Error::unsupported(format!(
                "{} has {} = {value}, which can't be run; {SUPPORTED}",
                self.header.file(),
                self.key(key)
            ))),
        }
    }
}

/// Reads the description. `name` is the model's name if the file has none; `tensors` is the table of the
/// whole set, `factors` the values of its tensor `rope_freqs.weight`, if there is one.
pub(crate) fn spec_from_header(
    header: &Header<'_>,
    name: &str,
    tensors: &[TensorInfo],
    factors: Option<Vec<f32>>,
) -> Result<ModelSpec, Error> {
    let file = header.file();
    let architecture = header
        .string("general.architecture")?
        .ok_or_else(|| Error::broken(file, "the metadata key general.architecture is missing"))?;
    if !["llama", "qwen2", "qwen3", "gemma3", "phi3"].contains(&architecture) {
        let what = format!("{file} holds a model of the architecture {architecture:.40}; {SUPPORTED}");
        return Err(Error::unsupported(what));
    }
    let keys = Keys { header, architecture };
    for key in ["expert_count", "attn_logit_softcapping", "final_logit_softcapping", "nextn_predict_layers"] {
        keys.refuse(key)?;
    }
    let gemma = architecture == "gemma3";
    let hidden = keys.required_count("embedding_length")?;
    let blocks = keys.required_count("block_count")?;
    let heads = keys.required_count("attention.head_count")?;
    let default_width = hidden.checked_div(heads).unwrap_or(0);
    let head_width = keys.count("attention.key_length")?.unwrap_or(default_width);
    if keys.count("attention.value_length")?.unwrap_or(head_width) != head_width {
        return Err(header.broken(&keys.key("attention.value_length"), "differs from attention.key_length"));
    }
    let embedding = tensors.iter().find(|tensor| tensor.name == "token_embd.weight").ok_or_else(|| {
        Error::broken(file, "it has no tensor token_embd.weight; vocabulary files and adapters are no models")
    })?;
    let vocabulary = embedding.shape.first().and_then(|rows| usize::try_from(*rows).ok()).unwrap_or(0);
    let context_tokens = keys.required_count("context_length")?;
    let rope = Rope {
        theta: keys.float("rope.freq_base")?.unwrap_or(if gemma { 1e6 } else { 1e4 }),
        scaling: scaling(&keys, tensors, factors, context_tokens)?,
    };
    let local_theta = keys.float("rope.freq_base_swa")?.unwrap_or(GEMMA3_THETA_LOCAL);
    // Qwen's converters copy a window that the model does not use.
    let window = match architecture {
        "gemma3" => Some(keys.required_count("attention.sliding_window")?),
        "llama" | "phi3" => keys.count("attention.sliding_window")?.filter(|window| *window > 0),
        _ => None,
    };
    let window_pattern = match (window, gemma) {
        (Some(_), true) => keys.count("attention.sliding_window_pattern")?.unwrap_or(GEMMA3_WINDOW_PATTERN),
        _ => 0,
    };
    let scale_width = if gemma && blocks == GEMMA3_BLOCKS_27B { default_width } else { head_width };

    let spec = ModelSpec {
        name: header.string("general.name")?.filter(|name| !name.is_empty()).unwrap_or(name).to_owned(),
        architecture: architecture.to_owned(),
        hidden,
        blocks,
        vocabulary,
        context_tokens,
        heads,
        kv_heads: keys.count("attention.head_count_kv")?.unwrap_or(heads),
        head_width,
        feed_forward: keys.required_count("feed_forward_length")?,
        norm_epsilon: keys
            .float("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?,
        norm_weight_offset: 0.0,
        query_scale: 1.0 / (scale_width as f32).sqrt(),
        activation: if gemma { Activation::GeluTanhGated } else { Activation::SiluGated },
        embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        rotary_width: keys.count("rope.dimension_count")?.unwrap_or(head_width),
        rope_pairing: if architecture == "llama" { RopePairing::Interleaved } else { RopePairing::Halves },
        rope,
        rope_local: gemma.then_some(Rope { theta: local_theta, scaling: RopeScaling::None }),
        window,
        window_pattern,
        tied_head: !tensors.iter().any(|tensor| tensor.name == "output.weight"),
    };
    spec.check(file)?;
    Ok(spec)
}

fn scaling(
    keys: &Keys<'_, '_>,
    tensors: &[TensorInfo],
    factors: Option<Vec<f32>>,
    context_tokens: usize,
) -> Result<RopeScaling, Error> {
    let file = keys.header.file();
    let longrope = ["rope_factors_long.weight", "rope_factors_short.weight"];
    if tensors.iter().any(|tensor| longrope.contains(&tensor.name.as_str())) {
        return Err(Error::unsupported(format!(
            "{file} asks for the rotary scaling longrope; linear, llama3 and yarn can be run. A variant of \
            the model with a shorter context (such as 4k instead of 128k) may have none"
        )));
    }
    let form = keys.header.string(&keys.key("rope.scaling.type"))?;
    // Files from before 2023-10 know linear scaling only, under a key of its own.
    let legacy = keys.float("rope.scale_linear")?;
    let factor = keys.float("rope.scaling.factor")?.or(legacy);
    let form = form.unwrap_or(if factor.is_some() { "linear" } else { "none" });
    let missing = || keys.missing("rope.scaling.factor");
    let scaling = match form {
        "none" => RopeScaling::None,
        "linear" => match factor {
            // Writers state a factor of 0 or 1 where there is no scaling.
            None | Some(0.0 | 1.0) => RopeScaling::None,
            Some(factor) => RopeScaling::Linear { factor },
        },
        "yarn" => {
            let factor = factor.ok_or_else(missing)?;
            let original = keys.count("rope.scaling.original_context_length")?.unwrap_or(context_tokens);
            let attention_factor = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
            RopeScaling::Yarn {
                factor,
                original_context: original as f32,
                beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                attention_factor: attention_factor * yarn_attention_factor(factor),
            }
        }
        _ => {
            return Err(Error::unsupported(format!(
                "{file} asks for the rotary scaling {form:.40}; linear, llama3 and yarn can be run"
            )));
        }
    };
    match (scaling, factors) {
        (scaling, None) => Ok(scaling),
        (RopeScaling::None, Some(factors)) => Ok(RopeScaling::Factors(factors)),
        (_, Some(_)) => Err(Error::unsupported(format!(
            "{file} holds rope_freqs.weight and asks for the rotary scaling {form:.40} too; one of both can \
             be run"
        ))),
    }
}

/// The values of `rope_freqs.weight`, by which each frequency is divided; `data` are the tensor's bytes.
pub(crate) fn rope_factors(file: &str, tensor: &TensorInfo, data: &[u8]) -> Result<Vec<f32>, Error> {
    if tensor.format != Some(Format::F32)
        || tensor.shape.len() != 1
        || tensor.shape[0] > HEAD_WIDTH_MAX as u64
    {
        let what = "rope_freqs.weight should be one short row of F32";
        return Err(Error::broken(file, format!("{what}, but is {} {:?}", tensor.type_name, tensor.shape)));
    }
    let value = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Ok(data.chunks_exact(4).map(value).collect())
}

/// Control pieces that end a turn or a text, by the names that the families give them. A GGUF has keys for
/// three ids at most, and many files state one where the model uses several.
const STOP_PIECES: [&str; 8] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<EOT>",
];
/// `tokenizer.ggml.token_type` of a control piece.
const CONTROL: i64 = 3;

/// Ids that end a text: those of the keys in their order, then control pieces known by name; none twice.
pub(crate) fn stop_ids(header: &Header<'_>) -> Result<Vec<u32>, Error> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(header.token(&format!("tokenizer.ggml.{key}"))?);
    }
    let pieces = header.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    let kinds = header.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    for (id, (piece, kind)) in pieces.iter().zip(kinds).enumerate() {
        if kind == CONTROL && STOP_PIECES.contains(piece) {
            ids.push(id as u32); // the limit on elements of an array keeps it small
        }
    }
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok(ids)
}
