//! `kwaainet serve`: the HTTP API on a port.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::rc::Rc;
use std::thread;

use argh::FromArgs;
use smol::LocalExecutor;
use smol::channel::{Receiver, bounded};
use smol::future::FutureExt;

use crate::api::Api;
use crate::door::{Door, Guard};
use crate::exit::{Exit, Failure};
use crate::limits::API_KEY_BYTES_MAX;
use crate::model::{Choice, EMBEDDED_NAME, Model, file_name, residence};
use crate::signals::Signals;

/// open the OpenAI-compatible HTTP API
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
#[argh(example = "{command_name}")]
#[argh(example = "{command_name} --model qwen3-0.6b-q4_k_m.gguf --name qwen3 --sessions 8")]
#[argh(example = "{command_name} --host 0.0.0.0 --api-key-file key.txt")]
#[argh(
    note = "On any address but loopback a key is demanded: --api-key, --api-key-file or KWAAINET_API_KEY."
)]
pub struct Serve {
    /// the address to listen at (default: 127.0.0.1)
    #[argh(option, default = "\"127.0.0.1\".into()")]
    host: String,
    /// the port; 0 takes a free one and tells it (default: 11435)
    #[argh(option, default = "11435")]
    port: u16,
    /// a GGUF file or a Hugging Face folder (default: the small story-teller inside the binary)
    #[argh(option)]
    model: Option<PathBuf>,
    /// the name that clients know the model by (default: the file's)
    #[argh(option)]
    name: Option<String>,
    /// answers written at once; more wait in a queue (default: 4)
    #[argh(option, default = "4")]
    sessions: usize,
    /// tokens of prompt and answer together (default: what the model was made for, at most 4096)
    #[argh(option)]
    context: Option<usize>,
    /// how keys and values are kept: f16, q8_0 or f32 (default: f16)
    #[argh(option)]
    kv: Option<String>,
    /// what to make of float weights: keep, f32, q8_0, q4_0 or q4_k (default: keep)
    #[argh(option)]
    quantize: Option<String>,
    /// compute threads (default: all fast cores)
    #[argh(option)]
    threads: Option<usize>,
    /// bind each compute thread to a core, fast cores first
    #[argh(switch)]
    pin: bool,
    /// read the weights in at once and lock them in memory (else they are mapped and come as they are used)
    #[argh(switch)]
    lock: bool,
    /// hold only a block or two of the weights in memory and read the rest from the disk for each token
    #[argh(switch)]
    stream: bool,
    /// ask the system for large pages
    #[argh(switch)]
    huge_pages: bool,
    /// the key that clients must send; others on this machine can see it here, so prefer a file
    #[argh(option)]
    api_key: Option<String>,
    /// a file whose first line is the key
    #[argh(option)]
    api_key_file: Option<PathBuf>,
    /// ask for no key although others can reach the port
    #[argh(switch)]
    insecure_no_key: bool,
    /// let web pages of this origin ask, or of all by "*"; may be given several times
    #[argh(option)]
    cors: Vec<String>,
}

impl Serve {
    /// Serves until a signal comes.
    pub fn execute(self) -> Result<Exit, Failure> {
        let (listener, address) = self.listen()?;
        let guard = self.guard(address.ip())?;
        let signals = Signals::listen()?;
        let id = self.name.clone().unwrap_or_else(|| file_name(self.model.as_deref()));
        let mut aliases = vec!["default".to_owned()];
        aliases.extend(self.model.is_none().then(|| EMBEDDED_NAME.to_owned()));
        let api = Api::new(id, aliases)?;
        let models = self.load()?;
        let executor = LocalExecutor::new();
        let door = Door::new(guard, api.service());
        eprintln!("Listening at http://{address}.");
        let failure = Rc::new(RefCell::new(None));
        let failed = failure.clone();
        let stop = async {
            let load = async {
                match models.recv().await {
                    Ok(Ok(model)) => {
                        if let Some(warning) = model.text.template.warning() {
                            eprintln!("kwaainet: {warning}");
                        }
                        eprintln!("Ready after {:.0} ms.", model.load_s * 1e3);
                        api.set_model(model);
                        std::future::pending().await
                    }
                    Ok(Err(failure)) => *failed.borrow_mut() = Some(failure),
                    Err(_) => {
                        let message = "the model's loading ended without a result";
                        *failed.borrow_mut() = Some(Failure::new(Exit::Failure, message));
                    }
                }
            };
            signals.arrival().or(load).await;
            if signals.came() {
                eprintln!("Finishing what is running; once more ends at once.");
            }
        };
        smol::block_on(executor.run(door.run(listener, &executor, stop)));
        if let Some(failure) = failure.borrow_mut().take() {
            return Err(failure);
        }
        Ok(if signals.is_interrupted() { Exit::Interrupted } else { Exit::Success })
    }

    /// Opens the port, so that it answers while the model loads.
    fn listen(&self) -> Result<(smol::net::TcpListener, SocketAddr), Failure> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let failed = |error| {
            let port = self.port;
            Failure::new(Exit::Failure, format!("the node can't listen at {host} port {port}: {error}"))
        };
        let addresses = (host, self.port).to_socket_addrs().map_err(failed)?;
        let listener = TcpListener::bind(addresses.collect::<Vec<_>>().as_slice()).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let listener = smol::Async::new(listener).map_err(failed)?;
        Ok((listener.into(), address))
    }

    fn guard(&self, address: IpAddr) -> Result<Guard, Failure> {
        let api_key = self.key()?;
        if api_key.is_none() && !address.is_loopback() && !self.insecure_no_key {
            return Err(Failure::usage(format!(
                "others can reach {address}, so a key is needed: --api-key-file FILE, KWAAINET_API_KEY, or \
                 --insecure-no-key if everyone may ask"
            )));
        }
        for origin in &self.cors {
            if origin != "*" && (!origin.contains("://") || origin.ends_with('/')) {
                return Err(Failure::usage(format!(
                    "--cors {origin} is no origin; one looks like https://app.example"
                )));
            }
        }
        let only_loopback_hosts = api_key.is_none() && address.is_loopback();
        Ok(Guard { api_key, origins: self.cors.clone(), only_loopback_hosts })
    }

    fn key(&self) -> Result<Option<String>, Failure> {
        let given = match (&self.api_key, &self.api_key_file) {
            (Some(_), Some(_)) => return Err(Failure::usage("give --api-key or --api-key-file, not both")),
            (Some(key), None) => Some(key.clone()),
            (None, Some(path)) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    Failure::new(
                        Exit::Failure,
                        format!("the key file {} can't be read: {error}", path.display()),
                    )
                })?;
                Some(text.lines().next().unwrap_or_default().to_owned())
            }
            (None, None) => env::var("KWAAINET_API_KEY").ok().filter(|key| !key.is_empty()),
        };
        let Some(key) = given.map(|key| key.trim().to_owned()) else { return Ok(None) };
        if key.is_empty() || key.len() > API_KEY_BYTES_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Failure::usage(format!(
                "a key has 1 to {API_KEY_BYTES_MAX} visible ASCII characters without spaces"
            )));
        }
        Ok(Some(key))
    }

    /// Loads the model in a thread of its own.
    fn load(&self) -> Result<Receiver<Result<Model, Failure>>, Failure> {
        let choice = Choice {
            path: self.model.clone(),
            context_tokens: self.context,
            kv: self.kv.clone(),
            quantize: self.quantize.clone(),
            threads: self.threads,
            pin: self.pin,
            residence: residence(self.lock, self.stream)?,
            huge_pages: self.huge_pages,
        };
        let sessions = self.sessions;
        let (sender, receiver) = bounded(1);
        let load = move || {
            let model = Model::load(&choice, sessions, &mut |line| eprintln!("{line}"));
            // Nobody listens any more if a signal came first.
            let _ = sender.send_blocking(model);
        };
        thread::Builder::new().name("load".into()).spawn(load)?;
        Ok(receiver)
    }
}
