//! Floods against a node on loopback: it stays within its limits, and honest peers are still served.
//!
//! The attackers come from another loopback address than the honest peers, as they would come from another
//! machine of a LAN.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use kwaainet_fabric::call::{CallError, CallHandler, CallLimits};
use kwaainet_fabric::limits::HANDSHAKES_INBOUND_MAX;
use kwaainet_fabric::{Fabric, Multiaddr, PeerId};
use smol::block_on;
use socket2::{Domain, Socket, Type};
use support::{DEADLINE, Echo, LIMITS, address, connected, start, until};

const METHOD: &str = "DHTProtocol.rpc_find";

/// Where a node listens, for sockets.
fn socket_address(address: &Multiaddr) -> SocketAddr {
    let text = address.to_string();
    let port = text.split('/').nth(4).and_then(|port| port.parse().ok());
    ([127, 0, 0, 1], port.expect("a listening address has a port")).into()
}

/// A connection from 127.0.0.2, or nothing when the node's queue is full.
fn attack(to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect_timeout(&to.into(), Duration::from_secs(2)).ok()?;
    Some(socket.into())
}

async fn serves(node: &Fabric, honest: &Fabric) {
    let answer = honest.call(node.peer_id(), METHOD, b"still there".to_vec(), DEADLINE).await;
    assert_eq!(answer, Ok([honest.peer_id().to_bytes(), b"still there".to_vec()].concat()));
}

#[test]
fn silent_connections_are_few_at_a_time_and_go_when_their_time_is_over() {
    block_on(async {
        let (node, honest) = (start().await, start().await);
        node.serve_call(METHOD, LIMITS, Arc::new(Echo)).unwrap();
        let to = address(&node).await;
        let silent: Vec<TcpStream> = (0..200).filter_map(|_| attack(socket_address(&to))).collect();
        assert!(silent.len() > HANDSHAKES_INBOUND_MAX);
        let refused = async || node.status().await.unwrap().counts.connections_refused;
        until("most are refused", async || refused().await as usize >= silent.len() - HANDSHAKES_INBOUND_MAX)
            .await;
        honest.connect(to).await.unwrap();
        serves(&node, &honest).await;
        let mut last = silent.into_iter().next().unwrap();
        last.set_read_timeout(Some(DEADLINE)).unwrap();
        let ended = smol::unblock(move || {
            let mut bytes = Vec::new();
            last.read_to_end(&mut bytes)
        });
        // Ended or reset, but not kept.
        assert!(!matches!(ended.await, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
        serves(&node, &honest).await;
    });
}

#[test]
fn garbage_instead_of_a_handshake_ends_the_connection_alone() {
    block_on(async {
        let (node, honest) = (start().await, start().await);
        node.serve_call(METHOD, LIMITS, Arc::new(Echo)).unwrap();
        let to = address(&node).await;
        honest.connect(to.clone()).await.unwrap();
        let mut seed = 7u64;
        for round in 0..60 {
            let Some(mut stream) = attack(socket_address(&to)) else { continue };
            let mut bytes = vec![0; 4096];
            for byte in &mut bytes {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (seed >> 56) as u8;
            }
            if round % 3 == 1 {
                bytes.splice(0..0, *b"\x13/multistream/1.0.0\n");
            }
            if round % 3 == 2 {
                bytes.splice(0..0, *b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff");
            }
            // The node may have closed it already.
            let _ = stream.write_all(&bytes);
        }
        serves(&node, &honest).await;
    });
}

#[test]
fn a_flood_of_calls_is_bounded_for_each_peer_and_others_are_served() {
    struct Slow;
    impl CallHandler for Slow {
        fn answer(
            &self,
            from: PeerId,
            request: Vec<u8>,
        ) -> futures::future::BoxFuture<'static, Result<Vec<u8>, String>> {
            Box::pin(async move {
                if request == b"slow" {
                    smol::Timer::after(Duration::from_secs(2)).await;
                }
                Ok([from.to_bytes(), request].concat())
            })
        }
    }
    block_on(async {
        let (node, greedy) = connected().await;
        let honest = start().await;
        honest.connect(address(&node).await).await.unwrap();
        let limits = CallLimits { calls_max: 8, calls_per_peer_max: 4, ..LIMITS };
        node.serve_call(METHOD, limits, Arc::new(Slow)).unwrap();
        let flood = smol::spawn({
            let (greedy, to) = (greedy.clone(), node.peer_id());
            async move {
                let calls = (0..40).map(|_| greedy.call(to, METHOD, b"slow".to_vec(), DEADLINE));
                futures::future::join_all(calls).await
            }
        });
        serves(&node, &honest).await;
        let answers = flood.await;
        let served = answers.iter().filter(|answer| answer.is_ok()).count();
        assert!(served >= 4, "{served}");
        assert!(answers.iter().all(|answer| !matches!(answer, Err(CallError::TimedOut))));
        assert!(node.status().await.unwrap().counts.calls_refused >= 30);
    });
}
