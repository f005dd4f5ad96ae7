//! Every bound of the engine, with unit and reason.
//!
//! What a file, a prompt or a request can ask for is checked against these before anything is allocated.

// Sampling: what a request may ask of `sampler` and `stop`.

/// Highest temperature. Far above it every distribution is flat, and OpenAI's own range ends at 2.
pub const TEMPERATURE_MAX: f32 = 100.0;
/// Highest repetition penalty: a factor, and by 10 no repeated token is left with a chance.
pub const REPETITION_PENALTY_MAX: f32 = 10.0;
/// Largest presence and frequency penalty, either sign, in logits (OpenAI's range).
pub const ADDED_PENALTY_MAX: f32 = 2.0;
/// Last tokens of a context that penalties look at, at most. They are sorted anew for each token: under a
/// millisecond.
pub const PENALTY_WINDOW_TOKENS_MAX: usize = 32_768;
/// Last tokens of a context that penalties look at, when the request does not say.
pub const PENALTY_WINDOW_TOKENS_DEFAULT: usize = 4_096;
/// Entries of a logit bias. More would be a second model; OpenAI takes 300.
pub const LOGIT_BIAS_COUNT_MAX: usize = 1_024;
/// Largest logit bias, either sign, in logits (OpenAI's range: it bans or forces a token).
pub const LOGIT_BIAS_MAX: f32 = 100.0;
/// Alternatives told for each token (OpenAI's limit).
pub const TOP_LOGPROBS_MAX: usize = 20;
/// Stop strings of one request. OpenAI takes 4; templates of some models need a few more.
pub const STOP_STRINGS_MAX: usize = 16;
/// Bytes of one stop string: so much text, less one byte, may be held back from a stream.
pub const STOP_STRING_BYTES_MAX: usize = 256;
