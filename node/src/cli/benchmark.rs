//! `kwaainet benchmark`: how fast this machine runs a model, against how fast it can read memory.
//!
//! Writing an answer reads every weight once a token, so the read bandwidth of the machine is the bound. It
//! is measured in the same process with as many threads, after the model ran, so that its buffer is in no
//! memory figure.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use argh::FromArgs;
use kwaainet_engine::memory;
use kwaainet_engine::request::{Request, Summary};
use kwaainet_engine::sampler::Sampling;
use kwaainet_kernels::KV_PAGE_TOKENS;
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::model::{Choice, Model};
use crate::signals::Signals;

use super::generate;
use super::stats::{memory_json, memory_line, rate};

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

/// The buffer that is swept, in bytes: far beyond any cache.
const SWEEP_BYTES: usize = 384 * 1024 * 1024;
/// Sweeps; the best counts.
const SWEEPS: usize = 5;

impl Benchmark {
    /// Measures and prints.
    pub fn execute(self) -> Result<Exit, Failure> {
        if self.prompt_tokens == 0 || self.generate_tokens < 2 || self.repeat == 0 {
            return Err(Failure::usage(
                "a benchmark needs at least 1 prompt token, 2 tokens to generate and 1 repetition",
            ));
        }
        let choice = Choice {
            path: self.model.clone(),
            context_tokens: Some(self.prompt_tokens + self.generate_tokens),
            kv: self.kv.clone(),
            quantize: self.quantize.clone(),
            threads: self.threads,
        };
        let file_bytes: u64 = choice.files()?.files().iter().map(|(_, bytes)| bytes).sum();
        let model = Model::load(&choice, 1, &mut |line| eprintln!("{line}"))?;
        let signals = Signals::listen()?;
        let mut prefill = 0.0_f64;
        let mut decode = 0.0_f64;
        for round in 0..self.repeat {
            let Some(summary) = self.answer(&model, round, &signals)? else { return Ok(Exit::Interrupted) };
            prefill = prefill.max(rate(self.prompt_tokens, summary.timing.prefill_s));
            // The first token comes out of the prompt's pass.
            decode = decode.max(rate(summary.usage.completion_tokens - 1, summary.timing.decode_s));
        }
        let resident = memory::resident();
        let (threads, kernels, load_s) = (model.threads, model.kernels.name(), model.load_s);
        let (name, budget) = (model.name.clone(), model.budget);
        // The compute threads must not stand beside the sweep.
        drop(model);
        let bandwidth = read_bandwidth(threads);
        let weights_read = decode * budget.weights_read_bytes as f64;
        // A token reads the keys and values of all before it: on average, those of the prompt and of half of
        // what is generated.
        let tokens = self.prompt_tokens + self.generate_tokens;
        let kv_token_bytes = budget.kv_bytes as f64 / tokens.next_multiple_of(KV_PAGE_TOKENS) as f64;
        let kv_read_bytes = kv_token_bytes * (self.prompt_tokens + self.generate_tokens / 2) as f64;
        let read = weights_read + decode * kv_read_bytes;
        let mut out = io::stdout().lock();
        if self.json {
            let object = json!({
                "model": name,
                "kernels": kernels,
                "threads": threads,
                "load_s": load_s,
                "prompt_tokens": self.prompt_tokens,
                "generate_tokens": self.generate_tokens,
                "prefill_tokens_per_s": prefill,
                "decode_tokens_per_s": decode,
                "weights_read_bytes": budget.weights_read_bytes,
                "kv_read_bytes": kv_read_bytes,
                "weights_read_bytes_per_s": weights_read,
                "read_bytes_per_s": read,
                "bandwidth_bytes_per_s": bandwidth,
                "weights_bandwidth_part": weights_read / bandwidth,
                "bandwidth_part": read / bandwidth,
                "file_bytes": file_bytes,
                "kv_bytes": budget.kv_bytes,
                "memory": memory_json(resident),
            });
            writeln!(out, "{object}")?;
        } else {
            writeln!(out, "{name}, kernel set {kernels}, {threads} threads, loaded in {:.2} s", load_s)?;
            writeln!(out, "Prefill of {}: {prefill:.1} tokens/s.", self.prompt_tokens)?;
            writeln!(out, "Decode of {}: {decode:.2} tokens/s.", self.generate_tokens)?;
            writeln!(
                out,
                "Read: weights {:.1} MB and KV cache {:.1} MB a token, {:.2} GB/s; this machine reads {:.2} \
                 GB/s; ratio {:.2}, of weights alone {:.2}.",
                budget.weights_read_bytes as f64 / 1e6,
                kv_read_bytes / 1e6,
                read / 1e9,
                bandwidth / 1e9,
                read / bandwidth,
                weights_read / bandwidth
            )?;
            let (file, kv) = (file_bytes as f64 / 1e6, budget.kv_bytes as f64 / 1e6);
            writeln!(out, "{} File {file:.1} MB, KV cache {kv:.1} MB.", memory_line(resident))?;
        }
        Ok(Exit::Success)
    }

    /// One measured answer; `None` if a signal came.
    fn answer(&self, model: &Model, round: usize, signals: &Signals) -> Result<Option<Summary>, Failure> {
        let request = Request {
            prompt: prompt(self.prompt_tokens, model.text.vocabulary, round),
            sampling: Sampling::greedy(),
            tokens_max: Some(self.generate_tokens),
            stop: Vec::new(),
            // Nothing ends the answer early.
            stop_ids: Vec::new(),
            top_logprobs: None,
        };
        let answer = generate::follow(model, request, signals, &mut io::sink())?;
        Ok(answer.finish.map(|finish| Summary {
            finish,
            text_tail: String::new(),
            usage: answer.usage,
            timing: answer.timing,
        }))
    }
}

/// Ids without meaning, other ones each round from the first on, so that no round finds its prompt in the KV
/// cache.
fn prompt(count: usize, vocabulary: usize, round: usize) -> Vec<u32> {
    let mut state = round as u64 + 1;
    let mut id = || {
        // Knuth's linear congruential generator (MMIX); its high bits are good enough for this.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % vocabulary as u64) as u32
    };
    (0..count).map(|_| id()).collect()
}

/// The best of several reads of a large buffer by all threads at once, in bytes a second.
fn read_bandwidth(threads: usize) -> f64 {
    let words = SWEEP_BYTES / size_of::<u64>();
    let buffer: Vec<u64> = (0..words as u64).collect();
    let share = words.div_ceil(threads.max(1));
    let mut best = 0.0_f64;
    for _ in 0..SWEEPS {
        let parts: Vec<&[u64]> = buffer.chunks(share).collect();
        let barrier = &Barrier::new(parts.len());
        let seconds = thread::scope(|scope| {
            let sweep = |part| {
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    std::hint::black_box(sum(part));
                    (start, Instant::now())
                })
            };
            let handles: Vec<_> = parts.iter().copied().map(sweep).collect();
            // From the first start to the last end, as the threads saw them: this thread may be woken late.
            let times: Vec<_> =
                handles.into_iter().map(|handle| handle.join().expect("a sum does not panic")).collect();
            let start = times.iter().map(|time| time.0).min().expect("at least one thread");
            let end = times.iter().map(|time| time.1).max().expect("at least one thread");
            (end - start).as_secs_f64()
        });
        best = best.max(SWEEP_BYTES as f64 / seconds);
    }
    best
}

/// Sixteen sums side by side, so that reading is what takes the time.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 16];
    for chunk in words.chunks_exact(16) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_from_their_first_token() {
        let prompts: Vec<_> = (0..5).map(|round| prompt(8, 2048, round)).collect();
        for (index, prompt) in prompts.iter().enumerate() {
            assert_eq!(prompt.len(), 8);
            assert!(prompts[..index].iter().all(|other| other[0] != prompt[0]));
        }
    }

    #[test]
    fn a_sweep_reads_every_word() {
        let words: Vec<u64> = (0..160).collect();
        assert_eq!(sum(&words), 159 * 160 / 2);
    }
}
