//! What an answer took: for people on standard error, for scripts as JSON.

use kwaainet_engine::memory::{self, Resident};
use kwaainet_engine::request::{Timing, Usage};
use serde_json::{Value, json};

use crate::model::Model;

/// Tokens a second; 0 where nothing took time.
pub fn rate(tokens: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}

/// What this process holds, as JSON; `null` where the system doesn't tell.
pub fn memory_json(resident: Option<Resident>) -> Value {
    resident.map_or(Value::Null, |resident| {
        json!({
            "resident_bytes": resident.total_bytes,
            "resident_bytes_peak": resident.peak_bytes,
            "anonymous_bytes": resident.anonymous_bytes,
        })
    })
}

/// What this process holds, for people.
pub fn memory_line(resident: Option<Resident>) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    match resident {
        None => "Resident: this system doesn't tell.".into(),
        Some(resident) => format!(
            "Resident: {:.1} MB, {:.1} MB of it anonymous; peak {:.1} MB.",
            megabytes(resident.total_bytes),
            megabytes(resident.anonymous_bytes),
            megabytes(resident.peak_bytes)
        ),
    }
}

/// Tokens that were computed one after another: the first comes out of the prompt's pass.
fn decoded(usage: &Usage) -> usize {
    usage.completion_tokens.saturating_sub(1)
}

/// The numbers of one answer for people.
pub fn print(model: &Model, usage: &Usage, timing: &Timing) {
    let computed = usage.prompt_tokens - usage.cached_tokens;
    eprintln!("Load: {:.1} ms.", model.load_s * 1e3);
    eprintln!(
        "Prompt: {} tokens, {} of them cached; {:.1} ms, {:.0} tokens/s.",
        usage.prompt_tokens,
        usage.cached_tokens,
        timing.prefill_s * 1e3,
        rate(computed, timing.prefill_s)
    );
    eprintln!("First token: {:.1} ms.", timing.first_token_s * 1e3);
    eprintln!(
        "Answer: {} tokens; {:.1} ms, {:.1} tokens/s.",
        usage.completion_tokens,
        timing.decode_s * 1e3,
        rate(decoded(usage), timing.decode_s)
    );
    eprintln!("{}", memory_line(memory::resident()));
}

/// The numbers of one answer for scripts.
pub fn to_json(model: &Model, usage: &Usage, timing: &Timing) -> Value {
    let computed = usage.prompt_tokens - usage.cached_tokens;
    json!({
        "model": model.name,
        "kernels": model.kernels.name(),
        "threads": model.threads,
        "load_s": model.load_s,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        },
        "prefill_s": timing.prefill_s,
        "prefill_tokens_per_s": rate(computed, timing.prefill_s),
        "first_token_s": timing.first_token_s,
        "decode_s": timing.decode_s,
        "decode_tokens_per_s": rate(decoded(usage), timing.decode_s),
        "memory": memory_json(memory::resident()),
    })
}
