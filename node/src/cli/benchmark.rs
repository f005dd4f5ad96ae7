//! `kwaainet benchmark`: how fast this machine runs a model, against how fast it can read memory.
//!
//! It drives the engine itself: ids without meaning go in, and no token is chosen, so that passes alone are
//! measured. Writing an answer reads every weight once a pass, so the read bandwidth of the machine is the
//! bound. It is measured in the same process with as many threads, after the model ran, so that its buffer is
//! in no memory figure.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use argh::FromArgs;
use kwaainet_engine::disk::sequential_read_bytes_per_s;
use kwaainet_engine::engine::{Engine, Input, Run, Wanted};
use kwaainet_engine::kv::SessionId;
use kwaainet_engine::memory::{self, Residence};
use kwaainet_kernels::KV_PAGE_TOKENS;
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::model::{Choice, residence};
use crate::signals::Signals;

use super::stats::{memory_json, memory_line, rate};
use super::sweep::read_bandwidth;

/// measure prefill, decode and memory
#[derive(FromArgs)]
#[argh(subcommand, name = "benchmark")]
#[argh(example = "{command_name} --model bench-1b-q4_0.gguf --threads 2")]
#[argh(example = "{command_name} --model bench-1b-q4_0.gguf --batch 8 --json")]
pub struct Benchmark {
    /// a GGUF file or a Hugging Face folder (default: the small story-teller inside the binary)
    #[argh(option)]
    model: Option<PathBuf>,
    /// tokens of the prompt; 0 measures decode alone (default: 512)
    #[argh(option, default = "512")]
    prompt_tokens: usize,
    /// tokens of the answer; 0 measures prefill alone (default: 128)
    #[argh(option, default = "128")]
    generate_tokens: usize,
    /// sessions that decode together, in one pass (default: 1)
    #[argh(option, default = "1")]
    batch: usize,
    /// tokens that each session holds in the KV cache before its prompt (default: 0)
    #[argh(option, default = "0")]
    depth: usize,
    /// measure so many times and take the best (default: 3)
    #[argh(option, default = "3")]
    repeat: usize,
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
    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

/// Tokens of the prompt whose first token ends the measured load.
const FIRST_PROMPT_TOKENS: usize = 8;

/// Tokens a second of all sessions together.
#[derive(Clone, Copy, Default)]
struct Rates {
    prefill: f64,
    decode: f64,
}

impl Benchmark {
    /// Measures and prints.
    pub fn execute(self) -> Result<Exit, Failure> {
        let start = Instant::now();
        if self.prompt_tokens.max(self.generate_tokens) == 0 || self.batch == 0 || self.repeat == 0 {
            return Err(Failure::usage(
                "a benchmark needs tokens to read or to generate, 1 session and 1 repetition",
            ));
        }
        let tokens = [self.depth, self.prompt_tokens, self.generate_tokens];
        let context = tokens.iter().fold(0_usize, |sum, &count| sum.saturating_add(count));
        let context = context.max(FIRST_PROMPT_TOKENS);
        let choice = Choice {
            path: self.model.clone(),
            context_tokens: Some(context),
            kv: self.kv.clone(),
            quantize: self.quantize.clone(),
            threads: self.threads,
            pin: self.pin,
            residence: residence(self.lock, self.stream)?,
            huge_pages: self.huge_pages,
        };
        let mut parts = choice.open(self.batch, &mut |line| eprintln!("{line}"))?;
        let signals = Signals::listen()?;
        if !first_token(&mut parts.engine, &signals)? {
            return Ok(Exit::Interrupted);
        }
        let first_token_s = start.elapsed().as_secs_f64();
        let Some(rates) = self.measure(&mut parts.engine, &signals)? else { return Ok(Exit::Interrupted) };
        let resident = memory::resident();
        let engine = &parts.engine;
        let (name, budget) = (engine.spec().name.clone(), *engine.budget());
        let (kernels, threads) = (engine.options().kernels.name(), engine.options().threads);
        let load_s = parts.load_s;
        let streamed = engine.options().residence == Residence::Streamed;
        let disk = self.model.as_ref().filter(|path| streamed && path.is_file());
        let file_bytes: u64 = parts.files.files().iter().map(|(_, bytes)| bytes).sum();
        // The compute threads must not stand beside the sweep.
        drop(parts);
        let bandwidth = read_bandwidth(threads);
        let disk = disk.map(|path| sequential_read_bytes_per_s(path)).transpose().map_err(|error| {
            Failure::new(
                Exit::Failure,
                format!("can't read the model's file to see how fast its disk is: {error}"),
            )
        })?;
        // A pass reads the weights once, and of each session the keys and values of all tokens before: on
        // average, those of its depth, its prompt and half of what is generated.
        let passes_per_s = rates.decode / self.batch as f64;
        let weights_read = passes_per_s * budget.weights_read_bytes as f64;
        let kv_tokens = self.depth + self.prompt_tokens + self.generate_tokens / 2;
        let kv_token_bytes = budget.kv_bytes as f64 / context.next_multiple_of(KV_PAGE_TOKENS) as f64;
        let kv_read_bytes = kv_token_bytes * kv_tokens as f64;
        let read = weights_read + passes_per_s * kv_read_bytes;
        let mut out = io::stdout().lock();
        if self.json {
            let object = json!({
                "model": name,
                "kernels": kernels,
                "threads": threads,
                "load_s": load_s,
                "first_token_s": first_token_s,
                "batch": self.batch,
                "depth_tokens": self.depth,
                "prompt_tokens": self.prompt_tokens,
                "generate_tokens": self.generate_tokens,
                "prefill_tokens_per_s": rates.prefill,
                "decode_tokens_per_s": rates.decode,
                "weights_read_bytes": budget.weights_read_bytes,
                "kv_read_bytes": kv_read_bytes,
                "weights_read_bytes_per_s": weights_read,
                "read_bytes_per_s": read,
                "bandwidth_bytes_per_s": bandwidth,
                "weights_bandwidth_part": weights_read / bandwidth,
                "bandwidth_part": read / bandwidth,
                "file_bytes": file_bytes,
                "kv_bytes": budget.kv_bytes,
                "scratch_bytes": budget.scratch_bytes,
                "streamed": streamed,
                "disk_bytes_per_s": disk,
                "memory": memory_json(resident),
            });
            writeln!(out, "{object}")?;
        } else {
            writeln!(out, "{name}, kernel set {kernels}, {threads} threads, loaded in {load_s:.2} s")?;
            writeln!(out, "First token {:.1} ms after the start.", first_token_s * 1e3)?;
            let sessions = match (self.batch, self.depth) {
                (1, 0) => String::new(),
                (batch, 0) => format!(" in each of {batch} sessions"),
                (batch, depth) => format!(" in each of {batch} sessions, {depth} tokens deep"),
            };
            writeln!(out, "Prefill of {}{sessions}: {:.1} tokens/s.", self.prompt_tokens, rates.prefill)?;
            writeln!(out, "Decode of {}{sessions}: {:.2} tokens/s.", self.generate_tokens, rates.decode)?;
            writeln!(
                out,
                "Read: weights {:.1} MB and KV cache {:.1} MB a pass, {:.2} GB/s; this machine reads {:.2} \
                 GB/s; ratio {:.2}, of weights alone {:.2}.",
                budget.weights_read_bytes as f64 / 1e6,
                kv_read_bytes / 1e6,
                read / 1e9,
                bandwidth / 1e9,
                read / bandwidth,
                weights_read / bandwidth
            )?;
            if let Some(disk) = disk {
                writeln!(
                    out,
                    "Streamed: {:.2} GB/s of weights; this disk reads {:.2} GB/s; ratio {:.2}.",
                    weights_read / 1e9,
                    disk / 1e9,
                    weights_read / disk
                )?;
            }
            let (file, kv) = (file_bytes as f64 / 1e6, budget.kv_bytes as f64 / 1e6);
            writeln!(out, "{} File {file:.1} MB, KV cache {kv:.1} MB.", memory_line(resident))?;
        }
        Ok(Exit::Success)
    }

    /// The best of all rounds; `None` if a signal came.
    fn measure(&self, engine: &mut Engine, signals: &Signals) -> Result<Option<Rates>, Failure> {
        let mut ids = Ids::new(engine.spec().vocabulary);
        let context = engine.context_tokens();
        let open = (0..self.batch).map(|_| engine.open_session(context));
        let sessions: Vec<SessionId> =
            open.collect::<Option<_>>().expect("the engine was opened for so many sessions");
        for &session in &sessions {
            if !prefill(engine, session, &ids.take(self.depth), signals)? {
                return Ok(None);
            }
        }
        let mut best = Rates::default();
        for _ in 0..self.repeat {
            let start = Instant::now();
            for &session in &sessions {
                if !prefill(engine, session, &ids.take(self.prompt_tokens), signals)? {
                    return Ok(None);
                }
            }
            let prefill_s = start.elapsed().as_secs_f64();
            let start = Instant::now();
            for _ in 0..self.generate_tokens {
                if signals.came() {
                    return Ok(None);
                }
                let next = ids.take(self.batch);
                let run = |(&session, id)| {
                    let input = Input::Tokens(std::slice::from_ref(id));
                    Run { session, input, wanted: Wanted::Last }
                };
                let runs: Vec<Run<'_>> = sessions.iter().zip(&next).map(run).collect();
                engine.forward(&runs)?;
            }
            let decode_s = start.elapsed().as_secs_f64();
            best.prefill = best.prefill.max(rate(self.batch * self.prompt_tokens, prefill_s));
            best.decode = best.decode.max(rate(self.batch * self.generate_tokens, decode_s));
            for &session in &sessions {
                engine.truncate_session(session, self.depth);
            }
        }
        Ok(Some(best))
    }
}

/// Reads a short prompt in a session of its own and chooses the token behind it; false if a signal came.
fn first_token(engine: &mut Engine, signals: &Signals) -> Result<bool, Failure> {
    if signals.came() {
        return Ok(false);
    }
    let ids = Ids::new(engine.spec().vocabulary).take(FIRST_PROMPT_TOKENS);
    let session = engine.open_session(FIRST_PROMPT_TOKENS).expect("no session was opened before");
    let logits = engine.forward(&[Run { session, input: Input::Tokens(&ids), wanted: Wanted::Last }])?;
    std::hint::black_box(logits.iter().max_by(|a, b| a.total_cmp(b)));
    engine.close_session(session);
    Ok(true)
}

/// Reads tokens into a session, as many a pass as the engine takes; false if a signal came.
fn prefill(
    engine: &mut Engine,
    session: SessionId,
    tokens: &[u32],
    signals: &Signals,
) -> Result<bool, Failure> {
    let chunks = tokens.chunks(engine.options().batch_tokens_max);
    let last = chunks.len().saturating_sub(1);
    for (index, chunk) in chunks.enumerate() {
        if signals.came() {
            return Ok(false);
        }
        let wanted = if index == last { Wanted::Last } else { Wanted::Nothing };
        engine.forward(&[Run { session, input: Input::Tokens(chunk), wanted }])?;
    }
    Ok(true)
}

/// Token ids without meaning, the same in every run of the program.
struct Ids {
    state: u64,
    vocabulary: u64,
}

impl Ids {
    fn new(vocabulary: usize) -> Self {
        Ids { state: 1, vocabulary: vocabulary as u64 }
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        let mut id = || {
            // Knuth's linear congruential generator (MMIX); its high bits are good enough for this.
            self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((self.state >> 33) % self.vocabulary) as u32
        };
        (0..count).map(|_| id()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_from_round_to_round_and_lie_within_the_vocabulary() {
        let mut ids = Ids::new(2048);
        let rounds: Vec<_> = (0..5).map(|_| ids.take(8)).collect();
        for (index, round) in rounds.iter().enumerate() {
            assert!(round.len() == 8 && round.iter().all(|&id| id < 2048));
            assert!(!rounds[..index].contains(round));
        }
    }
}
