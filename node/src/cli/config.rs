//! `kwaainet config`: the settings, from the command line.

use std::io::{self, Write};

use argh::FromArgs;
use serde_json::{Map, Value, json};

use crate::config::{self, Config, ConfigFile, KEYS, Key};
use crate::exit::{Exit, Failure};
use crate::home;

/// settings: read, change, and where each comes from
#[derive(FromArgs)]
#[argh(subcommand, name = "config")]
pub struct ConfigCommand {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Get(Get),
    Set(Set),
    Unset(Unset),
    List(List),
}

/// print the value of a setting
#[derive(FromArgs)]
#[argh(subcommand, name = "get")]
struct Get {
    /// the setting, such as http.port
    #[argh(positional)]
    key: String,
    /// answer with a JSON object that tells the source, too
    #[argh(switch)]
    json: bool,
}

/// put a setting into config.toml
#[derive(FromArgs)]
#[argh(subcommand, name = "set")]
#[argh(example = "{command_name} http.port 8000")]
#[argh(example = "{command_name} http.cors https://a.example https://b.example")]
struct Set {
    /// the setting, such as http.port
    #[argh(positional)]
    key: String,
    /// its value; several for a list, none for an empty one
    #[argh(positional)]
    values: Vec<String>,
}

/// take a setting out of config.toml
#[derive(FromArgs)]
#[argh(subcommand, name = "unset")]
struct Unset {
    /// the setting, such as http.port
    #[argh(positional)]
    key: String,
}

/// print all settings, their values and where they come from
#[derive(FromArgs)]
#[argh(subcommand, name = "list")]
struct List {
    /// answer with one JSON object
    #[argh(switch)]
    json: bool,
}

impl ConfigCommand {
    /// Does what was asked.
    pub fn execute(self) -> Result<Exit, Failure> {
        let home = home::path()?;
        let mut out = io::stdout();
        match self.command {
            Command::Get(command) => {
                let key = key(&command.key)?;
                let config = Config::load(&home, &[])?;
                if command.json {
                    writeln!(out, "{}", describe(&config, key))?;
                } else if let Some((value, _)) = config.get(key) {
                    writeln!(out, "{value}")?;
                }
            }
            Command::Set(command) => {
                let key = key(&command.key)?;
                let is_list = matches!(key.kind, config::Kind::List(_));
                if !is_list && command.values.len() != 1 {
                    let count = command.values.len();
                    let message = format!("{} takes one value, not {count}", key.name);
                    return Err(Failure::usage(message));
                }
                let value = key.kind.parse(&command.values.join(","));
                let value = value.map_err(|what| Failure::usage(format!("{}: {what}", key.name)))?;
                let mut file = ConfigFile::open(&home)?;
                file.set(key, &value)?;
                kwaainet_trust::disk::create_folder(&home)?;
                file.save()?;
                remark(&Config::load(&home, &[])?, key);
            }
            Command::Unset(command) => {
                let key = key(&command.key)?;
                let mut file = ConfigFile::open(&home)?;
                if file.unset(key) {
                    file.save()?;
                }
            }
            Command::List(command) => list(&Config::load(&home, &[])?, command.json)?,
        }
        Ok(Exit::Success)
    }
}

fn key(name: &str) -> Result<&'static Key, Failure> {
    config::key(name).map_err(Failure::usage)
}

fn describe(config: &Config, key: &Key) -> Value {
    let value = config.get(key);
    json!({
        "value": value.map(|(value, _)| value.to_json()),
        "source": value.map(|(_, source)| source.name()),
        "default": key.default.and_then(|text| key.kind.parse(text).ok()).map(|value| value.to_json()),
        "range": key.kind.to_string(),
        "meaning": key.meaning,
        "variable": key.variable(),
    })
}

/// Says what keeps a setting in the file from holding.
fn remark(config: &Config, key: &Key) {
    if let Some((value, source)) = config.get(key)
        && source > config::Source::File
    {
        eprintln!("kwaainet: {} in the environment beats it: {value}", key.variable());
    }
}

fn list(config: &Config, as_json: bool) -> Result<(), Failure> {
    let mut out = io::stdout();
    if as_json {
        let entries = KEYS.iter().map(|key| (key.name.to_owned(), describe(config, key)));
        writeln!(out, "{}", Value::Object(entries.collect::<Map<_, _>>()))?;
        return Ok(());
    }
    let width = KEYS.iter().map(|key| key.name.len()).max().unwrap_or(0);
    for key in KEYS {
        let (text, source) = match config.get(key) {
            Some((value, source)) => (value.to_string(), source.name()),
            None => (String::new(), "not set"),
        };
        let mut parts = text.split(',');
        writeln!(out, "{:width$}  {source:11}  {}", key.name, parts.next().unwrap_or_default())?;
        for part in parts {
            writeln!(out, "{:width$}  {:11}  {part}", "", "")?;
        }
    }
    Ok(())
}
