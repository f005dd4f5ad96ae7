//! Logarithms of the model's own chances, for requests that ask for them.
//!
//! They are told before bias, penalties and cuts: what the model thinks, not what the request made of it.
//! They cost an exponential for each token of the vocabulary, so they are computed only on demand.

use std::cmp::Ordering;

use crate::Error;
use crate::sampler::{best_token, nth_largest};

/// The log-softmax of one row of logits.
#[derive(Debug)]
pub struct LogProbabilities<'a> {
    logits: &'a [f32],
    best: f64,
    /// Logarithm of the sum of exponentials of what each logit lies below the best.
    log_sum: f64,
}

impl<'a> LogProbabilities<'a> {
    /// Prepares the answers for `logits`, one for each token of the vocabulary.
    ///
    /// # Errors
    /// When a logit is no finite number, or there are none.
    pub fn new(logits: &'a [f32]) -> Result<LogProbabilities<'a>, Error> {
        let best = f64::from(logits[best_token(logits)? as usize]);
        let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - best)).sum();
        Ok(LogProbabilities { logits, best, log_sum: libm::log(sum) })
    }

    /// The logarithm of the chance of token `id`; None when there is no such token.
    pub fn of(&self, id: u32) -> Option<f32> {
        self.logits.get(id as usize).map(|&logit| self.told(logit))
    }

    fn told(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.best - self.log_sum) as f32
    }

    /// The `count` likeliest tokens with the logarithms of their chances, likeliest first, lower ids first
    /// among equals. All of them if the vocabulary is smaller.
    pub fn top(&self, count: usize) -> Vec<(u32, f32)> {
        let count = count.min(self.logits.len());
        if count == 0 {
            return Vec::new();
        }
        let border = nth_largest(self.logits, count, &mut Vec::new());
        let above = self.logits.iter().filter(|&&logit| logit > border).count();
        let mut equals_left = count - above;
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(count);
        for (id, &logit) in self.logits.iter().enumerate() {
            let taken = match logit.partial_cmp(&border) {
                Some(Ordering::Greater) => true,
                Some(Ordering::Equal) if equals_left > 0 => {
                    equals_left -= 1;
                    true
                }
                _ => false,
            };
            if taken {
                top.push((id as u32, self.told(logit)));
            }
        }
        top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        top
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_sum_to_one() {
        let logits: Vec<f32> = (0..1000).map(|id| ((id * 37 % 101) as f32 - 50.0) / 7.0).collect();
        let told = LogProbabilities::new(&logits).expect("all are finite");
        let sum: f64 =
            (0..1000).map(|id| libm::exp(f64::from(told.of(id).expect("in the vocabulary")))).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        assert_eq!(told.of(1000), None);
    }

    #[test]
    fn the_top_is_the_head_of_a_full_sort() {
        let logits: Vec<f32> =
            (0..500u32).map(|id| (id.wrapping_mul(2_654_435_761) >> 24) as f32 / 16.0).collect();
        let told = LogProbabilities::new(&logits).expect("all are finite");
        let mut all: Vec<(u32, f32)> = (0..500).map(|id| (id, told.of(id).expect("in range"))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for count in [0, 1, 2, 5, 20, 499, 500, 501] {
            assert_eq!(told.top(count), all[..count.min(500)], "top {count}");
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let told_logits = [3.0e38, -3.0e38, 3.0e38];
        let told = LogProbabilities::new(&told_logits).expect("all are finite");
        assert_eq!(told.top(2), [(0, -std::f32::consts::LN_2), (2, -std::f32::consts::LN_2)]);
    }

    #[test]
    fn a_logit_that_is_no_number_is_refused() {
        let error = LogProbabilities::new(&[1.0, f32::NAN]).unwrap_err().to_string();
        assert!(error.contains("token 1 is NaN"), "{error}");
        assert!(LogProbabilities::new(&[]).is_err());
    }
}
