//! Text to token ids and back, as the model learned it.
//!
//! A tokenizer is built from what a model file says about it, whichever kind of file. A user's text never
//! becomes a control token: "<|im_end|>" typed by a person is ordinary text unless the caller asks for it to
//! be parsed.

mod gguf;
mod hugging_face;
mod merge;
mod normalize;
mod parts;
mod split;
mod stream;
mod unigram;
mod vocabulary;
mod word_piece;

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::RandomState;

use self::merge::{Merger, NONE, Symbol};
use self::unigram::Unigram;
use self::vocabulary::{Lookup, PrefixIndex, byte_alphabet};
use self::word_piece::WordPiece;
use crate::error::Error;
use crate::files::{ModelFiles, TokenizerSource};
use crate::limits::WORD_BYTES_MAX;

pub use self::parts::{AddedToken, Merges, TokenizerKind, TokenizerParts};
pub use self::stream::TextStream;
pub use self::vocabulary::{PieceKind, Pieces};

/// What becomes of control tokens that are written out in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// They are ordinary text: for what users wrote.
    AsText,
    /// They are the tokens: for templates.
    Parsed,
}

/// From pairs of ids to the rank of their merge and the merged id.
type Ranks = HashMap<(u32, u32), (u32, u32), RandomState>;

/// How words become pieces.
#[derive(Debug)]
enum Model {
    /// By rules.
    Ranks(Ranks),
    /// Pairs merge if they are a piece, the highest score first.
    Scores,
    Unigram(Unigram),
    WordPiece(WordPiece),
}

/// An immutable tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    parts: TokenizerParts,
    lookup: Lookup,
    model: Model,
    /// Tokens matched before anything else; of these `parsed` are matched only when parsing is asked for.
    added: HashMap<u32, AddedToken>,
    added_index: PrefixIndex,
    /// Ids of the 256 byte pieces, where there are such.
    byte_ids: Vec<Option<u32>>,
}

impl Tokenizer {
    /// Builds a tokenizer from its parts.
    ///
    /// # Errors
    /// When the parts contradict each other: a sentence that names the piece or rule.
    pub fn new(mut parts: TokenizerParts) -> Result<Tokenizer, Error> {
        if parts.pieces.is_empty() {
            return Err(Error::broken("tokenizer", "it has no pieces"));
        }
        let lookup = Lookup::new(&parts.pieces);
        let bytewise = parts.kind == TokenizerKind::BytePair;
        // Merge rules are written in the pieces' own spelling, so they are resolved before that is replaced.
        let ranks =
            if parts.merges.is_empty() && !bytewise { None } else { Some(resolve_merges(&parts, &lookup)?) };
        let lookup = if bytewise {
            spell_in_bytes(&mut parts)?;
            Lookup::new(&parts.pieces)
        } else {
            lookup
        };
        let model = match (parts.kind, ranks) {
            (TokenizerKind::Unigram, _) => Model::Unigram(Unigram::new(&parts.pieces)),
            (TokenizerKind::WordPiece, _) => Model::WordPiece(WordPiece::new(&parts.pieces)),
            (_, Some(ranks)) => Model::Ranks(ranks),
            (_, None) => Model::Scores,
        };
        for special in [parts.bos, parts.eos, parts.unknown].into_iter().flatten() {
            check_id(&parts, special)?;
        }
        for token in &parts.added {
            check_id(&parts, token.id)?;
        }
        let byte_ids = match parts.kind {
            TokenizerKind::BytePair => {
                (0..=255).map(|byte: u8| lookup.find(&parts.pieces, &[byte])).collect()
            }
            _ => byte_piece_ids(&parts.pieces),
        };
        let added = parts.added.iter().map(|token| (token.id, *token)).collect();
        let added_index = PrefixIndex::new(&parts.pieces, parts.added.iter().map(|token| token.id));
        Ok(Tokenizer { lookup, model, added, added_index, byte_ids, parts })
    }

    /// The tokenizer of a model.
    ///
    /// # Errors
    /// When the files hold none, or one that can't be used.
    pub fn of_model(files: &ModelFiles) -> Result<Tokenizer, Error> {
        let parts = match files.tokenizer_source()? {
            TokenizerSource::Gguf(header) => TokenizerParts::from_gguf(&header)?,
            TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config } => {
                TokenizerParts::from_hugging_face(&tokenizer_json, tokenizer_config.as_deref())?
            }
        };
        Tokenizer::new(parts)
    }

    /// The ids of a text, without begin and end tokens.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut merger = Merger::default();
        let mut start = 0;
        let mut position = 0;
        while position < text.len() {
            match self.added_token_at(text, position, special) {
                Some((length, token)) => {
                    let before = &text[start..position];
                    let before = if token.strip_left { before.trim_end() } else { before };
                    self.encode_plain(before, start == 0, &mut merger, &mut ids);
                    ids.push(token.id);
                    position += length;
                    if token.strip_right {
                        position = text.len() - text[position..].trim_start().len();
                    }
                    start = position;
                }
                None => position += text[position..].chars().next().map_or(1, char::len_utf8),
            }
        }
        self.encode_plain(&text[start..], start == 0, &mut merger, &mut ids);
        ids
    }

    /// The ids of a text with the begin and end tokens that the model wants around one.
    pub fn encode_prompt(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids: Vec<u32> = self.parts.bos.filter(|_| self.parts.add_bos).into_iter().collect();
        ids.extend(self.encode(text, special));
        ids.extend(self.parts.eos.filter(|_| self.parts.add_eos));
        ids
    }

    /// The longest added token that begins at `position` and may be matched there.
    fn added_token_at(&self, text: &str, position: usize, special: Special) -> Option<(usize, AddedToken)> {
        if self.added_index.is_empty() {
            return None;
        }
        let mut longest = None;
        self.added_index.prefixes_of(&self.parts.pieces, &text.as_bytes()[position..], |length, id| {
            let token = self.added[&id];
            let allowed = special == Special::Parsed || self.parts.pieces.kind(id) == PieceKind::UserDefined;
            if allowed && (!token.single_word || stands_alone(text, position, length)) {
                longest = Some((length, token));
            }
        });
        longest
    }

    fn encode_plain(&self, text: &str, first: bool, merger: &mut Merger, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let normal = self.parts.normalizers.iter().fold(Cow::from(text), |text, step| step.apply(text));
        for word in split::words(&self.parts.splits, &normal, first) {
            let mut rest = &*word;
            while !rest.is_empty() {
                let end = if rest.len() > WORD_BYTES_MAX {
                    rest.floor_char_boundary(WORD_BYTES_MAX)
                } else {
                    rest.len()
                };
                self.encode_word(&rest[..end], merger, ids);
                rest = &rest[end..];
            }
        }
    }

    fn encode_word(&self, word: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let pieces = &self.parts.pieces;
        match &self.model {
            Model::WordPiece(words) => words.encode(pieces, word, self.parts.unknown, ids),
            Model::Unigram(unigram) => {
                let mut start = 0;
                let mut unknown_before = false;
                for (end, id) in unigram.path(pieces, word) {
                    match id {
                        Some(id) => ids.push(id),
                        None => self.encode_unknown(&word[start..end], unknown_before, ids),
                    }
                    unknown_before = id.is_none();
                    start = end;
                }
            }
            Model::Ranks(_) | Model::Scores => {
                if self.parts.ignore_merges
                    && let Some(id) = self.lookup.find(pieces, word.as_bytes())
                {
                    ids.push(id);
                    return;
                }
                self.merge_word(word, merger, ids);
            }
        }
    }

    fn merge_word(&self, word: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let pieces = &self.parts.pieces;
        let bytes = word.as_bytes();
        merger.clear();
        if self.parts.kind == TokenizerKind::BytePair {
            for (index, byte) in bytes.iter().enumerate() {
                merger.push(index as u32 + 1, self.byte_ids[usize::from(*byte)].unwrap_or(NONE));
            }
        } else {
            for (start, character) in word.char_indices() {
                let end = start + character.len_utf8();
                let id = self.lookup.find(pieces, &bytes[start..end]).filter(|id| pieces.is_text(*id));
                merger.push(end as u32, id.unwrap_or(NONE));
            }
        }
        match &self.model {
            Model::Ranks(ranks) => merger.merge(|left, right| ranks.get(&(left.id, right.id)).copied()),
            _ => merger.merge(|left: &Symbol, right: &Symbol| {
                let id = self.lookup.find(pieces, &bytes[left.start as usize..right.end as usize])?;
                pieces.is_text(id).then(|| (descending(pieces.score(id)), id))
            }),
        }
        let mut unknown_before = false;
        for symbol in merger.symbols() {
            if symbol.id == NONE {
                self.encode_unknown(&word[symbol.start as usize..symbol.end as usize], unknown_before, ids);
            } else {
                ids.push(symbol.id);
            }
            unknown_before = symbol.id == NONE;
        }
    }

    /// Text that is no piece: its bytes, or the unknown token, or nothing.
    fn encode_unknown(&self, text: &str, unknown_before: bool, ids: &mut Vec<u32>) {
        if self.parts.byte_fallback && text.bytes().all(|byte| self.byte_ids[usize::from(byte)].is_some()) {
            ids.extend(text.bytes().filter_map(|byte| self.byte_ids[usize::from(byte)]));
        } else if !(unknown_before && self.parts.fuse_unknown) {
            ids.extend(self.parts.unknown);
        }
    }

    /// The text of some ids, control tokens written out. What is no UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.piece_bytes(*id)).collect();
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if self.parts.strips_leading_space && text.starts_with(' ') {
            text.remove(0);
        }
        text
    }

    /// The bytes that an id adds to a text.
    pub fn piece_bytes(&self, id: u32) -> Vec<u8> {
        let pieces = &self.parts.pieces;
        let bytes = pieces.bytes(id);
        match pieces.kind(id) {
            PieceKind::Byte => byte_of_piece(bytes).map_or(bytes.to_vec(), |byte| vec![byte]),
            PieceKind::Control | PieceKind::UserDefined if self.added.contains_key(&id) => bytes.to_vec(),
            _ if self.parts.kind == TokenizerKind::BytePair => bytes.to_vec(),
            _ => String::from_utf8_lossy(bytes).replace('▁', " ").into_bytes(),
        }
    }

    /// Whether an id steers the model and is no text.
    pub fn is_control(&self, id: u32) -> bool {
        self.parts.pieces.kind(id) == PieceKind::Control
    }

    /// The begin token.
    pub fn bos(&self) -> Option<u32> {
        self.parts.bos
    }

    /// The end token.
    pub fn eos(&self) -> Option<u32> {
        self.parts.eos
    }

    /// Whether the begin token belongs before a prompt.
    pub fn adds_bos(&self) -> bool {
        self.parts.add_bos
    }

    /// The id of a piece as it is spelled in text.
    pub fn id_of(&self, piece: &str) -> Option<u32> {
        self.lookup.find(&self.parts.pieces, piece.as_bytes())
    }

    /// The spelling of a piece.
    pub fn piece(&self, id: u32) -> String {
        self.parts.pieces.text(id)
    }

    /// How many ids there are.
    pub fn vocabulary(&self) -> usize {
        self.parts.pieces.len()
    }

    /// The spellings of all control tokens.
    pub fn control_pieces(&self) -> Vec<String> {
        let control = |token: &&AddedToken| self.is_control(token.id);
        self.parts.added.iter().filter(control).map(|token| self.piece(token.id)).collect()
    }
}

fn check_id(parts: &TokenizerParts, id: u32) -> Result<(), Error> {
    let count = parts.pieces.len();
    if id as usize >= count {
        return Err(Error::broken("tokenizer", format!("token {id} is beyond its {count} pieces")));
    }
    Ok(())
}

/// Whether no letter or digit touches a stretch of text.
fn stands_alone(text: &str, start: usize, length: usize) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    !text[..start].chars().next_back().is_some_and(is_word)
        && !text[start + length..].chars().next().is_some_and(is_word)
}

/// A score as a priority: the highest first.
fn descending(score: f32) -> u32 {
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 };
    !ascending
}

/// Finds the ids of every merge rule. A rule whose result is no piece can't be applied and is left out, as
/// the references do.
fn resolve_merges(parts: &TokenizerParts, lookup: &Lookup) -> Result<Ranks, Error> {
    let mut ranks = Ranks::with_capacity_and_hasher(parts.merges.len(), RandomState::default());
    let mut joined = String::new();
    for (rank, (left, right)) in parts.merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let find = |text: &str| lookup.find(&parts.pieces, text.as_bytes());
        if let (Some(left), Some(right), Some(merged)) = (find(left), find(right), find(&joined)) {
            ranks.entry((left, right)).or_insert((rank as u32, merged));
        }
    }
    Ok(ranks)
}

/// Replaces GPT-2's spelling of pieces by the bytes they stand for; added tokens are spelled as they are.
fn spell_in_bytes(parts: &mut TokenizerParts) -> Result<(), Error> {
    let table = byte_alphabet::table();
    let mut spelled = Pieces::new();
    for id in 0..parts.pieces.len() as u32 {
        let (kind, score) = (parts.pieces.kind(id), parts.pieces.score(id));
        let text = parts.pieces.text(id);
        let bytes = match kind {
            PieceKind::Control | PieceKind::UserDefined => text.into_bytes(),
            _ => byte_alphabet::bytes(&text, &table).unwrap_or_else(|| text.into_bytes()),
        };
        spelled.push(&bytes, score, kind)?;
    }
    parts.pieces = spelled;
    Ok(())
}

/// The byte of a piece spelled `<0xAB>`.
fn byte_of_piece(bytes: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

fn byte_piece_ids(pieces: &Pieces) -> Vec<Option<u32>> {
    let mut ids = vec![None; 256];
    for id in 0..pieces.len() as u32 {
        if pieces.kind(id) == PieceKind::Byte
            && let Some(byte) = byte_of_piece(pieces.bytes(id))
        {
            ids[usize::from(byte)].get_or_insert(id);
        }
    }
    ids
}
