//! What a setting may be, and the one check that every value goes through.

use std::fmt;
use std::net::IpAddr;

use kwaainet_fabric::Multiaddr;
use kwaainet_trust::PeerId;
use serde_json::{Value as Json, json};

use crate::limits::{CONFIG_LIST_MAX, CONFIG_TEXT_BYTES_MAX};

/// The kind of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number in a range, with its unit in words (none for a bare number).
    Number {
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
        /// Such as "tokens".
        unit: &'static str,
    },
    /// One text.
    Text(Text),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Several texts; on the command line and in the environment with commas between.
    List(Text),
}

/// What a text has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// Anything printable.
    Plain,
    /// A file or folder.
    Path,
    /// A host name or an IP address.
    Host,
    /// `*` or an origin of web pages.
    Origin,
    /// A libp2p address, such as `/ip4/0.0.0.0/tcp/8080`.
    Address,
    /// A libp2p address that ends in `/p2p/PEERID`.
    PeerAddress,
    /// A PeerId.
    Peer,
    /// Small letters, digits and `-`.
    Name,
}

/// The value of a setting, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Number`].
    Number(u64),
    /// Of [`Kind::Text`] and [`Kind::OneOf`].
    Text(String),
    /// Of [`Kind::List`].
    List(Vec<String>),
}

impl Value {
    /// For `--json`.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Switch(is_on) => json!(is_on),
            Value::Number(number) => json!(number),
            Value::Text(text) => json!(text),
            Value::List(list) => json!(list),
        }
    }
}

impl fmt::Display for Value {
    /// As [`Kind::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Switch(is_on) => write!(f, "{is_on}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => f.write_str(text),
            Value::List(list) => f.write_str(&list.join(",")),
        }
    }
}

impl Kind {
    /// Reads a value from text.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let value = match self {
            Kind::Switch => match text {
                "true" | "yes" | "on" | "1" => Value::Switch(true),
                "false" | "no" | "off" | "0" => Value::Switch(false),
                _ => return Err(self.refusal(text)),
            },
            Kind::Number { .. } => Value::Number(text.parse().map_err(|_| self.refusal(text))?),
            Kind::Text(_) | Kind::OneOf(_) => Value::Text(text.to_owned()),
            Kind::List(_) => {
                // As the file has it, in brackets and quotes, or bare.
                let bare = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                let items = bare.unwrap_or(text).split(',').map(|item| item.trim().trim_matches('"'));
                let items = items.filter(|item| !item.is_empty());
                Value::List(items.map(str::to_owned).collect())
            }
        };
        self.check(&value)?;
        Ok(value)
    }

    /// Refuses a value that is not of this kind, or out of its range.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        match (self, value) {
            (Kind::Switch, Value::Switch(_)) => Ok(()),
            (Kind::Number { least, most, .. }, Value::Number(number)) if (least..=most).contains(&number) => {
                Ok(())
            }
            (Kind::OneOf(words), Value::Text(text)) if words.contains(&text.as_str()) => Ok(()),
            (Kind::Text(kind), Value::Text(text)) => kind.check(text),
            (Kind::List(_), Value::List(list)) if list.len() > CONFIG_LIST_MAX => {
                Err(format!("{} entries; at most {CONFIG_LIST_MAX} are allowed", list.len()))
            }
            (Kind::List(kind), Value::List(list)) => list.iter().try_for_each(|text| kind.check(text)),
            _ => Err(self.refusal(&value.to_string())),
        }
    }

    fn refusal(&self, text: &str) -> String {
        format!("{text:.100} is not {self}")
    }
}

impl fmt::Display for Kind {
    /// What it may be, to stand behind "is not".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Switch => f.write_str("true or false"),
            Kind::Number { least, most, unit: "" } => write!(f, "{least} to {most}"),
            Kind::Number { least, most, unit } => write!(f, "{least} to {most} {unit}"),
            Kind::Text(kind) => f.write_str(kind.name()),
            Kind::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Kind::List(kind) => write!(f, "a list, each {}", kind.name()),
        }
    }
}

impl Text {
    fn name(self) -> &'static str {
        match self {
            Text::Plain => "a text",
            Text::Path => "a path",
            Text::Host => "a host name or an IP address",
            Text::Origin => "an origin such as https://app.example, or *",
            Text::Address => "a libp2p address such as /ip4/0.0.0.0/tcp/8080",
            Text::PeerAddress => "a libp2p address that ends in /p2p/PEERID",
            Text::Peer => "a PeerId",
            Text::Name => "a name of small letters, digits and hyphens",
        }
    }

    fn check(self, text: &str) -> Result<(), String> {
        if text.len() > CONFIG_TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(format!(
                "{text:.60?} is no line of at most {CONFIG_TEXT_BYTES_MAX} bytes without control characters"
            ));
        }
        let is_good = match self {
            Text::Plain | Text::Path => true,
            Text::Host => {
                let address = text.trim_start_matches('[').trim_end_matches(']');
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
                address.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.bytes().all(is_name))
            }
            Text::Origin => text == "*" || (text.contains("://") && !text.ends_with('/')),
            Text::Address => is_address(text),
            Text::PeerAddress => {
                let peer = text.rsplit_once("/p2p/").filter(|(address, _)| is_address(address));
                peer.is_some_and(|(_, peer)| peer.parse::<PeerId>().is_ok())
            }
            Text::Peer => text.parse::<PeerId>().is_ok(),
            Text::Name => {
                text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            }
        };
        if is_good { Ok(()) } else { Err(format!("{text:.200} is not {}", self.name())) }
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<Multiaddr>().is_ok_and(|address| !address.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: Kind = Kind::Number { least: 1, most: 64, unit: "tokens" };

    #[test]
    fn numbers_are_held_to_their_range() {
        for (text, is_good) in
            [("0", false), ("1", true), ("64", true), ("65", false), ("-1", false), ("x", false)]
        {
            assert_eq!(COUNT.parse(text).is_ok(), is_good, "{text}");
        }
        assert_eq!(COUNT.parse("65").unwrap_err(), "65 is not 1 to 64 tokens");
        assert!(COUNT.check(&Value::Text("1".into())).is_err());
    }

    #[test]
    fn texts_are_held_to_their_form() {
        let good = |kind: Text, text: &str| Kind::Text(kind).parse(text).is_ok();
        assert!(
            good(Text::Host, "127.0.0.1") && good(Text::Host, "[::1]") && good(Text::Host, "a-b.example")
        );
        assert!(!good(Text::Host, "a b") && !good(Text::Host, ""));
        assert!(good(Text::Origin, "*") && good(Text::Origin, "https://a.example"));
        assert!(!good(Text::Origin, "a.example") && !good(Text::Origin, "https://a.example/"));
        assert!(good(Text::Address, "/ip4/0.0.0.0/tcp/1") && !good(Text::Address, "0.0.0.0:1"));
        assert!(!good(Text::Address, "/ip4//tcp"));
        let peer = "QmQhRuheeCLEsVD3RsnknM75gPDDqxAb8DhnWgro7KhaJc";
        assert!(good(Text::Peer, peer) && !good(Text::Peer, &peer[1..]));
        assert!(good(Text::PeerAddress, &format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}")));
        assert!(!good(Text::PeerAddress, "/ip4/1.2.3.4/tcp/1"));
        assert!(good(Text::Name, "my-swarm-2") && !good(Text::Name, "Mine") && !good(Text::Name, "a.b"));
        assert!(!good(Text::Plain, "a\u{1b}[31m"));
    }

    #[test]
    fn texts_and_lists_have_a_longest() {
        let longest = "a".repeat(CONFIG_TEXT_BYTES_MAX);
        assert!(Kind::Text(Text::Plain).parse(&longest).is_ok());
        assert!(Kind::Text(Text::Plain).parse(&format!("{longest}a")).is_err());
        let list = vec!["a"; CONFIG_LIST_MAX].join(",");
        assert!(Kind::List(Text::Name).parse(&list).is_ok());
        assert!(Kind::List(Text::Name).parse(&format!("{list},a")).is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (kind, text) in [(Kind::Switch, "true"), (COUNT, "7"), (Kind::List(Text::Name), "a,b")] {
            assert_eq!(kind.parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Kind::List(Text::Name).parse(" a , ,b").unwrap().to_string(), "a,b");
        assert_eq!(Kind::List(Text::Name).parse("").unwrap(), Value::List(Vec::new()));
        assert_eq!(Kind::List(Text::Name).parse("[]").unwrap(), Value::List(Vec::new()));
        assert_eq!(Kind::List(Text::Name).parse("[\"a\", \"b\"]").unwrap().to_string(), "a,b");
    }
}
