//! Cutting text into words before pieces are sought, as GGUF names it or tokenizer.json spells it.
//!
//! Patterns come from model files, so a match may run out of steps. Then a fixed stretch is taken as a word
//! and the search goes on behind it: a wrong cut changes ids, never safety, and the pattern that causes it is
//! the model's own.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use fancy_regex::{Regex, RegexBuilder};

use crate::error::Error;
use crate::limits::{
    SPLIT_BACKTRACK_STEPS_MAX, SPLIT_FAILURES_MAX, SPLIT_FALLBACK_BYTES, SPLIT_PATTERN_BYTES_MAX,
};

/// What becomes of the stretches that a pattern matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behavior {
    /// They are dropped.
    Removed,
    /// Each is a word.
    Isolated,
    /// Each ends the word before it.
    MergedWithPrevious,
    /// Each begins the word after it.
    MergedWithNext,
    /// Neighbouring ones are one word.
    Contiguous,
}

/// Where `▁` is put before a word that doesn't begin with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prefix {
    /// Before every word.
    Always,
    /// Before the first word of the text.
    First,
    /// Nowhere.
    Never,
}

/// One step of the split; each is done to every word that the step before it left.
#[derive(Clone, Debug)]
pub enum SplitStep {
    /// Cuts where a pattern matches, or with `invert` where it doesn't.
    Pattern {
        /// The pattern.
        pattern: Regex,
        /// What becomes of matches.
        behavior: Behavior,
        /// Takes what lies between matches for the matches.
        invert: bool,
    },
    /// Puts a space before a word that begins with none.
    SpacePrefix,
    /// Writes spaces as `▁` and cuts before each.
    Metaspace {
        /// What stands for a space.
        replacement: char,
        /// Where it is put before a word.
        prefix: Prefix,
        /// Whether to cut.
        split: bool,
    },
}

/// Compiles a pattern of a model file with bounds on its size and its steps.
pub fn compile(pattern: &str) -> Result<Regex, Error> {
    let length = pattern.len();
    if length > SPLIT_PATTERN_BYTES_MAX {
        let limit = SPLIT_PATTERN_BYTES_MAX;
        return Err(Error::broken(
            "tokenizer",
            format!("a split pattern has {length} bytes; the limit is {limit}"),
        ));
    }
    RegexBuilder::new(pattern).backtrack_limit(SPLIT_BACKTRACK_STEPS_MAX).build().map_err(|error| {
        let shown: String = pattern.chars().take(80).collect();
        Error::unsupported(format!("the tokenizer's split pattern \"{shown}\" can't be compiled: {error}"))
    })
}

impl SplitStep {
    /// Each match of `pattern` is a word, and so is each stretch between matches.
    pub fn isolated(pattern: &str) -> Result<SplitStep, Error> {
        SplitStep::pattern(pattern, Behavior::Isolated, false)
    }

    /// A [`SplitStep::Pattern`].
    pub fn pattern(pattern: &str, behavior: Behavior, invert: bool) -> Result<SplitStep, Error> {
        Ok(SplitStep::Pattern { pattern: compile(pattern)?, behavior, invert })
    }

    // `first` says that `word` begins the whole text.
    fn apply<'a>(&self, word: Cow<'a, str>, first: bool, words: &mut Vec<Cow<'a, str>>) {
        match self {
            SplitStep::Pattern { pattern, behavior, invert } => {
                let ranges = cut(&word, pattern, *behavior, *invert);
                match word {
                    Cow::Borrowed(word) => {
                        words.extend(ranges.into_iter().map(|range| Cow::from(&word[range])))
                    }
                    Cow::Owned(word) => {
                        words.extend(ranges.into_iter().map(|range| Cow::from(word[range].to_owned())));
                    }
                }
            }
            SplitStep::SpacePrefix if word.starts_with(' ') => words.push(word),
            SplitStep::SpacePrefix => words.push(format!(" {word}").into()),
            SplitStep::Metaspace { replacement, prefix, split } => {
                let mut replaced = word.replace(' ', replacement.encode_utf8(&mut [0; 4]));
                let wanted = *prefix == Prefix::Always || (*prefix == Prefix::First && first);
                if wanted && !replaced.starts_with(*replacement) {
                    replaced.insert(0, *replacement);
                }
                if !split {
                    words.push(replaced.into());
                    return;
                }
                let mut start = 0;
                for (end, _) in replaced.match_indices(*replacement).filter(|(end, _)| *end > 0) {
                    words.push(replaced[start..end].to_owned().into());
                    start = end;
                }
                words.push(replaced[start..].to_owned().into());
            }
        }
    }
}

/// The words of a text: all steps, one after the other. `first` says that `text` begins the whole text.
pub fn words<'a>(steps: &[SplitStep], text: &'a str, first: bool) -> Vec<Cow<'a, str>> {
    let mut words = vec![Cow::from(text)];
    for step in steps {
        let mut next = Vec::with_capacity(words.len());
        for (index, word) in words.into_iter().enumerate() {
            step.apply(word, first && index == 0, &mut next);
        }
        words = next;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// All matches of a pattern, from the left, without overlap and without empty ones.
pub fn matches(pattern: &Regex, text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut position = 0;
    let mut failures = 0;
    while position < text.len() {
        match pattern.find_from_pos(text, position) {
            Ok(Some(matched)) if matched.end() > matched.start() => {
                found.push(matched.range());
                position = matched.end();
            }
            Ok(Some(matched)) => {
                let after = &text[matched.end()..];
                position = matched.end() + after.chars().next().map_or(1, char::len_utf8);
            }
            Ok(None) => break,
            Err(_) => {
                failures += 1;
                while position < text.len() {
                    let end = text.floor_char_boundary(position + SPLIT_FALLBACK_BYTES);
                    found.push(position..end);
                    position = end;
                    if failures < SPLIT_FAILURES_MAX {
                        break;
                    }
                }
            }
        }
    }
    found
}

fn cut(text: &str, pattern: &Regex, behavior: Behavior, invert: bool) -> Vec<Range<usize>> {
    let mut parts: Vec<(Range<usize>, bool)> = Vec::new();
    let mut end = 0;
    for found in matches(pattern, text) {
        if found.start > end {
            parts.push((end..found.start, invert));
        }
        end = found.end;
        parts.push((found, !invert));
    }
    if end < text.len() {
        parts.push((end..text.len(), invert));
    }
    match behavior {
        Behavior::Isolated => parts.into_iter().map(|(range, _)| range).collect(),
        Behavior::Removed => parts.into_iter().filter(|(_, hit)| !hit).map(|(range, _)| range).collect(),
        Behavior::Contiguous => join(parts, |before, hit| before == hit),
        Behavior::MergedWithPrevious => join(parts, |before, hit| hit && !before),
        Behavior::MergedWithNext => join(parts, |before, hit| before && !hit),
    }
}

// Joins a part to the one before it where `joined(was the part before a match, is this one)`.
fn join(parts: Vec<(Range<usize>, bool)>, joined: impl Fn(bool, bool) -> bool) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(parts.len());
    let mut before = None;
    for (range, hit) in parts {
        match (ranges.last_mut(), before) {
            (Some(last), Some(before)) if joined(before, hit) => last.end = range.end,
            _ => ranges.push(range),
        }
        before = Some(hit);
    }
    ranges
}

/// The split of GPT-2; also what "ByteLevel" of tokenizer.json means.
pub const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const QWEN_2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const GPT_4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t",
    r"|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t",
    r"|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Names that [`named`] knows, one of each kind.
pub const NAMES: &str = "default, gpt-2, llama-bpe, qwen2, smollm, falcon, tekken, gpt-4o";

/// The split that GGUF calls `name` (`tokenizer.ggml.pre`), as patterns to apply in order.
pub fn named(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "default" => &[r"[\p{P}$+<=>^~|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"],
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "roberta-bpe" => &[GPT_2],
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "dbrx" | "smaug-bpe" => &[LLAMA_3],
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "hunyuan" | "megrez" => &[QWEN_2],
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" => &[r"\p{N}", GPT_2],
        "falcon" => &[r"[\p{P}$+<=>^~|`]+", GPT_2, "[0-9][0-9][0-9]"],
        "tekken" => &[TEKKEN],
        "gpt-4o" | "llama4" => &[GPT_4O],
        _ => return None,
    })
}

/// Whether a vocabulary with the split `name` takes words that are pieces without merging, as Llama 3's does.
pub fn ignores_merges(name: &str) -> bool {
    matches!(name, "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "tekken")
}

/// Whether a character is a mark without a width of its own (Unicode category Mn).
pub fn is_nonspacing_mark(character: char) -> bool {
    static MARK: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\p{Mn}").ok());
    let mut buffer = [0; 4];
    MARK.as_ref().is_some_and(|mark| mark.is_match(&*character.encode_utf8(&mut buffer)).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(steps: &[SplitStep], text: &str) -> Vec<String> {
        words(steps, text, true).into_iter().map(Cow::into_owned).collect()
    }

    fn split_as(name: &str, text: &str) -> Vec<String> {
        let patterns = named(name).expect("a known name");
        let steps: Vec<_> =
            patterns.iter().map(|pattern| SplitStep::isolated(pattern).expect("compiles")).collect();
        split(&steps, text)
    }

    #[test]
    fn named_splits_differ_where_they_should() {
        assert_eq!(split_as("gpt-2", "it's 1234 ok"), ["it", "'s", " 1234", " ok"]);
        assert_eq!(split_as("llama-bpe", "it'S 1234 ok"), ["it", "'S", " ", "123", "4", " ok"]);
        assert_eq!(split_as("qwen2", "a 12\n\n b"), ["a", " ", "1", "2", "\n\n", " b"]);
        assert_eq!(split_as("smollm", "a 12"), ["a", " ", "1", "2"]);
        assert_eq!(split_as("falcon", "a(1234)"), ["a", "(", "123", "4", ")"]);
        assert_eq!(split_as("tekken", "HelloWorld 12"), ["Hello", "World", " ", "1", "2"]);
        assert_eq!(split_as("gpt-4o", "don't 1234"), ["don't", " ", "123", "4"]);
        assert!(named("unheard-of").is_none());
    }

    #[test]
    fn words_together_are_the_text() {
        let text = "  Hello,\tworld!\r\n\n 12345  ½ 你好😀 don't  ";
        for name in NAMES.split(", ") {
            assert_eq!(split_as(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn behaviors_do_as_they_are_called() {
        let by = |behavior, invert| {
            split(&[SplitStep::pattern("-", behavior, invert).expect("compiles")], "a--b-c")
        };
        assert_eq!(by(Behavior::Removed, false), ["a", "b", "c"]);
        assert_eq!(by(Behavior::Removed, true), ["-", "-", "-"]);
        assert_eq!(by(Behavior::Isolated, false), ["a", "-", "-", "b", "-", "c"]);
        assert_eq!(by(Behavior::MergedWithPrevious, false), ["a-", "-", "b-", "c"]);
        assert_eq!(by(Behavior::MergedWithNext, false), ["a", "-", "-b", "-c"]);
        assert_eq!(by(Behavior::Contiguous, false), ["a", "--", "b", "-", "c"]);
    }

    #[test]
    fn metaspace_prefixes_and_cuts() {
        let step = |prefix, split| [SplitStep::Metaspace { replacement: '▁', prefix, split }];
        assert_eq!(split(&step(Prefix::Always, true), "a b"), ["▁a", "▁b"]);
        assert_eq!(split(&step(Prefix::First, false), "a b"), ["▁a▁b"]);
        assert_eq!(split(&step(Prefix::Never, true), "a  b"), ["a", "▁", "▁b"]);
        assert_eq!(words(&step(Prefix::First, true), "a b", false), ["a", "▁b"]);
    }

    #[test]
    fn a_pattern_that_runs_out_of_steps_cuts_fixed_stretches_and_loses_nothing() {
        let steps = [SplitStep::isolated(r"(?=(x+x+)+y)z").expect("compiles")];
        let text = "x".repeat(20_000);
        let words = split(&steps, &text);
        assert_eq!(words.concat(), text);
    }

    #[test]
    fn a_pattern_that_is_none_is_refused_with_a_sentence() {
        let error = compile("(").expect_err("unbalanced").to_string();
        assert!(error.contains("split pattern \"(\""), "{error}");
        assert!(compile(&"a".repeat(SPLIT_PATTERN_BYTES_MAX + 1)).is_err());
    }
}
