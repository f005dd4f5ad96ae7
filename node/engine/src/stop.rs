//! Stop strings, found across the borders of tokens.
//!
//! A stop string may arrive in pieces, and what was streamed can't be taken back. So text that may still
//! become the beginning of a stop string is held until the next pieces decide. What comes out does not depend
//! on how the text was cut into pieces: the stop string that is complete first ends the text, just as if it
//! came byte by byte.

use crate::Error;
use crate::limits::{STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX};

/// Watches a text for any of several stop strings; see the module's head.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text not given out yet: it ends in the beginning of some stop string. Shorter than the longest of
    /// them.
    held: String,
    hit: bool,
}

/// What a piece of text came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Text that is now certain to belong to the answer.
    pub emit: String,
    /// A stop string was found; it and all behind it are dropped, and the answer is complete.
    pub hit: bool,
}

impl StopStrings {
    /// A watch for `stops`; none is allowed, and then all text passes at once.
    ///
    /// # Errors
    /// For more than [`STOP_STRINGS_MAX`] strings, an empty one, or one above [`STOP_STRING_BYTES_MAX`]
    /// bytes.
    pub fn new(stops: Vec<String>) -> Result<StopStrings, Error> {
        if stops.len() > STOP_STRINGS_MAX {
            return Err(Error::request(format!(
                "{} stop strings were asked for; at most {STOP_STRINGS_MAX} are possible",
                stops.len()
            )));
        }
        for (place, stop) in stops.iter().enumerate() {
            if stop.is_empty() {
                return Err(Error::request(format!(
                    "stop string {place} is empty, which would end every text before it begins; leave it out"
                )));
            }
            if stop.len() > STOP_STRING_BYTES_MAX {
                return Err(Error::request(format!(
                    "stop string {place} has {} bytes; at most {STOP_STRING_BYTES_MAX} are possible",
                    stop.len()
                )));
            }
        }
        Ok(StopStrings { stops, held: String::new(), hit: false })
    }

    /// Takes the next piece of text and gives out what is certain. After a hit nothing comes out any more.
    pub fn push(&mut self, text: &str) -> Stopped {
        if self.hit {
            return Stopped { emit: String::new(), hit: true };
        }
        let seen = self.held.len();
        self.held.push_str(text);
        if let Some(start) = self.first_complete(seen) {
            self.held.truncate(start);
            self.hit = true;
            return Stopped { emit: std::mem::take(&mut self.held), hit: true };
        }
        let kept = self.held.split_off(self.held.len() - self.undecided_bytes());
        Stopped { emit: std::mem::replace(&mut self.held, kept), hit: false }
    }

    /// The end of the text: gives out what was held back, since nothing can complete it now.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the stop string begins that is complete first, looking at ends behind `seen` bytes of the held
    /// text. Of several that end at one place the longest counts.
    fn first_complete(&self, seen: usize) -> Option<usize> {
        let held = self.held.as_bytes();
        (seen + 1..=held.len()).find_map(|end| {
            self.stops
                .iter()
                .filter(|stop| held[..end].ends_with(stop.as_bytes()))
                .map(|stop| end - stop.len())
                .min()
        })
    }

    /// The length of the longest end of the held text with which a stop string begins.
    fn undecided_bytes(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        (from..self.held.len())
            .filter(|&start| self.held.is_char_boundary(start))
            .find(|&start| self.stops.iter().any(|stop| stop.starts_with(&self.held[start..])))
            .map_or(0, |start| self.held.len() - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(stops: &[&str]) -> StopStrings {
        StopStrings::new(stops.iter().map(|stop| stop.to_string()).collect())
            .expect("these stops are allowed")
    }

    /// The whole answer and whether a stop ended it.
    fn through<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let mut watch = watch(stops);
        let mut answer = String::new();
        let mut hit = false;
        for piece in pieces {
            let stopped = watch.push(piece);
            answer.push_str(&stopped.emit);
            hit = stopped.hit;
        }
        answer.push_str(&watch.finish());
        (answer, hit)
    }

    #[test]
    fn a_stop_string_in_three_pieces_is_found() {
        assert_eq!(through(&["<end>"], ["Hello<", "en", "d> and more"]), ("Hello".into(), true));
    }

    #[test]
    fn text_is_held_only_while_it_may_be_a_stop_string() {
        let mut watch = watch(&["\n\nUser:"]);
        assert_eq!(watch.push("One.\n"), Stopped { emit: "One.".into(), hit: false });
        assert_eq!(watch.push("\nU"), Stopped { emit: String::new(), hit: false });
        assert_eq!(watch.push("p"), Stopped { emit: "\n\nUp".into(), hit: false });
    }

    #[test]
    fn held_text_is_released_at_the_end() {
        assert_eq!(through(&["stop"], ["don't sto"]), ("don't sto".into(), false));
    }

    #[test]
    fn a_false_start_inside_a_match_does_not_hide_it() {
        assert_eq!(through(&["aab"], ["a", "a", "a", "b", "c"]), ("a".into(), true));
        assert_eq!(through(&["abac"], ["ab", "ab", "ac"]), ("ab".into(), true));
    }

    #[test]
    fn of_overlapping_stop_strings_the_first_complete_one_counts() {
        assert_eq!(through(&["abcd", "bc"], ["xabcd"]), ("xa".into(), true));
        assert_eq!(through(&["abcd", "bc"], ["xa", "b", "cd"]), ("xa".into(), true));
        assert_eq!(through(&["c", "abc"], ["xabc"]), ("x".into(), true));
    }

    #[test]
    fn no_cut_of_the_text_changes_the_answer() {
        let text = "ä b\u{1F600}<|x|>ab<|end|>äabcabcd";
        let lists: [&[&str]; 6] =
            [&["<|end|>"], &["ab<", "bcd"], &["\u{1F600}<"], &["äabcabcd"], &["äa", "ä"], &["no"]];
        let borders: Vec<usize> = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
        for stops in lists {
            let by_character = through(stops, text.split_inclusive(|_| true));
            for &first in &borders {
                for &second in borders.iter().filter(|&&second| second >= first) {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    assert_eq!(through(stops, pieces), by_character, "stops {stops:?}, pieces {pieces:?}");
                }
            }
        }
    }

    #[test]
    fn without_stop_strings_all_text_passes_at_once() {
        let mut watch = watch(&[]);
        assert_eq!(watch.push("any text"), Stopped { emit: "any text".into(), hit: false });
    }

    #[test]
    fn after_a_hit_nothing_comes_out() {
        let mut watch = watch(&["."]);
        assert_eq!(watch.push("a.b"), Stopped { emit: "a".into(), hit: true });
        assert_eq!(watch.push("c"), Stopped { emit: String::new(), hit: true });
        assert_eq!(watch.finish(), "");
    }

    #[test]
    fn count_and_length_are_bounded() {
        let many = |count: usize| StopStrings::new((0..count).map(|number| number.to_string()).collect());
        assert!(many(STOP_STRINGS_MAX).is_ok());
        let error = many(STOP_STRINGS_MAX + 1).unwrap_err().to_string();
        assert!(error.contains("17 stop strings") && error.contains("16"), "{error}");
        assert!(StopStrings::new(vec!["x".repeat(STOP_STRING_BYTES_MAX)]).is_ok());
        let error = StopStrings::new(vec!["x".repeat(STOP_STRING_BYTES_MAX + 1)]).unwrap_err().to_string();
        assert!(error.contains("257 bytes"), "{error}");
        let error = StopStrings::new(vec!["a".into(), String::new()]).unwrap_err().to_string();
        assert!(error.contains("stop string 1 is empty"), "{error}");
    }
}
