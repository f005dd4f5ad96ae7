//! The supervisor: the parts of a node, how each fares, and starting again what failed.
//!
//! A part that fails is a state that `status` shows, with its reason and when it is tried again; the rest
//! goes on. What can't go on at all (a taken port, a broken model) ends the node and is no part's failure.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smol::Timer;

use crate::api::random_seed;
use crate::limits::{RESTART_FORGIVEN_AFTER, RESTART_PAUSE_MAX, RESTART_PAUSE_MIN};
use crate::log;

/// How a part fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not wanted, and why.
    Off(String),
    /// On its way.
    Starting,
    /// At work since.
    Running(Instant),
    /// Failed.
    Failed {
        /// The reason, a sentence.
        reason: String,
        /// How often in a row.
        failures: u32,
        /// When it is tried again.
        again: Instant,
    },
}

/// All parts by name.
#[derive(Clone, Default)]
pub struct Parts(Rc<RefCell<Vec<(&'static str, State)>>>);

impl Parts {
    /// Notes how a part fares.
    pub fn set(&self, name: &'static str, state: State) {
        let mut parts = self.0.borrow_mut();
        match parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = state,
            None => parts.push((name, state)),
        }
    }

    /// How a part fares.
    pub fn get(&self, name: &str) -> Option<State> {
        let parts = self.0.borrow();
        parts.iter().find(|(known, _)| *known == name).map(|(_, state)| state.clone())
    }

    /// Runs a part for ever: `attempt` starts it, notes when it runs, and gives the reason when it fails.
    pub async fn keep<F: Future<Output = String>>(&self, name: &'static str, mut attempt: impl FnMut() -> F) {
        let mut failures = 0;
        loop {
            self.set(name, State::Starting);
            let reason = attempt().await;
            let ran = match self.get(name) {
                Some(State::Running(since)) => since.elapsed(),
                _ => Duration::ZERO,
            };
            failures = if ran >= RESTART_FORGIVEN_AFTER { 1 } else { failures + 1 };
            let wait = pause(failures, random_seed());
            log::say(&format!(
                "The {name} failed: {reason}; it is tried again in {:.0} s.",
                wait.as_secs_f64()
            ));
            self.set(name, State::Failed { reason, failures, again: Instant::now() + wait });
            Timer::after(wait).await;
        }
    }

    /// For `status --json`.
    pub fn to_json(&self) -> Value {
        let parts = self.0.borrow();
        let parts = parts.iter().map(|(name, state)| {
            let state = match state {
                State::Off(reason) => json!({"state": "off", "reason": reason}),
                State::Starting => json!({"state": "starting"}),
                State::Running(since) => json!({"state": "running", "for_s": since.elapsed().as_secs()}),
                State::Failed { reason, failures, again } => json!({
                    "state": "failed",
                    "reason": reason,
                    "failures": failures,
                    "again_in_s": again.saturating_duration_since(Instant::now()).as_secs(),
                }),
            };
            (name.to_string(), state)
        });
        Value::Object(parts.collect())
    }
}

/// The wait after so many failures in a row: doubling, and then a random three quarters to all of it, so that
/// nodes that failed together do not come back together.
fn pause(failures: u32, random: u64) -> Duration {
    let doubled = RESTART_PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let whole = doubled.min(RESTART_PAUSE_MAX);
    whole * 3 / 4 + whole.mul_f64((random % 1024) as f64 / 4096.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future::FutureExt;
    use std::cell::Cell;

    #[test]
    fn waits_double_up_to_the_longest() {
        for random in [0, 512, 1023, u64::MAX] {
            for failures in 1..100 {
                let wait = pause(failures, random);
                let whole =
                    RESTART_PAUSE_MIN.saturating_mul(1 << (failures - 1).min(16)).min(RESTART_PAUSE_MAX);
                assert!(wait >= whole * 3 / 4 && wait <= whole, "{failures}: {wait:?}");
            }
        }
    }

    #[test]
    fn a_failed_part_is_started_again_and_its_reason_is_shown() {
        let parts = Parts::default();
        let attempts = Cell::new(0);
        let attempt = || async {
            attempts.set(attempts.get() + 1);
            if attempts.get() == 1 {
                return "it has no legs".to_owned();
            }
            parts.set("leg", State::Running(Instant::now()));
            smol::future::pending().await
        };
        let seen = RefCell::new(Vec::new());
        let watch = async {
            while !matches!(parts.get("leg"), Some(State::Running(_))) {
                if let Some(State::Failed { reason, failures, .. }) = parts.get("leg") {
                    seen.borrow_mut().push((reason, failures));
                    assert_eq!(parts.to_json()["leg"]["reason"], "it has no legs");
                }
                Timer::after(Duration::from_millis(10)).await;
            }
        };
        smol::block_on(parts.keep("leg", attempt).or(watch));
        assert_eq!(attempts.get(), 2);
        assert_eq!(seen.borrow().first(), Some(&("it has no legs".to_owned(), 1)));
        assert_eq!(parts.to_json()["leg"]["state"], "running");
    }
}
