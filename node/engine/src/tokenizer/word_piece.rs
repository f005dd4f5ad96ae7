//! WordPiece: from the left, always the longest piece that fits; a word that can't be finished is unknown.
//!
//! Pieces that begin a word carry `▁` and those inside one carry nothing, which is how GGUF stores BERT's.

use crate::limits::WORD_PIECE_CHARACTERS_MAX;

use super::vocabulary::{Pieces, PrefixIndex};

/// The pieces' index.
#[derive(Debug)]
pub struct WordPiece {
    index: PrefixIndex,
}

impl WordPiece {
    /// Indexes the pieces that text may become.
    pub fn new(pieces: &Pieces) -> WordPiece {
        let ids = (0..pieces.len() as u32).filter(|id| pieces.is_text(*id));
        WordPiece { index: PrefixIndex::new(pieces, ids) }
    }

    /// Appends the pieces of one word, or `unknown` (if there is one) for all of it.
    pub fn encode(&self, pieces: &Pieces, word: &str, unknown: Option<u32>, ids: &mut Vec<u32>) {
        let before = ids.len();
        let marked = format!("▁{word}");
        let mut start = 0;
        while start < marked.len() && word.chars().nth(WORD_PIECE_CHARACTERS_MAX).is_none() {
            let mut longest = None;
            self.index.prefixes_of(pieces, &marked.as_bytes()[start..], |length, id| {
                longest = Some((length, id)).filter(|_| marked.is_char_boundary(start + length)).or(longest);
            });
            // The mark alone is no piece of a word.
            let Some((length, id)) = longest.filter(|(length, _)| start > 0 || *length > '▁'.len_utf8())
            else {
                break;
            };
            ids.push(id);
            start += length;
        }
        if start < marked.len() {
            ids.truncate(before);
            ids.extend(unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::PieceKind;
    use super::*;

    #[test]
    fn the_longest_piece_is_taken_and_an_unfinished_word_is_unknown() {
        let mut pieces = Pieces::new();
        for text in ["▁un", "aff", "able", "▁unaff", "▁"] {
            pieces.push(text.as_bytes(), 0.0, PieceKind::Normal).expect("within the limits");
        }
        let word_piece = WordPiece::new(&pieces);
        let encode = |word: &str| {
            let mut ids = Vec::new();
            word_piece.encode(&pieces, word, Some(9), &mut ids);
            ids
        };
        assert_eq!(encode("unaffable"), [3, 2]);
        assert_eq!(encode("unable"), [0, 2]);
        assert_eq!(encode("unx"), [9]);
        assert_eq!(encode("able"), [9]);
        assert_eq!(encode(&"un".repeat(51)), [9]);
    }
}
