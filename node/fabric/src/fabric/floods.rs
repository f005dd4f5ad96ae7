//! Streams that no honest peer opens, against a node on loopback.
//!
//! They stand here and not among the crate's other tests since only the crate itself can open a bare stream.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, Stream};
use smol::{Timer, block_on};

use super::Fabric;
use crate::call::{CallHandler, CallLimits};
use crate::envelope;
use crate::limits::{INBOUND_STREAMS_PER_CONNECTION_MAX, STREAMS_PER_CONNECTION_MAX};
use crate::settings::Settings;
use crate::transport::local_name;

const METHOD: &str = "DHTProtocol.rpc_store";
const DEADLINE: Duration = Duration::from_secs(60);
const LIMITS: CallLimits = CallLimits {
    request_bytes_max: 100_000,
    answer_bytes_max: 100_000,
    calls_max: 16,
    calls_per_peer_max: 8,
    deadline: DEADLINE,
};

struct Echo;

impl CallHandler for Echo {
    fn answer(&self, _: PeerId, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        Box::pin(async { Ok(request) })
    }
}

async fn start() -> Fabric {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let settings = Settings { listen, mdns: false, ..Settings::default() };
    Fabric::start(libp2p::identity::Keypair::generate_ed25519(), settings).await.unwrap()
}

/// A node that serves, an attacker and an honest peer, both connected to it.
async fn three() -> (Fabric, Fabric, Fabric) {
    let (node, attacker, honest) = (start().await, start().await, start().await);
    node.serve_call(METHOD, LIMITS, Arc::new(Echo)).unwrap();
    let address = node.status().await.unwrap().listen[0].clone().with_p2p(node.peer_id()).unwrap();
    attacker.connect(address.clone()).await.unwrap();
    honest.connect(address).await.unwrap();
    (node, attacker, honest)
}

async fn serves(node: &Fabric, honest: &Fabric) {
    let answer = honest.call(node.peer_id(), METHOD, b"still there".to_vec(), DEADLINE).await;
    assert_eq!(answer, Ok(b"still there".to_vec()));
}

async fn open(attacker: &Fabric, node: &Fabric) -> Stream {
    attacker.0.opener.open(node.peer_id(), local_name(METHOD).unwrap()).await.unwrap()
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Waits until the node ends the stream, by an end or a reset.
async fn is_ended(stream: &mut Stream) {
    let ended = async {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{} bytes came back", rest.len());
    };
    let late = async {
        Timer::after(DEADLINE).await;
        panic!("the stream was kept");
    };
    smol::future::or(ended, late).await;
}

#[test]
fn slow_senders_are_cut_off_and_hold_up_nobody_else() {
    block_on(async {
        let (node, attacker, honest) = three().await;
        let mut slow = Vec::new();
        for _ in 0..LIMITS.calls_per_peer_max {
            let mut stream = open(&attacker, &node).await;
            // A length of 1000, and then nothing of it.
            write(&mut stream, &[0xe8, 0x07, 1, 2, 3]).await.unwrap();
            slow.push(stream);
        }
        serves(&node, &honest).await;
        for stream in &mut slow {
            is_ended(stream).await;
        }
        drop(slow);
        assert!(node.counts().calls_refused >= LIMITS.calls_per_peer_max as u64);
        serves(&node, &attacker).await;
    });
}

#[test]
fn a_frame_that_claims_too_much_is_refused_before_it_comes() {
    block_on(async {
        let (node, attacker, honest) = three().await;
        for length in [1 << 20, 1 << 30, u64::from(u32::MAX), 1 << 34] {
            let mut stream = open(&attacker, &node).await;
            let mut head = Vec::new();
            envelope::put_varint(&mut head, length);
            write(&mut stream, &head).await.unwrap();
            is_ended(&mut stream).await;
        }
        serves(&node, &honest).await;
    });
}

#[test]
fn garbage_in_frames_is_answered_with_the_streams_end() {
    block_on(async {
        let (node, attacker, honest) = three().await;
        let good = envelope::request(&[7; 16], &node.peer_id(), METHOD, b"what");
        let mut seed = 3u64;
        for _ in 0..40 {
            let mut bytes = good.clone();
            for _ in 0..6 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Behind the length, so that a whole frame comes.
                let at = 1 + (seed >> 33) as usize % (bytes.len() - 1);
                bytes[at] = (seed >> 24) as u8;
            }
            let mut stream = open(&attacker, &node).await;
            write(&mut stream, &bytes).await.unwrap();
            // An answer or an end, and neither breaks anything.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        serves(&node, &honest).await;
    });
}

#[test]
fn a_flood_of_streams_stays_within_its_bound_and_costs_the_flooder_alone() {
    block_on(async {
        let (node, attacker, honest) = three().await;
        let mut held = Vec::new();
        for _ in 0..STREAMS_PER_CONNECTION_MAX - 16 {
            let mut stream = open(&attacker, &node).await;
            // Some are reset at once: that is what is tested.
            let _ = write(&mut stream, &[0xe8, 0x07, 1]).await;
            held.push(stream);
        }
        serves(&node, &honest).await;
        let counts = node.counts();
        let bound = INBOUND_STREAMS_PER_CONNECTION_MAX as u64 + 32;
        assert!(counts.streams_open <= bound, "{} streams are open", counts.streams_open);
        drop(held);
        serves(&node, &honest).await;
    });
}

#[test]
fn a_caller_that_goes_away_cancels_its_call() {
    struct Witness(smol::channel::Sender<()>);
    impl CallHandler for Witness {
        fn answer(&self, _: PeerId, _: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
            // The sender goes with the future.
            let held = self.0.clone();
            Box::pin(async move {
                let _held = held;
                std::future::pending().await
            })
        }
    }
    block_on(async {
        let (node, attacker, _) = three().await;
        let (sender, receiver) = smol::channel::unbounded();
        node.serve_call("A.rpc_b", LIMITS, Arc::new(Witness(sender))).unwrap();
        let call = attacker.call(node.peer_id(), "A.rpc_b", Vec::new(), DEADLINE);
        let begun = async {
            while receiver.sender_count() < 2 {
                Timer::after(Duration::from_millis(10)).await;
            }
            Err(crate::call::CallError::TimedOut)
        };
        let _ = smol::future::or(call, begun).await;
        while receiver.sender_count() > 1 {
            Timer::after(Duration::from_millis(10)).await;
        }
    });
}
