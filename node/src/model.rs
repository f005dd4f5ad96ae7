//! A model with everything that a conversation needs: files, tokenizer, template, engine.
//!
//! The command line and the API open models the same way.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kwaainet_engine::budget::Budget;
use kwaainet_engine::chat::ChatTemplate;
use kwaainet_engine::engine::{Engine, EngineOptions, Progress};
use kwaainet_engine::files::ModelFiles;
use kwaainet_engine::memory::Residence;
use kwaainet_engine::scheduler::{Scheduler, SchedulerOptions};
use kwaainet_engine::tokenizer::{Special, Tokenizer};
use kwaainet_engine::weights::Quantize;
use kwaainet_kernels::{Kernels, KvKind};

use crate::exit::{Exit, Failure};
use crate::home;
use crate::limits::WAITING_MAX;

/// The model in the binary, so that a node answers before anything was downloaded. `assets/NOTE.md` tells its
/// origin.
static EMBEDDED: &[u8] = include_bytes!("../assets/tales4m-q4_k_m.gguf");
/// The embedded model's name.
pub const EMBEDDED_NAME: &str = "tales4m";

/// Which model to open and how, as said on the command line.
#[derive(Clone, Default)]
pub struct Choice {
    /// A GGUF file or a Hugging Face folder; `None` is the embedded model.
    pub path: Option<PathBuf>,
    /// Positions of a session.
    pub context_tokens: Option<usize>,
    /// Type of the KV cache.
    pub kv: Option<String>,
    /// What is done to float weights.
    pub quantize: Option<String>,
    /// Compute threads.
    pub threads: Option<usize>,
    /// Binds each thread to a core.
    pub pin: bool,
    /// How weights are kept in memory.
    pub residence: Residence,
    /// Asks for large pages.
    pub huge_pages: bool,
}

/// What `--lock` and `--stream` ask for together.
pub fn residence(lock: bool, stream: bool) -> Result<Residence, Failure> {
    match (lock, stream) {
        (false, false) => Ok(Residence::Mapped),
        (true, false) => Ok(Residence::Locked),
        (false, true) => Ok(Residence::Streamed),
        (true, true) => {
            Err(Failure::usage("weights can't be locked in memory and streamed; take one of both"))
        }
    }
}

impl Choice {
    /// Opens the files and reads their headers.
    pub fn files(&self) -> Result<ModelFiles, Failure> {
        Ok(match &self.path {
            Some(path) => ModelFiles::open(path)?,
            None => ModelFiles::embedded(EMBEDDED_NAME, EMBEDDED)?,
        })
    }

    /// The engine's options for `sessions` sessions.
    pub fn options(&self, sessions: usize) -> Result<EngineOptions, Failure> {
        let kernels = Kernels::from_environment()
            .map_err(|error| Failure::new(Exit::WrongProcessor, error.to_string()))?;
        let mut options = EngineOptions::new(kernels);
        options.context_tokens = self.context_tokens;
        options.sessions_max = sessions;
        options.threads = self.threads.unwrap_or(options.threads);
        options.pin = self.pin;
        options.residence = self.residence;
        options.huge_pages = self.huge_pages;
        if let Some(kv) = &self.kv {
            options.kv = match kv.to_ascii_lowercase().as_str() {
                "f32" => KvKind::F32,
                "f16" => KvKind::F16,
                "q8_0" => KvKind::Q8_0,
                _ => return Err(Failure::usage(format!("--kv {kv} is none of f16, q8_0 and f32"))),
            };
        }
        if let Some(quantize) = &self.quantize {
            options.quantize = Quantize::from_name(quantize)?;
        }
        // The embedded model is packed within milliseconds and leaves no file behind.
        options.cache_folder = if self.path.is_some() { home::cache_folder() } else { None };
        Ok(options)
    }
}

/// What turns a conversation into tokens and back.
pub struct Text {
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's chat template, or the stated default.
    pub template: ChatTemplate,
    /// Tokens that end an answer.
    pub stop_ids: Vec<u32>,
    /// Ids that the model knows.
    pub vocabulary: usize,
    /// Positions that prompt and answer may have together.
    pub context_tokens: usize,
}

impl Text {
    /// Tokens of a plain text, with the beginning-of-sequence token if the model wants one.
    pub fn plain(&self, text: &str) -> Vec<u32> {
        plain_tokens(&self.tokenizer, text)
    }
}

/// Tokens of a plain text, with the beginning-of-sequence token if the model wants one.
pub fn plain_tokens(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids: Vec<u32> = tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().collect();
    ids.extend(tokenizer.encode(text, Special::AsText));
    ids
}

/// A model that answers.
pub struct Model {
    /// Its name: general.name of the file, or the file's or folder's.
    pub name: String,
    /// The first bytes of the files' fingerprint, in hexadecimal.
    pub fingerprint: String,
    /// Text in, text out.
    pub text: Arc<Text>,
    /// Who answers.
    pub scheduler: Scheduler,
    /// The kernel set that runs.
    pub kernels: Kernels,
    /// Compute threads.
    pub threads: usize,
    /// From the first look at the files until now, in seconds.
    pub load_s: f64,
}

/// A model that is open and not yet at work.
pub struct Parts {
    /// Its files.
    pub files: Arc<ModelFiles>,
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's chat template, or the stated default.
    pub template: ChatTemplate,
    /// The engine with all blocks.
    pub engine: Engine,
    /// From the first look at the files until now, in seconds.
    pub load_s: f64,
}

impl Choice {
    /// Opens the whole model for `sessions` sessions. `say` hears what is about to be done, such as the
    /// budget before loading.
    pub fn open(&self, sessions: usize, say: &mut dyn FnMut(&str)) -> Result<Parts, Failure> {
        let start = Instant::now();
        let options = self.options(sessions)?;
        let files = Arc::new(self.files()?);
        say(&format!("Kernel set {}, {} threads.", options.kernels.name(), options.threads));
        let budget = Budget::of(&files, &options)?;
        say(&budget_line(&budget));
        let (mut done, mut told) = (0, 0);
        let mut progress = |event: Progress| match event {
            Progress::Damaged(sentence) => eprintln!("kwaainet: {sentence}"),
            Progress::Packed { bytes } => {
                done += bytes;
                let tenth = done.min(budget.packed_bytes) * 10 / budget.packed_bytes.max(1);
                if tenth > told && start.elapsed() > QUICK {
                    told = tenth;
                    say(&format!("Packing weights: {} %.", tenth * 10));
                }
            }
        };
        // A vocabulary of 128 thousand takes as long to read as all weights to be mapped and locked.
        let (tokenizer, engine) = thread::scope(|scope| {
            let tokenizer = scope.spawn(|| Tokenizer::of_model(&files));
            let engine = Engine::open(files.clone(), options, &mut progress);
            (tokenizer.join(), engine)
        });
        let tokenizer = tokenizer.unwrap_or_else(|panic| resume_unwind(panic))?;
        let (tokenizer, engine) = (Arc::new(tokenizer), engine?);
        let template = ChatTemplate::new(files.chat_template(), &tokenizer)?;
        Ok(Parts { files, tokenizer, template, engine, load_s: start.elapsed().as_secs_f64() })
    }
}

impl Model {
    /// Opens a model and starts its scheduler. `say` hears what is about to be done.
    pub fn load(choice: &Choice, sessions: usize, say: &mut dyn FnMut(&str)) -> Result<Model, Failure> {
        let start = Instant::now();
        let Parts { files, tokenizer, template, engine, .. } = choice.open(sessions, say)?;
        let name = engine.spec().name.clone();
        let (kernels, threads) = (engine.options().kernels, engine.options().threads);
        let text = Arc::new(Text {
            tokenizer: tokenizer.clone(),
            template,
            stop_ids: files.stop_ids().to_vec(),
            vocabulary: engine.spec().vocabulary,
            context_tokens: engine.context_tokens(),
        });
        let queue = SchedulerOptions { active_max: sessions, waiting_max: WAITING_MAX };
        let scheduler = Scheduler::start(engine, tokenizer, queue)?;
        let fingerprint = files.fingerprint()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        let load_s = start.elapsed().as_secs_f64();
        Ok(Model { name, fingerprint, text, scheduler, kernels, threads, load_s })
    }
}

/// What is over by then, as mapping weights that are packed already, is not worth a word.
const QUICK: Duration = Duration::from_millis(500);

/// What a model takes and what there is, in one line.
pub fn budget_line(budget: &Budget) -> String {
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let available = budget.available_bytes.map_or("unknown".into(), megabytes);
    format!("Memory: {budget} = {}; free: {available}.", megabytes(budget.total_bytes()))
}

/// A name for the API: the file's or folder's own, or the embedded one's.
pub fn file_name(path: Option<&Path>) -> String {
    let Some(path) = path else { return EMBEDDED_NAME.into() };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or("model".into(), |name| name.to_string_lossy().into_owned())
}
