//! `kwaainet perplexity`: how likely a model finds a text, to see what a quantisation costs.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use argh::FromArgs;
use kwaainet_engine::likelihood::likelihood;
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::limits::PROMPT_BYTES_MAX;
use crate::model::{Choice, plain_tokens};

use super::stats::rate;

/// tell how likely a model finds a text
#[derive(FromArgs)]
#[argh(subcommand, name = "perplexity")]
#[argh(example = "{command_name} --model qwen3-0.6b-q4_k_m.gguf book.txt")]
pub struct Perplexity {
    /// a text file
    #[argh(positional)]
    file: PathBuf,
    /// a GGUF file or a Hugging Face folder (default: the small story-teller inside the binary)
    #[argh(option)]
    model: Option<PathBuf>,
    /// tokens of a window, each read from nothing (default: what the model was made for, at most 4096)
    #[argh(option)]
    context: Option<usize>,
    /// how keys and values are kept: f16, q8_0 or f32 (default: f16)
    #[argh(option)]
    kv: Option<String>,
    /// what to make of the weights: keep, f32, q8_0, q4_0 or q4_k (default: keep)
    #[argh(option)]
    quantize: Option<String>,
    /// compute threads (default: all fast cores)
    #[argh(option)]
    threads: Option<usize>,
    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

impl Perplexity {
    /// Reads the text and prints how likely it is.
    pub fn execute(self) -> Result<Exit, Failure> {
        let text = self.text()?;
        let choice = Choice {
            path: self.model.clone(),
            context_tokens: self.context,
            kv: self.kv.clone(),
            quantize: self.quantize.clone(),
            threads: self.threads,
            ..Choice::default()
        };
        let mut parts = choice.open(1, &mut |line| eprintln!("{line}"))?;
        let ids = plain_tokens(&parts.tokenizer, &text);
        let start = Instant::now();
        let found = likelihood(&mut parts.engine, &ids)?;
        let tokens_per_s = rate(found.tokens, start.elapsed().as_secs_f64());
        let (mean, perplexity) = (found.mean_negative_log, found.perplexity());
        let (name, context) = (&parts.engine.spec().name, parts.engine.context_tokens());
        let mut out = io::stdout().lock();
        if self.json {
            let object = json!({
                "model": name,
                "tokens": found.tokens,
                "context_tokens": context,
                "mean_negative_log_likelihood": mean,
                "perplexity": perplexity,
                "tokens_per_s": tokens_per_s,
            });
            writeln!(out, "{object}")?;
        } else {
            let tokens = found.tokens;
            writeln!(out, "{name}: {tokens} tokens in windows of {context}, {tokens_per_s:.0} tokens/s.")?;
            writeln!(out, "Mean negative log likelihood {mean:.5}, perplexity {perplexity:.4}.")?;
        }
        Ok(Exit::Success)
    }

    fn text(&self) -> Result<String, Failure> {
        let path = self.file.display();
        let failed = |error: io::Error| Failure::new(Exit::Failure, format!("can't read {path}: {error}"));
        let mut bytes = Vec::new();
        let file = File::open(&self.file).map_err(failed)?;
        file.take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > PROMPT_BYTES_MAX {
            return Err(Failure::usage(format!("{path} exceeds {PROMPT_BYTES_MAX} bytes")));
        }
        String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{path} is no UTF-8 text")))
    }
}
