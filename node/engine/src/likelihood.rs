//! How likely a model finds a text: the measure of what quantisation costs.

use crate::engine::{Engine, Input, Run, Wanted, logit_rows_max};
use crate::error::Error;
use crate::kv::SessionId;

/// How likely a text was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// Mean of minus the natural logarithm of each token's probability after the ones before it.
    pub mean_negative_log: f64,
    /// Tokens whose probability was taken.
    pub tokens: usize,
}

impl Likelihood {
    /// e to the mean: among how many equally likely tokens the model wavers.
    pub fn perplexity(&self) -> f64 {
        self.mean_negative_log.exp()
    }
}

/// Takes the likelihood of `ids`. A text longer than the context is read in windows of a whole context, each
/// from nothing; the first token of a window is given and counts for no probability.
///
/// # Errors
/// When the engine has no head, all sessions are taken, or there are fewer than two tokens.
pub fn likelihood(engine: &mut Engine, ids: &[u32]) -> Result<Likelihood, Error> {
    if ids.len() < 2 || engine.row_width() != engine.spec().vocabulary {
        return Err(Error::request("a likelihood needs a model with its head and a text of two tokens"));
    }
    let (mut sum, mut tokens) = (0.0, 0);
    for window in ids.chunks(engine.context_tokens()).filter(|window| window.len() > 1) {
        let session = engine
            .open_session(window.len())
            .ok_or_else(|| Error::request("a likelihood needs a session, and all are taken"))?;
        let taken = of_window(engine, session, window);
        engine.close_session(session);
        sum += taken?;
        tokens += window.len() - 1;
    }
    Ok(Likelihood { mean_negative_log: sum / tokens as f64, tokens })
}

fn of_window(engine: &mut Engine, session: SessionId, window: &[u32]) -> Result<f64, Error> {
    let (given, sought) = (&window[..window.len() - 1], &window[1..]);
    let rows = logit_rows_max(engine.spec(), engine.options()).min(engine.options().batch_tokens_max);
    let width = engine.row_width();
    let mut sum = 0.0;
    for (given, sought) in given.chunks(rows).zip(sought.chunks(rows)) {
        let logits = engine.forward(&[Run { session, input: Input::Tokens(given), wanted: Wanted::All }])?;
        let each = logits.chunks_exact(width).zip(sought);
        sum += each.map(|(logits, &id)| negative_log(logits, id)).sum::<f64>();
    }
    Ok(sum)
}

/// Minus the logarithm of one id's probability.
fn negative_log(logits: &[f32], id: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    sum.ln() - f64::from(logits[id as usize] - largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_share_the_probability_and_large_ones_do_not_overflow() {
        assert!((negative_log(&[3.0; 8], 5) - 8f64.ln()).abs() < 1e-12);
        assert!(negative_log(&[1e4, 0.0], 0).abs() < 1e-12);
        assert!((negative_log(&[1e4, 0.0], 1) - 1e4).abs() < 1e-9);
    }
}
