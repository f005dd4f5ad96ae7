//! Nodes on loopback: they find each other and call each other.
//!
//! Real sockets, real encryption, two and three networks in one process.

mod support;

use std::sync::Arc;
use std::time::Duration;

use kwaainet_fabric::call::{CallError, CallHandler, CallLimits};
use kwaainet_fabric::{Fabric, PeerId, PeerState};
use smol::block_on;
use support::{DEADLINE, Echo, LIMITS, address, connected, start, start_with, until};

const METHOD: &str = "DHTProtocol.rpc_find";

#[test]
fn two_nodes_call_each_other_over_one_connection() {
    block_on(async {
        let (a, b) = connected().await;
        for (from, to) in [(&a, &b), (&b, &a)] {
            to.serve_call(METHOD, LIMITS, Arc::new(Echo)).unwrap();
            let answer = from.call(to.peer_id(), METHOD, b"what".to_vec(), DEADLINE).await;
            let expected = [from.peer_id().to_bytes(), b"what".to_vec()].concat();
            assert_eq!(answer, Ok(expected), "the callee is told who called");
        }
        assert_eq!(a.status().await.unwrap().connections, 1);
    });
}

#[test]
fn a_call_may_be_empty_and_as_long_as_the_method_lets_it() {
    block_on(async {
        let (a, b) = connected().await;
        b.serve_call(METHOD, LIMITS, Arc::new(Echo)).unwrap();
        let own = a.peer_id().to_bytes();
        for length in [0, 1, 4095, 4096, 4097, 300_000, LIMITS.request_bytes_max] {
            let request: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let answer = a.call(b.peer_id(), METHOD, request.clone(), DEADLINE).await.unwrap();
            assert!(answer == [own.clone(), request].concat(), "{length} bytes come back as they were");
        }
    });
}

#[test]
fn a_request_longer_than_the_method_lets_it_is_refused() {
    block_on(async {
        let (a, b) = connected().await;
        let limits = CallLimits { request_bytes_max: 10_000, ..LIMITS };
        b.serve_call(METHOD, limits, Arc::new(Echo)).unwrap();
        let answer = a.call(b.peer_id(), METHOD, vec![0; 10_000], DEADLINE).await;
        assert!(answer.is_ok(), "{answer:?}");
        let answer = a.call(b.peer_id(), METHOD, vec![0; 12_000], DEADLINE).await;
        assert!(matches!(answer, Err(CallError::Broken(_))), "{answer:?}");
        let answer = a.call(b.peer_id(), METHOD, vec![0; 5 << 20], DEADLINE).await;
        assert!(matches!(answer, Err(CallError::TooLarge { .. })), "{answer:?}");
    });
}

#[test]
fn an_unknown_method_is_told_from_a_lost_peer() {
    block_on(async {
        let (a, b) = connected().await;
        let answer = a.call(b.peer_id(), "Nope.rpc_nothing", Vec::new(), DEADLINE).await;
        let Err(CallError::Unreachable(why)) = answer else { panic!("{answer:?}") };
        assert!(why.contains("does not know Nope.rpc_nothing"), "{why}");
        let stranger = PeerId::random();
        let answer = a.call(stranger, METHOD, Vec::new(), DEADLINE).await;
        let Err(CallError::Unreachable(why)) = answer else { panic!("{answer:?}") };
        assert!(why.contains("no address of it is known"), "{why}");
    });
}

#[test]
fn a_handlers_refusal_reaches_the_caller_in_its_own_words() {
    struct No;
    impl CallHandler for No {
        fn answer(
            &self,
            _: PeerId,
            _: Vec<u8>,
        ) -> futures::future::BoxFuture<'static, Result<Vec<u8>, String>> {
            Box::pin(async { Err("not today".to_owned()) })
        }
    }
    block_on(async {
        let (a, b) = connected().await;
        b.serve_call(METHOD, LIMITS, Arc::new(No)).unwrap();
        let answer = a.call(b.peer_id(), METHOD, Vec::new(), DEADLINE).await;
        assert_eq!(answer, Err(CallError::Refused("not today".to_owned())));
    });
}

#[test]
fn a_silent_handler_costs_the_caller_its_deadline_and_no_more() {
    struct Silent;
    impl CallHandler for Silent {
        fn answer(
            &self,
            _: PeerId,
            _: Vec<u8>,
        ) -> futures::future::BoxFuture<'static, Result<Vec<u8>, String>> {
            Box::pin(std::future::pending())
        }
    }
    block_on(async {
        let (a, b) = connected().await;
        b.serve_call(METHOD, LIMITS, Arc::new(Silent)).unwrap();
        let answer = a.call(b.peer_id(), METHOD, Vec::new(), Duration::from_millis(300)).await;
        assert_eq!(answer, Err(CallError::TimedOut));
    });
}

#[test]
fn a_node_finds_a_third_through_the_routing_table_and_calls_it() {
    block_on(async {
        let a = start().await;
        let first = address(&a).await;
        let b = start_with(|settings| settings.bootstrap = vec![first.clone()]).await;
        let c = start_with(|settings| settings.bootstrap = vec![first]).await;
        c.serve_call(METHOD, LIMITS, Arc::new(Echo)).unwrap();
        until("a has both in its table", async || a.status().await.unwrap().own_routing == 2).await;
        // b was told of a alone.
        let answer = b.call(c.peer_id(), METHOD, b"x".to_vec(), DEADLINE).await;
        assert_eq!(answer, Ok([b.peer_id().to_bytes(), b"x".to_vec()].concat()));
        assert!(!b.find(c.peer_id()).await.unwrap().is_empty());
    });
}

#[test]
fn peers_of_the_swarm_become_useful_and_their_failures_are_told() {
    block_on(async {
        let (a, b) = connected().await;
        let state = async |of: &Fabric, peer: PeerId| {
            let peers = of.peers().await.unwrap();
            peers.iter().find(|found| found.id == peer).map(|found| found.state)
        };
        until("b is useful to a", async || state(&a, b.peer_id()).await == Some(PeerState::Useful)).await;
        until("a is useful to b", async || state(&b, a.peer_id()).await == Some(PeerState::Useful)).await;
        let peers = a.peers().await.unwrap();
        assert!(peers[0].agent.as_deref().is_some_and(|agent| agent.starts_with("kwaainet/")));
        assert!(peers[0].protocols.iter().any(|protocol| protocol == "/ipfs/kad/1.0.0"));
        b.stop().await;
        until("b is seen alone", async || state(&a, b.peer_id()).await < Some(PeerState::Authenticated))
            .await;
        let peers = a.peers().await.unwrap();
        assert!(peers[0].failures[PeerState::Useful as usize].is_some(), "{:?}", peers[0].failures);
    });
}

#[test]
fn swarms_of_other_names_stay_strangers() {
    block_on(async {
        let a = start().await;
        let first = address(&a).await;
        let b = start_with(|settings| settings.swarm_name = "other".to_owned()).await;
        b.connect(first).await.unwrap();
        let told = async || a.peers().await.unwrap().first().is_some_and(|peer| peer.agent.is_some());
        until("a was told who b is", told).await;
        let status = a.status().await.unwrap();
        assert_eq!(status.own_routing, 0);
        assert_eq!(status.common_routing, 1);
        assert_eq!(a.peers().await.unwrap()[0].state, PeerState::Authenticated);
    });
}

#[test]
fn a_ping_tells_a_round_trip() {
    block_on(async {
        let (a, b) = connected().await;
        let rtt = a.ping(b.peer_id()).await.unwrap();
        assert!(rtt > Duration::ZERO);
    });
}

#[test]
fn whoever_answers_at_an_address_must_be_the_peer_that_was_asked_for() {
    block_on(async {
        let (a, b) = (start().await, start().await);
        let wrong = PeerId::random();
        let mut to = address(&b).await;
        to.pop();
        let error = a.connect(to.clone().with_p2p(wrong).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(&b.peer_id().to_string()), "{error}");
        let peers = a.peers().await.unwrap();
        let failed = peers.iter().find(|peer| peer.id == wrong).unwrap();
        assert!(failed.failures[PeerState::Authenticated as usize].is_some());
        assert!(failed.addresses.is_empty(), "the address led elsewhere");
        assert_eq!(a.connect(to).await.unwrap(), b.peer_id());
    });
}

#[test]
fn a_blocked_peer_gets_no_connection() {
    block_on(async {
        let a = start().await;
        let b = start_with(|settings| settings.blocked = vec![a.peer_id()]).await;
        assert!(b.connect(address(&a).await).await.is_err());
    });
}

#[test]
fn names_and_ipv6_lead_to_a_node_as_well() {
    block_on(async {
        let four = start().await;
        let port = address(&four).await.to_string().split('/').nth(4).unwrap().to_owned();
        let by_name = format!("/dns4/localhost/tcp/{port}").parse().unwrap();
        assert_eq!(start().await.connect(by_name).await.unwrap(), four.peer_id());
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("skipped in part: this machine has no IPv6");
            return;
        }
        let six = start_with(|settings| settings.listen = vec!["/ip6/::1/tcp/0".parse().unwrap()]).await;
        let to = address(&six).await;
        assert_eq!(start().await.connect(to).await.unwrap(), six.peer_id());
    });
}

#[test]
fn a_lan_only_node_says_why_it_dials_nothing_outside() {
    block_on(async {
        let node = start_with(|settings| settings.lan_only = true).await;
        for (to, why) in [
            ("/dns4/localhost/tcp/1", "resolves no names"),
            ("/dnsaddr/bootstrap.example", "resolves no names"),
            ("/ip4/1.1.1.1/tcp/1", "dials no address outside"),
        ] {
            let error = node.connect(to.parse().unwrap()).await.unwrap_err().to_string();
            assert!(error.contains(why), "{to}: {error}");
        }
        let other = start().await;
        assert!(node.connect(address(&other).await).await.is_ok());
    });
}

#[test]
fn a_node_that_comes_back_knows_its_peers() {
    block_on(async {
        let folder = std::env::temp_dir().join(format!("kwaainet-fabric-known-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let friend = start().await;
        let to = address(&friend).await;
        let first = start_with(|settings| settings.folder = Some(folder.clone())).await;
        first.connect(to).await.unwrap();
        let useful = async || first.status().await.unwrap().peers[PeerState::Useful as usize].1 == 1;
        until("the friend is of our swarm", useful).await;
        first.stop().await;
        let again = start_with(|settings| settings.folder = Some(folder.clone())).await;
        let met = async || again.status().await.unwrap().peers[PeerState::Useful as usize].1 == 1;
        until("they meet again without being told", met).await;
    });
}

#[test]
fn a_node_that_stops_answers_with_that() {
    block_on(async {
        let node = start().await;
        node.stop().await;
        assert!(matches!(node.status().await, Err(kwaainet_fabric::Error::Stopped)));
        node.stop().await;
    });
}
