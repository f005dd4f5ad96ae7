//! Hugging Face folders: `config.json` and its companions.
//!
//! The description of a model is spread over keys that families spell and default differently; this page
//! knows the spellings and defaults, so that what leaves it is one [`ModelSpec`]. What would change the
//! arithmetic in a way that the engine does not know is refused by name.

use kwaainet_kernels::{RopePairing, RopeScaling};
use serde_json::{Map, Value};

use crate::Error;
use crate::limits::{BLOCKS_MAX, STOP_IDS_MAX};
use crate::spec::{Activation, ModelSpec, Rope};

/// What can be run, for messages.
pub(crate) const SUPPORTED: &str =
    "Llama, Mistral, Qwen2, Qwen3, Gemma 3 (text) and Phi-3 models (dense, without experts) can be run";

/// A JSON object with its file's name, for messages.
pub(crate) struct Config<'v> {
    file: &'v str,
    object: &'v Map<String, Value>,
}

/// Parses a JSON file that has to hold an object.
pub(crate) fn parse_json(file: &str, bytes: &[u8]) -> Result<Value, Error> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Error::broken(file, format!("it is not valid JSON: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(Error::broken(file, "it should hold a JSON object")) }
}

impl<'v> Config<'v> {
    /// Looks into a parsed file; fails if it is no object.
    pub(crate) fn new(file: &'v str, value: &'v Value) -> Result<Self, Error> {
        match value.as_object() {
            Some(object) => Ok(Config { file, object }),
            None => Err(Error::broken(file, "it should hold a JSON object")),
        }
    }

    /// The value of a key; null counts as absent.
    fn get(&self, key: &str) -> Option<&'v Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, wanted: &str, found: &Value) -> Error {
        let mut found = found.to_string();
        if found.len() > 60 {
            found = format!("{}...", found.chars().take(60).collect::<String>());
        }
        Error::broken(self.file, format!("{key} should be {wanted}, but is {found}"))
    }

    fn missing(&self, key: &str) -> Error {
        Error::broken(self.file, format!("{key} is missing"))
    }

    fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.map(Some).ok_or_else(|| self.wrong(key, "a count", value))
    }

    fn float(&self, key: &str) -> Result<Option<f32>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let float = value.as_f64().map(|float| float as f32).filter(|float| float.is_finite());
        float.map(Some).ok_or_else(|| self.wrong(key, "a finite number", value))
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false", value))
    }

    fn string(&self, key: &str) -> Result<Option<&'v str>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string", value))
    }

    fn object(&self, key: &str) -> Result<Option<Config<'v>>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.wrong(key, "an object", value))?;
        Ok(Some(Config { file: self.file, object }))
    }

    fn required_count(&self, key: &str) -> Result<usize, Error> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    fn required_float(&self, key: &str) -> Result<f32, Error> {
        self.float(key)?.ok_or_else(|| self.missing(key))
    }

    /// Fails if a switch that changes the arithmetic is on.
    fn refuse(&self, key: &str) -> Result<(), Error> {
        match self.get(key) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(value) => {
                Err(Error::unsupported(format!("{} asks for {key} = {value}, which can't be run", self.file)))
            }
        }
    }
}

/// The families, by the name of the class that would run them, by `model_type`, and as they are called here.
const FAMILIES: [(&str, &str, &str); 7] = [
    ("LlamaForCausalLM", "llama", "llama"),
    ("MistralForCausalLM", "mistral", "mistral"),
    ("Qwen2ForCausalLM", "qwen2", "qwen2"),
    ("Qwen3ForCausalLM", "qwen3", "qwen3"),
    ("Gemma3ForCausalLM", "gemma3_text", "gemma3"),
    ("Gemma3ForConditionalGeneration", "gemma3", "gemma3"),
    ("Phi3ForCausalLM", "phi3", "phi3"),
];

fn family(config: &Config<'_>) -> Result<&'static str, Error> {
    let class = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let model_type = config.string("model_type")?;
    let found = FAMILIES.iter().find(|(of_class, of_type, _)| match class {
        Some(class) => class == *of_class,
        None => model_type == Some(of_type),
    });
    found.map(|(_, _, name)| *name).ok_or_else(|| {
        let found = class.or(model_type).unwrap_or("a model without a name");
        Error::unsupported(format!("{} describes {found:.80}; {SUPPORTED}", config.file))
    })
}

/// Reads `config.json`. `name` is the model's name if the config has none.
///
/// # Errors
///
/// [`Error::Broken`] names the key that is missing or wrong; [`Error::Unsupported`] what can't be run.
pub fn spec_from_config(file: &str, name: &str, bytes: &[u8]) -> Result<ModelSpec, Error> {
    let value = parse_json(file, bytes)?;
    let outer = Config::new(file, &value)?;
    let architecture = family(&outer)?;
    let gemma = architecture == "gemma3";
    let inner = if gemma { outer.object("text_config")? } else { None };
    let config = inner.as_ref().unwrap_or(&outer);

    for key in [
        "mlp_bias",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "quantization_config",
        "rope_interleaved",
        "use_bidirectional_attention",
    ] {
        config.refuse(key)?;
        outer.refuse(key)?;
    }
    let hidden = config.required_count("hidden_size")?;
    let blocks = config.required_count("num_hidden_layers")?;
    // Gemma 3's configs leave out what equals the defaults of the library.
    let default = |value: usize| if gemma { Some(value) } else { None };
    let required = |key: &str, default: Option<usize>| match config.count(key)?.or(default) {
        Some(count) => Ok(count),
        None => Err(config.missing(key)),
    };
    let heads = required("num_attention_heads", default(8))?;
    let kv_heads = config.count("num_key_value_heads")?.or(default(4)).unwrap_or(heads);
    let head_width = match (config.count("head_dim")?, architecture) {
        (Some(width), _) => width,
        (None, "gemma3") => 256,
        (None, "qwen3") => 128,
        (None, _) => hidden.checked_div(heads).unwrap_or(0),
    };
    let context_tokens = required("max_position_embeddings", default(131_072))?;
    let query_scale_of =
        if gemma { config.float("query_pre_attn_scalar")?.unwrap_or(256.0) } else { head_width as f32 };

    let (rope, rope_local, partial) = ropes(config, gemma, context_tokens)?;
    let rotary_width = (head_width as f64 * f64::from(partial)) as usize;
    let slides = sliding_blocks(config, architecture, blocks)?;
    let (window, window_pattern) = match slides {
        Some((window, slides)) => window_pattern(config, window, &slides)?,
        None => (None, 0),
    };

    let spec = ModelSpec {
        name: outer.string("name")?.unwrap_or(name).to_owned(),
        architecture: architecture.to_owned(),
        hidden,
        blocks,
        vocabulary: required("vocab_size", default(262_208))?,
        context_tokens,
        heads,
        kv_heads,
        head_width,
        feed_forward: config.required_count("intermediate_size")?,
        norm_epsilon: config.float("rms_norm_eps")?.unwrap_or(if architecture == "phi3" {
            1e-5
        } else {
            1e-6
        }),
        norm_weight_offset: if gemma { 1.0 } else { 0.0 },
        query_scale: 1.0 / query_scale_of.sqrt(),
        activation: activation(config, gemma)?,
        embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        rotary_width,
        rope_pairing: RopePairing::Halves,
        rope,
        rope_local,
        window,
        window_pattern,
        tied_head: config
            .boolean("tie_word_embeddings")?
            .or(outer.boolean("tie_word_embeddings")?)
            .unwrap_or(gemma),
    };
    spec.check(file)?;
    Ok(spec)
}

fn activation(config: &Config<'_>, gemma: bool) -> Result<Activation, Error> {
    let default = if gemma { "gelu_pytorch_tanh" } else { "silu" };
    let name = match config.string("hidden_activation")? {
        Some(name) => name,
        None => config.string("hidden_act")?.unwrap_or(default),
    };
    match name {
        "silu" | "swish" => Ok(Activation::SiluGated),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanhGated),
        _ => Err(Error::unsupported(format!(
            "{} asks for the activation {name:.40}; silu and gelu_pytorch_tanh can be run",
            config.file
        ))),
    }
}

/// Full rotation, local rotation, and the part of a head that is rotated. Newer files keep all of it under
/// `rope_parameters`, and there by the kind of block if kinds differ.
fn ropes(
    config: &Config<'_>,
    gemma: bool,
    context_tokens: usize,
) -> Result<(Rope, Option<Rope>, f32), Error> {
    let default = if gemma { 1e6 } else { 1e4 };
    let theta = config.float("rope_theta")?.unwrap_or(default);
    let local_theta = config.float("rope_local_base_freq")?.unwrap_or(1e4);
    let partial = config.float("partial_rotary_factor")?;
    let parameters = config.object("rope_parameters")?;
    let by_kind = |kind: &str| match &parameters {
        Some(parameters) => parameters.object(kind),
        None => Ok(None),
    };
    let rope = |section: &Config<'_>, theta: f32| -> Result<Rope, Error> {
        let theta = section.float("rope_theta")?.unwrap_or(theta);
        Ok(Rope { theta, scaling: scaling(config, section, context_tokens)? })
    };
    let plain = |theta: f32| Rope { theta, scaling: RopeScaling::None };

    let full_section = match by_kind("full_attention")? {
        Some(section) => Some(section),
        None => parameters.as_ref().map(|section| Config { file: section.file, object: section.object }),
    };
    let section = match full_section {
        Some(section) => Some(section),
        None => config.object("rope_scaling")?,
    };
    let full = section.as_ref().map_or_else(|| Ok(plain(theta)), |section| rope(section, theta))?;
    let local = match (gemma, by_kind("sliding_attention")?) {
        (false, _) => None,
        (true, Some(section)) => Some(rope(&section, local_theta)?),
        (true, None) => Some(plain(local_theta)),
    };
    let partial = match (partial, &section) {
        (None, Some(section)) => section.float("partial_rotary_factor")?,
        (partial, _) => partial,
    };
    Ok((full, local, partial.unwrap_or(1.0)))
}

/// One section's scaling; its form is named `rope_type`, or `type` in older files.
fn scaling(config: &Config<'_>, section: &Config<'_>, context_tokens: usize) -> Result<RopeScaling, Error> {
    let form = match section.string("rope_type")? {
        Some(form) => form,
        None => section.string("type")?.unwrap_or("default"),
    };
    // Some configs keep this beside the section.
    let original_context = match section.float("original_max_position_embeddings")? {
        Some(original) => Some(original),
        None => config.float("original_max_position_embeddings")?,
    };
    match form {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: section.required_float("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: section.required_float("factor")?,
            low_frequency_factor: section.required_float("low_freq_factor")?,
            high_frequency_factor: section.required_float("high_freq_factor")?,
            original_context: original_context
                .ok_or_else(|| section.missing("original_max_position_embeddings"))?,
        }),
        "yarn" => {
            for key in ["mscale", "mscale_all_dim"] {
                section.refuse(key)?;
            }
            if section.boolean("truncate")? == Some(false) {
                return Err(Error::unsupported(format!("{} asks for YaRN without truncation", section.file)));
            }
            let factor = section.required_float("factor")?;
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original_context.unwrap_or(context_tokens as f32),
                beta_fast: section.float("beta_fast")?.unwrap_or(32.0),
                beta_slow: section.float("beta_slow")?.unwrap_or(1.0),
                attention_factor: section
                    .float("attention_factor")?
                    .unwrap_or_else(|| yarn_attention_factor(factor)),
            })
        }
        _ => Err(Error::unsupported(format!(
            "{} asks for the rotary scaling {form:.40}; linear, llama3 and yarn can be run. A variant of \
            the model with a shorter context (such as 4k instead of 128k) may have none",
            section.file
        ))),
    }
}

/// What YaRN multiplies cosines and sines by: `0.1 ln(factor) + 1` (Peng et al. 2023, section 3.4).
pub(crate) fn yarn_attention_factor(factor: f32) -> f32 {
    if factor > 1.0 { (0.1 * f64::from(factor).ln() + 1.0) as f32 } else { 1.0 }
}

/// The window in tokens, and for each block whether it slides; `None` if there is no window at all.
fn sliding_blocks(
    config: &Config<'_>,
    architecture: &str,
    blocks: usize,
) -> Result<Option<(usize, Vec<bool>)>, Error> {
    if blocks > BLOCKS_MAX {
        return Ok(None); // refused by the check of the whole description
    }
    let qwen = architecture.starts_with("qwen");
    let window = match architecture {
        "gemma3" => Some(config.count("sliding_window")?.unwrap_or(4096)),
        "mistral" | "phi3" => config.count("sliding_window")?,
        _ if qwen && config.boolean("use_sliding_window")? == Some(true) => {
            Some(config.count("sliding_window")?.unwrap_or(4096))
        }
        _ => None,
    };
    let Some(window) = window else { return Ok(None) };
    if let Some(types) = config.get("layer_types") {
        let slides: Option<Vec<bool>> =
            types.as_array().filter(|types| types.len() == blocks).and_then(|types| {
                let slides = |kind: &Value| match kind.as_str() {
                    Some("sliding_attention") => Some(true),
                    Some("full_attention") => Some(false),
                    _ => None,
                };
                types.iter().map(slides).collect()
            });
        let wanted = "sliding_attention or full_attention for each block";
        return slides
            .map(|slides| Some((window, slides)))
            .ok_or_else(|| config.wrong("layer_types", wanted, types));
    }
    let slides = if architecture == "gemma3" {
        let pattern = given_pattern(config)?.unwrap_or(6);
        (1..=blocks).map(|block| pattern == 0 || block % pattern != 0).collect()
    } else if qwen {
        let first = config.count("max_window_layers")?.unwrap_or(28);
        (0..blocks).map(|block| block >= first).collect()
    } else {
        vec![true; blocks]
    };
    Ok(Some((window, slides)))
}

fn given_pattern(config: &Config<'_>) -> Result<Option<usize>, Error> {
    match config.count("sliding_window_pattern")? {
        Some(pattern) => Ok(Some(pattern)),
        None => config.count("_sliding_window_pattern"),
    }
}

/// The `window` and `window_pattern` of a [`ModelSpec`] that say which blocks slide.
fn window_pattern(
    config: &Config<'_>,
    window: usize,
    slides: &[bool],
) -> Result<(Option<usize>, usize), Error> {
    if !slides.contains(&true) {
        return Ok((None, 0));
    }
    let first_full = slides.iter().position(|slides| !slides).map_or(0, |index| index + 1);
    // A pattern longer than the model is kept, so that a model and a cut of it are described alike.
    let given = given_pattern(config)?.unwrap_or(first_full);
    for pattern in [given, first_full] {
        let agrees =
            |(block, slides): (usize, &bool)| *slides == (pattern == 0 || (block + 1) % pattern != 0);
        if slides.iter().enumerate().all(agrees) {
            return Ok((Some(window), pattern));
        }
    }
    Err(Error::unsupported(format!(
        "{} lets some blocks slide in an order that does not repeat; every block, none, or all but every \
         n-th can be run",
        config.file
    )))
}

/// Ids that end a text: `eos_token_id` of a config, one or a list.
pub(crate) fn stop_ids(file: &str, bytes: &[u8], into: &mut Vec<u32>) -> Result<(), Error> {
    let value = parse_json(file, bytes)?;
    let config = Config::new(file, &value)?;
    let sections = [Some(Config { file, object: config.object }), config.object("text_config")?];
    for section in sections.into_iter().flatten() {
        let Some(value) = section.get("eos_token_id") else { continue };
        let wrong = || section.wrong("eos_token_id", "a token id or a short list of them", value);
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        if list.len() > STOP_IDS_MAX {
            return Err(wrong());
        }
        for id in list {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?;
            if !into.contains(&id) {
                into.push(id);
            }
        }
    }
    Ok(())
}

/// The chat template of `tokenizer_config.json` or `chat_template.json`: a string, or a list of which one is
/// named `default`.
pub(crate) fn chat_template(file: &str, bytes: &[u8]) -> Result<Option<String>, Error> {
    let value = parse_json(file, bytes)?;
    let config = Config::new(file, &value)?;
    match config.get("chat_template") {
        None => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(list)) => {
            let named =
                list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
            let template =
                named.or(list.first()).and_then(|entry| entry.get("template")).and_then(Value::as_str);
            Ok(template.map(str::to_owned))
        }
        Some(value) => Err(config.wrong("chat_template", "a string or a list", value)),
    }
}

/// The parts of a sharded model: every tensor's name with its file's name, checked to be a plain name in the
/// folder.
pub(crate) fn weight_map(file: &str, bytes: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let value = parse_json(file, bytes)?;
    let config = Config::new(file, &value)?;
    let map = config.object("weight_map")?.ok_or_else(|| config.missing("weight_map"))?;
    let mut entries = Vec::with_capacity(map.object.len());
    for (tensor, part) in map.object {
        let wanted = "the plain name of a .safetensors file in this folder";
        let plain = |name: &&str| {
            name.ends_with(".safetensors")
                && !name.starts_with('.')
                && !name.contains(|letter: char| matches!(letter, '/' | '\\' | ':') || letter.is_control())
        };
        match part.as_str().filter(plain) {
            Some(part) => entries.push((tensor.clone(), part.to_owned())),
            None => return Err(map.wrong(&format!("weight_map of {tensor:.80}"), wanted, part)),
        }
    }
    Ok(entries)
}

/// The config's keys with their values, shortened to a line each.
pub(crate) fn describe(file: &str, bytes: &[u8]) -> Result<Vec<(String, String)>, Error> {
    const SHOWN_CHARACTERS: usize = 120;
    let value = parse_json(file, bytes)?;
    let config = Config::new(file, &value)?;
    let show = |(key, value): (&String, &Value)| {
        let text = value.to_string();
        let cut = text.char_indices().nth(SHOWN_CHARACTERS);
        (key.clone(), cut.map_or_else(|| text.clone(), |(end, _)| format!("{}...", &text[..end])))
    };
    Ok(config.object.iter().map(show).collect())
}
