//! What a caller asks of a model, and what comes back.
//!
//! A request goes in whole; tokens come back one by one through a bounded channel. Dropping the ticket is how
//! a caller says that it has left: the slot is free at the next step.

use crate::error::Error;
use crate::sampler::Sampling;

/// One text to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids of the whole prompt, with the beginning-of-sequence token if the model wants one.
    pub prompt: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` is as many as the context holds.
    pub tokens_max: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer; they are not part of it.
    pub stop_ids: Vec<u32>,
    /// `Some(n)`: report the log probability of each token and of the `n` likeliest ones beside it.
    pub top_logprobs: Option<usize>,
}

/// Why a request was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// All slots are taken and the queue is full.
    Busy {
        /// When trying again makes sense, in seconds.
        retry_after_s: u32,
    },
    /// The request can't be served as it stands.
    Invalid(Error),
    /// The engine is shutting down.
    Stopping,
}

/// The log probability of a chosen token and of its likeliest rivals, in the model's own distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The chosen token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens with theirs, best first.
    pub top: Vec<(u32, f32)>,
}

/// One generated token.
#[derive(Clone, Debug)]
pub struct TokenEvent {
    /// Its id.
    pub id: u32,
    /// The text that became certain with it; empty while bytes or a possible stop text are held back.
    pub text: String,
    /// Present if the request asked for it.
    pub logprob: Option<TokenLogprob>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token or a stop text came.
    Stop,
    /// The most tokens asked for, or the context, was reached.
    Length,
}

/// Tokens counted for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were found in the KV cache and not computed again.
    pub cached_tokens: usize,
    /// Tokens generated, the one that ended the answer included.
    pub completion_tokens: usize,
}

/// Where the time of one request went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Waiting for a slot, in seconds.
    pub queued_s: f64,
    /// From the slot to the end of the prompt, in seconds.
    pub prefill_s: f64,
    /// From the end of the prompt to the end of the answer, in seconds.
    pub decode_s: f64,
    /// From submission to the first token, in seconds.
    pub first_token_s: f64,
}

/// The end of an answer.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Why it ended.
    pub finish: Finish,
    /// Text that was held back and turned out to belong to the answer.
    pub text_tail: String,
    /// Tokens counted.
    pub usage: Usage,
    /// Seconds counted.
    pub timing: Timing,
}

/// What a ticket yields; the last one is [`Event::Done`] or [`Event::Failed`].
#[derive(Debug)]
pub enum Event {
    /// The next token.
    Token(TokenEvent),
    /// The answer is complete.
    Done(Summary),
    /// The answer can't be completed.
    Failed(Error),
}

/// A running request. Dropping it cancels.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) events: async_channel::Receiver<Event>,
}

impl Ticket {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await.ok()
    }

    /// The next event, waiting on this thread; `None` after the last.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.recv_blocking().ok()
    }
}
