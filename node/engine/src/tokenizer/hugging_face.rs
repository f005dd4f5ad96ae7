//! Tokenizer parts from a tokenizer.json and its tokenizer_config.json.
//!
//! The file spells a tokenizer step by step; each step here is one of its kinds. What is not known is refused
//! by name, since a step left out would give other ids than the model was trained on.

use serde_json::{Map, Value};

use super::normalize::Normalizer;
use super::parts::{AddedToken, TokenizerKind, TokenizerParts};
use super::split::{self, Behavior, Prefix, SplitStep};
use super::vocabulary::PieceKind;
use crate::error::Error;
use crate::limits::{ADDED_TOKENS_MAX, TOKENIZER_NESTING_MAX, TOKENIZER_STEPS_MAX};

const FILE: &str = "tokenizer.json";

fn broken(what: impl Into<String>) -> Error {
    Error::broken(FILE, what)
}

fn unknown_step(what: &str, kind: &str) -> Error {
    Error::unsupported(format!("{FILE} has a {what} of the type {kind:.40}, which is not known here"))
}

fn object<'v>(value: &'v Value, what: &str) -> Result<&'v Map<String, Value>, Error> {
    value.as_object().ok_or_else(|| broken(format!("{what} should be an object")))
}

fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str, Error> {
    value.get(key).and_then(Value::as_str).ok_or_else(|| broken(format!("{key} should be a string")))
}

fn flag(value: &Value, key: &str, default: bool) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(default)
}

fn id(value: &Value, what: &str) -> Result<u32, Error> {
    value
        .as_u64()
        .and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| broken(format!("{what} should be a token id")))
}

impl TokenizerParts {
    /// Reads a tokenizer.json, and from tokenizer_config.json which special tokens go around a text.
    ///
    /// # Errors
    /// When the JSON is broken, or has a step or a model that is not known: a sentence that names it.
    pub fn from_hugging_face(
        tokenizer_json: &[u8],
        tokenizer_config: Option<&[u8]>,
    ) -> Result<TokenizerParts, Error> {
        let json: Value = serde_json::from_slice(tokenizer_json)
            .map_err(|e| broken(format!("it is not valid JSON: {e}")))?;
        let model = json.get("model").ok_or_else(|| broken("model is missing"))?;
        let bytewise = json.get("pre_tokenizer").is_some_and(has_byte_level)
            || json.get("decoder").is_some_and(has_byte_level);
        let kind = match model.get("type").and_then(Value::as_str) {
            Some("BPE") | None if bytewise => TokenizerKind::BytePair,
            Some("BPE") | None => TokenizerKind::SentencePiece,
            Some("Unigram") => TokenizerKind::Unigram,
            Some("WordPiece") => TokenizerKind::WordPiece,
            Some(kind) => return Err(unknown_step("model", kind)),
        };
        let mut parts = TokenizerParts::new(kind);
        read_model(model, &mut parts)?;
        read_added(&json, &mut parts)?;
        if let Some(step) = json.get("normalizer").filter(|step| !step.is_null()) {
            read_normalizer(step, 0, &mut parts)?;
        }
        if let Some(step) = json.get("pre_tokenizer").filter(|step| !step.is_null()) {
            read_split(step, 0, &mut parts)?;
        }
        parts.strips_leading_space = json.get("decoder").is_some_and(strips_space);
        read_template(&json, &mut parts)?;
        if let Some(config) = tokenizer_config {
            read_config(config, &mut parts)?;
        }
        Ok(parts)
    }
}

fn has_byte_level(step: &Value) -> bool {
    let nested =
        |key: &str| step.get(key).and_then(Value::as_array).into_iter().flatten().any(has_byte_level);
    step.get("type").and_then(Value::as_str) == Some("ByteLevel")
        || nested("pretokenizers")
        || nested("decoders")
}

fn strips_space(step: &Value) -> bool {
    let nested = step.get("decoders").and_then(Value::as_array).into_iter().flatten().any(strips_space);
    let metaspace = || step.get("prepend_scheme").and_then(Value::as_str) != Some("never");
    match step.get("type").and_then(Value::as_str) {
        Some("Strip") => step.get("start").and_then(Value::as_u64).unwrap_or(0) > 0,
        Some("Metaspace") => metaspace(),
        Some("WordPiece") => true,
        _ => nested,
    }
}

fn read_model(model: &Value, parts: &mut TokenizerParts) -> Result<(), Error> {
    if parts.kind == TokenizerKind::Unigram {
        let vocabulary = model
            .get("vocab")
            .and_then(Value::as_array)
            .ok_or_else(|| broken("model.vocab should be a list"))?;
        for entry in vocabulary {
            let piece = entry
                .get(0)
                .and_then(Value::as_str)
                .ok_or_else(|| broken("a piece of model.vocab is no text"))?;
            let score = entry.get(1).and_then(Value::as_f64).unwrap_or(0.0) as f32;
            let kind = if is_byte_piece(piece) { PieceKind::Byte } else { PieceKind::Normal };
            parts.pieces.push(piece.as_bytes(), score, kind)?;
        }
        parts.unknown =
            model.get("unk_id").filter(|id| !id.is_null()).map(|v| id(v, "model.unk_id")).transpose()?;
    } else {
        let vocabulary = object(model.get("vocab").unwrap_or(&Value::Null), "model.vocab")?;
        let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or("##");
        for (piece, number) in vocabulary {
            let kind = if is_byte_piece(piece) { PieceKind::Byte } else { PieceKind::Normal };
            let number = u64::from(id(number, "a piece's number in model.vocab")?);
            if parts.kind == TokenizerKind::WordPiece {
                // Inside a word nothing is marked here, and a beginning is.
                let spelled = match piece.strip_prefix(prefix) {
                    Some(inside) => inside.to_owned(),
                    None if piece.starts_with('[') && piece.ends_with(']') => piece.clone(),
                    None => format!("▁{piece}"),
                };
                parts.pieces.set(number, spelled.as_bytes(), 0.0, kind)?;
            } else {
                parts.pieces.set(number, piece.as_bytes(), 0.0, kind)?;
            }
        }
        for rule in model.get("merges").and_then(Value::as_array).into_iter().flatten() {
            match rule {
                Value::String(rule) => parts.merges.push_pair(rule)?,
                Value::Array(pair) if pair.len() == 2 => {
                    let side = |index: usize| {
                        pair[index]
                            .as_str()
                            .ok_or_else(|| broken("a merge rule holds something that is no text"))
                    };
                    parts.merges.push(side(0)?, side(1)?)?;
                }
                _ => return Err(broken("a merge rule is neither a text nor a pair of texts")),
            }
        }
        if let Some(unknown) = model.get("unk_token").and_then(Value::as_str) {
            parts.unknown =
                vocabulary.get(unknown).map(|number| id(number, "model.unk_token")).transpose()?;
        }
    }
    parts.byte_fallback = flag(model, "byte_fallback", false);
    parts.fuse_unknown = flag(model, "fuse_unk", parts.kind == TokenizerKind::Unigram);
    parts.ignore_merges = flag(model, "ignore_merges", false);
    Ok(())
}

fn is_byte_piece(piece: &str) -> bool {
    piece.len() == 6 && super::byte_of_piece(piece.as_bytes()).is_some()
}

fn read_added(json: &Value, parts: &mut TokenizerParts) -> Result<(), Error> {
    let list = json.get("added_tokens").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if list.len() > ADDED_TOKENS_MAX {
        return Err(broken(format!("it has {} added tokens; the limit is {ADDED_TOKENS_MAX}", list.len())));
    }
    for token in list {
        let content = text(token, "content")?;
        let number = id(token.get("id").unwrap_or(&Value::Null), "an added token's id")?;
        let kind = match flag(token, "special", false) {
            true => PieceKind::Control,
            false => PieceKind::UserDefined,
        };
        parts.pieces.set(u64::from(number), content.as_bytes(), 0.0, kind)?;
        if !content.is_empty() {
            parts.added.push(AddedToken {
                id: number,
                strip_left: flag(token, "lstrip", false),
                strip_right: flag(token, "rstrip", false),
                single_word: flag(token, "single_word", false),
            });
        }
    }
    Ok(())
}

fn steps<'v>(step: &'v Value, key: &str, depth: usize) -> Result<&'v [Value], Error> {
    let list = step.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if depth >= TOKENIZER_NESTING_MAX || list.len() > TOKENIZER_STEPS_MAX {
        return Err(broken(format!(
            "{key} nests deeper than {TOKENIZER_NESTING_MAX} or has more than {TOKENIZER_STEPS_MAX} steps"
        )));
    }
    Ok(list)
}

fn read_normalizer(step: &Value, depth: usize, parts: &mut TokenizerParts) -> Result<(), Error> {
    let kind = text(step, "type")?;
    let normalizer = match kind {
        "Sequence" => {
            for step in steps(step, "normalizers", depth)? {
                read_normalizer(step, depth + 1, parts)?;
            }
            return Ok(());
        }
        "NFC" => Normalizer::Nfc,
        "NFD" => Normalizer::Nfd,
        "NFKC" => Normalizer::Nfkc,
        "NFKD" => Normalizer::Nfkd,
        "Lowercase" => Normalizer::Lowercase,
        "StripAccents" => Normalizer::StripAccents,
        "Strip" => {
            Normalizer::Strip { left: flag(step, "strip_left", true), right: flag(step, "strip_right", true) }
        }
        "Prepend" => Normalizer::Prepend(text(step, "prepend")?.to_owned()),
        "Replace" => {
            let with = text(step, "content")?.to_owned();
            match pattern_of(step)? {
                Pattern::Text(find) => Normalizer::Replace { find, with },
                Pattern::Expression(find) => {
                    Normalizer::ReplacePattern { find: split::compile(&find)?, with }
                }
            }
        }
        "BertNormalizer" => {
            let lowercase = flag(step, "lowercase", true);
            Normalizer::Bert {
                clean: flag(step, "clean_text", true),
                space_chinese: flag(step, "handle_chinese_chars", true),
                strip_accents: flag(step, "strip_accents", lowercase),
                lowercase,
            }
        }
        _ => return Err(unknown_step("normalizer", kind)),
    };
    parts.normalizers.push(normalizer);
    Ok(())
}

enum Pattern {
    Text(String),
    Expression(String),
}

fn pattern_of(step: &Value) -> Result<Pattern, Error> {
    let pattern = step.get("pattern").ok_or_else(|| broken("a step has no pattern"))?;
    let get = |key: &str| pattern.get(key).and_then(Value::as_str).map(str::to_owned);
    match (get("String"), get("Regex")) {
        (Some(text), _) => Ok(Pattern::Text(text)),
        (_, Some(expression)) => Ok(Pattern::Expression(expression)),
        _ => Err(broken("a pattern is neither String nor Regex")),
    }
}

/// A text as an expression that matches just it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if "\\.+*?()|[]{}^$#&-~".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn behavior(step: &Value) -> Result<Behavior, Error> {
    match text(step, "behavior")? {
        "Removed" => Ok(Behavior::Removed),
        "Isolated" => Ok(Behavior::Isolated),
        "MergedWithPrevious" => Ok(Behavior::MergedWithPrevious),
        "MergedWithNext" => Ok(Behavior::MergedWithNext),
        "Contiguous" => Ok(Behavior::Contiguous),
        other => Err(unknown_step("split behavior", other)),
    }
}

fn read_split(step: &Value, depth: usize, parts: &mut TokenizerParts) -> Result<(), Error> {
    let kind = text(step, "type")?;
    match kind {
        "Sequence" => {
            for step in steps(step, "pretokenizers", depth)? {
                read_split(step, depth + 1, parts)?;
            }
        }
        "Split" => {
            let pattern = match pattern_of(step)? {
                Pattern::Text(text) => escape(&text),
                Pattern::Expression(expression) => expression,
            };
            parts.splits.push(SplitStep::pattern(&pattern, behavior(step)?, flag(step, "invert", false))?);
        }
        "ByteLevel" => {
            if flag(step, "add_prefix_space", true) {
                parts.splits.push(SplitStep::SpacePrefix);
            }
            if flag(step, "use_regex", true) {
                parts.splits.push(SplitStep::isolated(split::GPT_2)?);
            }
        }
        "Digits" => {
            let pattern = if flag(step, "individual_digits", false) { r"\p{N}" } else { r"\p{N}+" };
            parts.splits.push(SplitStep::isolated(pattern)?);
        }
        "Punctuation" => {
            let behavior = if step.get("behavior").is_some() { behavior(step)? } else { Behavior::Isolated };
            parts.splits.push(SplitStep::pattern(r"[\p{P}$+<=>^`|~]", behavior, false)?);
        }
        "Whitespace" => parts.splits.push(SplitStep::pattern(r"\w+|[^\w\s]+", Behavior::Removed, true)?),
        "WhitespaceSplit" => parts.splits.push(SplitStep::pattern(r"\s+", Behavior::Removed, false)?),
        "BertPreTokenizer" => {
            parts.splits.push(SplitStep::pattern(r"\s+", Behavior::Removed, false)?);
            parts.splits.push(SplitStep::isolated(r"[\p{P}$+<=>^`|~]")?);
        }
        "Metaspace" => {
            let replacement =
                step.get("replacement").and_then(Value::as_str).and_then(|text| text.chars().next());
            let prefix = match step.get("prepend_scheme").and_then(Value::as_str) {
                Some("first") => Prefix::First,
                Some("never") => Prefix::Never,
                Some("always") => Prefix::Always,
                Some(other) => return Err(unknown_step("prepend scheme", other)),
                None if flag(step, "add_prefix_space", true) => Prefix::Always,
                None => Prefix::Never,
            };
            let split = flag(step, "split", true);
            parts.splits.push(SplitStep::Metaspace {
                replacement: replacement.unwrap_or('▁'),
                prefix,
                split,
            });
        }
        _ => return Err(unknown_step("pre-tokenizer", kind)),
    }
    if parts.splits.len() > TOKENIZER_STEPS_MAX {
        return Err(broken(format!("it has more than {TOKENIZER_STEPS_MAX} pre-tokenizing steps")));
    }
    Ok(())
}

/// The special tokens that the post-processor puts before and after one text.
fn read_template(json: &Value, parts: &mut TokenizerParts) -> Result<(), Error> {
    let Some(processor) = json.get("post_processor").filter(|value| !value.is_null()) else { return Ok(()) };
    let nested = processor.get("processors").and_then(Value::as_array).map(Vec::as_slice);
    for step in nested.unwrap_or(std::slice::from_ref(processor)) {
        let special = |name: &str| -> Option<u32> {
            let ids = step.get("special_tokens")?.get(name)?.get("ids")?;
            ids.get(0)?.as_u64().and_then(|id| u32::try_from(id).ok())
        };
        let Some(single) = step.get("single").and_then(Value::as_array) else { continue };
        let text_at = single.iter().position(|part| part.get("Sequence").is_some()).unwrap_or(0);
        for (index, part) in single.iter().enumerate() {
            let Some(name) =
                part.get("SpecialToken").and_then(|token| token.get("id")).and_then(Value::as_str)
            else {
                continue;
            };
            if index < text_at {
                (parts.bos, parts.add_bos) = (special(name), true);
            } else {
                (parts.eos, parts.add_eos) = (special(name), true);
            }
        }
    }
    Ok(())
}

fn read_config(config: &[u8], parts: &mut TokenizerParts) -> Result<(), Error> {
    let config: Value = serde_json::from_slice(config)
        .map_err(|e| Error::broken("tokenizer_config.json", format!("it is not valid JSON: {e}")))?;
    let token = |key: &str| -> Option<u32> {
        let value = config.get(key)?;
        let name = value.as_str().or_else(|| value.get("content").and_then(Value::as_str))?;
        (0..parts.pieces.len() as u32).find(|id| parts.pieces.bytes(*id) == name.as_bytes())
    };
    let (bos, eos, unknown) = (token("bos_token"), token("eos_token"), token("unk_token"));
    parts.bos = bos.or(parts.bos);
    parts.eos = eos.or(parts.eos);
    parts.unknown = parts.unknown.or(unknown);
    if let Some(add) = config.get("add_bos_token").and_then(Value::as_bool) {
        // Without a template that says so, the library's fast tokenizers add nothing.
        parts.add_bos = add && parts.bos.is_some();
    }
    if let Some(add) = config.get("add_eos_token").and_then(Value::as_bool) {
        parts.add_eos = add && parts.eos.is_some();
    }
    Ok(())
}
