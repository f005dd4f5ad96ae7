//! A node of the DHT: what it knows, and how it speaks to other nodes.
//!
//! This file holds the node's state and the calls that it makes; [`super::server`] answers those of others,
//! [`super::search`] finds the nodes nearest to a key, and [`super::records`] stores and gets over all of
//! them. A [`Dht`] is a handle; the last one dropped ends the node.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::PeerId;
use smol::Timer;

use super::clock::Clock;
use super::failures::Failures;
use super::id::Id;
use super::limits::{
    BOOTSTRAPS_MAX, CACHE_BYTES_MAX, CALL_TIME_MAX, ERRANDS_MAX, JOIN_TIME_MAX, STALE_AFTER, STALE_ASKED_MAX,
    STORAGE_BYTES_MAX, UPKEEP_PERIOD,
};
use super::messages::{
    FindRequest, FindResponse, FindResult, Node, NodeInfo, PingRequest, PingResponse, StoreItem,
    StoreRequest, StoreResponse,
};
use super::routing::{Seen, Table};
use super::storage::Storage;
use super::{Malformed, handover};
use crate::call::{CallError, Remote};

/// Asks whether a node is there.
pub const PING: &str = "DHTProtocol.rpc_ping";
/// Asks a node to keep records.
pub const STORE: &str = "DHTProtocol.rpc_store";
/// Asks a node for records and for other nodes.
pub const FIND: &str = "DHTProtocol.rpc_find";

/// What can be chosen about a node of the DHT.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Only ask, and serve nobody: for a node that others can't reach.
    pub client_only: bool,
    /// Bytes kept for others.
    pub storage_bytes_max: usize,
    /// Bytes kept as copies for faster answers.
    pub cache_bytes_max: usize,
    /// What tells the time.
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            client_only: false,
            storage_bytes_max: STORAGE_BYTES_MAX,
            cache_bytes_max: CACHE_BYTES_MAX,
            clock: Clock::default(),
        }
    }
}

/// A node of the DHT. Cheap to clone.
#[derive(Clone)]
pub struct Dht {
    pub(super) inner: Arc<Inner>,
}

/// What a node is and knows.
pub(super) struct Inner {
    pub remote: Arc<dyn Remote>,
    pub clock: Clock,
    pub own: Id,
    client_only: Arc<AtomicBool>,
    state: Mutex<State>,
    /// Errands under way: handing records over, asking the silent.
    errands: AtomicUsize,
}

/// What changes.
pub(super) struct State {
    pub table: Table,
    pub storage: Storage,
    pub cache: Storage,
    pub failures: Failures,
    bootstraps: Vec<PeerId>,
}

/// How joining went.
#[derive(Clone, Debug, Default)]
pub struct Joined {
    /// Peers that answered.
    pub answered: Vec<PeerId>,
    /// Peers that did not, and why.
    pub failed: Vec<(PeerId, CallError)>,
    /// How many of those that answered could call us back.
    pub called_back: usize,
    /// The largest difference of their clocks to ours, in seconds, beyond what the calls took.
    pub clock_skew_seconds: f64,
}

/// What a node can tell about itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its place in the DHT.
    pub own: Id,
    /// Whether it only asks.
    pub client_only: bool,
    /// Nodes that it knows.
    pub nodes: Vec<Node>,
    /// Values and entries that it keeps for others.
    pub records: usize,
    /// Bytes that these take.
    pub record_bytes: usize,
    /// Values and entries that it has as copies.
    pub cached: usize,
    /// Bytes that these take.
    pub cached_bytes: usize,
}

impl Dht {
    /// A node that speaks through `remote`. Its upkeep runs on smol's executor until the last handle is gone.
    pub fn new(remote: Arc<dyn Remote>, settings: Settings) -> Dht {
        let own = Id::of_peer(remote.peer_id());
        let state = State {
            table: Table::new(own),
            storage: Storage::new(settings.storage_bytes_max),
            cache: Storage::new(settings.cache_bytes_max),
            failures: Failures::default(),
            bootstraps: Vec::new(),
        };
        let inner = Inner {
            remote,
            clock: settings.clock,
            own,
            client_only: Arc::new(AtomicBool::new(settings.client_only)),
            state: Mutex::new(state),
            errands: AtomicUsize::new(0),
        };
        let dht = Dht { inner: Arc::new(inner) };
        smol::spawn(upkeep(Arc::downgrade(&dht.inner))).detach();
        dht
    }

    /// Our place in the DHT.
    pub fn id(&self) -> Id {
        self.inner.own
    }

    /// Our peer id.
    pub fn peer_id(&self) -> PeerId {
        self.inner.remote.peer_id()
    }

    /// Seconds since 1970, by this node's clock.
    pub fn now(&self) -> f64 {
        self.inner.clock.now()
    }

    /// Whether this node only asks.
    pub fn is_client_only(&self) -> bool {
        self.inner.client_only.load(Ordering::Relaxed)
    }

    /// Says anew whether others can reach this node.
    pub fn set_client_only(&self, client_only: bool) {
        self.inner.client_only.store(client_only, Ordering::Relaxed);
    }

    /// Whether this node only asks, for those who must not keep the node alive.
    pub(super) fn client_only_flag(&self) -> Arc<AtomicBool> {
        self.inner.client_only.clone()
    }

    /// What this node knows and keeps.
    pub fn status(&self) -> Status {
        let state = self.state();
        Status {
            own: self.inner.own,
            client_only: self.is_client_only(),
            nodes: state.table.nodes().collect(),
            records: state.storage.count(),
            record_bytes: state.storage.bytes(),
            cached: state.cache.count(),
            cached_bytes: state.cache.bytes(),
        }
    }

    /// Gets to know the network through `bootstraps`, and who is near to us in it. They are asked again
    /// whenever no node is known any more.
    pub async fn join(&self, bootstraps: &[PeerId]) -> Joined {
        let bootstraps: Vec<PeerId> = bootstraps.iter().copied().take(BOOTSTRAPS_MAX).collect();
        self.state().bootstraps = bootstraps.clone();
        let mut calls: FuturesUnordered<_> =
            bootstraps.into_iter().map(|peer| async move { (peer, self.ping_timed(peer).await) }).collect();
        let mut joined = Joined::default();
        while let Some((peer, result)) = calls.next().await {
            match result {
                Ok((response, skew_seconds)) => {
                    joined.answered.push(peer);
                    joined.called_back += usize::from(response.available);
                    joined.clock_skew_seconds = joined.clock_skew_seconds.max(skew_seconds);
                }
                Err(error) => joined.failed.push((peer, error)),
            }
        }
        drop(calls);
        if !joined.answered.is_empty() {
            self.nearest_nodes(&[self.inner.own]).await;
        }
        joined
    }

    /// A ping that lets the callee call back; with how far its clock lies outside the call's own time.
    async fn ping_timed(&self, peer: PeerId) -> Result<(PingResponse, f64), CallError> {
        let before = self.now();
        let response = self.ping_within(peer, true, JOIN_TIME_MAX).await?;
        let skew_seconds = (before - response.time).max(response.time - self.now()).max(0.0);
        Ok((response, skew_seconds))
    }

    /// Asks a peer whether it is there; with `validate`, whether it can call us back.
    ///
    /// # Errors
    ///
    /// Says why there is no answer.
    pub async fn ping(&self, peer: PeerId, validate: bool) -> Result<PingResponse, CallError> {
        self.ping_within(peer, validate, CALL_TIME_MAX).await
    }

    async fn ping_within(
        &self,
        peer: PeerId,
        validate: bool,
        deadline: Duration,
    ) -> Result<PingResponse, CallError> {
        let node = self.node_info();
        let request = PingRequest { node, validate: validate && node.is_some() };
        let answer = self.inner.remote.call(peer, PING, request.encode(), deadline).await;
        self.read_answer(peer, answer, PingResponse::decode, |response| response.node)
    }

    pub(super) async fn call_find(&self, peer: PeerId, keys: &[Id]) -> Result<Vec<FindResult>, CallError> {
        let request = FindRequest { keys: keys.to_vec(), node: self.node_info() };
        let answer = self.inner.remote.call(peer, FIND, request.encode(), CALL_TIME_MAX).await;
        let decode = |bytes: &[u8]| {
            let response = FindResponse::decode(bytes)?;
            complete(response.results.len(), keys.len())?;
            Ok(response)
        };
        Ok(self.read_answer(peer, answer, decode, |response| response.node)?.results)
    }

    pub(super) async fn call_store(
        &self,
        peer: PeerId,
        items: Vec<StoreItem>,
    ) -> Result<Vec<bool>, CallError> {
        let count = items.len();
        let request = StoreRequest { items, node: self.node_info() };
        let answer = self.inner.remote.call(peer, STORE, request.encode(), CALL_TIME_MAX).await;
        let decode = |bytes: &[u8]| {
            let response = StoreResponse::decode(bytes)?;
            complete(response.kept.len(), count)?;
            Ok(response)
        };
        Ok(self.read_answer(peer, answer, decode, |response| response.node)?.kept)
    }

    /// Reads an answer, and takes note of who gave it or did not.
    fn read_answer<T>(
        &self,
        peer: PeerId,
        answer: Result<Vec<u8>, CallError>,
        decode: impl FnOnce(&[u8]) -> Result<T, Malformed>,
        node: impl FnOnce(&T) -> NodeInfo,
    ) -> Result<T, CallError> {
        let read = answer
            .and_then(|bytes| decode(&bytes).map_err(|malformed| CallError::Broken(malformed.to_string())));
        match &read {
            Ok(response) => {
                self.state().failures.answered(&peer);
                if let Some(id) = node(response) {
                    self.heard_of(Node { id, peer });
                }
            }
            Err(_) => {
                let mut state = self.state();
                state.table.remove(&peer);
                state.failures.failed(peer, Instant::now());
            }
        }
        read
    }

    /// Takes note of a node that answered or called.
    pub(super) fn heard_of(&self, node: Node) {
        let seen = self.state().table.heard_of(node, Instant::now());
        match seen {
            Seen::New if !self.is_client_only() => {
                self.errand(move |dht| async move { handover::give_records(&dht, node).await });
            }
            Seen::Waits(oldest) => self.errand(move |dht| async move {
                // Who does not answer is taken out, and makes room.
                let _ = dht.ping(oldest.peer, false).await;
            }),
            _ => {}
        }
    }

    /// Runs something beside, unless too much is under way: it then falls out, as no errand is needed for
    /// correctness.
    pub(super) fn errand<F>(&self, task: impl FnOnce(Dht) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.inner.errands.fetch_add(1, Ordering::Relaxed) >= ERRANDS_MAX {
            self.inner.errands.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let errand = task(self.clone());
        let dht = self.clone();
        smol::spawn(async move {
            errand.await;
            dht.inner.errands.fetch_sub(1, Ordering::Relaxed);
        })
        .detach();
    }

    /// What we say about ourselves: nothing, if we only ask.
    pub(super) fn node_info(&self) -> NodeInfo {
        (!self.is_client_only()).then_some(self.inner.own)
    }

    /// The state, for a moment: never held while waiting.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn complete(found: usize, asked: usize) -> Result<(), Malformed> {
    if found == asked {
        Ok(())
    } else {
        Err(Malformed(format!("the answer has {found} results for {asked} keys")))
    }
}

/// Drops what has expired, asks the silent whether they are there, and joins again when nobody is known.
async fn upkeep(inner: Weak<Inner>) {
    loop {
        Timer::after(jittered(UPKEEP_PERIOD)).await;
        let Some(inner) = inner.upgrade() else { return };
        let dht = Dht { inner };
        let now = dht.now();
        let (silent, bootstraps) = {
            let mut state = dht.state();
            state.storage.drop_expired(now);
            state.cache.drop_expired(now);
            let silent = state.table.stale(Instant::now(), STALE_AFTER, STALE_ASKED_MAX);
            let alone = state.table.count() == 0;
            (silent, if alone { state.bootstraps.clone() } else { Vec::new() })
        };
        for node in silent {
            let _ = dht.ping(node.peer, false).await;
        }
        if !bootstraps.is_empty() {
            dht.join(&bootstraps).await;
        }
    }
}

/// The period, or up to a quarter less or more, so that nodes that start together part.
pub(super) fn jittered(period: Duration) -> Duration {
    // Without randomness the period itself will do.
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    period.mul_f64(0.75 + random / 2.0)
}
