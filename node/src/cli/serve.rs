//! `kwaainet serve`: the HTTP API on a port, without the rest of a node.

use argh::FromArgs;

use crate::config::{Config, Flag, keys};
use crate::exit::{Exit, Failure};
use crate::http::Port;
use crate::model::residence;
use crate::signals::Signals;
use crate::{home, node};

/// open the OpenAI-compatible HTTP API
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
#[argh(example = "{command_name}")]
#[argh(example = "{command_name} --model qwen3-0.6b-q4_k_m.gguf --name qwen3 --sessions 8")]
#[argh(example = "{command_name} --host 0.0.0.0 --api-key-file key.txt")]
#[argh(
    note = "On any address but loopback a key is demanded: --api-key, --api-key-file or KWAAINET_API_KEY."
)]
#[argh(note = "Each option has a setting in config.toml that it overrides; `config list` tells them.")]
pub struct Serve {
    /// the address to listen at (default: 127.0.0.1)
    #[argh(option)]
    host: Option<String>,
    /// the port; 0 takes a free one and tells it (default: 11435)
    #[argh(option)]
    port: Option<String>,
    /// a GGUF file or a Hugging Face folder (default: the small story-teller inside the binary)
    #[argh(option)]
    model: Option<String>,
    /// the name that clients know the model by (default: the file's)
    #[argh(option)]
    name: Option<String>,
    /// answers written at once; more wait in a queue (default: 4)
    #[argh(option)]
    sessions: Option<String>,
    /// tokens of prompt and answer together (default: what the model was made for, at most 4096)
    #[argh(option)]
    context: Option<String>,
    /// how keys and values are kept: f16, q8_0 or f32 (default: f16)
    #[argh(option)]
    kv: Option<String>,
    /// what to make of float weights: keep, f32, q8_0, q4_0 or q4_k (default: keep)
    #[argh(option)]
    quantize: Option<String>,
    /// compute threads (default: all fast cores)
    #[argh(option)]
    threads: Option<String>,
    /// bind each compute thread to a core, fast cores first
    #[argh(switch)]
    pin: bool,
    /// read the weights in at once and lock them in memory (otherwise they are mapped and come as they are
    /// used)
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
    api_key_file: Option<String>,
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
        residence(self.lock, self.stream)?;
        if self.api_key.is_some() && self.api_key_file.is_some() {
            return Err(Failure::usage("give --api-key or --api-key-file, not both"));
        }
        let config = Config::load(&home::path()?, &self.flags())?;
        let port = Port::open(&config, self.api_key)?;
        node::run(&config, port, &Signals::listen()?, None)
    }

    fn flags(&self) -> Vec<Flag> {
        let mut flags: Vec<Flag> = Vec::new();
        for (key, value) in [
            (&keys::HTTP_HOST, &self.host),
            (&keys::HTTP_PORT, &self.port),
            (&keys::MODEL_PATH, &self.model),
            (&keys::MODEL_NAME, &self.name),
            (&keys::MODEL_SESSIONS, &self.sessions),
            (&keys::MODEL_CONTEXT, &self.context),
            (&keys::MODEL_KV, &self.kv),
            (&keys::MODEL_QUANTIZE, &self.quantize),
            (&keys::MODEL_THREADS, &self.threads),
            (&keys::HTTP_API_KEY_FILE, &self.api_key_file),
        ] {
            flags.extend(value.clone().map(|value| (key, value)));
        }
        for (key, value, is_given) in [
            (&keys::HTTP_INSECURE_NO_KEY, "true", self.insecure_no_key),
            (&keys::MODEL_PIN, "true", self.pin),
            (&keys::MODEL_HUGE_PAGES, "true", self.huge_pages),
            (&keys::MODEL_RESIDENCE, "locked", self.lock),
            (&keys::MODEL_RESIDENCE, "streamed", self.stream),
        ] {
            flags.extend(is_given.then(|| (key, value.to_owned())));
        }
        if !self.cors.is_empty() {
            flags.push((&keys::HTTP_CORS, self.cors.join(",")));
        }
        flags
    }
}
