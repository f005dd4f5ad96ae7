//! An engine: a range of a model's blocks, opened to compute.
//!
//! It takes token ids or hidden rows of any number of sessions and gives hidden rows or logits. A whole model
//! is the range of all blocks with embedding and head; there is no second path. The caller decides what goes
//! into a pass; the [scheduler](crate::scheduler) is such a caller.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use kwaainet_kernels::pool::Pool;
use kwaainet_kernels::{Kernels, KvKind, KvShape, RopeTable};

use crate::block::{BlockHere, Compute, Row, Scratch};
use crate::budget::Budget;
use crate::cores::{self, Cores};
use crate::error::Error;
use crate::files::ModelFiles;
use crate::kv::{KvCache, SessionId, pages_for};
use crate::limits::{
    BATCH_TOKENS_DEFAULT, BATCH_TOKENS_MAX, CONTEXT_TOKENS_DEFAULT, LOGITS_BYTES_MIN, SESSIONS_MAX,
    THREADS_MAX,
};
use crate::memory::Residence;
pub use crate::packed::Progress;
use crate::spec::{ModelSpec, Rope};
use crate::weights::{Part, Quantize, Weights};

/// How to open a model.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The blocks to hold; `None` is all of them.
    pub blocks: Option<Range<usize>>,
    /// Take token ids: hold the embedding.
    pub embedding: bool,
    /// Give logits: hold the last norm and the output matrix.
    pub head: bool,
    /// Positions a session may have; `None` is what the model was trained on, at most 4,096.
    pub context_tokens: Option<usize>,
    /// Sessions that may be open at once, cached prefixes included.
    pub sessions_max: usize,
    /// Rows that go through the blocks in one pass.
    pub batch_tokens_max: usize,
    /// How keys and values are kept.
    pub kv: KvKind,
    /// What is done to float weights.
    pub quantize: Quantize,
    /// Compute threads, the calling one included.
    pub threads: usize,
    /// The kernel set.
    pub kernels: Kernels,
    /// Where packed weights are kept; `None` packs into memory.
    pub cache_folder: Option<PathBuf>,
    /// The most memory to use, in bytes; `None` is what the machine can give.
    pub memory_bytes_max: Option<u64>,
    /// How weights are kept in memory.
    pub residence: Residence,
    /// Asks the system for large pages.
    pub huge_pages: bool,
    /// Binds each compute thread to a core, fast ones first.
    pub pin: bool,
}

impl EngineOptions {
    /// A whole model for one session on all fast cores.
    pub fn new(kernels: Kernels) -> Self {
        EngineOptions {
            blocks: None,
            embedding: true,
            head: true,
            context_tokens: None,
            sessions_max: 1,
            batch_tokens_max: BATCH_TOKENS_DEFAULT,
            kv: KvKind::F16,
            quantize: Quantize::Keep,
            threads: Cores::here().threads(),
            kernels,
            cache_folder: None,
            memory_bytes_max: None,
            residence: Residence::default(),
            huge_pages: false,
            pin: false,
        }
    }

    pub(crate) fn block_range(&self, spec: &ModelSpec) -> Range<usize> {
        self.blocks.clone().unwrap_or(0..spec.blocks)
    }

    pub(crate) fn context(&self, spec: &ModelSpec) -> usize {
        self.context_tokens.unwrap_or(spec.context_tokens.min(CONTEXT_TOKENS_DEFAULT))
    }

    pub(crate) fn part(&self, spec: &ModelSpec) -> Part {
        let blocks = self.block_range(spec);
        Part { blocks, embedding: self.embedding, head: self.head, quantize: self.quantize }
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), Error> {
        let range = self.block_range(spec);
        if range.start >= range.end || range.end > spec.blocks {
            let (start, end, blocks) = (range.start, range.end, spec.blocks);
            return Err(Error::request(format!(
                "blocks {start}..{end} were asked for; the model has 0..{blocks}"
            )));
        }
        if self.embedding && range.start != 0 || self.head && range.end != spec.blocks {
            return Err(Error::request(
                "the embedding goes with the first block and the head with the last; \
                 another range has neither",
            ));
        }
        let context = self.context(spec);
        if context == 0 || context > spec.context_tokens {
            let trained = spec.context_tokens;
            return Err(Error::request(format!(
                "a context of {context} tokens was asked for; the model has 1..={trained}"
            )));
        }
        let within = |what: &str, value: usize, most: usize| {
            if value == 0 || value > most {
                return Err(Error::request(format!(
                    "{value} {what} were asked for; possible are 1..={most}"
                )));
            }
            Ok(())
        };
        within("sessions", self.sessions_max, SESSIONS_MAX)?;
        within("tokens a pass", self.batch_tokens_max, BATCH_TOKENS_MAX)?;
        within("threads", self.threads, THREADS_MAX)
    }
}

/// Rows of logits that one pass may give.
pub(crate) fn logit_rows_max(spec: &ModelSpec, options: &EngineOptions) -> usize {
    options.sessions_max.max(LOGITS_BYTES_MIN / (spec.vocabulary * size_of::<f32>()))
}

/// What goes into a pass for one session.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Token ids, for an engine with the embedding.
    Tokens(&'a [u32]),
    /// Rows of the residual stream, `[tokens][hidden]`, for an engine without it.
    Hidden(&'a [f32]),
}

/// Which rows of a run are wanted out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: the pass only fills the KV cache (a head gives nothing).
    Nothing,
    /// The last row.
    Last,
    /// Every row.
    All,
}

/// A piece of one session's text in a pass. A session may stand in a pass once.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The session; its positions continue where it stands.
    pub session: SessionId,
    /// The rows.
    pub input: Input<'a>,
    /// What to give back.
    pub wanted: Wanted,
}

/// A loaded range of blocks.
pub struct Engine {
    files: Arc<ModelFiles>,
    spec: ModelSpec,
    options: EngineOptions,
    range: Range<usize>,
    context_tokens: usize,
    budget: Budget,
    weights: Weights,
    pool: Pool,
    /// The core that the calling thread is to be bound to, until it is.
    caller_place: Option<usize>,
    rope: RopeTable,
    rope_local: Option<RopeTable>,
    kv: KvCache,
    scratch: Scratch,
    rows: Vec<Row>,
    /// Rows given back by the last pass.
    out: Vec<f32>,
}

impl Engine {
    /// Opens a range of a model: computes its budget, packs weights that aren't packed yet, reserves the KV
    /// cache. `progress` hears what is packed, [`Budget::packed_bytes`] in all.
    ///
    /// # Errors When the options contradict the model, when it doesn't fit into memory, or when files can't
    /// be read or written.
    pub fn open(
        files: Arc<ModelFiles>,
        options: EngineOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine, Error> {
        let spec = files.spec().clone();
        options.check(&spec)?;
        let budget = Budget::of(&files, &options)?;
        budget.check(&files, &options)?;
        let folder = options.cache_folder.as_deref();
        let weights = Weights::open(files.clone(), &options.part(&spec), folder, progress)?;
        weights.settle(options.residence, options.huge_pages)?;
        let range = options.block_range(&spec);
        let context_tokens = options.context(&spec);
        let table = |rope: &Rope| {
            RopeTable::new(spec.rotary_width, rope.theta, &rope.scaling, spec.rope_pairing, context_tokens)
        };
        let shape = KvShape { kind: options.kv, kv_heads: spec.kv_heads, head_width: spec.head_width };
        let pages = pages_for(context_tokens) * options.sessions_max;
        let kv =
            KvCache::new(shape, range.len(), pages, options.sessions_max, context_tokens, options.huge_pages)
                .map_err(|source| Error::io("can't take memory for the KV cache", source))?;
        let places = if options.pin { Cores::here().places(options.threads) } else { Vec::new() };
        let start = {
            let places = places.clone();
            move |thread: usize| places.get(thread).into_iter().for_each(|&core| cores::bind(core))
        };
        Ok(Engine {
            pool: Pool::with_start(options.threads, start),
            caller_place: places.first().copied(),
            rope: table(&spec.rope),
            rope_local: spec.rope_local.as_ref().map(table),
            kv,
            scratch: Scratch::new(&spec, options.batch_tokens_max),
            rows: Vec::with_capacity(options.batch_tokens_max),
            out: Vec::new(),
            files,
            spec,
            range,
            context_tokens,
            budget,
            weights,
            options,
        })
    }

    /// The model's description.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The files it was opened from.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// The options it was opened with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The blocks it holds.
    pub fn blocks(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The memory it was computed to need.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Positions a session may have.
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// Width of the rows that a pass gives back: the vocabulary with a head, else the hidden size.
    pub fn row_width(&self) -> usize {
        if self.options.head { self.spec.vocabulary } else { self.spec.hidden }
    }

    /// Opens a session that may grow to `tokens_max` positions; `None` when there is no slot or no room.
    pub fn open_session(&mut self, tokens_max: usize) -> Option<SessionId> {
        self.kv.open(tokens_max)
    }

    /// Opens a session that shares the first `tokens` positions of another and may grow to `tokens_max`.
    pub fn fork_session(&mut self, parent: SessionId, tokens: usize, tokens_max: usize) -> Option<SessionId> {
        self.kv.fork(parent, tokens, tokens_max)
    }

    /// Forgets all positions of a session from `tokens` on. False if it is shorter or closed.
    pub fn truncate_session(&mut self, session: SessionId, tokens: usize) -> bool {
        self.kv.truncate(session, tokens)
    }

    /// Keeps a session only for others to be forked from: what it reserved and didn't use is free again.
    pub fn retire_session(&mut self, session: SessionId) {
        self.kv.give_up_reservation(session);
    }

    /// Closes a session.
    pub fn close_session(&mut self, session: SessionId) {
        self.kv.close(session);
    }

    /// Filled positions of a session; `None` if it is closed.
    pub fn session_tokens(&self, session: SessionId) -> Option<usize> {
        self.kv.tokens(session)
    }

    /// Sessions that are open now.
    pub fn open_sessions(&self) -> usize {
        self.kv.open_sessions()
    }

    /// Runs one pass over the blocks for all `runs` together and gives the wanted rows back, in order:
    /// [rows][`Engine::row_width`].
    ///
    /// # Errors When a run doesn't suit this engine: the wrong kind of input, a closed session, an id beyond
    /// the vocabulary, numbers that aren't finite, no room. Nothing was computed then.
    pub fn forward(&mut self, runs: &[Run<'_>]) -> Result<&[f32], Error> {
        self.admit(runs)?;
        if let Some(core) = self.caller_place.take() {
            cores::bind(core);
        }
        self.load_rows(runs);
        let streamed = self.options.residence == Residence::Streamed;
        let compute = Compute {
            kernels: self.options.kernels,
            pool: &self.pool,
            spec: &self.spec,
            weights: &self.weights,
            rows: &self.rows,
        };
        for (local, block) in self.weights.blocks.iter().enumerate() {
            let window = self.spec.block_window(self.range.start + local);
            let rope = match (&self.rope_local, window) {
                (Some(rope), Some(_)) => rope,
                _ => &self.rope,
            };
            let here = BlockHere { weights: block, local, window, rope };
            if streamed {
                self.weights.read_ahead(local);
            }
            compute.block(&here, &mut self.kv, &mut self.scratch);
            if streamed {
                self.weights.let_go(local);
            }
        }
        let hidden = self.spec.hidden;
        let mut wanted_rows = 0;
        let mut row = 0;
        for run in runs {
            let count = self.run_rows(run);
            self.kv.advance(run.session, count);
            let first = match run.wanted {
                Wanted::Nothing => row + count,
                Wanted::Last => row + count - 1,
                Wanted::All => row,
            };
            row += count;
            // Wanted rows move to the front; they never overtake one that is still to be moved.
            self.scratch.hidden.copy_within(first * hidden..row * hidden, wanted_rows * hidden);
            wanted_rows += row - first;
        }
        self.out.clear();
        if wanted_rows == 0 {
            return Ok(&self.out);
        }
        let Some(head) = &self.weights.head else {
            self.out.extend_from_slice(&self.scratch.hidden[..wanted_rows * hidden]);
            return Ok(&self.out);
        };
        self.out.resize(wanted_rows * self.spec.vocabulary, 0.0);
        let Scratch { hidden, normed, .. } = &mut self.scratch;
        compute.norm_rows(hidden, &head.norm, wanted_rows, normed);
        if streamed {
            self.weights.read_ahead(self.weights.blocks.len());
        }
        compute.multiply(normed, [(&head.output, &None, &mut self.out[..])]);
        if streamed {
            self.weights.let_go(self.weights.blocks.len());
        }
        Ok(&self.out)
    }

    /// The residual stream as the last pass left it, before the head's norm, for the rows wanted last: for
    /// tests.
    pub fn hidden_rows(&self) -> &[f32] {
        &self.scratch.hidden
    }

    fn run_rows(&self, run: &Run<'_>) -> usize {
        match run.input {
            Input::Tokens(ids) => ids.len(),
            Input::Hidden(rows) => rows.len() / self.spec.hidden,
        }
    }

    /// Checks all runs before anything changes, then makes room for their rows.
    fn admit(&mut self, runs: &[Run<'_>]) -> Result<(), Error> {
        let mut total = 0usize;
        for (index, run) in runs.iter().enumerate() {
            if runs[..index].iter().any(|other| other.session == run.session) {
                return Err(Error::request("a session stands in one pass twice; give its rows as one run"));
            }
            match run.input {
                Input::Tokens(ids) => self.check_tokens(ids)?,
                Input::Hidden(rows) => self.check_hidden(rows)?,
            }
            let count = self.run_rows(run);
            let filled =
                self.kv.tokens(run.session).ok_or_else(|| Error::request("the session is closed"))?;
            if count == 0 {
                return Err(Error::request("a run without rows was given to a pass"));
            }
            if count > self.context_tokens - filled {
                let context = self.context_tokens;
                return Err(Error::request(format!(
                    "{count} more tokens don't fit: the session holds {filled} of a context of {context}"
                )));
            }
            total += count;
        }
        self.check_logits(runs)?;
        if total == 0 || total > self.options.batch_tokens_max {
            let most = self.options.batch_tokens_max;
            return Err(Error::request(format!(
                "a pass was asked for {total} rows; possible are 1..={most}"
            )));
        }
        for run in runs {
            let count = self.run_rows(run);
            if !self.kv.extend(run.session, count) {
                return Err(Error::request("the KV cache has no page left for this session"));
            }
        }
        Ok(())
    }

    /// Logits are the widest rows there are; a pass gives as many as the budget counted.
    fn check_logits(&self, runs: &[Run<'_>]) -> Result<(), Error> {
        if !self.options.head {
            return Ok(());
        }
        let wanted = |run: &Run<'_>| match run.wanted {
            Wanted::Nothing => 0,
            Wanted::Last => 1,
            Wanted::All => self.run_rows(run),
        };
        let (rows, most) =
            (runs.iter().map(wanted).sum::<usize>(), logit_rows_max(&self.spec, &self.options));
        if rows > most {
            return Err(Error::request(format!(
                "logits of {rows} rows were asked of one pass; {most} are possible"
            )));
        }
        Ok(())
    }

    fn check_tokens(&self, ids: &[u32]) -> Result<(), Error> {
        if self.weights.embedding.is_none() {
            return Err(Error::request("this engine holds no embedding; give it hidden rows"));
        }
        let vocabulary = self.spec.vocabulary;
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(id) => Err(Error::request(format!("token {id} is beyond the vocabulary of {vocabulary}"))),
            None => Ok(()),
        }
    }

    fn check_hidden(&self, rows: &[f32]) -> Result<(), Error> {
        if self.weights.embedding.is_some() {
            return Err(Error::request("this engine holds the embedding; give it token ids"));
        }
        if !rows.len().is_multiple_of(self.spec.hidden) {
            let (found, hidden) = (rows.len(), self.spec.hidden);
            return Err(Error::request(format!("{found} numbers are no whole rows of {hidden}")));
        }
        if rows.iter().any(|value| !value.is_finite()) {
            return Err(Error::request("a hidden row holds a number that isn't finite"));
        }
        Ok(())
    }

    fn load_rows(&mut self, runs: &[Run<'_>]) {
        self.rows.clear();
        let hidden = self.spec.hidden;
        for run in runs {
            let filled = self.kv.tokens(run.session).expect("admit saw the session open");
            let first = self.rows.len();
            let count = self.run_rows(run);
            self.rows.extend((0..count).map(|i| Row { session: run.session, position: filled + i }));
            let target = &mut self.scratch.hidden[first * hidden..][..count * hidden];
            match (run.input, &self.weights.embedding) {
                (Input::Tokens(ids), Some(embedding)) => {
                    let matrix = self.weights.matrix(embedding);
                    for (&id, row) in ids.iter().zip(target.chunks_exact_mut(hidden)) {
                        matrix.decode_row(id as usize, row);
                    }
                    if self.spec.embedding_scale != 1.0 {
                        self.options.kernels.scale(target, self.spec.embedding_scale);
                    }
                }
                (Input::Hidden(rows), _) => target.copy_from_slice(rows),
                (Input::Tokens(_), None) => unreachable!("admit refused tokens without an embedding"),
            }
        }
    }
}
