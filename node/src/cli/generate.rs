//! Follows one answer from the scheduler to the screen.

use std::io::{self, Write};
use std::time::Instant;

use kwaainet_engine::request::{Event, Finish, Refusal, Request, Summary, Ticket, Timing, Usage};
use smol::future::FutureExt;

use crate::exit::{Exit, Failure};
use crate::model::Model;
use crate::signals::Signals;

/// An answer, complete or cut off by Ctrl-C.
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Why it ended; `None`: by a signal.
    pub finish: Option<Finish>,
    /// Its tokens.
    pub usage: Usage,
    /// Its times.
    pub timing: Timing,
}

impl Answer {
    /// Why it ended, as the API calls it, or `interrupted`.
    pub fn finish_name(&self) -> &'static str {
        match self.finish {
            Some(Finish::Stop) => "stop",
            Some(Finish::Length) => "length",
            None => "interrupted",
        }
    }
}

/// Hands a request over and writes the answer to `out` as it comes, each token at once. A signal ends it
/// early.
pub fn follow(
    model: &Model,
    request: Request,
    signals: &Signals,
    out: &mut dyn Write,
) -> Result<Answer, Failure> {
    let start = Instant::now();
    let prompt_tokens = request.prompt.len();
    let mut ticket = model.scheduler.submit(request).map_err(|refusal| match refusal {
        Refusal::Invalid(error) => error.into(),
        Refusal::Busy { .. } | Refusal::Stopping => {
            Failure::new(Exit::Failure, "the engine takes no request")
        }
    })?;
    let mut text = String::new();
    let mut first_token_s = None;
    let mut tokens = 0;
    loop {
        match next(&mut ticket, signals) {
            Some(Event::Token(token)) => {
                tokens += 1;
                first_token_s.get_or_insert_with(|| start.elapsed().as_secs_f64());
                write(out, &token.text)?;
                text.push_str(&token.text);
            }
            Some(Event::Done(Summary { finish, text_tail, usage, timing })) => {
                write(out, &text_tail)?;
                text.push_str(&text_tail);
                return Ok(Answer { text, finish: Some(finish), usage, timing });
            }
            Some(Event::Failed(error)) => return Err(error.into()),
            None if signals.came() => {
                let first_token_s = first_token_s.unwrap_or_default();
                let decode_s = start.elapsed().as_secs_f64() - first_token_s;
                let timing = Timing { first_token_s, prefill_s: first_token_s, decode_s, queued_s: 0.0 };
                let usage = Usage { prompt_tokens, cached_tokens: 0, completion_tokens: tokens };
                return Ok(Answer { text, finish: None, usage, timing });
            }
            None => return Err(Failure::new(Exit::Failure, "the engine ended before the answer did")),
        }
    }
}

/// The next event, or `None` when a signal came or there are no more.
fn next(ticket: &mut Ticket, signals: &Signals) -> Option<Event> {
    let signal = async {
        signals.arrival().await;
        None
    };
    smol::block_on(signal.or(ticket.next()))
}

fn write(out: &mut dyn Write, text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}
