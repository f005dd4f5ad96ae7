//! Tokenizer parts from the metadata of a GGUF.
//!
//! Keys: `tokenizer.ggml.*` of the GGUF specification. What the file only names (the kind, the text split) is
//! spelled out in the steps that a tokenizer.json would have.

use super::normalize::Normalizer;
use super::parts::{AddedToken, TokenizerKind, TokenizerParts};
use super::split::{self, SplitStep};
use super::vocabulary::PieceKind;
use crate::error::Error;
use crate::files::gguf::Header;

impl TokenizerParts {
    /// Reads the tokenizer of a GGUF.
    ///
    /// # Errors
    /// When a key is missing or contradicts another, or the kind or text split is not known.
    pub fn from_gguf(header: &Header<'_>) -> Result<TokenizerParts, Error> {
        let missing = |key: &str| Error::broken(header.file(), format!("the metadata key {key} is missing"));
        let model = header.string("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
        let kind = match model {
            "llama" => TokenizerKind::SentencePiece,
            "gpt2" => TokenizerKind::BytePair,
            "t5" => TokenizerKind::Unigram,
            "bert" => TokenizerKind::WordPiece,
            _ => {
                return Err(Error::unsupported(format!(
                    "{} has a tokenizer of the kind {model:.40}; llama, gpt2, t5 and bert can be used",
                    header.file()
                )));
            }
        };
        let mut parts = TokenizerParts::new(kind);
        read_pieces(header, &mut parts)?;
        for rule in header.strings("tokenizer.ggml.merges")?.unwrap_or_default() {
            parts.merges.push_pair(rule)?;
        }
        let token = |name: &str| header.token(&format!("tokenizer.ggml.{name}_token_id"));
        let flag = |name: &str| header.boolean(&format!("tokenizer.ggml.{name}"));
        parts.bos = token("bos")?;
        parts.eos = token("eos")?;
        parts.unknown = token("unknown")?;
        match kind {
            TokenizerKind::SentencePiece | TokenizerKind::Unigram => {
                parts.bos = parts.bos.or(Some(1).filter(|_| kind == TokenizerKind::SentencePiece));
                parts.eos = parts.eos.or(Some(2).filter(|_| kind == TokenizerKind::SentencePiece));
                parts.unknown = parts.unknown.or(Some(0));
                parts.add_bos = flag("add_bos_token")?.unwrap_or(kind == TokenizerKind::SentencePiece);
                parts.byte_fallback = true;
                let prefix = flag("add_space_prefix")?.unwrap_or(true);
                if prefix {
                    parts.normalizers.push(Normalizer::Prepend("▁".to_owned()));
                }
                parts.strips_leading_space = prefix;
                let (find, with) = (" ".to_owned(), "▁".to_owned());
                parts.normalizers.push(Normalizer::Replace { find, with });
            }
            TokenizerKind::BytePair => {
                let name = header.string("tokenizer.ggml.pre")?.unwrap_or("default");
                let patterns = split::named(name).ok_or_else(|| {
                    let (file, known) = (header.file(), split::NAMES);
                    Error::unsupported(format!(
                        "{file} splits its text by the rule {name:.40}; known are {known}"
                    ))
                })?;
                for pattern in patterns {
                    parts.splits.push(SplitStep::isolated(pattern)?);
                }
                if name.starts_with("qwen2") {
                    parts.normalizers.push(Normalizer::Nfc);
                }
                parts.ignore_merges = split::ignores_merges(name);
                // Llama 3's files leave the key out and mean yes.
                parts.add_bos = flag("add_bos_token")?.unwrap_or(parts.ignore_merges);
                if flag("add_space_prefix")?.unwrap_or(false) {
                    parts.splits.insert(0, SplitStep::SpacePrefix);
                }
            }
            TokenizerKind::WordPiece => {
                let id = |name: &str| {
                    (0..parts.pieces.len() as u32).find(|id| parts.pieces.bytes(*id) == name.as_bytes())
                };
                parts.unknown = parts.unknown.or_else(|| id("[UNK]"));
                parts.bos = parts.bos.or_else(|| id("[CLS]"));
                parts.eos = parts.eos.or_else(|| id("[SEP]"));
                parts.add_bos = flag("add_bos_token")?.unwrap_or(true);
                parts.add_eos = true;
                let lowercase = true;
                parts.normalizers.push(Normalizer::Bert {
                    clean: true,
                    space_chinese: true,
                    strip_accents: lowercase,
                    lowercase,
                });
                parts.splits.push(SplitStep::pattern(r"\s+", split::Behavior::Removed, false)?);
                parts.splits.push(SplitStep::isolated(r"[\p{P}$+<=>^`|~]")?);
                parts.strips_leading_space = true;
            }
        }
        if let Some(add) = flag("add_eos_token")? {
            parts.add_eos = add;
        }
        Ok(parts)
    }
}

fn read_pieces(header: &Header<'_>, parts: &mut TokenizerParts) -> Result<(), Error> {
    let key = "tokenizer.ggml.tokens";
    let texts = header
        .strings(key)?
        .ok_or_else(|| Error::broken(header.file(), format!("the metadata key {key} is missing")))?;
    let scores = header.floats("tokenizer.ggml.scores")?;
    let kinds = header.integers("tokenizer.ggml.token_type")?;
    for (key, length) in [
        ("tokenizer.ggml.scores", scores.as_ref().map(Vec::len)),
        ("tokenizer.ggml.token_type", kinds.as_ref().map(Vec::len)),
    ] {
        if let Some(length) = length.filter(|length| *length != texts.len()) {
            let what = format_args!("has {length} entries for {} tokens", texts.len());
            return Err(header.broken(key, what));
        }
    }
    for (id, text) in texts.iter().enumerate() {
        let score = scores.as_ref().map_or(0.0, |scores| scores[id]);
        let kind = match &kinds {
            None => PieceKind::Normal,
            Some(kinds) => {
                let number = u32::try_from(kinds[id]).ok();
                number.and_then(PieceKind::from_gguf).ok_or_else(|| {
                    let what = format_args!("calls token {id} of the type {}; 1 to 6 are known", kinds[id]);
                    header.broken("tokenizer.ggml.token_type", what)
                })?
            }
        };
        parts.pieces.push(text.as_bytes(), score, kind)?;
        // The unknown token of a SentencePiece vocabulary is a special token of its reference, too.
        let added = matches!(kind, PieceKind::Control | PieceKind::UserDefined | PieceKind::Unknown);
        if added && !text.is_empty() {
            parts.added.push(AddedToken { id: id as u32, ..AddedToken::default() });
        }
    }
    Ok(())
}
