//! `kwaainet benchmark`: how fast this machine runs a model, against how fast it can read memory.
//!
//! Writing an answer reads every weight once a token, so the read bandwidth of the machine is the bound. It
//! is measured in the same process with as many threads, after the model ran, so that its buffer is in no
//! memory figure.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use argh::FromArgs;
use kwaainet_engine::budget::Budget;
use kwaainet_engine::memory::{self, Resident};
use kwaainet_engine::request::{Event, Request, Ticket, Usage};
use kwaainet_engine::sampler::Sampling;
use kwaainet_kernels::KV_PAGE_TOKENS;
use serde_json::{Value, json};
use smol::LocalExecutor;
use smol::future::FutureExt;

use crate::exit::{Exit, Failure};
use crate::model::{Choice, Model};
use crate::signals::Signals;

use super::stats::{memory_json, memory_line, rate};
use super::sweep::read_bandwidth;

/// measure prefill, decode and memory
#[derive(FromArgs)]
#[argh(subcommand, name = "benchmark")]
#[argh(example = "{command_name} --model bench-1b-q4_0.gguf --threads 2")]
pub struct Benchmark {
    /// a GGUF file or a Hugging Face folder (default: the small story-teller inside the binary)
    #[argh(option)]
    model: Option<PathBuf>,
    /// tokens of the prompt (default: 512)
    #[argh(option, default = "512")]
    prompt_tokens: usize,
    /// tokens of the answer (default: 128)
    #[argh(option, default = "128")]
    generate_tokens: usize,
    /// tokens that stand in the KV cache before the prompt comes (default: 0)
    #[argh(option, default = "0")]
    depth: usize,
    /// answers written at once (default: 1)
    #[argh(option, default = "1")]
    batch: usize,
    /// measure so many times and take the best (default: 3)
    #[argh(option, default = "3")]
    repeat: usize,
    /// how keys and values are kept: f16, q8_0 or f32 (default: f16)
    #[argh(option)]
    kv: Option<String>,
    /// what to make of float weights: keep, f32, q8_0, q4_0 or q4_k (default: keep)
    #[argh(option)]
    quantize: Option<String>,
    /// compute threads (default: all cores)
    #[argh(option)]
    threads: Option<usize>,
    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

/// Tokens of the prompt whose first answer ends the measured load.
const FIRST_PROMPT_TOKENS: usize = 8;

/// Tokens a second of one round, all answers together.
#[derive(Clone, Copy)]
struct Rates {
    prefill: f64,
    decode: f64,
}

/// What the model did, with the best round's rates.
struct Report {
    name: String,
    kernels: &'static str,
    threads: usize,
    load_s: f64,
    first_token_s: f64,
    rounds: Vec<Rates>,
    best: Rates,
    weights_read_bytes: u64,
    /// Keys and values that a pass reads.
    kv_read_bytes: f64,
    kv_bytes: u64,
    file_bytes: u64,
    resident: Option<Resident>,
    bandwidth: f64,
}

impl Benchmark {
    /// Measures and prints.
    pub fn execute(self) -> Result<Exit, Failure> {
        let start = Instant::now();
        if self.prompt_tokens == 0 || self.generate_tokens < 2 || self.repeat == 0 || self.batch == 0 {
            return Err(Failure::usage(
                "a benchmark needs at least 1 prompt token, 2 tokens to generate, 1 answer and 1 repetition",
            ));
        }
        let tokens = self.depth + self.prompt_tokens + self.generate_tokens;
        let choice = Choice {
            path: self.model.clone(),
            context_tokens: Some(tokens.max(2 * FIRST_PROMPT_TOKENS)),
            kv: self.kv.clone(),
            quantize: self.quantize.clone(),
            threads: self.threads,
        };
        // What stands in the KV cache beforehand is kept by sessions of its own, which the answers fork.
        let sessions = if self.depth > 0 { 2 * self.batch } else { self.batch };
        let file_bytes: u64 = choice.files()?.files().iter().map(|(_, bytes)| bytes).sum();
        let model = Model::load(&choice, sessions, &mut |line| eprintln!("{line}"))?;
        let signals = Signals::listen()?;
        let vocabulary = model.text.vocabulary;
        let mut seeds = 0..;
        let mut prompt = |count| prompt(count, vocabulary, seeds.next().expect("seeds are endless"));
        let Some(first) = write_answers(&model, vec![prompt(FIRST_PROMPT_TOKENS)], 1, &signals)? else {
            return Ok(Exit::Interrupted);
        };
        let first_token_s = (first[0].tokens[0] - start).as_secs_f64();

        let deep: Vec<Vec<u32>> = (0..self.batch).map(|_| prompt(self.depth)).collect();
        if self.depth > 0 && write_answers(&model, deep.clone(), 1, &signals)?.is_none() {
            return Ok(Exit::Interrupted);
        }
        let mut rounds = Vec::with_capacity(self.repeat);
        for _ in 0..self.repeat {
            let prompts = deep.iter().map(|deep| [deep.clone(), prompt(self.prompt_tokens)].concat());
            let begin = Instant::now();
            let written = write_answers(&model, prompts.collect(), self.generate_tokens, &signals)?;
            let Some(answers) = written else { return Ok(Exit::Interrupted) };
            rounds.push(self.rates(begin, &answers)?);
        }
        let best = rounds.iter().fold(Rates { prefill: 0.0, decode: 0.0 }, |best, round| Rates {
            prefill: best.prefill.max(round.prefill),
            decode: best.decode.max(round.decode),
        });
        let budget = model.budget;
        let mut report = Report {
            name: model.name.clone(),
            kernels: model.kernels.name(),
            threads: model.threads,
            load_s: model.load_s,
            first_token_s,
            rounds,
            best,
            weights_read_bytes: budget.weights_read_bytes,
            kv_read_bytes: self.kv_read_bytes(&budget, sessions),
            kv_bytes: budget.kv_bytes,
            file_bytes,
            resident: memory::resident(),
            bandwidth: 0.0,
        };
        // The compute threads must not stand beside the sweep.
        drop(model);
        report.bandwidth = read_bandwidth(report.threads);
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", self.to_json(&report))?;
        } else {
            self.print(&report, &mut out)?;
        }
        Ok(Exit::Success)
    }

    /// The rates of one round that began at `begin`.
    ///
    /// Decoding is counted while all answers are being written: from the last first token to the first last
    /// one.
    fn rates(&self, begin: Instant, answers: &[Written]) -> Result<Rates, Failure> {
        if let Some(answer) = answers.iter().find(|answer| answer.usage.cached_tokens != self.depth) {
            let (found, wanted) = (answer.usage.cached_tokens, self.depth);
            let sentence =
                format!("{found} tokens were found in the KV cache, not {wanted}; try a smaller --batch");
            return Err(Failure::new(Exit::Failure, sentence));
        }
        let all_write = answers.iter().map(|answer| answer.tokens[0]).max().expect("one answer at least");
        let one_ends = answers.iter().map(|answer| answer.tokens[answer.tokens.len() - 1]).min();
        let one_ends = one_ends.expect("one answer at least");
        let times = answers.iter().flat_map(|answer| &answer.tokens);
        let decoded = times.filter(|&&time| all_write < time && time <= one_ends).count();
        Ok(Rates {
            prefill: rate(self.prompt_tokens * self.batch, (all_write - begin).as_secs_f64()),
            decode: rate(decoded, one_ends.saturating_duration_since(all_write).as_secs_f64()),
        })
    }

    /// A pass reads the keys and values of all tokens before it: on average, those of depth and prompt and of
    /// half of what is generated, for each answer.
    fn kv_read_bytes(&self, budget: &Budget, sessions: usize) -> f64 {
        let tokens = self.depth + self.prompt_tokens + self.generate_tokens;
        let kv_token_bytes =
            budget.kv_bytes as f64 / (sessions * tokens.next_multiple_of(KV_PAGE_TOKENS)) as f64;
        kv_token_bytes * (self.batch * (tokens - self.generate_tokens / 2)) as f64
    }

    /// Passes a second while decoding.
    fn passes(&self, report: &Report) -> f64 {
        report.best.decode / self.batch as f64
    }

    fn to_json(&self, report: &Report) -> Value {
        let weights_read = self.passes(report) * report.weights_read_bytes as f64;
        let read = weights_read + self.passes(report) * report.kv_read_bytes;
        let rounds = |pick: fn(&Rates) -> f64| report.rounds.iter().map(pick).collect::<Vec<_>>();
        json!({
            "model": report.name,
            "kernels": report.kernels,
            "threads": report.threads,
            "load_s": report.load_s,
            "first_token_s": report.first_token_s,
            "prompt_tokens": self.prompt_tokens,
            "generate_tokens": self.generate_tokens,
            "depth": self.depth,
            "batch": self.batch,
            "prefill_tokens_per_s": report.best.prefill,
            "decode_tokens_per_s": report.best.decode,
            "prefill_rounds": rounds(|round| round.prefill),
            "decode_rounds": rounds(|round| round.decode),
            "weights_read_bytes": report.weights_read_bytes,
            "kv_read_bytes": report.kv_read_bytes,
            "weights_read_bytes_per_s": weights_read,
            "read_bytes_per_s": read,
            "bandwidth_bytes_per_s": report.bandwidth,
            "weights_bandwidth_part": weights_read / report.bandwidth,
            "bandwidth_part": read / report.bandwidth,
            "file_bytes": report.file_bytes,
            "kv_bytes": report.kv_bytes,
            "memory": memory_json(report.resident),
        })
    }

    fn print(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let Report { name, kernels, threads, load_s, first_token_s, bandwidth, best, .. } = report;
        writeln!(out, "{name}, kernel set {kernels}, {threads} threads, loaded in {load_s:.2} s")?;
        writeln!(out, "First token {first_token_s:.2} s after the start.")?;
        if self.depth > 0 || self.batch > 1 {
            writeln!(out, "Answers at once: {}; in the KV cache before: {}.", self.batch, self.depth)?;
        }
        writeln!(out, "Prefill of {}: {:.1} tokens/s.", self.prompt_tokens, best.prefill)?;
        writeln!(out, "Decode of {}: {:.2} tokens/s.", self.generate_tokens, best.decode)?;
        let weights_read = self.passes(report) * report.weights_read_bytes as f64;
        let read = weights_read + self.passes(report) * report.kv_read_bytes;
        writeln!(
            out,
            "Read: weights {:.1} MB and KV cache {:.1} MB a pass, {:.2} GB/s; this machine reads {:.2} \
             GB/s; ratio {:.2}, of weights alone {:.2}.",
            report.weights_read_bytes as f64 / 1e6,
            report.kv_read_bytes / 1e6,
            read / 1e9,
            bandwidth / 1e9,
            read / bandwidth,
            weights_read / bandwidth
        )?;
        let (file, kv) = (report.file_bytes as f64 / 1e6, report.kv_bytes as f64 / 1e6);
        writeln!(out, "{} File {file:.1} MB, KV cache {kv:.1} MB.", memory_line(report.resident))
    }
}

/// One answer as it came: when each token did, and the tokens counted.
struct Written {
    tokens: Vec<Instant>,
    usage: Usage,
}

/// Has all prompts answered at once, each with `tokens_max` tokens; `None` if a signal came.
fn write_answers(
    model: &Model,
    prompts: Vec<Vec<u32>>,
    tokens_max: usize,
    signals: &Signals,
) -> Result<Option<Vec<Written>>, Failure> {
    let mut tickets = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let request = Request {
            prompt,
            sampling: Sampling::greedy(),
            tokens_max: Some(tokens_max),
            stop: Vec::new(),
            // Nothing ends the answer early.
            stop_ids: Vec::new(),
            top_logprobs: None,
        };
        let refused = |refusal| Failure::new(Exit::Failure, format!("the engine refused: {refusal:?}"));
        tickets.push(model.scheduler.submit(request).map_err(refused)?);
    }
    // One thread follows them all: it is woken once a pass and takes little from the compute threads.
    let executor = LocalExecutor::new();
    let tasks: Vec<_> = tickets.into_iter().map(|ticket| executor.spawn(follow(ticket))).collect();
    let all = async {
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            answers.push(task.await?);
        }
        Ok(Some(answers))
    };
    let signal = async {
        signals.arrival().await;
        Ok(None)
    };
    smol::block_on(executor.run(signal.or(all)))
}

async fn follow(mut ticket: Ticket) -> Result<Written, Failure> {
    let mut tokens = Vec::new();
    loop {
        match ticket.next().await {
            Some(Event::Token(_)) => tokens.push(Instant::now()),
            Some(Event::Done(summary)) => return Ok(Written { tokens, usage: summary.usage }),
            Some(Event::Failed(error)) => return Err(error.into()),
            None => return Err(Failure::new(Exit::Failure, "the engine ended before the answer did")),
        }
    }
}

/// Ids without meaning. The first is the seed itself, so that as many prompts as the vocabulary has ids begin
/// differently and none finds its beginning in the KV cache by chance.
fn prompt(count: usize, vocabulary: usize, seed: usize) -> Vec<u32> {
    let mut state = seed as u64;
    let mut id = || {
        // Knuth's linear congruential generator (MMIX); its high bits are good enough for this.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % vocabulary as u64) as u32
    };
    let first = (seed % vocabulary) as u32;
    std::iter::once(first).chain(std::iter::repeat_with(&mut id)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_from_their_first_token() {
        let prompts: Vec<_> = (0..50).map(|seed| prompt(8, 2048, seed)).collect();
        for (index, prompt) in prompts.iter().enumerate() {
            assert_eq!(prompt.len(), 8);
            assert!(prompts[..index].iter().all(|other| other[0] != prompt[0]));
        }
    }
}
