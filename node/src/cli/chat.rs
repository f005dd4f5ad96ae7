//! A conversation at the terminal.
//!
//! Lines are read by a thread of their own, so that Ctrl-C at the prompt ends the program and Ctrl-C during
//! an answer ends the answer.

use std::io::{self, BufRead, Write};
use std::thread;

use kwaainet_engine::chat::ChatMessage;
use kwaainet_engine::request::Request;
use smol::channel::{Receiver, bounded};
use smol::future::FutureExt;

use crate::exit::{Exit, Failure};
use crate::model::Model;
use crate::signals::Signals;

use super::generate;

/// The messages that a chat begins with.
pub fn beginning(system: Option<String>) -> Vec<ChatMessage> {
    system.map(|content| ChatMessage::new("system", content)).into_iter().collect()
}

/// Talks until `/quit`, the end of input or Ctrl-C at the prompt.
pub fn converse(
    model: &Model,
    system: Option<String>,
    signals: &Signals,
    request: impl Fn(Vec<u32>) -> Request,
) -> Result<Exit, Failure> {
    eprintln!("Talking to {}. /clear begins anew, /quit or Ctrl-D ends.", model.name);
    let lines = lines()?;
    let mut messages = beginning(system);
    let kept = messages.len();
    loop {
        eprint!("> ");
        let signal = async {
            signals.arrival().await;
            None
        };
        let line = smol::block_on(signal.or(async { lines.recv().await.ok() }));
        let Some(line) = line else {
            eprintln!();
            return Ok(if signals.came() { Exit::Interrupted } else { Exit::Success });
        };
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => return Ok(Exit::Success),
            "/clear" => {
                messages.truncate(kept);
                continue;
            }
            text => messages.push(ChatMessage::new("user", text)),
        }
        let answer = model
            .text
            .template
            .encode(&model.text.tokenizer, &messages, None, true)
            .map_err(Failure::from)
            .and_then(|prompt| generate::follow(model, request(prompt), signals, &mut io::stdout().lock()));
        match answer {
            Ok(answer) => {
                writeln!(io::stdout())?;
                messages.push(ChatMessage::new("assistant", answer.text));
            }
            Err(failure) if failure.exit == Exit::Usage => {
                messages.pop();
                eprintln!("{failure}");
            }
            Err(failure) => return Err(failure),
        }
        if signals.is_interrupted() {
            signals.clear();
        } else if signals.came() {
            return Ok(Exit::Interrupted);
        }
    }
}

/// The lines of standard input, until its end.
fn lines() -> Result<Receiver<String>, Failure> {
    let (sender, receiver) = bounded(1);
    let read = move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send_blocking(line).is_err() {
                break;
            }
        }
    };
    thread::Builder::new().name("lines".into()).spawn(read)?;
    Ok(receiver)
}
