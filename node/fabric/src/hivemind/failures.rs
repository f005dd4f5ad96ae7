//! Peers that failed lately, and how long they are left alone.
//!
//! As Hivemind does: five seconds after the first failure, doubled with each further one, forgotten with the
//! first success. A peer that is left alone may still call us.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::PeerId;

use super::limits::{FAILURES_REMEMBERED_MAX, PAUSE_FIRST, PAUSE_MAX};

struct Pause {
    failures: u32,
    until: Instant,
}

/// Who failed how often, and until when it is left alone.
#[derive(Default)]
pub struct Failures {
    pauses: HashMap<PeerId, Pause>,
}

impl Failures {
    /// Whether the peer may be asked.
    pub fn may_ask(&self, peer: &PeerId, now: Instant) -> bool {
        self.pauses.get(peer).is_none_or(|pause| pause.until <= now)
    }

    /// Takes note of a failure.
    pub fn failed(&mut self, peer: PeerId, now: Instant) {
        if self.pauses.len() >= FAILURES_REMEMBERED_MAX && !self.pauses.contains_key(&peer) {
            self.pauses.retain(|_, pause| pause.until > now);
            // Nobody's pause is over: there is no room, and asking once too often is the lesser harm.
            if self.pauses.len() >= FAILURES_REMEMBERED_MAX {
                return;
            }
        }
        let pause = self.pauses.entry(peer).or_insert(Pause { failures: 0, until: now });
        let length = PAUSE_FIRST.saturating_mul(1 << pause.failures.min(16)).min(PAUSE_MAX);
        pause.failures = pause.failures.saturating_add(1);
        pause.until = now + length;
    }

    /// Takes note of an answer.
    pub fn answered(&mut self, peer: &PeerId) {
        self.pauses.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_end_with_an_answer() {
        let (mut failures, peer, now) = (Failures::default(), PeerId::random(), Instant::now());
        assert!(failures.may_ask(&peer, now));
        failures.failed(peer, now);
        assert!(!failures.may_ask(&peer, now));
        assert!(failures.may_ask(&peer, now + PAUSE_FIRST));
        failures.failed(peer, now);
        assert!(!failures.may_ask(&peer, now + PAUSE_FIRST));
        assert!(failures.may_ask(&peer, now + 2 * PAUSE_FIRST));
        for _ in 0..100 {
            failures.failed(peer, now);
        }
        assert!(!failures.may_ask(&peer, now + PAUSE_MAX / 2));
        assert!(failures.may_ask(&peer, now + PAUSE_MAX));
        failures.answered(&peer);
        assert!(failures.may_ask(&peer, now));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for _ in 0..FAILURES_REMEMBERED_MAX {
            failures.failed(PeerId::random(), now);
        }
        let one_more = PeerId::random();
        failures.failed(one_more, now);
        assert!(failures.may_ask(&one_more, now));
        // When pauses are over, there is room again.
        failures.failed(one_more, now + PAUSE_FIRST);
        assert!(!failures.may_ask(&one_more, now + PAUSE_FIRST));
    }
}
