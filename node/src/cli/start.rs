//! `kwaainet start`, `stop` and `restart`: a whole node, at this terminal or by itself.
//!
//! By itself it is this binary once more, in a session of its own, with the same flags. Its standard output
//! leads back to the command that started it until the node is ready or has failed; that is how the command
//! can say how it went. No process is forked halfway.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use argh::FromArgs;
use kwaainet_trust::{Identity, Secret, Zeroizing, key_file};
use serde_json::{Value, json};

use crate::config::{self, Config, Flag, Source, keys};
use crate::control::{self, Control};
use crate::exit::{Exit, Failure};
use crate::http::Port;
use crate::limits::{START_TIME_MAX, STOP_TIME_MAX};
use crate::lock::{self, Lock};
use crate::network::Network;
use crate::node::{self, Whole};
use crate::signals::Signals;
use crate::{home, log, passphrase};

/// start a node: the HTTP API, and the network beside it
#[derive(FromArgs, Clone, Default)]
#[argh(subcommand, name = "start")]
#[argh(example = "{command_name}")]
#[argh(example = "{command_name} --daemon --model qwen3-0.6b-q4_k_m.gguf")]
#[argh(example = "{command_name} --set network.lan_only=true --set http.port=0")]
#[argh(note = "The HTTP API opens first; a network that fails is a state that `status` shows.")]
pub struct Start {
    /// run by itself; return when the node is ready
    #[argh(switch)]
    daemon: bool,
    /// a GGUF file or a Hugging Face folder (default: the small story-teller inside the binary)
    #[argh(option)]
    model: Option<String>,
    /// the name that clients know the model by (default: the file's)
    #[argh(option)]
    name: Option<String>,
    /// the address that the HTTP API listens at (default: 127.0.0.1)
    #[argh(option)]
    host: Option<String>,
    /// its port; 0 takes a free one and tells it (default: 11435)
    #[argh(option)]
    port: Option<String>,
    /// the node's key (default: identity.key in the home folder, made if it is missing)
    #[argh(option)]
    identity_key: Option<String>,
    /// work alone
    #[argh(switch)]
    no_network: bool,
    /// any setting as KEY=VALUE, for this time; may be given several times
    #[argh(option)]
    set: Vec<String>,
    /// be the node that --daemon starts
    #[argh(switch, hidden_help)]
    as_daemon: bool,
}

/// end the running node
#[derive(FromArgs)]
#[argh(subcommand, name = "stop")]
pub struct Stop {
    /// kill it if it does not end by itself
    #[argh(switch)]
    force: bool,
}

/// end the running node and start it by itself, with the flags that it had
#[derive(FromArgs)]
#[argh(subcommand, name = "restart")]
pub struct Restart {}

impl Start {
    /// Starts a node.
    pub fn execute(self) -> Result<Exit, Failure> {
        let home = home::path()?;
        if self.as_daemon {
            return self.be_daemon(&home);
        }
        if self.daemon {
            let secret = self.passphrase(&home)?;
            return start_daemon(&home, &self.settings()?, secret);
        }
        self.run(&home, true, None, |status| {
            let peer = status["network"]["peer_id"].as_str().unwrap_or_default();
            log::say(&format!("The node is up as {peer}. Ctrl-C ends it."));
        })
    }

    /// Runs the node that `--daemon` starts: a session of its own, and one line for who started it.
    fn be_daemon(self, home: &Path) -> Result<Exit, Failure> {
        #[cfg(unix)]
        {
            // It fails only for the leader of a group, which is in a session of its own kind already.
            let _ = rustix::process::setsid();
        }
        let mut secret = Zeroizing::new(Vec::with_capacity(kwaainet_trust::limits::PASSPHRASE_BYTES_MAX + 1));
        let limit = kwaainet_trust::limits::PASSPHRASE_BYTES_MAX as u64 + 1;
        std::io::Read::read_to_end(&mut std::io::Read::take(std::io::stdin(), limit), &mut secret)?;
        let secret = Some(secret).filter(|secret| !secret.is_empty());
        let result = self.run(home, false, secret, |status| tell(&json!({"ready": status})));
        if let Err(failure) = &result {
            log::say(&format!("The node failed: {failure}"));
            tell(&json!({"failure": failure.message}));
        }
        result
    }

    fn run(
        &self,
        home: &Path,
        echo: bool,
        secret: Option<Secret>,
        ready: fn(&Value),
    ) -> Result<Exit, Failure> {
        let lock = Lock::take(home)?;
        let logs = home::inner(home, "logs")?;
        log::open(&logs, echo).map_err(|error| {
            Failure::new(Exit::Failure, format!("the log in {} can't be written: {error}", logs.display()))
        })?;
        let config = Config::load(home, &self.flags()?)?;
        let port = Port::open(&config, None)?;
        let signals = Signals::listen()?;
        let identity = identity(&config, home, secret)?;
        let network = Network::new(&config, identity, home)?;
        let control = Control::open(home)?;
        let flags = self.settings()?;
        let whole = Whole { _lock: lock, control, network, flags, home: home.to_owned(), ready };
        node::run(&config, port, &signals, Some(whole))
    }

    fn flags(&self) -> Result<Vec<Flag>, Failure> {
        let mut flags: Vec<Flag> = Vec::new();
        for text in &self.set {
            let (name, value) = text.split_once('=').ok_or_else(|| {
                Failure::usage(format!("--set {text:.100} is not KEY=VALUE, such as http.port=0"))
            })?;
            flags.push((config::key(name).map_err(Failure::usage)?, value.to_owned()));
        }
        for (key, value) in [
            (&keys::MODEL_PATH, &self.model),
            (&keys::MODEL_NAME, &self.name),
            (&keys::HTTP_HOST, &self.host),
            (&keys::HTTP_PORT, &self.port),
            (&keys::IDENTITY_KEY_FILE, &self.identity_key),
        ] {
            flags.extend(value.clone().map(|value| (key, value)));
        }
        if self.no_network {
            flags.push((&keys::NETWORK_ENABLED, "false".into()));
        }
        Ok(flags)
    }

    /// The flags as KEY=VALUE, paths made whole, so that they mean the same elsewhere and later.
    fn settings(&self) -> Result<Vec<String>, Failure> {
        let mut settings = Vec::new();
        for (key, value) in self.flags()? {
            let is_path = matches!(key.kind, config::Kind::Text(config::Text::Path)) && !value.is_empty();
            let value = if is_path { std::path::absolute(&value)?.display().to_string() } else { value };
            settings.push(format!("{}={value}", key.name));
        }
        Ok(settings)
    }

    /// Asks for the passphrase of a sealed key here, where there is a terminal.
    fn passphrase(&self, home: &Path) -> Result<Option<Secret>, Failure> {
        let config = Config::load(home, &self.flags()?)?;
        let path = config.path(&keys::IDENTITY_KEY_FILE).unwrap_or_default();
        if !path.exists() || !key_file::is_sealed(&path)? || passphrase::from_settings(&config)?.is_some() {
            return Ok(None);
        }
        Ok(passphrase::prompt("Passphrase of the node's key"))
    }
}

/// The node's identity. The one of the home folder is made if it is missing; one that was named must be
/// there.
pub fn identity(config: &Config, home: &Path, given: Option<Secret>) -> Result<Identity, Failure> {
    let path = config.path(&keys::IDENTITY_KEY_FILE).unwrap_or_else(|| home.join("identity.key"));
    let is_named = config.get(&keys::IDENTITY_KEY_FILE).is_some_and(|(_, source)| source > Source::Default);
    if !is_named && !path.exists() {
        let identity = Identity::generate();
        kwaainet_trust::disk::create_folder(home)?;
        key_file::create(&path, &identity, None)?;
        log::say(&format!("Made the identity {} in {}.", identity.peer_id(), path.display()));
        return Ok(identity);
    }
    if !path.exists() {
        let message = format!("there is no key at {}; `kwaainet identity new` makes one", path.display());
        return Err(Failure::new(Exit::NoIdentity, message));
    }
    let settings = passphrase::from_settings(config)?;
    let asked = || given.or(settings).or_else(|| passphrase::prompt("Passphrase of the node's key"));
    Ok(key_file::load(&path, asked)?)
}

/// A line for who started this node; it may be gone.
fn tell(line: &Value) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn start_daemon(home: &Path, settings: &[String], secret: Option<Secret>) -> Result<Exit, Failure> {
    if let Some(id) = lock::running(home) {
        let message = format!("a node runs already in {}, process {id}", home.display());
        return Err(Failure::new(Exit::AlreadyRunning, message));
    }
    let mut child = Command::new(env::current_exe()?)
        .args(["start", "--as-daemon"])
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let (Some(mut stdin), Some(secret)) = (child.stdin.take(), secret) {
        // A node that has failed already says why itself.
        let _ = stdin.write_all(&secret);
    }
    let Some(line) = first_line(&mut child) else {
        let message = format!(
            "the node did not get ready within {} s; `kwaainet status` and `kwaainet logs` tell how it is",
            START_TIME_MAX.as_secs()
        );
        return Err(Failure::new(Exit::Failure, message));
    };
    let line: Value = serde_json::from_str(&line).unwrap_or_default();
    if line["ready"].is_object() {
        let status = &line["ready"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut out = std::io::stdout();
        writeln!(out, "The node runs as process {}.", status["process"])?;
        writeln!(out, "Identity  {}", text(&status["network"]["peer_id"]))?;
        writeln!(out, "HTTP      {}", text(&status["http"]))?;
        if status["model"]["status"] == "loading" {
            writeln!(out, "The model is still loading; `kwaainet status` tells when it is there.")?;
        }
        return Ok(Exit::Success);
    }
    let code = child.wait()?.code();
    let message = match line["failure"].as_str() {
        Some(message) => message.to_owned(),
        None => format!("the node ended at once ({code:?}); `kwaainet logs` may tell why"),
    };
    Err(Failure::new(code.map_or(Exit::Failure, Exit::from_code), message))
}

/// The first line of the child, empty if it ends without one; `None` if it takes too long.
fn first_line(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        // What can't be read is an empty line: the child is gone.
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(line);
    });
    receiver.recv_timeout(START_TIME_MAX).ok()
}

/// Ends the running node; what it was.
fn stop(home: &Path, force: bool) -> Result<Value, Failure> {
    let status = control::ask(home, &json!({"ask": "status"}));
    let asked = status.and_then(|status| {
        control::ask(home, &json!({"ask": "stop"}))?;
        Ok(status)
    });
    let status = match asked {
        Ok(status) => status,
        Err(failure) if failure.exit == Exit::NotRunning || !force => return Err(failure),
        Err(_) => Value::Null,
    };
    if (!status.is_null() && lock::wait_until_free(home, STOP_TIME_MAX))
        || (force && lock::kill(home) && lock::wait_until_free(home, STOP_TIME_MAX))
    {
        return Ok(status);
    }
    let message = format!(
        "the node did not end within {} s; `kwaainet stop --force` kills it",
        STOP_TIME_MAX.as_secs()
    );
    Err(Failure::new(Exit::Failure, message))
}

impl Stop {
    /// Ends the node.
    pub fn execute(self) -> Result<Exit, Failure> {
        let status = stop(&home::path()?, self.force)?;
        let again = if status["managed_by"] == "systemd" {
            " systemd may start it again; `systemctl stop kwaainet` keeps it down."
        } else {
            ""
        };
        writeln!(std::io::stdout(), "The node has ended.{again}")?;
        Ok(Exit::Success)
    }
}

impl Restart {
    /// Ends the node and starts it anew.
    pub fn execute(self) -> Result<Exit, Failure> {
        let home = home::path()?;
        let status = control::ask(&home, &json!({"ask": "status"}))?;
        if status["managed_by"] == "systemd" {
            let message =
                "systemd runs this node; `systemctl restart kwaainet` (with --user for a user's) restarts it";
            return Err(Failure::new(Exit::Failure, message));
        }
        let flags = status["flags"].as_array().cloned().unwrap_or_default();
        let set = flags.iter().filter_map(|flag| flag.as_str().map(str::to_owned)).collect();
        let start = Start { daemon: true, set, ..Start::default() };
        // Settings that became wrong meanwhile are told before anything is stopped.
        Config::load(&home, &start.flags()?)?;
        stop(&home, false)?;
        start.execute()
    }
}
