//! `kwaainet tokenize`: text to token ids and back.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use argh::FromArgs;
use kwaainet_engine::tokenizer::{Special, Tokenizer};
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::limits::PROMPT_BYTES_MAX;
use crate::model::Choice;

use super::STANDARD_INPUT;

/// turn text into token ids, or back
#[derive(FromArgs)]
#[argh(subcommand, name = "tokenize")]
#[argh(example = "{command_name} \"Once upon a time\"")]
#[argh(example = "{command_name} --ids 430 419 261 398")]
pub struct Tokenize {
    /// the text, or with --ids the ids; "-" or nothing reads standard input
    #[argh(positional)]
    words: Vec<String>,
    /// a GGUF file or a Hugging Face folder (default: the small story-teller inside the binary)
    #[argh(option)]
    model: Option<PathBuf>,
    /// turn ids into text
    #[argh(switch)]
    ids: bool,
    /// let special tokens such as <|im_end|> in the text be themselves
    #[argh(switch)]
    special: bool,
    /// print a JSON object with ids, pieces and text
    #[argh(switch)]
    json: bool,
}

impl Tokenize {
    /// Prints the ids, or the text.
    pub fn execute(self) -> Result<Exit, Failure> {
        let input = self.input()?;
        let files = Choice { path: self.model.clone(), ..Choice::default() }.files()?;
        let tokenizer = Tokenizer::of_model(&files)?;
        let (ids, text) = if self.ids {
            let ids = parse_ids(&input, tokenizer.vocabulary())?;
            let text = tokenizer.decode(&ids);
            (ids, text)
        } else {
            let special = if self.special { Special::Parsed } else { Special::AsText };
            (tokenizer.encode(&input, special), input)
        };
        let mut out = io::stdout().lock();
        if self.json {
            let piece = |id: &u32| String::from_utf8_lossy(&tokenizer.piece_bytes(*id)).into_owned();
            let pieces: Vec<_> = ids.iter().map(piece).collect();
            writeln!(out, "{}", json!({"ids": ids, "pieces": pieces, "text": text}))?;
        } else if self.ids {
            writeln!(out, "{text}")?;
        } else {
            let words: Vec<_> = ids.iter().map(u32::to_string).collect();
            writeln!(out, "{}", words.join(" "))?;
        }
        Ok(Exit::Success)
    }

    fn input(&self) -> Result<String, Failure> {
        if !self.words.is_empty() && self.words != [STANDARD_INPUT] {
            return Ok(self.words.join(" "));
        }
        let mut text = String::new();
        io::stdin().lock().take(PROMPT_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Ids apart from each other by spaces, commas or brackets.
fn parse_ids(text: &str, vocabulary: usize) -> Result<Vec<u32>, Failure> {
    let is_between = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
    let id = |word: &str| {
        word.parse::<u32>().ok().filter(|id| (*id as usize) < vocabulary).ok_or_else(|| {
            Failure::usage(format!("{word} is no token id; this model's are 0 to {}", vocabulary - 1))
        })
    };
    text.split(is_between).filter(|word| !word.is_empty()).map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_in_any_usual_notation() {
        assert_eq!(parse_ids("1 2\n3", 9).unwrap(), [1, 2, 3]);
        assert_eq!(parse_ids("[1, 8]", 9).unwrap(), [1, 8]);
        assert_eq!(parse_ids("9", 9).unwrap_err().exit, Exit::Usage);
        assert_eq!(parse_ids("-1", 9).unwrap_err().exit, Exit::Usage);
    }
}
