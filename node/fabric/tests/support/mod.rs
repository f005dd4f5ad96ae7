//! Networks for tests: on loopback, with ports that the system chooses.
//!
//! Each test crate uses a part of it.
#![allow(dead_code)] // Every test crate that includes this file uses another part of it.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use kwaainet_fabric::call::{CallHandler, CallLimits};
use kwaainet_fabric::{Fabric, Keypair, Multiaddr, PeerId, Settings};
use smol::Timer;

/// Longest wait for anything in a test: machines that run several builds are slow.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Limits that no test meets by accident.
pub const LIMITS: CallLimits = CallLimits {
    request_bytes_max: 1 << 20,
    answer_bytes_max: 2 << 20,
    calls_max: 64,
    calls_per_peer_max: 32,
    deadline: DEADLINE,
};

/// Answers with the caller's id and the request.
pub struct Echo;

impl CallHandler for Echo {
    fn answer(&self, from: PeerId, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        Box::pin(async move { Ok([from.to_bytes(), request].concat()) })
    }
}

/// A network on loopback, its settings changed by `change`.
pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Fabric {
    let mut settings = Settings {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        mdns: false,
        ..Settings::default()
    };
    change(&mut settings);
    Fabric::start(Keypair::generate_ed25519(), settings).await.unwrap()
}

/// A network on loopback.
pub async fn start() -> Fabric {
    start_with(|_| {}).await
}

/// An address of `fabric`, with its peer.
pub async fn address(fabric: &Fabric) -> Multiaddr {
    let status = fabric.status().await.unwrap();
    status.listen[0].clone().with_p2p(fabric.peer_id()).unwrap()
}

/// Two networks with a connection.
pub async fn connected() -> (Fabric, Fabric) {
    let (a, b) = (start().await, start().await);
    assert_eq!(a.connect(address(&b).await).await.unwrap(), b.peer_id());
    (a, b)
}

/// Waits until `holds`, or fails with what was waited for.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        Timer::after(Duration::from_millis(20)).await;
    }
}
