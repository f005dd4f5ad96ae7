//! From logits to one token: bias, penalties, temperature, cuts, draw.
//!
//! The steps have one order, and each sees what the one before it left:
//!
//! 1. logit bias: added to the logits of the tokens named;
//! 2. repetition penalty over prompt and answer (Keskar et al., "CTRL", 2019): a positive logit of a token
//!    that occurs is divided by the penalty, a negative one multiplied; then, over the answer alone, the
//!    frequency penalty times the count of occurrences and once the presence penalty are subtracted (OpenAI's
//!    definition);
//! 3. temperature: logits are divided by it; 0 means the token with the largest logit, the lowest id among
//!    equals;
//! 4. top-k: tokens below the k-th largest logit go; those equal to it stay, since nothing tells them apart;
//! 5. top-p (Holtzman et al., "The curious case of neural text degeneration", 2020): the fewest likeliest
//!    tokens whose sum reaches p stay, lower ids first among equals, and at least one;
//! 6. min-p (Nguyen et al., "Turning up the heat", 2024): tokens below min-p times the likeliest one's chance
//!    go;
//! 7. one draw from what is left, with a number that depends on the seed and the token's place alone.
//!
//! Every machine draws the same token from the same logits: exponentials are libm's in f64, sums run in
//! ascending ids. No step sorts the vocabulary: borders of top-k and top-p are found by partial selection.

use std::cmp::Ordering;

use crate::Error;
use crate::limits::{
    ADDED_PENALTY_MAX, LOGIT_BIAS_COUNT_MAX, LOGIT_BIAS_MAX, PENALTY_WINDOW_TOKENS_DEFAULT,
    PENALTY_WINDOW_TOKENS_MAX, REPETITION_PENALTY_MAX, TEMPERATURE_MAX,
};
use crate::random;

/// Tokens this far below the best (in units of temperature) have less than 2^-72 of its chance. A draw has 53
/// bits, so they could never be drawn, and their exponentials are spared.
const EXPONENT_SPAN: f64 = 50.0;
/// From so few candidates on, the border of top-p is found by sorting them.
const SORTED_CANDIDATES: usize = 32;

/// How a request wants its tokens chosen. Fields that are switched off cost nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the best token always.
    pub temperature: f32,
    /// So many of the likeliest tokens stay; 0 is off.
    pub top_k: usize,
    /// The likeliest tokens stay until their sum reaches this; 1 is off.
    pub top_p: f32,
    /// Tokens stay whose chance is at least this part of the best one's; 0 is off.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt and answer; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token in the answer; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from the logit of each token once for each time that it is in the answer; 0 is off.
    pub frequency_penalty: f32,
    /// The penalties look at so many last tokens of prompt and answer together.
    pub penalty_window_tokens: usize,
    /// Added to the logits of these token ids; entries for the same id add up.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed and the same logits give the same tokens.
    pub seed: u64,
}

impl Sampling {
    /// The model's own distribution: temperature 1 and all else off. What the OpenAI API starts from.
    pub const fn neutral() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window_tokens: PENALTY_WINDOW_TOKENS_DEFAULT,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }

    /// Always the best token.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::neutral() }
    }

    /// Whether every setting is one that [`Sampler::sample`] can follow for a model of `vocabulary` tokens.
    ///
    /// # Errors
    /// An [`Error::Request`] that names the setting, its value and its range.
    pub fn check(&self, vocabulary: usize) -> Result<(), Error> {
        in_range("temperature", self.temperature, 0.0, TEMPERATURE_MAX)?;
        in_range("top_p", self.top_p, 0.0, 1.0)?;
        in_range("min_p", self.min_p, 0.0, 1.0)?;
        in_range("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE, REPETITION_PENALTY_MAX)?;
        in_range("presence_penalty", self.presence_penalty, -ADDED_PENALTY_MAX, ADDED_PENALTY_MAX)?;
        in_range("frequency_penalty", self.frequency_penalty, -ADDED_PENALTY_MAX, ADDED_PENALTY_MAX)?;
        if self.penalty_window_tokens > PENALTY_WINDOW_TOKENS_MAX {
            return Err(Error::request(format!(
                "a penalty window of {} tokens was asked for; \
                 at most {PENALTY_WINDOW_TOKENS_MAX} are possible",
                self.penalty_window_tokens
            )));
        }
        if self.logit_bias.len() > LOGIT_BIAS_COUNT_MAX {
            return Err(Error::request(format!(
                "logit_bias has {} entries; at most {LOGIT_BIAS_COUNT_MAX} are possible",
                self.logit_bias.len()
            )));
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= vocabulary {
                return Err(Error::request(format!(
                    "logit_bias names token {id}, but the model's ids end at {}",
                    vocabulary.saturating_sub(1)
                )));
            }
            in_range("logit_bias", bias, -LOGIT_BIAS_MAX, LOGIT_BIAS_MAX)?;
        }
        Ok(())
    }

    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

impl Default for Sampling {
    /// Lively but coherent text from small models: temperature 0.8, top-k 40, top-p 0.95.
    fn default() -> Self {
        Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, ..Sampling::neutral() }
    }
}

fn in_range(name: &str, value: f32, least: f32, most: f32) -> Result<(), Error> {
    // Written so that NaN is refused too.
    if value >= least && value <= most {
        return Ok(());
    }
    let from = if least == f32::MIN_POSITIVE { "above 0".to_owned() } else { format!("from {least}") };
    Err(Error::request(format!("{name} is {value}; it can be {from} to {most}")))
}

/// A token that may still be drawn, with its chance relative to the best token's.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    weight: f32,
}

/// Heavier first, lower ids first among equals.
fn by_weight(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// Chooses tokens. One serves all sessions of a thread: it keeps no state between calls, only its scratch
/// memory.
#[derive(Debug, Default)]
pub struct Sampler {
    adjusted: Vec<f32>,
    context: Vec<u32>,
    largest: Vec<f32>,
    /// In ascending ids.
    candidates: Vec<Candidate>,
    order: Vec<Candidate>,
}

impl Sampler {
    /// A sampler that allocates nothing more for logits of up to `vocabulary` tokens, except for penalties'
    /// windows.
    pub fn new(vocabulary: usize) -> Sampler {
        Sampler {
            adjusted: Vec::with_capacity(vocabulary),
            context: Vec::new(),
            largest: Vec::new(),
            candidates: Vec::with_capacity(vocabulary),
            order: Vec::with_capacity(vocabulary),
        }
    }

    /// Bytes of scratch memory at most, for the budget. Buffers that grow on demand count twice.
    pub fn bytes_for(vocabulary: usize) -> usize {
        let per_token = 3 * size_of::<f32>() + 2 * size_of::<Candidate>();
        vocabulary.saturating_mul(per_token).saturating_add(2 * PENALTY_WINDOW_TOKENS_MAX * size_of::<u32>())
    }

    /// Chooses the next token.
    ///
    /// * `logits`: one for each token of the vocabulary.
    /// * `context`: prompt and answer so far; the answer begins at `generated_from`.
    /// * `index`: how many tokens were generated before this one. Together with the seed it fixes the draw,
    ///   so a node that takes over in the middle goes on with the same text.
    ///
    /// # Errors
    /// When a logit is no finite number, or there are none. `sampling` itself is trusted: see
    /// [`Sampling::check`].
    pub fn sample(
        &mut self,
        sampling: &Sampling,
        logits: &[f32],
        context: &[u32],
        generated_from: usize,
        index: u64,
    ) -> Result<u32, Error> {
        self.choose_candidates(sampling, logits, context, generated_from)?;
        let target = random::uniform(sampling.seed, index) * sum(&self.candidates);
        let mut reached = 0.0;
        let drawn = self.candidates.iter().find(|candidate| {
            reached += f64::from(candidate.weight);
            reached > target
        });
        // The product above may round up to the sum itself: then it is the last one's turn.
        let drawn = drawn.or(self.candidates.last()).expect("the best token is always a candidate");
        Ok(drawn.id)
    }

    /// The distribution that [`Sampler::sample`] draws from: token ids in ascending order with their chances.
    ///
    /// # Errors
    /// As for [`Sampler::sample`].
    pub fn distribution(
        &mut self,
        sampling: &Sampling,
        logits: &[f32],
        context: &[u32],
        generated_from: usize,
    ) -> Result<Vec<(u32, f64)>, Error> {
        self.choose_candidates(sampling, logits, context, generated_from)?;
        let total = sum(&self.candidates);
        Ok(self
            .candidates
            .iter()
            .map(|candidate| (candidate.id, f64::from(candidate.weight) / total))
            .collect())
    }

    /// Steps 1 to 6: leaves in `candidates` what may be drawn.
    fn choose_candidates(
        &mut self,
        sampling: &Sampling,
        logits: &[f32],
        context: &[u32],
        generated_from: usize,
    ) -> Result<(), Error> {
        let values = if sampling.logit_bias.is_empty() && !sampling.penalises() {
            logits
        } else {
            self.adjusted.clear();
            self.adjusted.extend_from_slice(logits);
            for &(id, bias) in &sampling.logit_bias {
                if let Some(logit) = self.adjusted.get_mut(id as usize) {
                    *logit += bias;
                }
            }
            if sampling.penalises() {
                penalise(&mut self.adjusted, &mut self.context, sampling, context, generated_from);
            }
            &self.adjusted
        };
        let best = best_token(values)?;
        self.candidates.clear();
        if sampling.temperature == 0.0 {
            self.candidates.push(Candidate { id: best, weight: 1.0 });
            return Ok(());
        }

        let border = if (1..values.len()).contains(&sampling.top_k) {
            nth_largest(values, sampling.top_k, &mut self.largest)
        } else {
            f32::NEG_INFINITY
        };
        let best = f64::from(values[best as usize]);
        let temperature = f64::from(sampling.temperature);
        for (id, &value) in values.iter().enumerate() {
            let exponent = (f64::from(value) - best) / temperature;
            if value >= border && exponent > -EXPONENT_SPAN {
                self.candidates.push(Candidate { id: id as u32, weight: libm::exp(exponent) as f32 });
            }
        }

        if sampling.top_p < 1.0 {
            self.cut_top_p(f64::from(sampling.top_p));
        }
        if sampling.min_p > 0.0 {
            // The best token's weight is 1.
            self.candidates.retain(|candidate| candidate.weight >= sampling.min_p);
        }
        Ok(())
    }

    fn cut_top_p(&mut self, top_p: f64) {
        let total = sum(&self.candidates);
        // All tokens below this weight together have less than 1 - p, so they lie behind the border. With
        // most models that leaves some dozens of a hundred thousand.
        let negligible = (1.0 - top_p) * total / self.candidates.len() as f64;
        self.order.clear();
        self.order
            .extend(self.candidates.iter().filter(|candidate| f64::from(candidate.weight) >= negligible));
        if let Some(border) = top_p_border(&mut self.order, top_p * total) {
            self.candidates.retain(|candidate| by_weight(candidate, &border) != Ordering::Greater);
        }
    }
}

/// The sum of weights in ascending ids, so that it rounds alike everywhere.
fn sum(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// The id of the largest value, the lowest among equals; an error if any value is not finite.
pub(crate) fn best_token(values: &[f32]) -> Result<u32, Error> {
    let mut best: Option<usize> = None;
    for (id, &value) in values.iter().enumerate() {
        if !value.is_finite() {
            return Err(Error::unsupported(format!(
                "the logit of token {id} is {value}, from which nothing can be drawn; \
                 the model's weights are damaged, or need a wider number format"
            )));
        }
        if best.is_none_or(|best| value > values[best]) {
            best = Some(id);
        }
    }
    let best = best.and_then(|id| u32::try_from(id).ok());
    best.ok_or_else(|| Error::unsupported("a token was asked for, but the model gave no logits"))
}

/// Step 2 over the last tokens of the context; `sorted` is scratch.
fn penalise(
    logits: &mut [f32],
    sorted: &mut Vec<u32>,
    sampling: &Sampling,
    context: &[u32],
    generated_from: usize,
) {
    let window_from = context.len().saturating_sub(sampling.penalty_window_tokens);
    if sampling.repetition_penalty != 1.0 {
        for_each_run(&context[window_from..], sorted, |id, _| {
            if let Some(logit) = logits.get_mut(id as usize) {
                let penalty = sampling.repetition_penalty;
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        });
    }
    if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
        let answer_from = window_from.max(generated_from).min(context.len());
        for_each_run(&context[answer_from..], sorted, |id, count| {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= sampling.frequency_penalty * count as f32 + sampling.presence_penalty;
            }
        });
    }
}

/// Calls `visit` with each distinct id and how often it occurs, in ascending ids.
fn for_each_run(ids: &[u32], sorted: &mut Vec<u32>, mut visit: impl FnMut(u32, usize)) {
    sorted.clear();
    sorted.extend_from_slice(ids);
    sorted.sort_unstable();
    for run in sorted.chunk_by(|a, b| a == b) {
        visit(run[0], run.len());
    }
}

/// The `count`-th largest of `values`, for 1 <= count <= values.len() and no NaN. One pass with a buffer of
/// the largest so far: when it holds twice `count`, a selection halves it and raises the bar for what comes
/// in.
pub(crate) fn nth_largest(values: &[f32], count: usize, buffer: &mut Vec<f32>) -> f32 {
    fn keep_largest(buffer: &mut Vec<f32>, count: usize) -> f32 {
        let (_, &mut last, _) = buffer.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        buffer.truncate(count);
        last
    }
    buffer.clear();
    let mut bar = f32::NEG_INFINITY;
    for &value in values {
        if value > bar {
            buffer.push(value);
            if buffer.len() >= count.saturating_mul(2) {
                bar = keep_largest(buffer, count);
            }
        }
    }
    // Values equal to the bar were left out, but the bar itself is in the buffer.
    keep_largest(buffer, count)
}

/// The last token, likeliest first, that is needed for the sum of weights to reach `target`. Halves by
/// selection the part in which the border lies, so the work is linear in the number of candidates.
fn top_p_border(candidates: &mut [Candidate], target: f64) -> Option<Candidate> {
    let mut before = 0.0;
    let (mut first, mut end) = (0, candidates.len());
    while end - first > SORTED_CANDIDATES {
        let middle = first + (end - first) / 2;
        candidates[first..end].select_nth_unstable_by(middle - first, by_weight);
        let heavier = sum(&candidates[first..middle]);
        if before + heavier >= target {
            end = middle;
        } else {
            before += heavier;
            first = middle;
        }
    }
    let rest = &mut candidates[first..end];
    rest.sort_unstable_by(by_weight);
    let border = rest.iter().find(|candidate| {
        before += f64::from(candidate.weight);
        before >= target
    });
    border.or(rest.last()).copied()
}
