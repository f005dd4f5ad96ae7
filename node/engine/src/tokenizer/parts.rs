//! What a model file says about its tokenizer, in one form for both kinds of files.
//!
//! GGUF names things ("llama", "qwen2"), a tokenizer.json spells them out step by step; both are brought to
//! the steps below before a [`super::Tokenizer`] is built.

use crate::error::Error;
use crate::limits::{MERGES_MAX, PIECE_BYTES_MAX, VOCABULARY_BYTES_MAX};

use super::normalize::Normalizer;
use super::split::SplitStep;
use super::vocabulary::Pieces;

/// How text becomes pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenizerKind {
    /// Characters merged by score or by rank, bytes as a fallback: Llama 2, Mistral, Gemma, Phi-3.
    SentencePiece,
    /// The likeliest path through the vocabulary (Kudo, 2018).
    Unigram,
    /// Bytes merged by rank: GPT-2, Llama 3, Qwen.
    BytePair,
    /// Longest match from the left, word by word: BERT. Pieces that begin a word carry `▁`.
    WordPiece,
}

/// A token that is matched in the text before it is split. Its id's kind tells whether it is a control token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AddedToken {
    /// The piece.
    pub id: u32,
    /// Takes the white space before it.
    pub strip_left: bool,
    /// Takes the white space after it.
    pub strip_right: bool,
    /// Matches only where no word character touches it.
    pub single_word: bool,
}

/// Merge rules in order of rank, in one arena.
#[derive(Clone, Debug, Default)]
pub struct Merges {
    arena: String,
    // End of the left side, end of the right side.
    ends: Vec<(u32, u32)>,
}

impl Merges {
    /// No rules.
    pub fn new() -> Merges {
        Merges::default()
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends the rule of the next rank. Refuses empty sides and what [`crate::limits`] forbids.
    pub fn push(&mut self, left: &str, right: &str) -> Result<(), Error> {
        let rank = self.len();
        let broken = |what: String| Err(Error::broken("tokenizer", what));
        if rank >= MERGES_MAX {
            return broken(format!("more merge rules than the limit of {MERGES_MAX}"));
        }
        let bytes = left.len() + right.len();
        if left.is_empty() || right.is_empty() || bytes > PIECE_BYTES_MAX {
            return broken(format!(
                "merge rule {rank} has sides of {} and {} bytes; each needs one, \
                 both at most {PIECE_BYTES_MAX}",
                left.len(),
                right.len()
            ));
        }
        if self.arena.len() + bytes > VOCABULARY_BYTES_MAX {
            return broken(format!("the merge rules together exceed {VOCABULARY_BYTES_MAX} bytes"));
        }
        self.arena.push_str(left);
        let middle = self.arena.len() as u32;
        self.arena.push_str(right);
        self.ends.push((middle, self.arena.len() as u32));
        Ok(())
    }

    /// Appends a rule written as GGUF does: both sides with a space between.
    pub fn push_pair(&mut self, rule: &str) -> Result<(), Error> {
        // A side may begin with a space only if it is nothing else, so the search starts behind the first
        // character.
        let first = rule.chars().next().map_or(0, char::len_utf8);
        match rule[first..].find(' ') {
            Some(middle) => self.push(&rule[..first + middle], &rule[first + middle + 1..]),
            None => {
                let (rank, shown) = (self.len(), rule.chars().take(40).collect::<String>());
                Err(Error::broken("tokenizer", format!("merge rule {rank} (\"{shown}\") has no space in it")))
            }
        }
    }

    /// The rules as (left, right), best first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |(middle, end)| {
            let (left, right) = (start as usize, *middle as usize);
            start = *end;
            (&self.arena[left..right], &self.arena[right..*end as usize])
        })
    }
}

/// Everything a [`super::Tokenizer`] is built from.
#[derive(Clone, Debug)]
pub struct TokenizerParts {
    /// How text becomes pieces.
    pub kind: TokenizerKind,
    /// Pieces as the file stores them; byte-level ones in GPT-2's alphabet.
    pub pieces: Pieces,
    /// Merge rules. SentencePiece without rules merges by score.
    pub merges: Merges,
    /// Tokens matched before anything else.
    pub added: Vec<AddedToken>,
    /// Steps done to the text between added tokens.
    pub normalizers: Vec<Normalizer>,
    /// Steps that cut it into words.
    pub splits: Vec<SplitStep>,
    /// The begin token.
    pub bos: Option<u32>,
    /// The end token.
    pub eos: Option<u32>,
    /// What stands for text that can't be expressed.
    pub unknown: Option<u32>,
    /// Whether the begin token belongs before a prompt.
    pub add_bos: bool,
    /// Whether the end token belongs after a text (encoders).
    pub add_eos: bool,
    /// Whether a word that is a piece is taken without merging.
    pub ignore_merges: bool,
    /// Whether neighbouring unknown tokens are one.
    pub fuse_unknown: bool,
    /// Whether text that is no piece is spelled in byte pieces.
    pub byte_fallback: bool,
    /// Whether decoding drops the first space, which encoding had put there.
    pub strips_leading_space: bool,
}

impl TokenizerParts {
    /// Parts of this kind without pieces, steps or special tokens.
    pub fn new(kind: TokenizerKind) -> TokenizerParts {
        TokenizerParts {
            kind,
            pieces: Pieces::new(),
            merges: Merges::new(),
            added: Vec::new(),
            normalizers: Vec::new(),
            splits: Vec::new(),
            bos: None,
            eos: None,
            unknown: None,
            add_bos: false,
            add_eos: false,
            ignore_merges: false,
            fuse_unknown: true,
            byte_fallback: false,
            strips_leading_space: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_rules_keep_their_sides() {
        let mut merges = Merges::new();
        for rule in ["a b", "Ġ t", "  b", "ab c"] {
            merges.push_pair(rule).expect("a rule");
        }
        let rules: Vec<_> = merges.iter().collect();
        assert_eq!(rules, [("a", "b"), ("Ġ", "t"), (" ", "b"), ("ab", "c")]);
    }

    #[test]
    fn a_merge_rule_without_two_sides_is_refused_with_its_rank() {
        let mut merges = Merges::new();
        merges.push_pair("a b").expect("a rule");
        for rule in ["", "ab", "a "] {
            let error = merges.push_pair(rule).expect_err("one side only").to_string();
            assert!(error.contains("merge rule 1"), "{error}");
        }
    }
}
