//! What is done to text before it is split: Unicode forms, case, accents, replacements.
//!
//! The steps are those of Hugging Face's tokenizer.json; GGUF's kinds are expressed by the same ones.

use std::borrow::Cow;

use fancy_regex::Regex;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// One step.
#[derive(Clone, Debug)]
pub enum Normalizer {
    /// Canonical composition.
    Nfc,
    /// Canonical decomposition.
    Nfd,
    /// Compatibility composition.
    Nfkc,
    /// Compatibility decomposition.
    Nfkd,
    /// Lower case, character by character.
    Lowercase,
    /// Drops combining marks; decompose first.
    StripAccents,
    /// Drops white space at the ends.
    Strip {
        /// At the beginning.
        left: bool,
        /// At the end.
        right: bool,
    },
    /// Puts this before any text that is not empty.
    Prepend(String),
    /// Puts `with` where `find` is.
    Replace {
        /// The text sought.
        find: String,
        /// Its replacement.
        with: String,
    },
    /// Puts `with` where `find` matches.
    ReplacePattern {
        /// The pattern.
        find: Regex,
        /// Its replacement, literally.
        with: String,
    },
    /// BERT's steps.
    Bert {
        /// Drops control characters; all white space becomes a space.
        clean: bool,
        /// Puts spaces around Chinese characters.
        space_chinese: bool,
        /// Decomposes and drops combining marks.
        strip_accents: bool,
        /// Lower case.
        lowercase: bool,
    },
}

impl Normalizer {
    /// Does the step.
    pub fn apply<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        match self {
            // Text in ASCII is in every form already.
            Normalizer::Nfc | Normalizer::Nfd | Normalizer::Nfkc | Normalizer::Nfkd if text.is_ascii() => {
                text
            }
            Normalizer::Nfc => text.nfc().collect::<String>().into(),
            Normalizer::Nfd => text.nfd().collect::<String>().into(),
            Normalizer::Nfkc => text.nfkc().collect::<String>().into(),
            Normalizer::Nfkd => text.nfkd().collect::<String>().into(),
            Normalizer::Lowercase => lowercase(&text).into(),
            Normalizer::StripAccents => strip_accents(text.chars()).into(),
            Normalizer::Strip { left, right } => {
                let mut kept = &*text;
                kept = if *left { kept.trim_start() } else { kept };
                kept = if *right { kept.trim_end() } else { kept };
                kept.to_owned().into()
            }
            Normalizer::Prepend(prefix) if !text.is_empty() => format!("{prefix}{text}").into(),
            Normalizer::Prepend(_) => text,
            Normalizer::Replace { find, .. } if !text.contains(find.as_str()) => text,
            Normalizer::Replace { find, with } => text.replace(find.as_str(), with).into(),
            Normalizer::ReplacePattern { find, with } => replace_pattern(find, with, &text).into(),
            Normalizer::Bert { clean, space_chinese, strip_accents: strip, lowercase: lower } => {
                let mut text = if *clean { clean_text(&text) } else { text.into_owned() };
                if *space_chinese {
                    text = space_chinese_characters(&text);
                }
                if *strip {
                    text = strip_accents(text.nfd());
                }
                if *lower {
                    text = lowercase(&text);
                }
                text.into()
            }
        }
    }
}

// Character by character, as the references do: no final sigma, no locale.
fn lowercase(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

// Mn, Mc and Me; the references drop Mn only. Mc and Me are kept by asking for a class that both crates know:
// every Mn character has a width of none, but that table is not here, so the regular expression engine's is
// used.
fn strip_accents(characters: impl Iterator<Item = char>) -> String {
    characters.filter(|character| !is_combining_mark(*character) || !is_nonspacing_mark(*character)).collect()
}

fn is_nonspacing_mark(character: char) -> bool {
    super::split::is_nonspacing_mark(character)
}

fn clean_text(text: &str) -> String {
    text.chars()
        .filter(|character| {
            let kept_control = matches!(character, '\t' | '\n' | '\r');
            let dropped = *character == '\0' || *character == '\u{fffd}';
            kept_control || !(dropped || character.is_control() || is_format(*character))
        })
        .map(|character| if character.is_whitespace() { ' ' } else { character })
        .collect()
}

// The format characters (Cf) that occur in text.
fn is_format(character: char) -> bool {
    matches!(u32::from(character),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e
        | 0x2060..=0x2064 | 0x2066..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xe0001 | 0xe0020..=0xe007f)
}

fn space_chinese_characters(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    for character in text.chars() {
        if is_chinese(character) {
            spaced.extend([' ', character, ' ']);
        } else {
            spaced.push(character);
        }
    }
    spaced
}

fn is_chinese(character: char) -> bool {
    matches!(u32::from(character),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
        | 0x2b920..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}

fn replace_pattern(find: &Regex, with: &str, text: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut end = 0;
    for found in super::split::matches(find, text) {
        replaced.push_str(&text[end..found.start]);
        replaced.push_str(with);
        end = found.end;
    }
    replaced.push_str(&text[end..]);
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(steps: &[Normalizer], text: &str) -> String {
        steps.iter().fold(Cow::from(text), |text, step| step.apply(text)).into_owned()
    }

    #[test]
    fn unicode_forms_compose_and_decompose() {
        assert_eq!(all(&[Normalizer::Nfc], "e\u{301}"), "é");
        assert_eq!(all(&[Normalizer::Nfd], "é"), "e\u{301}");
        assert_eq!(all(&[Normalizer::Nfkc], "ﬁ①"), "fi1");
        assert_eq!(all(&[Normalizer::Nfkd], "ﬁé"), "fie\u{301}");
    }

    #[test]
    fn accents_go_only_once_they_are_apart() {
        assert_eq!(all(&[Normalizer::StripAccents], "é"), "é");
        assert_eq!(all(&[Normalizer::Nfd, Normalizer::StripAccents], "éßn\u{303}"), "eßn");
    }

    #[test]
    fn a_prefix_is_put_before_text_but_not_before_nothing() {
        let steps = [
            Normalizer::Prepend("▁".to_owned()),
            Normalizer::Replace { find: " ".to_owned(), with: "▁".to_owned() },
        ];
        assert_eq!(all(&steps, "a b"), "▁a▁b");
        assert_eq!(all(&steps, ""), "");
    }

    #[test]
    fn patterns_are_replaced_literally() {
        let find = Regex::new(" {2,}").expect("a pattern");
        let step = Normalizer::ReplacePattern { find, with: "$0".to_owned() };
        assert_eq!(all(&[step], "a   b c"), "a$0b c");
    }

    #[test]
    fn the_steps_of_bert_clean_space_strip_and_lower() {
        let bert = |lowercase| Normalizer::Bert {
            clean: true,
            space_chinese: true,
            strip_accents: lowercase,
            lowercase,
        };
        assert_eq!(all(&[bert(true)], "Führer\t\u{0}我X"), "fuhrer  我 x");
        assert_eq!(all(&[bert(false)], "Führer"), "Führer");
    }
}
