//! The pieces of a vocabulary: one arena of bytes, and a table from bytes to ids.
//!
//! A vocabulary of 128,000 pieces as separate strings costs an allocation and 24 bytes a piece, twice with a
//! map of owned keys. Here the bytes lie end to end and the table holds ids only.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::error::Error;
use crate::limits::{PIECE_BYTES_MAX, VOCABULARY_BYTES_MAX, VOCABULARY_PIECES_MAX};

/// What a piece is for; the numbers are those of GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PieceKind {
    /// Ordinary text.
    Normal = 1,
    /// Stands for text that the vocabulary can't express.
    Unknown = 2,
    /// Steers the model (begin, end, roles): never made from a user's text.
    Control = 3,
    /// Added beside the trained vocabulary: matched in the text before it is split.
    UserDefined = 4,
    /// A place that is kept free.
    Unused = 5,
    /// One byte, written `<0xAB>`: what text falls back to.
    Byte = 6,
}

impl PieceKind {
    /// The kind that GGUF's number means.
    pub fn from_gguf(number: u32) -> Option<PieceKind> {
        Some(match number {
            1 => PieceKind::Normal,
            2 => PieceKind::Unknown,
            3 => PieceKind::Control,
            4 => PieceKind::UserDefined,
            5 => PieceKind::Unused,
            6 => PieceKind::Byte,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    length: u32,
}

/// Pieces by id: bytes, score and kind.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    arena: Vec<u8>,
    spans: Vec<Span>,
    scores: Vec<f32>,
    kinds: Vec<PieceKind>,
}

impl Pieces {
    /// No pieces.
    pub fn new() -> Pieces {
        Pieces::default()
    }

    /// How many ids there are; ids run from 0.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Appends a piece under the next id. Refuses what [`crate::limits`] forbids.
    pub fn push(&mut self, bytes: &[u8], score: f32, kind: PieceKind) -> Result<(), Error> {
        self.set(self.len() as u64, bytes, score, kind)
    }

    /// Gives `id` these bytes; ids skipped before it become unused empty pieces.
    pub fn set(&mut self, id: u64, bytes: &[u8], score: f32, kind: PieceKind) -> Result<(), Error> {
        let broken = |what: String| Err(Error::broken("tokenizer", what));
        if id >= VOCABULARY_PIECES_MAX as u64 {
            return broken(format!("piece id {id} is beyond the limit of {VOCABULARY_PIECES_MAX} pieces"));
        }
        if bytes.len() > PIECE_BYTES_MAX {
            let length = bytes.len();
            return broken(format!("piece {id} has {length} bytes; the limit is {PIECE_BYTES_MAX}"));
        }
        if self.arena.len() + bytes.len() > VOCABULARY_BYTES_MAX {
            return broken(format!("the pieces together exceed {VOCABULARY_BYTES_MAX} bytes"));
        }
        let id = id as usize;
        if id >= self.spans.len() {
            self.spans.resize(id + 1, Span::default());
            self.scores.resize(id + 1, 0.0);
            self.kinds.resize(id + 1, PieceKind::Unused);
        }
        self.spans[id] = Span { start: self.arena.len() as u32, length: bytes.len() as u32 };
        self.arena.extend_from_slice(bytes);
        self.scores[id] = score;
        self.kinds[id] = kind;
        Ok(())
    }

    /// The bytes of `id`, none for an id beyond the vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        match self.spans.get(id as usize) {
            Some(span) => &self.arena[span.start as usize..][..span.length as usize],
            None => &[],
        }
    }

    /// The text of `id`, as far as it is UTF-8.
    pub fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.bytes(id)).into_owned()
    }

    /// The score of `id` (log probability, or minus its merge rank), 0 if the file has none.
    pub fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// The kind of `id`; ids beyond the vocabulary are unused.
    pub fn kind(&self, id: u32) -> PieceKind {
        self.kinds.get(id as usize).copied().unwrap_or(PieceKind::Unused)
    }

    /// Makes `id` another kind; ids beyond the vocabulary are left alone.
    pub fn set_kind(&mut self, id: u32, kind: PieceKind) {
        if let Some(place) = self.kinds.get_mut(id as usize) {
            *place = kind;
        }
    }

    /// Whether text may become this piece: control, unknown and byte pieces are not made from their own
    /// spelling.
    pub fn is_text(&self, id: u32) -> bool {
        matches!(self.kind(id), PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused)
    }
}

const EMPTY: u32 = u32::MAX;

/// From bytes to the lowest id that has them: open addressing over ids, without keys of its own.
#[derive(Debug)]
pub struct Lookup {
    slots: Vec<u32>,
    hasher: RandomState,
}

impl Lookup {
    /// A table of all pieces that have bytes. Of equal pieces those that text may become come first, then the
    /// lowest id.
    pub fn new(pieces: &Pieces) -> Lookup {
        let slots = (pieces.len() * 2).max(8).next_power_of_two();
        let mut lookup = Lookup { slots: vec![EMPTY; slots], hasher: RandomState::default() };
        for text in [true, false] {
            for id in 0..pieces.len() as u32 {
                let bytes = pieces.bytes(id);
                if bytes.is_empty() || pieces.is_text(id) != text {
                    continue;
                }
                let slot = lookup.slot(pieces, bytes);
                if lookup.slots[slot] == EMPTY {
                    lookup.slots[slot] = id;
                }
            }
        }
        lookup
    }

    // Where `bytes` are, or the empty slot where they would be. The table is at most half full, so the walk
    // ends.
    fn slot(&self, pieces: &Pieces, bytes: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(bytes) as usize & mask;
        while self.slots[slot] != EMPTY && pieces.bytes(self.slots[slot]) != bytes {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The id of these bytes.
    pub fn find(&self, pieces: &Pieces, bytes: &[u8]) -> Option<u32> {
        let id = self.slots[self.slot(pieces, bytes)];
        (id != EMPTY).then_some(id)
    }
}

/// Ids in the order of their bytes, to find all pieces that a text begins with.
#[derive(Debug, Default)]
pub struct PrefixIndex {
    sorted: Vec<u32>,
}

impl PrefixIndex {
    /// An index of `ids`; pieces without bytes are left out.
    pub fn new(pieces: &Pieces, ids: impl Iterator<Item = u32>) -> PrefixIndex {
        let mut sorted: Vec<u32> = ids.filter(|id| !pieces.bytes(*id).is_empty()).collect();
        sorted.sort_by(|a, b| pieces.bytes(*a).cmp(pieces.bytes(*b)).then(a.cmp(b)));
        sorted.dedup_by(|later, earlier| pieces.bytes(*later) == pieces.bytes(*earlier));
        PrefixIndex { sorted }
    }

    /// Whether it has no pieces.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// Calls `found(length in bytes, id)` for every piece that `text` begins with, the shortest first.
    pub fn prefixes_of(&self, pieces: &Pieces, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut range = &self.sorted[..];
        for (index, byte) in text.iter().enumerate() {
            // All pieces of the range are equal up to `index`; those that end here come first.
            let key = |id: &u32| pieces.bytes(*id).get(index).copied();
            let first = range.partition_point(|id| key(id) < Some(*byte));
            let end = first + range[first..].partition_point(|id| key(id) == Some(*byte));
            range = &range[first..end];
            match range.first() {
                None => return,
                Some(id) if pieces.bytes(*id).len() == index + 1 => found(index + 1, *id),
                Some(_) => {}
            }
        }
    }
}

/// GPT-2's alphabet: each byte as a printable character, so that pieces of bytes can be written as text.
pub mod byte_alphabet {
    fn is_itself(byte: u8) -> bool {
        matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
    }

    /// The byte that a character of the alphabet stands for.
    pub fn byte(character: char) -> Option<u8> {
        let code = u32::from(character);
        if code < 256 {
            return Some(code as u8).filter(|byte| is_itself(*byte));
        }
        // The 68 others follow in order from U+0100.
        (0..=255).filter(|byte| !is_itself(*byte)).nth((code - 256) as usize)
    }

    /// The bytes of a piece, or None if a character is not of the alphabet.
    pub fn bytes(text: &str, table: &[u16; 512]) -> Option<Vec<u8>> {
        text.chars()
            .map(|character| match table.get(u32::from(character) as usize) {
                Some(byte) if *byte < 256 => Some(*byte as u8),
                _ => None,
            })
            .collect()
    }

    /// The alphabet as a table from code point to byte; 256 and above where there is none.
    pub fn table() -> [u16; 512] {
        let mut table = [u16::MAX; 512];
        for (code, place) in table.iter_mut().enumerate() {
            if let Some(byte) = char::from_u32(code as u32).and_then(byte) {
                *place = u16::from(byte);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(texts: &[&str]) -> Pieces {
        let mut pieces = Pieces::new();
        for text in texts {
            pieces.push(text.as_bytes(), 0.0, PieceKind::Normal).expect("within the limits");
        }
        pieces
    }

    #[test]
    fn the_lowest_of_equal_pieces_is_found_and_an_absent_one_is_not() {
        let pieces = pieces(&["a", "b", "a", "", "ab"]);
        let lookup = Lookup::new(&pieces);
        assert_eq!(lookup.find(&pieces, b"a"), Some(0));
        assert_eq!(lookup.find(&pieces, b"ab"), Some(4));
        assert_eq!(lookup.find(&pieces, b"abc"), None);
        assert_eq!(lookup.find(&pieces, b""), None);
    }

    #[test]
    fn prefixes_are_found_from_the_shortest() {
        let pieces = pieces(&["abc", "b", "a", "ab", "abd"]);
        let index = PrefixIndex::new(&pieces, 0..5);
        let mut found = Vec::new();
        index.prefixes_of(&pieces, b"abcd", |length, id| found.push((length, id)));
        assert_eq!(found, [(1, 2), (2, 3), (3, 0)]);
    }

    #[test]
    fn the_alphabet_holds_every_byte_once() {
        let table = byte_alphabet::table();
        let mut bytes: Vec<u16> = table.iter().copied().filter(|byte| *byte < 256).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..256).collect::<Vec<u16>>());
        assert_eq!(byte_alphabet::bytes("Ġa", &table), Some(b" a".to_vec()));
        assert_eq!(byte_alphabet::bytes("▁a", &table), None);
    }

    #[test]
    fn a_piece_beyond_the_limits_is_refused() {
        let mut pieces = Pieces::new();
        assert!(pieces.push(&vec![b'a'; PIECE_BYTES_MAX], 0.0, PieceKind::Normal).is_ok());
        assert!(pieces.push(&vec![b'a'; PIECE_BYTES_MAX + 1], 0.0, PieceKind::Normal).is_err());
        assert!(pieces.set(VOCABULARY_PIECES_MAX as u64, b"a", 0.0, PieceKind::Normal).is_err());
    }
}
