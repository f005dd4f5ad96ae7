//! Which relays a node behind a NAT asks, and when again.
//!
//! A node that can't be reached directly holds a few reservations; others reach it through them and then
//! agree on a direct connection. Renewal is libp2p's work; here is only whom to ask next.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::core::transport::ListenerId;

use crate::limits::{PEERS_MAX, RELAY_RETRY_TIME_MAX, RELAY_RETRY_TIME_MIN, RELAYS_WANTED};

/// The reservations that are held or asked for.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    held: HashMap<ListenerId, PeerId>,
    failed: HashMap<PeerId, Failed>,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    times: u32,
    again: Instant,
}

impl Relays {
    /// Whether another relay is to be asked.
    pub(crate) fn wants_more(&self) -> bool {
        self.held.len() < RELAYS_WANTED
    }

    /// The first of `candidates` that may be asked now.
    pub(crate) fn next(&self, candidates: impl Iterator<Item = PeerId>, now: Instant) -> Option<PeerId> {
        let mut askable = candidates.filter(|peer| !self.held.values().any(|held| held == peer));
        askable.find(|peer| self.failed.get(peer).is_none_or(|failed| failed.again <= now))
    }

    /// When one that failed may be asked again.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.failed.values().map(|failed| failed.again).min().filter(|_| self.wants_more())
    }

    /// Notes that `relay` was asked.
    pub(crate) fn asked(&mut self, listener: ListenerId, relay: PeerId) {
        self.held.insert(listener, relay);
    }

    /// Notes that `relay` gave a reservation.
    pub(crate) fn given(&mut self, relay: PeerId) {
        self.failed.remove(&relay);
    }

    /// Notes that a listener ended, if it was a relay's.
    pub(crate) fn ended(&mut self, listener: ListenerId, jitter: f64, now: Instant) {
        if let Some(relay) = self.held.remove(&listener) {
            self.refused(relay, jitter, now);
        }
    }

    /// Notes that `relay` did not give a reservation.
    pub(crate) fn refused(&mut self, relay: PeerId, jitter: f64, now: Instant) {
        if self.failed.len() >= PEERS_MAX {
            self.failed.retain(|_, failed| failed.again > now);
        }
        let times = self.failed.get(&relay).map_or(0, |failed| failed.times) + 1;
        let wait = RELAY_RETRY_TIME_MIN.saturating_mul(1 << (times - 1).min(16)).min(RELAY_RETRY_TIME_MAX);
        let wait: Duration = wait.mul_f64(0.8 + 0.4 * jitter);
        self.failed.insert(relay, Failed { times, again: now + wait });
    }

    /// Gives up all reservations: the listeners to close.
    pub(crate) fn release(&mut self) -> Vec<ListenerId> {
        self.held.drain().map(|(listener, _)| listener).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_relays_are_asked_each_once() {
        let (mut relays, now) = (Relays::default(), Instant::now());
        let peers: Vec<PeerId> = (0..RELAYS_WANTED + 1).map(|_| PeerId::random()).collect();
        for peer in &peers[..RELAYS_WANTED] {
            assert!(relays.wants_more());
            assert_eq!(relays.next(peers.iter().copied(), now), Some(*peer));
            relays.asked(ListenerId::next(), *peer);
        }
        assert!(!relays.wants_more());
    }

    #[test]
    fn a_relay_that_refused_is_asked_again_later_and_ever_later() {
        let (mut relays, now, peer) = (Relays::default(), Instant::now(), PeerId::random());
        let listener = ListenerId::next();
        relays.asked(listener, peer);
        relays.ended(listener, 0.5, now);
        assert_eq!(relays.next([peer].into_iter(), now), None);
        assert_eq!(relays.next_due(), Some(now + RELAY_RETRY_TIME_MIN));
        assert_eq!(relays.next([peer].into_iter(), now + RELAY_RETRY_TIME_MIN), Some(peer));
        relays.refused(peer, 0.5, now);
        assert_eq!(relays.next_due(), Some(now + RELAY_RETRY_TIME_MIN * 2));
        for _ in 0..40 {
            relays.refused(peer, 0.5, now);
        }
        assert_eq!(relays.next_due(), Some(now + RELAY_RETRY_TIME_MAX));
        relays.given(peer);
        assert_eq!(relays.next([peer].into_iter(), now), Some(peer));
    }
}
