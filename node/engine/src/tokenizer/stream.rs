//! Text that grows token by token.
//!
//! A token may end in the middle of a character. Its bytes are held until the character is whole, so that
//! what is streamed is always valid UTF-8 and nothing is lost.

use super::Tokenizer;

/// Turns ids into text as they come.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    held: Vec<u8>,
}

impl TextStream {
    /// A stream at its beginning.
    pub fn new() -> TextStream {
        TextStream::default()
    }

    /// Takes the next id and gives the text that became certain. Control tokens are no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if !tokenizer.is_control(id) {
            self.held.extend_from_slice(&tokenizer.piece_bytes(id));
        }
        self.take(false)
    }

    /// Ends the stream: what is still held becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    /// Whole characters; what can never become one is U+FFFD. At the end an unfinished one is, too.
    fn take(&mut self, end: bool) -> String {
        let mut text = String::new();
        let mut rest = &self.held[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, broken) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &broken[length..];
                        }
                        None if end => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &[];
                            break;
                        }
                        None => {
                            rest = broken;
                            break;
                        }
                    }
                }
            }
        }
        self.held = rest.to_vec();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{PieceKind, TokenizerKind, TokenizerParts};

    /// A tokenizer of the 256 bytes.
    fn bytes() -> Tokenizer {
        let mut parts = TokenizerParts::new(TokenizerKind::SentencePiece);
        for byte in 0..=255u8 {
            parts.pieces.push(format!("<0x{byte:02X}>").as_bytes(), 0.0, PieceKind::Byte).expect("a piece");
        }
        Tokenizer::new(parts).expect("a tokenizer")
    }

    #[test]
    fn a_character_comes_out_when_its_last_byte_is_there() {
        let tokenizer = bytes();
        let mut stream = TextStream::new();
        let mut pieces = Vec::new();
        for byte in "aé😀b".bytes() {
            pieces.push(stream.push(&tokenizer, u32::from(byte)));
        }
        assert_eq!(pieces, ["a", "", "é", "", "", "", "😀", "b"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn what_is_no_text_is_replaced_and_never_lost_silently() {
        let tokenizer = bytes();
        let mut stream = TextStream::new();
        assert_eq!(stream.push(&tokenizer, 0xff), "\u{fffd}");
        assert_eq!(stream.push(&tokenizer, 0xe2), "");
        assert_eq!(stream.push(&tokenizer, u32::from(b'x')), "\u{fffd}x");
        assert_eq!(stream.push(&tokenizer, 0xf0), "");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }
}
