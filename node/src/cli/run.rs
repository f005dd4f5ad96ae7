//! `kwaainet run`: a prompt in, its answer out.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

use argh::FromArgs;
use kwaainet_engine::chat::ChatMessage;
use kwaainet_engine::request::Request;
use kwaainet_engine::sampler::Sampling;
use serde_json::json;

use crate::api::random_seed;
use crate::exit::{Exit, Failure};
use crate::limits::PROMPT_BYTES_MAX;
use crate::model::{Choice, Model, residence};
use crate::signals::Signals;

use super::{STANDARD_INPUT, chat, generate, stats};

/// answer a prompt, or chat when there is none
#[derive(FromArgs)]
#[argh(subcommand, name = "run")]
#[argh(example = "{command_name} \"Tell me a story about Lily.\"")]
#[argh(
    example = "{command_name} --model qwen3-0.6b-q4_k_m.gguf --system \"Be brief.\" \"Why is the sky blue?\""
)]
#[argh(example = "{command_name} --raw --temperature 0 - < beginning.txt")]
pub struct Run {
    /// the prompt; "-" reads it from standard input, and so does no prompt when that is a pipe
    #[argh(positional)]
    prompt: Vec<String>,
    /// a GGUF file or a Hugging Face folder (default: the small story-teller inside the binary)
    #[argh(option)]
    model: Option<PathBuf>,
    /// the system message of the chat
    #[argh(option)]
    system: Option<String>,
    /// continue the prompt as it is, without the model's chat template
    #[argh(switch)]
    raw: bool,
    /// most tokens to answer with (default: as many as the context holds)
    #[argh(option)]
    max_tokens: Option<usize>,
    /// how bold to draw: 0 takes the likeliest token always (default: 0.8)
    #[argh(option, default = "0.8")]
    temperature: f32,
    /// draw from so many likeliest tokens, 0 is off (default: 40)
    #[argh(option, default = "40")]
    top_k: usize,
    /// draw from the likeliest tokens that sum to this, 1 is off (default: 0.95)
    #[argh(option, default = "0.95")]
    top_p: f32,
    /// draw from tokens at least this likely against the likeliest, 0 is off (default: 0.05)
    #[argh(option, default = "0.05")]
    min_p: f32,
    /// make tokens that occurred less likely by this factor, 1 is off (default: 1)
    #[argh(option, default = "1.0")]
    repetition_penalty: f32,
    /// the same seed gives the same answer (default: another each time)
    #[argh(option)]
    seed: Option<u64>,
    /// end the answer before this text; may be given several times
    #[argh(option)]
    stop: Vec<String>,
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
    /// tell kernel set, memory and times on standard error
    #[argh(switch)]
    stats: bool,
    /// answer with one JSON object that holds text, usage and times
    #[argh(switch)]
    json: bool,
}

impl Run {
    /// Answers the prompt, or chats.
    pub fn execute(self) -> Result<Exit, Failure> {
        let prompt = self.prompt_text()?;
        if prompt.is_none() && self.json {
            return Err(Failure::usage("--json needs a prompt"));
        }
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
        let stats = self.stats;
        let mut say = |line: &str| {
            if stats {
                eprintln!("{line}");
            }
        };
        let model = Model::load(&choice, 1, &mut say)?;
        if let Some(warning) = model.text.template.warning().filter(|_| !self.raw) {
            eprintln!("kwaainet: {warning}");
        }
        let signals = Signals::listen()?;
        match prompt {
            Some(prompt) => self.answer(&model, &prompt, &signals),
            None => {
                chat::converse(&model, self.system.clone(), &signals, |prompt| self.request(&model, prompt))
            }
        }
    }

    /// The prompt; `None` when a person is to be asked.
    fn prompt_text(&self) -> Result<Option<String>, Failure> {
        let is_dash = matches!(self.prompt.as_slice(), [word] if word == STANDARD_INPUT);
        if !self.prompt.is_empty() && !is_dash {
            return Ok(Some(self.prompt.join(" ")));
        }
        if !is_dash && io::stdin().is_terminal() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        io::stdin().lock().take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > PROMPT_BYTES_MAX {
            return Err(Failure::usage(format!(
                "the prompt on standard input exceeds {PROMPT_BYTES_MAX} bytes"
            )));
        }
        let mut text = String::from_utf8(bytes)
            .map_err(|_| Failure::usage("the prompt on standard input is no UTF-8"))?;
        // The line's end that `echo` and editors add is not part of the question.
        if text.ends_with('\n') {
            text.truncate(text.trim_end_matches(['\n', '\r']).len());
        }
        if text.is_empty() {
            return Err(Failure::usage("the prompt on standard input is empty"));
        }
        Ok(Some(text))
    }

    fn request(&self, model: &Model, prompt: Vec<u32>) -> Request {
        Request {
            prompt,
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed.unwrap_or_else(random_seed),
                ..Sampling::neutral()
            },
            tokens_max: self.max_tokens,
            stop: self.stop.clone(),
            stop_ids: model.text.stop_ids.clone(),
            top_logprobs: None,
        }
    }

    fn answer(&self, model: &Model, prompt: &str, signals: &Signals) -> Result<Exit, Failure> {
        let tokens = if self.raw {
            model.text.plain(prompt)
        } else {
            let mut messages = chat::beginning(self.system.clone());
            messages.push(ChatMessage::new("user", prompt));
            model.text.template.encode(&model.text.tokenizer, &messages, None, true)?
        };
        let mut stdout = io::stdout().lock();
        let mut nowhere = io::sink();
        let out: &mut dyn Write = if self.json { &mut nowhere } else { &mut stdout };
        let answer = generate::follow(model, self.request(model, tokens), signals, out)?;
        if self.json {
            let mut object = json!({"text": answer.text, "finish_reason": answer.finish_name()});
            if let (Some(object), serde_json::Value::Object(numbers)) =
                (object.as_object_mut(), stats::to_json(model, &answer.usage, &answer.timing))
            {
                object.extend(numbers);
            }
            writeln!(stdout, "{object}")?;
        } else {
            writeln!(stdout)?;
        }
        if self.stats {
            stats::print(model, &answer.usage, &answer.timing);
        }
        Ok(if answer.finish.is_some() { Exit::Success } else { Exit::Interrupted })
    }
}
