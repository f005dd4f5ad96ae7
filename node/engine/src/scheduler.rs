//! Many requests, one engine: continuous batching on one thread.
//!
//! Each turn of the loop is one pass of the engine. Every answer that is being written puts one row into it;
//! what room is left goes to prompts, in chunks, so that a long prompt doesn't hold up the others. A finished
//! session stays as long as its pages aren't needed, and a request that begins like it starts from there. An
//! answer doesn't depend on what else was in its passes: rows are computed independently, to the bit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use async_channel::{Receiver, Sender};

use crate::answer::{Answer, Step};
use crate::engine::{Engine, Input, Run, Wanted};
use crate::error::Error;
use crate::kv::SessionId;
use crate::limits::{PREFILL_CHUNK_TOKENS, RETRY_AFTER_S_MAX, WAITING_MAX};
use crate::request::{Event, Refusal, Request, Ticket};
use crate::sampler::Sampler;
use crate::stop::StopStrings;
use crate::tokenizer::Tokenizer;

/// How many requests a scheduler takes.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerOptions {
    /// Answers written at once; at most the engine's sessions.
    pub active_max: usize,
    /// Requests that may wait for a slot.
    pub waiting_max: usize,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        SchedulerOptions { active_max: usize::MAX, waiting_max: WAITING_MAX }
    }
}

/// What a scheduler is doing now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Requests being answered.
    pub active: usize,
    /// Requests waiting for a slot.
    pub waiting: usize,
    /// Answers that can be written at once.
    pub active_max: usize,
    /// Requests taken since the start.
    pub requests_total: u64,
    /// Prompt tokens computed since the start, those found in the cache not counted.
    pub prompt_tokens_total: u64,
    /// Tokens generated since the start.
    pub generated_tokens_total: u64,
}

#[derive(Default)]
struct Counters {
    /// Requests submitted and not yet ended.
    pending: AtomicUsize,
    active: AtomicUsize,
    requests: AtomicU64,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    /// Mean time of an answer, in milliseconds, moving.
    answer_ms: AtomicU64,
    stopping: AtomicBool,
}

/// A thread that owns an engine and answers requests. Dropping it ends the thread; running answers fail.
pub struct Scheduler {
    submissions: Sender<Submission>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
    active_max: usize,
    waiting_max: usize,
    context_tokens: usize,
    vocabulary: usize,
}

pub(crate) struct Submission {
    pub(crate) request: Request,
    pub(crate) stops: StopStrings,
    pub(crate) events: Sender<Event>,
    pub(crate) submitted: Instant,
}

impl Scheduler {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the engine holds less than a whole model, or the system gives no thread.
    pub fn start(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        options: SchedulerOptions,
    ) -> Result<Self, Error> {
        if !engine.options().embedding
            || !engine.options().head
            || engine.blocks().len() != engine.spec().blocks
        {
            return Err(Error::request(
                "a scheduler needs an engine with all blocks, the embedding and the head",
            ));
        }
        let active_max = options.active_max.clamp(1, engine.options().sessions_max);
        let counters = Arc::new(Counters::default());
        // Its capacity is the bound on pending requests, which `submit` keeps.
        let (submissions, incoming) = async_channel::bounded(active_max + options.waiting_max.max(1));
        let (context_tokens, vocabulary) = (engine.context_tokens(), engine.spec().vocabulary);
        let worker = Worker {
            sampler: Sampler::new(engine.spec().vocabulary),
            engine,
            tokenizer,
            incoming,
            counters: counters.clone(),
            active_max,
            waiting: VecDeque::new(),
            active: Vec::new(),
            kept: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("scheduler".into())
            .spawn(move || worker.work())
            .map_err(|e| Error::io("can't start the compute thread", e))?;
        Ok(Scheduler {
            submissions,
            counters,
            thread: Some(thread),
            active_max,
            waiting_max: options.waiting_max,
            context_tokens,
            vocabulary,
        })
    }

    /// Hands a request over.
    ///
    /// # Errors
    /// [`Refusal`]: the queue is full, the request can't be served as it stands, or the scheduler is ending.
    pub fn submit(&self, request: Request) -> Result<Ticket, Refusal> {
        let stops = self.check(&request).map_err(Refusal::Invalid)?;
        if self.counters.stopping.load(Ordering::Acquire) {
            return Err(Refusal::Stopping);
        }
        let most = self.active_max + self.waiting_max;
        let taken = self.counters.pending.fetch_update(Ordering::AcqRel, Ordering::Acquire, |pending| {
            (pending < most).then_some(pending + 1)
        });
        if taken.is_err() {
            return Err(Refusal::Busy { retry_after_s: self.retry_after_s() });
        }
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        // Unbounded in type, bounded in fact: an answer has at most as many events as the context has tokens,
        // and one.
        let (events, receiver) = async_channel::unbounded();
        let submission = Submission { request, stops, events, submitted: Instant::now() };
        match self.submissions.try_send(submission) {
            Ok(()) => Ok(Ticket { events: receiver }),
            Err(_) => {
                self.counters.pending.fetch_sub(1, Ordering::AcqRel);
                Err(Refusal::Stopping)
            }
        }
    }

    /// Everything that can be known to be wrong is found here, before the request takes a place.
    fn check(&self, request: &Request) -> Result<StopStrings, Error> {
        let (prompt, context) = (request.prompt.len(), self.context_tokens);
        if prompt == 0 {
            return Err(Error::request("the prompt is empty; give at least one token"));
        }
        if prompt >= context {
            return Err(Error::request(format!(
                "the prompt has {prompt} tokens and the context {context}; shorten it, or \
                 open the model with a longer context"
            )));
        }
        if request.tokens_max == Some(0) {
            return Err(Error::request("at least one token must be asked for"));
        }
        if let Some(id) = request.prompt.iter().find(|&&id| id as usize >= self.vocabulary) {
            let vocabulary = self.vocabulary;
            return Err(Error::request(format!("token {id} is beyond the vocabulary of {vocabulary}")));
        }
        request.sampling.check(self.vocabulary)?;
        StopStrings::new(request.stop.clone())
    }

    fn retry_after_s(&self) -> u32 {
        let waiting = self.waiting_max as u64 / self.active_max as u64 + 1;
        let seconds = self.counters.answer_ms.load(Ordering::Relaxed) * waiting / 1000;
        (seconds as u32).clamp(1, RETRY_AFTER_S_MAX)
    }

    /// What is going on now.
    pub fn status(&self) -> Status {
        let counters = &self.counters;
        let active = counters.active.load(Ordering::Acquire);
        Status {
            active,
            waiting: counters.pending.load(Ordering::Acquire).saturating_sub(active),
            active_max: self.active_max,
            requests_total: counters.requests.load(Ordering::Relaxed),
            prompt_tokens_total: counters.prompt_tokens.load(Ordering::Relaxed),
            generated_tokens_total: counters.generated_tokens.load(Ordering::Relaxed),
        }
    }

    /// Positions that prompt and answer may have together.
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.counters.stopping.store(true, Ordering::Release);
        self.submissions.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A finished session that others may begin from.
struct Kept {
    session: SessionId,
    /// The tokens whose keys and values it holds.
    tokens: Vec<u32>,
}

struct Worker {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    sampler: Sampler,
    incoming: Receiver<Submission>,
    counters: Arc<Counters>,
    active_max: usize,
    waiting: VecDeque<Submission>,
    active: Vec<Answer>,
    /// Least recently used first.
    kept: Vec<Kept>,
}

impl Worker {
    fn work(mut self) {
        while self.receive() {
            self.drop_abandoned();
            self.admit();
            if !self.active.is_empty() {
                self.pass();
            }
            self.counters.active.store(self.active.len(), Ordering::Release);
        }
        for answer in self.active.drain(..) {
            answer.fail(Error::request("the node is stopping"));
        }
        for submission in self.waiting.drain(..) {
            let _ = submission.events.try_send(Event::Failed(Error::request("the node is stopping")));
        }
    }

    /// Takes what was submitted; sleeps while there is nothing to do. False when the scheduler was dropped.
    fn receive(&mut self) -> bool {
        if self.counters.stopping.load(Ordering::Acquire) {
            return false;
        }
        if self.active.is_empty() && self.waiting.is_empty() {
            match self.incoming.recv_blocking() {
                Ok(submission) => self.waiting.push_back(submission),
                Err(_) => return false,
            }
        }
        while let Ok(submission) = self.incoming.try_recv() {
            self.waiting.push_back(submission);
        }
        true
    }

    /// Frees what belongs to callers that have left.
    fn drop_abandoned(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|submission| !submission.events.is_closed());
        self.ended(before - self.waiting.len());
        for index in (0..self.active.len()).rev() {
            if self.active[index].is_abandoned() {
                let answer = self.active.swap_remove(index);
                self.keep(answer);
            }
        }
    }

    fn ended(&self, count: usize) {
        self.counters.pending.fetch_sub(count, Ordering::AcqRel);
    }

    /// Gives slots to waiting requests, first come first served.
    fn admit(&mut self) {
        while self.active.len() < self.active_max
            && let Some(submission) = self.waiting.pop_front()
        {
            match self.open_session(&submission.request) {
                Some((session, cached)) => {
                    let answer = Answer::new(submission, session, cached, &self.engine);
                    self.active.push(answer);
                }
                None if self.active.is_empty() => {
                    // Nothing runs and nothing is kept: waiting longer can't help.
                    self.ended(1);
                    let error = Error::request("the KV cache can't hold this request");
                    let _ = submission.events.try_send(Event::Failed(error));
                }
                None => {
                    self.waiting.push_front(submission);
                    return;
                }
            }
        }
    }

    /// Opens a session that begins with as much of the prompt as is known; gives up kept sessions where room
    /// is short.
    fn open_session(&mut self, request: &Request) -> Option<(SessionId, usize)> {
        let context = self.engine.context_tokens();
        let wanted = request.tokens_max.unwrap_or(context);
        let tokens_max = request.prompt.len().saturating_add(wanted).min(context);
        loop {
            let opened = match self.longest_prefix(&request.prompt) {
                Some((parent, shared)) => {
                    self.engine.fork_session(parent, shared, tokens_max).map(|session| (session, shared))
                }
                None => self.engine.open_session(tokens_max).map(|session| (session, 0)),
            };
            if opened.is_some() || !self.give_up_one(&request.prompt) {
                return opened;
            }
        }
    }

    /// The session that shares the longest beginning with `prompt`, and how many tokens. The last token of a
    /// prompt is always computed, because its row gives the first logits.
    fn longest_prefix(&self, prompt: &[u32]) -> Option<(SessionId, usize)> {
        let known = self.kept.iter().map(|kept| (kept.session, kept.tokens.as_slice()));
        let running = self.active.iter().map(|answer| (answer.session, answer.filled_tokens()));
        known
            .chain(running)
            .map(|(session, tokens)| (session, common_prefix(tokens, &prompt[..prompt.len() - 1])))
            .filter(|&(_, shared)| shared > 0)
            .max_by_key(|&(_, shared)| shared)
    }

    /// Closes the least recently used kept session, the best parent of `prompt` last. False when none is
    /// left.
    fn give_up_one(&mut self, prompt: &[u32]) -> bool {
        let best = self.longest_prefix(prompt).map(|(session, _)| session);
        let index = self.kept.iter().position(|kept| Some(kept.session) != best);
        match index.or_else(|| (!self.kept.is_empty()).then_some(0)) {
            Some(index) => {
                let kept = self.kept.remove(index);
                self.engine.close_session(kept.session);
                true
            }
            None => false,
        }
    }

    /// One pass of the engine over all active answers.
    fn pass(&mut self) {
        let steps = plan(&self.active, self.engine.options().batch_tokens_max);
        let runs: Vec<Run<'_>> = steps
            .iter()
            .map(|step| {
                let answer = &self.active[step.answer];
                let wanted = if step.completes { Wanted::Last } else { Wanted::Nothing };
                Run { session: answer.session, input: Input::Tokens(answer.next_tokens(step.count)), wanted }
            })
            .collect();
        let width = self.engine.row_width();
        let mut ended = Vec::new();
        match self.engine.forward(&runs) {
            Ok(logits) => {
                let mut logits = logits.chunks_exact(width);
                for step in &steps {
                    let answer = &mut self.active[step.answer];
                    if answer.in_prefill() {
                        self.counters.prompt_tokens.fetch_add(step.count as u64, Ordering::Relaxed);
                    }
                    answer.computed(step.count);
                    if step.completes {
                        let logits = logits.next().expect("one row for each completed step");
                        self.counters.generated_tokens.fetch_add(1, Ordering::Relaxed);
                        if answer.take(logits, &mut self.sampler, &self.tokenizer) == Step::Ended {
                            ended.push(step.answer);
                        }
                    }
                }
            }
            Err(error) => {
                // The checks at submission make this unreachable for a sound engine; a caller still gets the
                // sentence.
                let what = error.to_string();
                for answer in self.active.drain(..) {
                    self.engine.close_session(answer.session);
                    answer.fail(Error::request(what.clone()));
                    self.counters.pending.fetch_sub(1, Ordering::AcqRel);
                }
            }
        }
        ended.sort_unstable();
        for index in ended.into_iter().rev() {
            let answer = self.active.swap_remove(index);
            self.keep(answer);
        }
    }

    /// Keeps an ended answer's session for requests that begin like it.
    fn keep(&mut self, answer: Answer) {
        self.ended(1);
        let mean = self.counters.answer_ms.load(Ordering::Relaxed);
        let this = answer.age().as_millis() as u64;
        self.counters
            .answer_ms
            .store(if mean == 0 { this } else { (3 * mean + this) / 4 }, Ordering::Relaxed);
        let (session, tokens) = answer.into_kept();
        if tokens.is_empty() {
            self.engine.close_session(session);
            return;
        }
        self.engine.retire_session(session);
        // A kept session that this one begins with has nothing more to give.
        let mut index = 0;
        while index < self.kept.len() {
            if tokens.starts_with(&self.kept[index].tokens) {
                let covered = self.kept.remove(index);
                self.engine.close_session(covered.session);
            } else {
                index += 1;
            }
        }
        self.kept.push(Kept { session, tokens });
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// What one answer puts into a pass.
struct PlannedStep {
    answer: usize,
    count: usize,
    /// The step's last row gives logits to choose a token from.
    completes: bool,
}

/// Fills a pass: one row for each answer being written, then prompts by turns, oldest first.
fn plan(active: &[Answer], rows_max: usize) -> Vec<PlannedStep> {
    let mut room = rows_max;
    let mut steps = Vec::with_capacity(active.len());
    for (index, answer) in active.iter().enumerate() {
        if !answer.in_prefill() && room > 0 {
            steps.push(PlannedStep { answer: index, count: 1, completes: true });
            room -= 1;
        }
    }
    let writing = !steps.is_empty();
    let mut prompts: Vec<usize> = (0..active.len()).filter(|&index| active[index].in_prefill()).collect();
    prompts.sort_by_key(|&index| active[index].submitted());
    // Beside answers being written all prompts together get one chunk, so that a pass stays short.
    let mut prompt_room = if writing { room.min(PREFILL_CHUNK_TOKENS) } else { room };
    for index in prompts {
        let left = active[index].prompt_left();
        let count = left.min(prompt_room);
        if count > 0 {
            steps.push(PlannedStep { answer: index, count, completes: count == left });
            prompt_room -= count;
        }
    }
    steps
}
