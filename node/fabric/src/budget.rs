//! What peers may take of this node: places, bytes in flight, and a rate.
//!
//! Each is taken before the work and given back when its guard is dropped, so that no way out of a task can
//! forget it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use libp2p::PeerId;

use crate::limits::{
    BYTES_IN_FLIGHT_MAX, BYTES_IN_FLIGHT_PER_PEER_MAX, PEER_BURST, PEER_RATE_PER_SECOND, RATES_MAX,
};

/// Places for streams or calls of one protocol.
#[derive(Clone)]
pub(crate) struct Places(Arc<PlacesInner>);

struct PlacesInner {
    count_max: usize,
    per_peer_max: usize,
    taken: Mutex<HashMap<PeerId, usize>>,
}

/// One place, given back when dropped.
pub(crate) struct Place {
    places: Places,
    peer: PeerId,
}

impl Places {
    pub(crate) fn new(count_max: usize, per_peer_max: usize) -> Self {
        Places(Arc::new(PlacesInner { count_max, per_peer_max, taken: Mutex::default() }))
    }

    /// A place for `peer`, unless all or all of its own are taken.
    pub(crate) fn take(&self, peer: PeerId) -> Option<Place> {
        let mut taken = lock(&self.0.taken);
        let all: usize = taken.values().sum();
        let own = taken.get(&peer).copied().unwrap_or(0);
        if all >= self.0.count_max || own >= self.0.per_peer_max {
            return None;
        }
        taken.insert(peer, own + 1);
        Some(Place { places: self.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.0.taken);
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

/// Tokens that come back at a steady rate: what may be done in a burst and for long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    burst: f64,
    per_second: f64,
    tokens: f64,
    counted: Instant,
}

impl Rate {
    pub(crate) fn new(burst: f64, per_second: f64, now: Instant) -> Self {
        Rate { burst, per_second, tokens: burst, counted: now }
    }

    /// Takes `count` tokens if there are so many.
    pub(crate) fn take(&mut self, count: f64, now: Instant) -> bool {
        self.refill(now);
        let enough = self.tokens >= count;
        if enough {
            self.tokens -= count;
        }
        enough
    }

    /// Takes `count` tokens in any case; the seconds to wait until they are paid for.
    pub(crate) fn owe(&mut self, count: f64, now: Instant) -> f64 {
        self.refill(now);
        self.tokens -= count;
        (-self.tokens / self.per_second).max(0.0)
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.counted).as_secs_f64();
        self.tokens = (self.tokens + seconds * self.per_second).min(self.burst);
        self.counted = now;
    }
}

/// Bytes in flight and rates of all peers.
#[derive(Clone, Default)]
pub(crate) struct Budget(Arc<Mutex<Purses>>);

#[derive(Default)]
struct Purses {
    bytes: usize,
    peers: HashMap<PeerId, Purse>,
}

struct Purse {
    bytes: usize,
    rate: Rate,
}

/// Bytes of one message, given back when dropped.
pub(crate) struct Bytes {
    budget: Budget,
    peer: PeerId,
    count: usize,
}

impl Budget {
    /// Whether `peer` may begin one more call or stream now.
    pub(crate) fn begin(&self, peer: PeerId, now: Instant) -> bool {
        let mut purses = lock(&self.0);
        purses.of(peer, now).is_some_and(|purse| purse.rate.take(1.0, now))
    }

    /// Room for `count` bytes of `peer`, if there is so much.
    pub(crate) fn reserve(&self, peer: PeerId, count: usize, now: Instant) -> Option<Bytes> {
        let mut purses = lock(&self.0);
        let all = purses.bytes.checked_add(count).filter(|bytes| *bytes <= BYTES_IN_FLIGHT_MAX)?;
        let purse = purses.of(peer, now)?;
        purse.bytes =
            purse.bytes.checked_add(count).filter(|bytes| *bytes <= BYTES_IN_FLIGHT_PER_PEER_MAX)?;
        purses.bytes = all;
        Some(Bytes { budget: self.clone(), peer, count })
    }
}

impl Purses {
    fn of(&mut self, peer: PeerId, now: Instant) -> Option<&mut Purse> {
        if !self.peers.contains_key(&peer) && self.peers.len() >= RATES_MAX {
            let quiet = self.peers.iter().filter(|(_, purse)| purse.bytes == 0);
            let quietest = *quiet.min_by_key(|(_, purse)| purse.rate.counted)?.0;
            self.peers.remove(&quietest);
        }
        let rate = Rate::new(f64::from(PEER_BURST), f64::from(PEER_RATE_PER_SECOND), now);
        Some(self.peers.entry(peer).or_insert(Purse { bytes: 0, rate }))
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        let mut purses = lock(&self.budget.0);
        purses.bytes -= self.count;
        if let Some(purse) = purses.peers.get_mut(&self.peer) {
            purse.bytes -= self.count;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn places_end_for_one_peer_and_for_all_and_come_back() {
        let places = Places::new(3, 2);
        let (a, b) = (PeerId::random(), PeerId::random());
        let first = places.take(a);
        let second = places.take(a);
        assert!(first.is_some() && second.is_some());
        assert!(places.take(a).is_none(), "two are all of one peer");
        let third = places.take(b);
        assert!(third.is_some());
        assert!(places.take(b).is_none(), "three are all there are");
        drop(first);
        assert!(places.take(b).is_some());
    }

    #[test]
    fn a_rate_gives_a_burst_and_then_its_pace() {
        let start = Instant::now();
        let mut rate = Rate::new(2.0, 10.0, start);
        assert!(rate.take(1.0, start) && rate.take(1.0, start));
        assert!(!rate.take(1.0, start));
        let later = start + Duration::from_millis(100);
        assert!(rate.take(1.0, later));
        assert!(!rate.take(1.0, later));
        assert!((rate.owe(5.0, later) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn bytes_in_flight_end_for_one_peer_and_for_all_and_come_back() {
        let (budget, now) = (Budget::default(), Instant::now());
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        assert!(budget.reserve(peers[0], BYTES_IN_FLIGHT_PER_PEER_MAX + 1, now).is_none());
        let mut held = Vec::new();
        let mut left = BYTES_IN_FLIGHT_MAX;
        for peer in peers {
            let count = left.min(BYTES_IN_FLIGHT_PER_PEER_MAX);
            held.push(budget.reserve(peer, count, now).expect("within both bounds"));
            left -= count;
        }
        let stranger = PeerId::random();
        assert!(budget.reserve(stranger, 1, now).is_none());
        held.clear();
        assert!(budget.reserve(stranger, 1, now).is_some());
    }

    #[test]
    fn rates_are_remembered_for_a_bounded_number_of_peers() {
        let (budget, now) = (Budget::default(), Instant::now());
        for _ in 0..RATES_MAX + 1 {
            assert!(budget.begin(PeerId::random(), now));
        }
        assert_eq!(lock(&budget.0).peers.len(), RATES_MAX);
    }

    #[test]
    fn a_peer_that_begins_too_much_is_refused() {
        let (budget, now, peer) = (Budget::default(), Instant::now(), PeerId::random());
        for _ in 0..PEER_BURST {
            assert!(budget.begin(peer, now));
        }
        assert!(!budget.begin(peer, now));
        assert!(budget.begin(PeerId::random(), now), "others are still served");
    }
}
