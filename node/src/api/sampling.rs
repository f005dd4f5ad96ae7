//! The parameters that chats and completions share: how tokens are chosen, and when to stop.

use kwaainet_engine::sampler::Sampling;
use serde_json::Value;

use crate::door::Refusal;
use crate::limits::{CHOICES_MAX, LOGIT_BIAS_MAX, STOP_BYTES_MAX, STOP_STRINGS_MAX};

use super::fields::Fields;
use super::random_seed;

/// The shared parameters of one request.
pub struct Shared {
    /// How the first choice is sampled; the next ones have the next seeds.
    pub sampling: Sampling,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Answers to each prompt.
    pub n: usize,
    /// Answer by events.
    pub stream: bool,
    /// Send the usage at the end of the stream.
    pub include_usage: bool,
}

impl Shared {
    /// Takes them from the fields of a request.
    pub fn take(fields: &mut Fields, vocabulary: usize) -> Result<Shared, Refusal> {
        let neutral = Sampling::neutral();
        let sampling = Sampling {
            temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(neutral.temperature),
            // 0 leaves the likeliest token alone, as the smallest positive number does.
            top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(neutral.top_p).max(f32::MIN_POSITIVE),
            top_k: fields.whole("top_k", 0..=u64::from(u32::MAX))?.unwrap_or(0) as usize,
            min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(neutral.min_p),
            repetition_penalty: fields.number("repetition_penalty", 0.1..=10.0)?.unwrap_or(1.0),
            presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            logit_bias: logit_bias(fields, vocabulary)?,
            seed: seed(fields)?,
            ..neutral
        };
        let stream = fields.boolean("stream")?.unwrap_or(false);
        Ok(Shared {
            sampling,
            stop: stop(fields)?,
            n: fields.whole("n", 1..=CHOICES_MAX as u64)?.unwrap_or(1) as usize,
            stream,
            include_usage: include_usage(fields, stream)?,
        })
    }

    /// The sampling of a choice, counted from 0: each has a seed of its own, so that the same seed gives the
    /// same set.
    pub fn sampling_of(&self, choice: usize) -> Sampling {
        let seed = self.sampling.seed.wrapping_add(choice as u64);
        Sampling { seed, ..self.sampling.clone() }
    }
}

fn seed(fields: &mut Fields) -> Result<u64, Refusal> {
    match fields.take("seed") {
        None => Ok(random_seed()),
        Some(value) => value
            .as_u64()
            .or_else(|| value.as_i64().map(|seed| seed as u64))
            .ok_or_else(|| Refusal::param("seed", "seed must be a whole number of 64 bits.")),
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, Refusal> {
    let wrong = || {
        let message = format!(
            "stop must be a string or an array of at most {STOP_STRINGS_MAX} strings, each of 1 to \
             {STOP_BYTES_MAX} bytes."
        );
        Refusal::param("stop", message)
    };
    let values = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) if values.len() <= STOP_STRINGS_MAX => values,
        Some(Value::Array(_)) => return Err(wrong()),
        Some(value) => vec![value],
    };
    let text = |value| match value {
        Value::String(text) if (1..=STOP_BYTES_MAX).contains(&text.len()) => Ok(text),
        _ => Err(wrong()),
    };
    values.into_iter().map(text).collect()
}

fn logit_bias(fields: &mut Fields, vocabulary: usize) -> Result<Vec<(u32, f32)>, Refusal> {
    let Some(map) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    if map.len() > LOGIT_BIAS_MAX {
        let message = format!("logit_bias has {} entries; at most {LOGIT_BIAS_MAX} are taken.", map.len());
        return Err(Refusal::param("logit_bias", message));
    }
    let entry = |(key, value): (String, Value)| {
        let id = key.parse::<u32>().ok().filter(|id| (*id as usize) < vocabulary);
        let bias = value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        id.zip(bias).map(|(id, bias)| (id, bias as f32)).ok_or_else(|| {
            let message = format!(
                "logit_bias maps token ids below {vocabulary} to numbers from -100 to 100; {key:.20} is no \
                 such entry."
            );
            Refusal::param("logit_bias", message)
        })
    };
    map.into_iter().map(entry).collect()
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, Refusal> {
    let Some(options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        let message = "stream_options go with stream: true.";
        return Err(Refusal::param("stream_options", message));
    }
    Ok(Fields::of(options).boolean("include_usage")?.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str) -> Result<Shared, Refusal> {
        Shared::take(&mut Fields::parse(text.as_bytes()).unwrap(), 100)
    }

    #[test]
    fn what_is_not_said_is_neutral() {
        let shared = take("{}").unwrap();
        assert_eq!(Sampling { seed: 0, ..shared.sampling }, Sampling::neutral());
        assert_eq!((shared.n, shared.stream, shared.include_usage, shared.stop.len()), (1, false, false, 0));
    }

    #[test]
    fn each_choice_has_a_seed_of_its_own() {
        let shared = take(r#"{"seed": -1, "n": 2}"#).unwrap();
        assert_eq!(shared.sampling_of(0).seed, u64::MAX);
        assert_eq!(shared.sampling_of(1).seed, 0);
    }

    #[test]
    fn limits_hold_at_the_limit_and_one_above() {
        let stops = |count: usize| format!("{{\"stop\":[{}]}}", vec!["\"x\""; count].join(","));
        assert_eq!(take(&stops(STOP_STRINGS_MAX)).unwrap().stop.len(), STOP_STRINGS_MAX);
        assert!(take(&stops(STOP_STRINGS_MAX + 1)).is_err());
        let long = |bytes: usize| format!("{{\"stop\":\"{}\"}}", "x".repeat(bytes));
        assert!(take(&long(STOP_BYTES_MAX)).is_ok());
        assert!(take(&long(STOP_BYTES_MAX + 1)).is_err());
        assert!(take(&long(0)).is_err());
        assert!(take(&format!("{{\"n\":{CHOICES_MAX}}}")).is_ok());
        assert!(take(&format!("{{\"n\":{}}}", CHOICES_MAX + 1)).is_err());
        let biases = |count: usize| {
            let entries: Vec<_> = (0..count).map(|id| format!("\"{id}\":1")).collect();
            let text = format!("{{\"logit_bias\":{{{}}}}}", entries.join(","));
            Shared::take(&mut Fields::parse(text.as_bytes()).unwrap(), 1 << 20).is_ok()
        };
        assert!(biases(LOGIT_BIAS_MAX));
        assert!(!biases(LOGIT_BIAS_MAX + 1));
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (body, param) in [
            (r#"{"temperature": 2.1}"#, "temperature"),
            (r#"{"top_p": "x"}"#, "top_p"),
            (r#"{"presence_penalty": -3}"#, "presence_penalty"),
            (r#"{"logit_bias": {"100": 1}}"#, "logit_bias"),
            (r#"{"logit_bias": {"1": 101}}"#, "logit_bias"),
            (r#"{"seed": 1.5}"#, "seed"),
            (r#"{"stop": [1]}"#, "stop"),
            (r#"{"n": 0}"#, "n"),
            (r#"{"stream_options": {"include_usage": true}}"#, "stream_options"),
        ] {
            let refusal = take(body).map(|_| ()).expect_err(body);
            assert_eq!(refusal.param.as_deref(), Some(param));
        }
    }
}
