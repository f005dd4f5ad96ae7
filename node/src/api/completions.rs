//! `POST /v1/completions`: plain continuation of one or several prompts, without a template.

use kwaainet_engine::request::Request;
use serde_json::Value;

use crate::door::Refusal;
use crate::limits::{CHOICES_MAX, COMPLETION_LOGPROBS_MAX, COMPLETION_TOKENS_DEFAULT};
use crate::model::Text;

use super::answer::{Format, Kind, Prepared, check_length};
use super::fields::Fields;
use super::sampling::Shared;

/// Turns a completion request into requests to the scheduler.
pub fn prepare(mut fields: Fields, text: &Text) -> Result<Prepared, Refusal> {
    let shared = Shared::take(&mut fields, text.vocabulary)?;
    let tokens_max = fields.whole("max_tokens", 1..=u64::from(u32::MAX))?;
    let logprobs = fields.whole("logprobs", 0..=COMPLETION_LOGPROBS_MAX)?;
    let echo = fields.boolean("echo")?.unwrap_or(false);
    if echo && logprobs.is_some() {
        return Err(
            Refusal::param("echo", "echo with logprobs is not offered here.").code("unsupported_parameter")
        );
    }
    fields.not_offered("suffix", |value| value == "")?;
    let n = shared.n as u64;
    fields.not_offered("best_of", |value| value.as_u64() == Some(n))?;
    let prompts = prompts(&mut fields, text)?;
    if prompts.len() * shared.n > CHOICES_MAX {
        let message = format!("A request may have {CHOICES_MAX} answers, prompts times n.");
        return Err(Refusal::param("prompt", message));
    }
    let mut requests = Vec::with_capacity(prompts.len() * shared.n);
    let mut echoes = Vec::new();
    for prompt in &prompts {
        check_length(prompt, text, "prompt")?;
        for _ in 0..shared.n {
            requests.push(Request {
                prompt: prompt.clone(),
                sampling: shared.sampling_of(requests.len()),
                tokens_max: Some(tokens_max.map_or(COMPLETION_TOKENS_DEFAULT, |count| count as usize)),
                stop: shared.stop.clone(),
                stop_ids: text.stop_ids.clone(),
                top_logprobs: logprobs.map(|count| count as usize),
            });
            if echo {
                echoes.push(text.tokenizer.decode(prompt));
            }
        }
    }
    let format = Format {
        kind: Kind::Completion,
        stream: shared.stream,
        include_usage: shared.include_usage,
        choices_per_prompt: shared.n,
        echoes,
    };
    Ok(Prepared { requests, format })
}

/// The prompts as token ids: a string, an array of strings, of token ids, or of arrays of token ids.
fn prompts(fields: &mut Fields, text: &Text) -> Result<Vec<Vec<u32>>, Refusal> {
    let wrong = || {
        let message =
            "prompt must be a string, an array of strings, an array of token ids, or an array of those.";
        Refusal::param("prompt", message)
    };
    let values = match fields.take("prompt") {
        Some(Value::String(prompt)) => return Ok(vec![text.plain(&prompt)]),
        Some(Value::Array(values)) if !values.is_empty() => values,
        _ => return Err(wrong()),
    };
    if values.iter().all(Value::is_number) {
        return Ok(vec![ids(&values, text.vocabulary)?]);
    }
    if values.len() > CHOICES_MAX {
        return Err(Refusal::param("prompt", format!("A request may have {CHOICES_MAX} prompts.")));
    }
    let prompt = |value: &Value| match value {
        Value::String(prompt) => Ok(text.plain(prompt)),
        Value::Array(values) => ids(values, text.vocabulary),
        _ => Err(wrong()),
    };
    values.iter().map(prompt).collect()
}

fn ids(values: &[Value], vocabulary: usize) -> Result<Vec<u32>, Refusal> {
    let id = |value: &Value| {
        let id = value.as_u64().filter(|id| *id < vocabulary as u64);
        id.map(|id| id as u32).ok_or_else(|| {
            Refusal::param(
                "prompt",
                format!("The token ids of prompt must be whole numbers below {vocabulary}."),
            )
        })
    };
    values.iter().map(id).collect()
}
