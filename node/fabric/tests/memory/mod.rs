//! A network in memory: nodes of the DHT that call each other's handlers.
//!
//! It loses calls, nodes die in it, and its clock is turned by the tests.
//! What gets lost is drawn by a generator with a seed, so that a failure can be looked at again. A lost call
//! fails at once, as if its deadline had passed.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kwaainet_fabric::call::{CallError, CallHandler, Remote, Served};
use kwaainet_fabric::hivemind::{Clock, Dht, Settings};
use libp2p::PeerId;
use libp2p::identity::Keypair;

/// When every test begins, in seconds since 1970.
pub const BEGIN_SECONDS: u64 = 1_700_000_000;

type Handlers = HashMap<&'static str, Arc<dyn CallHandler>>;

/// Who can be called, how reliably, and what time it is.
pub struct Network {
    nodes: Mutex<HashMap<PeerId, Handlers>>,
    seconds: AtomicU64,
    losses_per_thousand: AtomicU64,
    random: AtomicU64,
    calls: AtomicU64,
}

impl Network {
    pub fn new(seed: u64) -> Arc<Network> {
        Arc::new(Network {
            nodes: Mutex::new(HashMap::new()),
            seconds: AtomicU64::new(BEGIN_SECONDS),
            losses_per_thousand: AtomicU64::new(0),
            random: AtomicU64::new(seed),
            calls: AtomicU64::new(0),
        })
    }

    /// A node with an identity of its own for each number.
    pub fn add(self: &Arc<Network>, number: u64) -> Dht {
        self.add_with(number, Settings::default())
    }

    pub fn add_with(self: &Arc<Network>, number: u64, settings: Settings) -> Dht {
        let remote = self.remote(number);
        let peer = remote.peer_id();
        let network = self.clone();
        let clock = Clock::new(move || network.seconds.load(Ordering::Relaxed) as f64);
        let client_only = settings.client_only;
        let dht = Dht::new(remote, Settings { clock, ..settings });
        if !client_only {
            let handlers = dht.handlers().into_iter().map(|(method, _, handler)| (method, handler));
            self.nodes.lock().unwrap().insert(peer, handlers.collect());
        }
        dht
    }

    /// What a peer calls through that is no node itself.
    pub fn remote(self: &Arc<Network>, number: u64) -> Arc<dyn Remote> {
        let peer = keys(number).public().to_peer_id();
        Arc::new(MemoryRemote { peer, network: self.clone() })
    }

    /// Gives a peer one more method.
    pub fn serve(&self, peer: PeerId, (method, _, handler): Served) {
        self.nodes.lock().unwrap().entry(peer).or_default().insert(method, handler);
    }

    /// From now on, the peer neither answers nor is heard.
    pub fn kill(&self, peer: PeerId) {
        self.nodes.lock().unwrap().remove(&peer);
    }

    pub fn lose(&self, per_thousand: u64) {
        self.losses_per_thousand.store(per_thousand, Ordering::Relaxed);
    }

    pub fn pass_seconds(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    pub fn now(&self) -> f64 {
        self.seconds.load(Ordering::Relaxed) as f64
    }

    /// Calls made since the beginning.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn is_lost(&self) -> bool {
        let state = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 33) % 1000 < self.losses_per_thousand.load(Ordering::Relaxed)
    }
}

/// The identity of a number.
pub fn keys(number: u64) -> Keypair {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    Keypair::ed25519_from_bytes(seed).expect("any 32 bytes are a key")
}

struct MemoryRemote {
    peer: PeerId,
    network: Arc<Network>,
}

impl Remote for MemoryRemote {
    fn peer_id(&self) -> PeerId {
        self.peer
    }

    fn call(
        &self,
        peer: PeerId,
        method: &'static str,
        request: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, CallError>> {
        async move {
            self.network.calls.fetch_add(1, Ordering::Relaxed);
            if self.network.is_lost() {
                return Err(CallError::TimedOut);
            }
            let handler = {
                let nodes = self.network.nodes.lock().unwrap();
                nodes.get(&peer).and_then(|handlers| handlers.get(method)).cloned()
            };
            let handler = handler.ok_or(CallError::Unreachable("nobody is there".to_owned()))?;
            // Others get their turn between question and answer, as on a wire.
            smol::future::yield_now().await;
            handler.answer(self.peer, request).await.map_err(CallError::Refused)
        }
        .boxed()
    }
}
