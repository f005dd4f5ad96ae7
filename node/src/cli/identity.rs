//! `kwaainet identity`: show, make, bring and take away the node's key.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use argh::FromArgs;
use kwaainet_trust::disk::{self, Readers};
use kwaainet_trust::{Identity, Secret, Zeroizing, key_file, limits::KEY_FILE_BYTES_MAX};
use serde_json::{Value, json};

use crate::config::{Config, keys};
use crate::exit::{Exit, Failure};
use crate::{home, lock, passphrase};

use super::STANDARD_INPUT;

/// who this node is: its key, and the names that follow from it
#[derive(FromArgs)]
#[argh(subcommand, name = "identity")]
pub struct IdentityCommand {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Show(Show),
    New(New),
    Import(Import),
    Export(Export),
}

/// tell PeerId, DIDs and document; nothing secret
#[derive(FromArgs)]
#[argh(subcommand, name = "show")]
struct Show {
    /// answer with one JSON object, the DID document in it
    #[argh(switch)]
    json: bool,
    /// answer with the DID document alone
    #[argh(switch)]
    document: bool,
}

/// make a new key
#[derive(FromArgs)]
#[argh(subcommand, name = "new")]
struct New {
    /// put it in the place of the key that is there, which is kept beside it
    #[argh(switch)]
    force: bool,
    /// seal it by a passphrase, asked for here
    #[argh(switch)]
    seal: bool,
    /// seal it by the first line of this file
    #[argh(option)]
    passphrase_file: Option<PathBuf>,
    /// answer with one JSON object
    #[argh(switch)]
    json: bool,
}

/// take a key over from KwaaiNet, Hivemind or an export
#[derive(FromArgs)]
#[argh(subcommand, name = "import")]
#[argh(example = "{command_name} ~/.kwaainet-old/identity.key")]
struct Import {
    /// the key's file; "-" reads standard input
    #[argh(positional)]
    file: String,
    /// put it in the place of the key that is there, which is kept beside it
    #[argh(switch)]
    force: bool,
    /// seal it by a passphrase, asked for here
    #[argh(switch)]
    seal: bool,
    /// seal it by the first line of this file; a sealed key that is imported is opened by it, too
    #[argh(option)]
    passphrase_file: Option<PathBuf>,
    /// answer with one JSON object
    #[argh(switch)]
    json: bool,
}

/// write the key to a file, or to standard output if that is no terminal
#[derive(FromArgs)]
#[argh(subcommand, name = "export")]
struct Export {
    /// the file to make; an existing one is not touched
    #[argh(positional)]
    file: Option<PathBuf>,
    /// print the secret at a terminal all the same, in hexadecimal
    #[argh(switch)]
    show_secret: bool,
    /// seal what is written by a passphrase, asked for here
    #[argh(switch)]
    seal: bool,
    /// seal what is written by the first line of this file
    #[argh(option)]
    passphrase_file: Option<PathBuf>,
}

impl IdentityCommand {
    /// Does what was asked.
    pub fn execute(self) -> Result<Exit, Failure> {
        let home = home::path()?;
        let config = Config::load(&home, &[])?;
        match self.command {
            Command::Show(command) => command.execute(&config),
            Command::New(command) => {
                let seal = sealing(command.seal, command.passphrase_file.as_deref())?;
                put(&home, &config, Identity::generate(), seal, command.force, command.json)
            }
            Command::Import(command) => command.execute(&home, &config),
            Command::Export(command) => command.execute(&config),
        }
    }
}

/// The key that is there.
fn load(config: &Config) -> Result<Identity, Failure> {
    let path = path(config);
    if !path.exists() {
        let message = format!("there is no key at {}; `kwaainet setup` makes one", path.display());
        return Err(Failure::new(Exit::NoIdentity, message));
    }
    let settings = passphrase::from_settings(config)?;
    Ok(key_file::load(&path, || settings.or_else(|| passphrase::prompt("Passphrase of the key")))?)
}

fn path(config: &Config) -> PathBuf {
    config.path(&keys::IDENTITY_KEY_FILE).unwrap_or_default()
}

/// The passphrase to seal with; `None` to leave the key bare.
fn sealing(asked: bool, file: Option<&Path>) -> Result<Option<Secret>, Failure> {
    if let Some(file) = file {
        return passphrase::from_file(file).map(Some);
    }
    if !asked {
        return Ok(None);
    }
    let no_terminal =
        || Failure::usage("no passphrase was given; give --passphrase-file FILE without a terminal");
    let first = passphrase::prompt("New passphrase").ok_or_else(no_terminal)?;
    let second = passphrase::prompt("The same again").ok_or_else(no_terminal)?;
    if first != second {
        return Err(Failure::usage("the two passphrases differ"));
    }
    Ok(Some(first))
}

/// Puts a key in its place and says who the node is now.
fn put(
    home: &Path,
    config: &Config,
    identity: Identity,
    seal: Option<Secret>,
    force: bool,
    as_json: bool,
) -> Result<Exit, Failure> {
    let path = path(config);
    kwaainet_trust::disk::create_folder(home)?;
    let mut kept = None;
    if force && path.exists() {
        if let Some(id) = lock::running(home) {
            let message = format!("the node that runs as process {id} uses this key; `kwaainet stop` first");
            return Err(Failure::new(Exit::AlreadyRunning, message));
        }
        kept = Some(keep(&path)?);
    }
    key_file::create(&path, &identity, seal.as_ref()).map_err(|error| match error {
        kwaainet_trust::Error::Exists(path) => Failure::new(
            Exit::Failure,
            format!("{} is there already; --force keeps it beside and puts a new one there", path.display()),
        ),
        other => other.into(),
    })?;
    let mut out = io::stdout();
    if as_json {
        let mut object = describe(&identity, config);
        object["kept"] = json!(kept);
        writeln!(out, "{object}")?;
    } else {
        if let Some(kept) = kept {
            writeln!(out, "The former key is now {}.", kept.display())?;
        }
        writeln!(out, "The node is now {} ({}).", identity.peer_id(), path.display())?;
    }
    Ok(Exit::Success)
}

/// Renames a key to a name that is free; a link first, so that no moment loses it.
fn keep(path: &Path) -> Result<PathBuf, Failure> {
    for number in 1.. {
        let kept = path.with_added_extension(format!("before-{number}"));
        match fs::hard_link(path, &kept) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let message =
                    format!("the key {} can't be kept as {}: {error}", path.display(), kept.display());
                return Err(Failure::new(Exit::Failure, message));
            }
            Ok(()) => {
                fs::remove_file(path)?;
                return Ok(kept);
            }
        }
    }
    unreachable!("numbers do not end")
}

fn describe(identity: &Identity, config: &Config) -> Value {
    let did = identity.did();
    json!({
        "peer_id": identity.peer_id().to_string(),
        "did": did.to_string(),
        "did_peer": did.did_peer(),
        "alias": did.alias(),
        "kind": identity.kind(),
        "path": path(config),
        "document": did.document(),
    })
}

impl Show {
    fn execute(self, config: &Config) -> Result<Exit, Failure> {
        let identity = load(config)?;
        let object = describe(&identity, config);
        let mut out = io::stdout();
        if self.document {
            writeln!(out, "{:#}", object["document"])?;
        } else if self.json {
            writeln!(out, "{object}")?;
        } else {
            let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
            writeln!(out, "PeerId    {}", text("peer_id"))?;
            writeln!(out, "DID       {}", text("did"))?;
            writeln!(out, "          {}", text("did_peer"))?;
            writeln!(out, "Alias     {}", text("alias"))?;
            writeln!(out, "Key       {}, {}", text("kind"), text("path"))?;
        }
        Ok(Exit::Success)
    }
}

impl Import {
    fn execute(self, home: &Path, config: &Config) -> Result<Exit, Failure> {
        let seal = sealing(self.seal, self.passphrase_file.as_deref())?;
        let identity = if self.file == STANDARD_INPUT {
            let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX + 1));
            io::stdin().lock().take(KEY_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
            key_file::decode(&bytes, || seal.clone().or_else(|| passphrase::prompt("Passphrase of the key")))?
        } else {
            let open = || seal.clone().or_else(|| passphrase::prompt("Passphrase of the key"));
            key_file::load(Path::new(&self.file), open)?
        };
        put(home, config, identity, seal, self.force, self.json)
    }
}

impl Export {
    fn execute(self, config: &Config) -> Result<Exit, Failure> {
        let identity = load(config)?;
        let seal = sealing(self.seal, self.passphrase_file.as_deref())?;
        let bytes = key_file::encode(&identity, seal.as_ref())?;
        let mut out = io::stdout();
        match self.file {
            Some(file) => {
                disk::create(&file, &bytes, Readers::Owner)?;
                writeln!(out, "The key of {} is now also in {}.", identity.peer_id(), file.display())?;
            }
            None if !out.is_terminal() => out.write_all(&bytes)?,
            None if self.show_secret => {
                let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(out, "{}", *Zeroizing::new(text))?;
            }
            None => {
                return Err(Failure::usage(
                    "whoever sees the key can be this node; name a file, or --show-secret prints it here",
                ));
            }
        }
        Ok(Exit::Success)
    }
}
