//! The node's settings: what each may be, what it is, and where that comes from.
//!
//! A value is looked for in the flags of the command, then in the environment, then in `config.toml` of the
//! home folder; else the default holds. All of them go through the same check, so past [`Config::load`] no
//! setting is out of its range.

mod file;
pub mod keys;
mod kind;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

pub use file::ConfigFile;
pub use keys::{KEYS, Key};
pub use kind::{Kind, Text, Value};

/// Where a value comes from, the strongest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The table of keys.
    Default,
    /// `config.toml`.
    File,
    /// `KWAAINET_…`.
    Environment,
    /// The command line.
    Flag,
}

impl Source {
    /// As `config list` says it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::File => "file",
            Source::Environment => "environment",
            Source::Flag => "flag",
        }
    }
}

/// All settings that have a value.
#[derive(Clone, Debug)]
pub struct Config {
    home: PathBuf,
    values: BTreeMap<&'static str, (Value, Source)>,
}

/// A setting as a flag gives it: key and value as text.
pub type Flag = (&'static Key, String);

impl Config {
    /// Reads `config.toml` of `home` (there may be none), the environment, and `flags`.
    ///
    /// # Errors
    /// A sentence that names the key, where the value comes from, and what it may be.
    pub fn load(home: &Path, flags: &[Flag]) -> Result<Config, Failure> {
        let file = ConfigFile::open(home)?;
        let variable = |key: &Key| {
            let name = key.variable();
            env::var(&name).ok().map(|text| (name, text))
        };
        Config::merge(home, &file, variable, flags)
    }

    fn merge(
        home: &Path,
        file: &ConfigFile,
        variable: impl Fn(&Key) -> Option<(String, String)>,
        flags: &[Flag],
    ) -> Result<Config, Failure> {
        let mut values = BTreeMap::new();
        for key in KEYS {
            if let Some(default) = key.default {
                let value = key.kind.parse(default).expect("a test parses every default");
                values.insert(key.name, (value, Source::Default));
            }
        }
        for (key, value) in file.values()? {
            values.insert(key.name, (value, Source::File));
        }
        for key in KEYS {
            let Some((name, text)) = variable(key).filter(|(_, text)| !text.is_empty()) else { continue };
            let value = key.kind.parse(&text);
            let value = value.map_err(|what| Failure::new(Exit::Config, format!("{name}: {what}")))?;
            values.insert(key.name, (value, Source::Environment));
        }
        for (key, text) in flags {
            let value = key.kind.parse(text);
            let value = value.map_err(|what| Failure::usage(format!("{}: {what}", key.name)))?;
            values.insert(key.name, (value, Source::Flag));
        }
        Ok(Config { home: home.to_owned(), values })
    }

    /// The value of a key and its source; `None` if it has none.
    pub fn get(&self, key: &Key) -> Option<(&Value, Source)> {
        self.values.get(key.name).map(|(value, source)| (value, *source))
    }

    /// A text; `None` if it is not set or empty.
    pub fn text(&self, key: &Key) -> Option<&str> {
        match self.get(key)?.0 {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A number; `None` if it is not set.
    pub fn number(&self, key: &Key) -> Option<u64> {
        match self.get(key)?.0 {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A switch; off if it is not set.
    pub fn is_on(&self, key: &Key) -> bool {
        matches!(self.get(key), Some((Value::Switch(true), _)))
    }

    /// A list; empty if it is not set.
    pub fn list(&self, key: &Key) -> &[String] {
        match self.get(key) {
            Some((Value::List(list), _)) => list,
            _ => &[],
        }
    }

    /// A path. One in the file is relative to the home folder, others to where the command was given.
    pub fn path(&self, key: &Key) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(key)?);
        let is_in_file = self.get(key).is_some_and(|(_, source)| source <= Source::File);
        Some(if is_in_file { self.home.join(path) } else { path })
    }
}

/// The key of that name.
///
/// # Errors
/// A sentence with the nearest name.
pub fn key(name: &str) -> Result<&'static Key, String> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Ok(key);
    }
    // Longer names are cut: the distance takes time by the product of the lengths.
    let short: String = name.chars().take(64).collect();
    let nearest = KEYS.iter().min_by_key(|key| distance(key.name, &short));
    let nearest = nearest.map_or("", |key| key.name);
    Err(format!(
        "there is no setting {short}; the nearest is {nearest}, and `kwaainet config list` tells all"
    ))
}

/// Edits that turn one name into the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = index;
        row[0] = index + 1;
        for (column, different) in other.iter().map(|&there| usize::from(there != letter)).enumerate() {
            let above = row[column + 1];
            row[column + 1] = (diagonal + different).min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(file: &str, variables: &[(&str, &str)], flags: &[Flag]) -> Result<Config, Failure> {
        let file = ConfigFile::parse(file).unwrap();
        let variable = |key: &Key| {
            let found = variables.iter().find(|(name, _)| *name == key.variable());
            found.map(|(name, text)| (name.to_string(), text.to_string()))
        };
        Config::merge(Path::new("/home"), &file, variable, flags)
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file_which_beats_the_default() {
        let port = |file, variables, flags| {
            let config = merged(file, variables, flags).unwrap();
            (config.number(&keys::HTTP_PORT).unwrap(), config.get(&keys::HTTP_PORT).unwrap().1)
        };
        let file = "http.port = 1\n";
        let variables: &[(&str, &str)] = &[("KWAAINET_HTTP_PORT", "2")];
        let flags: &[Flag] = &[(&keys::HTTP_PORT, "3".to_owned())];
        assert_eq!(port("", &[], &[]), (11435, Source::Default));
        assert_eq!(port(file, &[], &[]), (1, Source::File));
        assert_eq!(port(file, variables, &[]), (2, Source::Environment));
        assert_eq!(port(file, variables, flags), (3, Source::Flag));
        assert_eq!(port("", &[("KWAAINET_HTTP_PORT", "")], &[]), (11435, Source::Default));
    }

    #[test]
    fn a_wrong_value_is_told_with_its_source() {
        let said = |file: &str, variables: &[(&str, &str)], flags: &[Flag]| {
            let failure = merged(file, variables, flags).unwrap_err();
            (failure.exit, failure.message)
        };
        let (exit, message) = said("[http]\nport = 70000\n", &[], &[]);
        assert_eq!(exit, Exit::Config);
        assert!(message.contains("http.port") && message.contains("65535"), "{message}");
        let (exit, message) = said("", &[("KWAAINET_HTTP_PORT", "many")], &[]);
        assert_eq!(exit, Exit::Config);
        assert!(message.contains("KWAAINET_HTTP_PORT"), "{message}");
        assert_eq!(said("", &[], &[(&keys::HTTP_PORT, "-1".to_owned())]).0, Exit::Usage);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest() {
        for (name, nearest) in [
            ("http.prot", "http.port"),
            ("network.bootstraps", "network.bootstrap"),
            ("model", "model.kv"),
            ("sessions", "model.sessions"),
        ] {
            let said = key(name).unwrap_err();
            assert!(said.contains(&format!("the nearest is {nearest},")), "{said}");
        }
        assert!(key(&"x".repeat(100_000)).unwrap_err().len() < 300);
        let failure = merged("[http]\nprot = 1\n", &[], &[]).unwrap_err();
        assert!(failure.message.contains("the nearest is http.port"), "{failure}");
    }

    #[test]
    fn a_path_in_the_file_is_relative_to_home_and_others_are_not() {
        let path = |file: &str, flags: &[Flag]| {
            merged(file, &[], flags).unwrap().path(&keys::MODEL_PATH).map(|path| path.display().to_string())
        };
        assert_eq!(path("", &[]), None);
        assert_eq!(path("model.path = \"a.gguf\"", &[]).as_deref(), Some("/home/a.gguf"));
        assert_eq!(path("model.path = \"/a.gguf\"", &[]).as_deref(), Some("/a.gguf"));
        assert_eq!(path("", &[(&keys::MODEL_PATH, "a.gguf".into())]).as_deref(), Some("a.gguf"));
    }

    #[test]
    fn distances_are_of_single_edits() {
        assert_eq!(distance("port", "port"), 0);
        assert_eq!(distance("port", "prot"), 2);
        assert_eq!(distance("port", "ports"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
