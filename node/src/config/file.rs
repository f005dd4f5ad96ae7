//! `config.toml`: read whole and checked, changed in place so that comments and order stay.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use kwaainet_trust::disk::{self, Readers};
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value as Toml};

use super::keys::Key;
use super::kind::{Kind, Value};
use crate::exit::{Exit, Failure};
use crate::limits::CONFIG_BYTES_MAX;

/// What a new file begins with.
const HEAD: &str = "\
# Settings of this kwaainet node. `kwaainet config list` tells every setting, its value and where it comes
# from; `kwaainet config set KEY VALUE` changes one. Comments stay.
";

/// The file's document, known to be TOML.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    document: DocumentMut,
}

impl ConfigFile {
    /// The file of a home folder.
    pub fn path(home: &Path) -> PathBuf {
        home.join("config.toml")
    }

    /// Reads the file; one that is missing is empty.
    pub fn open(home: &Path) -> Result<ConfigFile, Failure> {
        let path = ConfigFile::path(home);
        let failed = |what: String| {
            Failure::new(Exit::Config, format!("the settings in {} can't be used: {what}", path.display()))
        };
        let text = match fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error.to_string())),
            Ok(file) => {
                let mut text = String::new();
                let read = file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text);
                read.map_err(|error| failed(error.to_string()))?;
                text
            }
        };
        let mut file = ConfigFile::parse(&text).map_err(failed)?;
        file.path = path;
        Ok(file)
    }

    /// Reads a document.
    pub fn parse(text: &str) -> Result<ConfigFile, String> {
        if text.len() as u64 > CONFIG_BYTES_MAX {
            return Err(format!("it has more than {CONFIG_BYTES_MAX} bytes"));
        }
        let document =
            text.parse::<DocumentMut>().map_err(|error| error.to_string().trim_end().to_owned())?;
        Ok(ConfigFile { path: PathBuf::new(), document })
    }

    /// All settings in the file, checked.
    ///
    /// # Errors
    /// The first that is unknown or not what it may be, as a sentence.
    pub fn values(&self) -> Result<Vec<(&'static Key, Value)>, Failure> {
        let failed = |what: String| {
            Failure::new(Exit::Config, format!("the settings in {}: {what}", self.path.display()))
        };
        let mut values = Vec::new();
        for (table, item) in self.document.iter() {
            let Some(entries) = item.as_table_like() else {
                super::key(table).map_err(&failed)?;
                return Err(failed(format!("{table} is no table")));
            };
            for (name, item) in entries.iter() {
                let key = super::key(&format!("{table}.{name}")).map_err(&failed)?;
                let value = from_toml(&key.kind, item).and_then(|value| {
                    key.kind.check(&value)?;
                    Ok(value)
                });
                let value = value.map_err(|what| failed(format!("{}: {what}", key.name)))?;
                values.push((key, value));
            }
        }
        Ok(values)
    }

    /// Sets a checked value; comments behind the old one stay.
    pub fn set(&mut self, key: &Key, value: &Value) -> Result<(), Failure> {
        let (table, name) = parts(key);
        if self.document.is_empty() {
            // Comments of a file without settings belong to its end; they go before the first table.
            let head = self.document.trailing().as_str().unwrap_or_default().to_owned();
            let mut first = Table::new();
            first.decor_mut().set_prefix(format!("{}\n", head.trim_end()).trim_start());
            self.document.set_trailing("");
            self.document.insert(table, Item::Table(first));
        }
        let entry = self.document.entry(table).or_insert_with(|| Item::Table(Table::new()));
        let Some(entries) = entry.as_table_like_mut() else {
            let message = format!("{table} in {} is no table", self.path.display());
            return Err(Failure::new(Exit::Config, message));
        };
        let mut toml = to_toml(value);
        if let Some(old) = entries.get(name).and_then(Item::as_value) {
            *toml.decor_mut() = old.decor().clone();
        }
        match entries.get_mut(name) {
            Some(item) => *item = Item::Value(toml),
            None => {
                entries.insert(name, Item::Value(toml));
            }
        }
        Ok(())
    }

    /// Takes a setting out; whether it was there.
    pub fn unset(&mut self, key: &Key) -> bool {
        let (table, name) = parts(key);
        let entries = self.document.get_mut(table).and_then(Item::as_table_like_mut);
        entries.and_then(|entries: &mut dyn TableLike| entries.remove(name)).is_some()
    }

    /// Writes the file, whole or not at all.
    pub fn save(&self) -> Result<(), Failure> {
        disk::replace(&self.path, self.document.to_string().as_bytes(), Readers::Anyone)?;
        Ok(())
    }

    /// Makes the file with its head if there is none; whether it was made.
    pub fn create(home: &Path) -> Result<bool, Failure> {
        match disk::create(&ConfigFile::path(home), HEAD.as_bytes(), Readers::Anyone) {
            Ok(()) => Ok(true),
            Err(kwaainet_trust::Error::Exists(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn parts(key: &Key) -> (&'static str, &'static str) {
    key.name.split_once('.').expect("a test finds two parts in every name")
}

fn to_toml(value: &Value) -> Toml {
    match value {
        Value::Switch(is_on) => Toml::from(*is_on),
        Value::Number(number) => Toml::from(i64::try_from(*number).unwrap_or(i64::MAX)),
        Value::Text(text) => Toml::from(text.as_str()),
        Value::List(list) => Toml::from(list.iter().map(String::as_str).collect::<Array>()),
    }
}

fn from_toml(kind: &Kind, item: &Item) -> Result<Value, String> {
    let wrong = || format!("{} is not {kind}", item.to_string().trim());
    let value = item.as_value().ok_or_else(wrong)?;
    Ok(match value {
        Toml::Boolean(is_on) => Value::Switch(*is_on.value()),
        Toml::Integer(number) => Value::Number(u64::try_from(*number.value()).map_err(|_| wrong())?),
        Toml::String(text) => Value::Text(text.value().clone()),
        Toml::Array(array) => {
            let items = array.iter().map(|item| item.as_str().map(str::to_owned));
            Value::List(items.collect::<Option<Vec<_>>>().ok_or_else(wrong)?)
        }
        _ => return Err(wrong()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn comments_and_order_stay_when_a_value_changes() {
        let text = "# mine\n[http]\n# the port\nport = 1 # was 2\nhost = \"::1\"\n\n[model]\nkv = \"f32\"\n";
        let mut file = ConfigFile::parse(text).unwrap();
        file.set(&keys::HTTP_PORT, &Value::Number(7)).unwrap();
        assert_eq!(file.document.to_string(), text.replace("port = 1", "port = 7"));
        file.set(&keys::MODEL_SESSIONS, &Value::Number(2)).unwrap();
        assert!(file.unset(&keys::HTTP_HOST));
        assert!(!file.unset(&keys::HTTP_HOST));
        let expected =
            "# mine\n[http]\n# the port\nport = 7 # was 2\n\n[model]\nkv = \"f32\"\nsessions = 2\n";
        assert_eq!(file.document.to_string(), expected);
    }

    #[test]
    fn the_head_of_a_file_without_settings_stays_its_head() {
        let mut file = ConfigFile::parse(HEAD).unwrap();
        file.set(&keys::HTTP_PORT, &Value::Number(7)).unwrap();
        file.set(&keys::MODEL_SESSIONS, &Value::Number(2)).unwrap();
        let expected = format!("{HEAD}[http]\nport = 7\n\n[model]\nsessions = 2\n");
        assert_eq!(file.document.to_string(), expected);
        let mut empty = ConfigFile::parse("").unwrap();
        empty.set(&keys::HTTP_PORT, &Value::Number(7)).unwrap();
        assert_eq!(empty.document.to_string(), "[http]\nport = 7\n");
    }

    #[test]
    fn every_kind_of_value_is_read_as_it_was_written() {
        let mut file = ConfigFile::parse(HEAD).unwrap();
        let list = Value::List(vec!["https://a.example".into(), "*".into()]);
        let written = [
            (&keys::HTTP_CORS, list),
            (&keys::HTTP_INSECURE_NO_KEY, Value::Switch(true)),
            (&keys::MODEL_NAME, Value::Text("a \"quoted\" \\ name".into())),
            (&keys::MODEL_SESSIONS, Value::Number(64)),
        ];
        for (key, value) in &written {
            file.set(key, value).unwrap();
        }
        let again = ConfigFile::parse(&file.document.to_string()).unwrap();
        let read: Vec<_> =
            again.values().unwrap().into_iter().map(|(key, value)| (key.name, value)).collect();
        for (key, value) in written {
            assert!(read.contains(&(key.name, value)), "{}: {read:?}", key.name);
        }
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        let said = |text: &str| match ConfigFile::parse(text) {
            Err(what) => what,
            Ok(file) => file.values().unwrap_err().message,
        };
        for (text, part) in [
            ("http = 1\n", "no setting http"),
            ("[http]\nport = \"1\"\n", "http.port"),
            ("[http]\nport = -1\n", "0 to 65535"),
            ("[http]\nport = 1.5\n", "0 to 65535"),
            ("[http.port]\na = 1\n", "http.port"),
            ("[http]\ncors = [1]\n", "http.cors"),
            ("[[http]]\nport = 1\n", "http"),
            ("[http]\nport = \n", "line 2"),
            ("[http]\nport = 1\nport = 2\n", "duplicate"),
        ] {
            assert!(said(text).contains(part), "{text}: {}", said(text));
        }
    }

    #[test]
    fn a_file_has_a_longest() {
        let longest = "#".repeat(CONFIG_BYTES_MAX as usize);
        assert!(ConfigFile::parse(&longest).is_ok());
        assert!(ConfigFile::parse(&format!("{longest}#")).is_err());
    }
}
