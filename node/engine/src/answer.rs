//! One request on its way: its tokens, its sampler, the text that became certain, and its clock.
//!
//! The scheduler moves it; everything that belongs to a single answer and to no other is here.

use std::time::{Duration, Instant};

use async_channel::Sender;

use crate::engine::Engine;
use crate::error::Error;
use crate::kv::SessionId;
use crate::logprobs::LogProbabilities;
use crate::request::{Event, Finish, Summary, Timing, TokenEvent, TokenLogprob, Usage};
use crate::sampler::{Sampler, Sampling};
use crate::scheduler::Submission;
use crate::stop::StopStrings;
use crate::tokenizer::{TextStream, Tokenizer};

/// Whether an answer goes on after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Continues,
    Ended,
}

pub(crate) struct Answer {
    pub(crate) session: SessionId,
    /// Prompt and generated tokens.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    cached_tokens: usize,
    /// Tokens whose keys and values are in the cache.
    filled: usize,
    /// Prompt and answer together may have this many tokens.
    tokens_max: usize,
    sampling: Sampling,
    stop_ids: Vec<u32>,
    stops: StopStrings,
    text: TextStream,
    top_logprobs: Option<usize>,
    events: Sender<Event>,
    submitted: Instant,
    started: Instant,
    first_token: Option<Instant>,
}

impl Answer {
    pub(crate) fn new(submission: Submission, session: SessionId, cached: usize, engine: &Engine) -> Self {
        let Submission { request, stops, events, submitted } = submission;
        let context = engine.context_tokens();
        let wanted = request.tokens_max.unwrap_or(context);
        Answer {
            session,
            prompt_tokens: request.prompt.len(),
            cached_tokens: cached,
            filled: cached,
            tokens_max: request.prompt.len().saturating_add(wanted).min(context),
            tokens: request.prompt,
            sampling: request.sampling,
            stop_ids: request.stop_ids,
            stops,
            text: TextStream::new(),
            top_logprobs: request.top_logprobs,
            events,
            submitted,
            started: Instant::now(),
            first_token: None,
        }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    pub(crate) fn submitted(&self) -> Instant {
        self.submitted
    }

    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn in_prefill(&self) -> bool {
        self.filled < self.prompt_tokens
    }

    pub(crate) fn prompt_left(&self) -> usize {
        self.prompt_tokens - self.filled
    }

    pub(crate) fn filled_tokens(&self) -> &[u32] {
        &self.tokens[..self.filled]
    }

    /// The next `count` tokens to be computed.
    pub(crate) fn next_tokens(&self, count: usize) -> &[u32] {
        &self.tokens[self.filled..self.filled + count]
    }

    /// Notes that `count` more tokens are in the cache.
    pub(crate) fn computed(&mut self, count: usize) {
        self.filled += count;
    }

    /// Chooses the next token from the logits of the last one, and tells the caller.
    pub(crate) fn take(&mut self, logits: &[f32], sampler: &mut Sampler, tokenizer: &Tokenizer) -> Step {
        let generated = self.tokens.len() - self.prompt_tokens;
        let chosen = sampler
            .sample(&self.sampling, logits, &self.tokens, self.prompt_tokens, generated as u64)
            .and_then(|id| Ok((id, self.logprob(logits, id)?)));
        let (id, logprob) = match chosen {
            Ok(chosen) => chosen,
            Err(error) => {
                let _ = self.events.try_send(Event::Failed(error));
                return Step::Ended;
            }
        };
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(id);
        if self.stop_ids.contains(&id) {
            return self.end(Finish::Stop);
        }
        let stopped = self.stops.push(&self.text.push(tokenizer, id));
        let _ = self.events.try_send(Event::Token(TokenEvent { id, text: stopped.emit, logprob }));
        if stopped.hit {
            return self.finish(Finish::Stop, String::new());
        }
        if self.tokens.len() >= self.tokens_max {
            return self.end(Finish::Length);
        }
        Step::Continues
    }

    fn logprob(&self, logits: &[f32], id: u32) -> Result<Option<TokenLogprob>, Error> {
        let Some(count) = self.top_logprobs else { return Ok(None) };
        let log = LogProbabilities::new(logits)?;
        let logprob = log.of(id).expect("the sampler chose it from these logits");
        Ok(Some(TokenLogprob { id, logprob, top: log.top(count) }))
    }

    /// Ends the answer and releases the text that was held back.
    fn end(&mut self, finish: Finish) -> Step {
        let held = self.text.finish();
        let stopped = self.stops.push(&held);
        let mut tail = stopped.emit;
        if !stopped.hit {
            tail.push_str(&self.stops.finish());
        }
        self.finish(if stopped.hit { Finish::Stop } else { finish }, tail)
    }

    fn finish(&mut self, finish: Finish, text_tail: String) -> Step {
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.tokens.len() - self.prompt_tokens,
        };
        let timing = Timing {
            queued_s: (self.started - self.submitted).as_secs_f64(),
            prefill_s: (first - self.started).as_secs_f64(),
            decode_s: (now - first).as_secs_f64(),
            first_token_s: (first - self.submitted).as_secs_f64(),
        };
        let _ = self.events.try_send(Event::Done(Summary { finish, text_tail, usage, timing }));
        Step::Ended
    }

    pub(crate) fn fail(self, error: Error) {
        let _ = self.events.try_send(Event::Failed(error));
    }

    /// The session and the tokens whose keys and values it holds.
    pub(crate) fn into_kept(mut self) -> (SessionId, Vec<u32>) {
        self.tokens.truncate(self.filled);
        (self.session, self.tokens)
    }
}
