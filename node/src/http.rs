//! The HTTP part of the node: the port, who may ask at it, and the model behind it.
//!
//! `serve` is this part alone; `start` opens it first, so that it answers while everything else comes up.

use std::env;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::thread;

use kwaainet_engine::memory::Residence;
use smol::channel::{Receiver, bounded};

use crate::config::{Config, keys};
use crate::door::Guard;
use crate::exit::{Exit, Failure};
use crate::limits::API_KEY_BYTES_MAX;
use crate::log;
use crate::model::{Choice, Model};

/// An open port that nobody answers at yet.
pub struct Port {
    /// The listener.
    pub listener: smol::net::TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
    /// Who may ask.
    pub guard: Guard,
}

impl Port {
    /// Opens the port that the settings tell. `api_key` is one that the command line gave.
    pub fn open(config: &Config, api_key: Option<String>) -> Result<Port, Failure> {
        let host = config.text(&keys::HTTP_HOST).unwrap_or_default();
        let port = config.number(&keys::HTTP_PORT).unwrap_or_default() as u16;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let failed = |error| {
            Failure::new(Exit::Failure, format!("the node can't listen at {host} port {port}: {error}"))
        };
        let addresses = (host, port).to_socket_addrs().map_err(failed)?;
        let listener = TcpListener::bind(addresses.collect::<Vec<_>>().as_slice()).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let guard = guard(config, address.ip(), api_key)?;
        let listener = smol::Async::new(listener).map_err(failed)?.into();
        Ok(Port { listener, address, guard })
    }
}

fn guard(config: &Config, address: IpAddr, api_key: Option<String>) -> Result<Guard, Failure> {
    let api_key = key(config, api_key)?;
    if api_key.is_none() && !address.is_loopback() && !config.is_on(&keys::HTTP_INSECURE_NO_KEY) {
        return Err(Failure::usage(format!(
            "others can reach {address}, so a key is needed: http.api_key_file (--api-key-file), \
             KWAAINET_API_KEY, or http.insecure_no_key (--insecure-no-key) if everyone may ask"
        )));
    }
    let only_loopback_hosts = api_key.is_none() && address.is_loopback();
    Ok(Guard { api_key, origins: config.list(&keys::HTTP_CORS).to_vec(), only_loopback_hosts })
}

fn key(config: &Config, given: Option<String>) -> Result<Option<String>, Failure> {
    let given = match (given, config.path(&keys::HTTP_API_KEY_FILE)) {
        (Some(key), _) => Some(key),
        (None, Some(path)) => {
            let text = fs::read_to_string(&path).map_err(|error| {
                Failure::new(Exit::Failure, format!("the key file {} can't be read: {error}", path.display()))
            })?;
            Some(text.lines().next().unwrap_or_default().to_owned())
        }
        (None, None) => env::var("KWAAINET_API_KEY").ok().filter(|key| !key.is_empty()),
    };
    let Some(key) = given.map(|key| key.trim().to_owned()) else { return Ok(None) };
    if key.is_empty() || key.len() > API_KEY_BYTES_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(format!(
            "a key has 1 to {API_KEY_BYTES_MAX} visible ASCII characters without spaces"
        )));
    }
    Ok(Some(key))
}

/// Which model the settings tell.
pub fn choice(config: &Config) -> Choice {
    let size = |key| config.number(key).and_then(|number| usize::try_from(number).ok());
    Choice {
        path: config.path(&keys::MODEL_PATH),
        context_tokens: size(&keys::MODEL_CONTEXT),
        kv: config.text(&keys::MODEL_KV).map(str::to_owned),
        quantize: config.text(&keys::MODEL_QUANTIZE).map(str::to_owned),
        threads: size(&keys::MODEL_THREADS),
        pin: config.is_on(&keys::MODEL_PIN),
        residence: match config.text(&keys::MODEL_RESIDENCE) {
            Some("locked") => Residence::Locked,
            Some("streamed") => Residence::Streamed,
            _ => Residence::Mapped,
        },
        huge_pages: config.is_on(&keys::MODEL_HUGE_PAGES),
    }
}

/// Loads the model in a thread of its own.
pub fn load(config: &Config) -> Result<Receiver<Result<Model, Failure>>, Failure> {
    let choice = choice(config);
    let sessions = config.number(&keys::MODEL_SESSIONS).unwrap_or(1) as usize;
    let (sender, receiver) = bounded(1);
    let load = move || {
        let model = Model::load(&choice, sessions, &mut |line| log::say(line));
        // Nobody listens any more if a signal came first.
        let _ = sender.send_blocking(model);
    };
    thread::Builder::new().name("load".into()).spawn(load)?;
    Ok(receiver)
}
