//! Unigram: of all ways to write a text in pieces, the one with the highest sum of scores.
//!
//! Kudo, "Subword Regularization" (2018): a Viterbi walk over the text, one state a character border.

use super::vocabulary::{Pieces, PrefixIndex};

/// What a character that is no piece costs beyond the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The pieces' index and the score of what is unknown.
#[derive(Debug)]
pub struct Unigram {
    index: PrefixIndex,
    unknown_score: f32,
}

/// A stretch of a text: its end in bytes, and its piece unless it is an unknown character.
pub type Step = (usize, Option<u32>);

impl Unigram {
    /// Indexes the pieces that text may become.
    pub fn new(pieces: &Pieces) -> Unigram {
        let ids = (0..pieces.len() as u32).filter(|id| pieces.is_text(*id));
        let worst = ids.clone().map(|id| pieces.score(id)).fold(0.0, f32::min);
        Unigram { index: PrefixIndex::new(pieces, ids), unknown_score: worst - UNKNOWN_PENALTY }
    }

    /// The best path through `text`, from its beginning.
    pub fn path(&self, pieces: &Pieces, text: &str) -> Vec<Step> {
        // best[i]: score of the best path to byte i, where its last step began, and its piece.
        let mut best: Vec<Option<(f32, usize, Option<u32>)>> = vec![None; text.len() + 1];
        best[0] = Some((0.0, 0, None));
        for (start, character) in text.char_indices() {
            let Some((score, ..)) = best[start] else { continue };
            let mut offer = |end: usize, score: f32, id: Option<u32>| {
                if best[end].is_none_or(|(before, ..)| score > before) {
                    best[end] = Some((score, start, id));
                }
            };
            let width = character.len_utf8();
            let mut has_character = false;
            self.index.prefixes_of(pieces, &text.as_bytes()[start..], |length, id| {
                has_character |= length == width;
                if text.is_char_boundary(start + length) {
                    offer(start + length, score + pieces.score(id), Some(id));
                }
            });
            if !has_character {
                offer(start + width, score + self.unknown_score, None);
            }
        }
        let mut path = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Some((_, start, id)) = best[end] else { break };
            path.push((end, id));
            end = start;
        }
        path.reverse();
        path
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::PieceKind;
    use super::*;

    #[test]
    fn the_likeliest_path_wins_over_the_longest_piece() {
        let mut pieces = Pieces::new();
        for (text, score) in
            [("a", -1.0), ("b", -1.0), ("ab", -3.0), ("abc", -9.0), ("bc", -1.5), ("c", -4.0)]
        {
            pieces.push(text.as_bytes(), score, PieceKind::Normal).expect("within the limits");
        }
        let unigram = Unigram::new(&pieces);
        assert_eq!(unigram.path(&pieces, "ab"), [(1, Some(0)), (2, Some(1))]);
        assert_eq!(unigram.path(&pieces, "abc"), [(1, Some(0)), (3, Some(4))]);
        assert_eq!(unigram.path(&pieces, "aéb"), [(1, Some(0)), (3, None), (4, Some(1))]);
        assert_eq!(unigram.path(&pieces, ""), []);
    }
}
