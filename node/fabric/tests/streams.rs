//! Our own protocols between nodes on loopback: long-lived streams of frames, and questions in postcard.

mod support;

use std::time::Duration;

use futures::StreamExt;
use kwaainet_fabric::call::{CallError, CallLimits};
use kwaainet_fabric::{PeerId, StreamLimits, StreamProtocol};
use smol::{Timer, block_on};
use support::{DEADLINE, LIMITS, connected};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/kwaai/test/1.0.0");
const FRAMES: StreamLimits = StreamLimits {
    streams_max: 8,
    streams_per_peer_max: 4,
    frame_bytes_max: 100_000,
    frames_per_second_max: 1000,
    silence_max: DEADLINE,
};

#[test]
fn frames_go_both_ways_in_order_and_end_with_the_stream() {
    block_on(async {
        let (a, b) = connected().await;
        let mut streams = Box::pin(b.accept(PROTOCOL, FRAMES).unwrap());
        let mut ours = a.open(b.peer_id(), PROTOCOL, FRAMES, DEADLINE).await.unwrap();
        ours.send(b"first").await.unwrap();
        let (from, mut theirs) = streams.next().await.unwrap();
        assert_eq!((from, theirs.peer()), (a.peer_id(), a.peer_id()), "the peer is the one that was proved");
        theirs.send(b"").await.unwrap();
        theirs.send(&[7; 100_000]).await.unwrap();
        ours.send(b"second").await.unwrap();
        ours.close().await.unwrap();
        assert_eq!(theirs.receive().await.unwrap().as_deref(), Some(&b"first"[..]));
        assert_eq!(theirs.receive().await.unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(theirs.receive().await.unwrap(), None);
        assert_eq!(ours.receive().await.unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(ours.receive().await.unwrap(), Some(vec![7; 100_000]));
    });
}

#[test]
fn a_frame_beyond_the_limit_is_neither_sent_nor_taken() {
    block_on(async {
        let (a, b) = connected().await;
        let mut streams = Box::pin(b.accept(PROTOCOL, FRAMES).unwrap());
        let wide = StreamLimits { frame_bytes_max: 200_000, ..FRAMES };
        let mut ours = a.open(b.peer_id(), PROTOCOL, wide, DEADLINE).await.unwrap();
        assert!(ours.send(&[0; 200_001]).await.is_err());
        ours.send(&[0; 100_000]).await.unwrap();
        let (_, mut theirs) = streams.next().await.unwrap();
        assert_eq!(theirs.receive().await.unwrap().map(|frame| frame.len()), Some(100_000));
        // The stream may be reset while this is still being sent.
        let _ = ours.send(&[0; 100_001]).await;
        let error = theirs.receive().await.unwrap_err();
        assert!(error.to_string().contains("at most 100000"), "{error}");
    });
}

#[test]
fn a_peer_holds_so_many_streams_of_a_protocol() {
    block_on(async {
        let (a, b) = connected().await;
        let mut streams = Box::pin(b.accept(PROTOCOL, FRAMES).unwrap());
        let mut ours = Vec::new();
        for _ in 0..FRAMES.streams_per_peer_max {
            ours.push(a.open(b.peer_id(), PROTOCOL, FRAMES, DEADLINE).await.unwrap());
        }
        let mut theirs = Vec::new();
        for _ in 0..FRAMES.streams_per_peer_max {
            theirs.push(streams.next().await.unwrap());
        }
        let mut surplus = a.open(b.peer_id(), PROTOCOL, FRAMES, DEADLINE).await.unwrap();
        assert!(matches!(surplus.receive().await, Err(_) | Ok(None)), "it is reset");
        drop((ours.pop(), theirs.pop()));
        Timer::after(Duration::from_millis(200)).await;
        let mut again = a.open(b.peer_id(), PROTOCOL, FRAMES, DEADLINE).await.unwrap();
        again.send(b"x").await.unwrap();
        assert_eq!(streams.next().await.unwrap().0, a.peer_id());
    });
}

#[test]
fn a_silent_peers_stream_ends() {
    block_on(async {
        let (a, b) = connected().await;
        let limits = StreamLimits { silence_max: Duration::from_millis(300), ..FRAMES };
        let mut streams = Box::pin(b.accept(PROTOCOL, limits).unwrap());
        let _ours = a.open(b.peer_id(), PROTOCOL, FRAMES, DEADLINE).await.unwrap();
        let (_, mut theirs) = streams.next().await.unwrap();
        assert!(theirs.receive().await.unwrap_err().to_string().contains("too slowly"));
    });
}

#[test]
fn an_unknown_protocol_is_told_when_it_is_opened() {
    block_on(async {
        let (a, b) = connected().await;
        let error = a.open(b.peer_id(), PROTOCOL, FRAMES, DEADLINE).await.err().unwrap();
        assert!(error.to_string().contains("does not know the protocol"), "{error}");
        let streams = b.accept(PROTOCOL, FRAMES).unwrap();
        assert!(b.accept(PROTOCOL, FRAMES).is_err(), "one part serves a protocol");
        assert!(a.open(b.peer_id(), PROTOCOL, FRAMES, DEADLINE).await.is_ok());
        drop(streams);
        assert!(b.accept(PROTOCOL, FRAMES).is_ok());
    });
}

#[test]
fn questions_in_postcard_get_answers_and_refusals() {
    block_on(async {
        let (a, b) = connected().await;
        b.answer("/kwaai/half/1.0.0", LIMITS, |from: PeerId, number: u64| async move {
            match number % 2 {
                0 => Ok((number / 2, from.to_bytes())),
                _ => Err(format!("{number} is odd")),
            }
        })
        .unwrap();
        let half = StreamProtocol::new("/kwaai/half/1.0.0");
        let answer: Result<(u64, Vec<u8>), _> = a.ask(b.peer_id(), &half, &84u64, DEADLINE).await;
        assert_eq!(answer, Ok((42, a.peer_id().to_bytes())));
        let answer: Result<(u64, Vec<u8>), _> = a.ask(b.peer_id(), &half, &7u64, DEADLINE).await;
        assert_eq!(answer, Err(CallError::Refused("7 is odd".to_owned())));
        let answer: Result<(u64, Vec<u8>), _> = a.ask(b.peer_id(), &half, &"no number", DEADLINE).await;
        assert!(answer.is_err(), "{answer:?}");
    });
}

#[test]
fn calls_beyond_a_methods_places_are_refused_and_later_ones_served() {
    block_on(async {
        let (a, b) = connected().await;
        let limits = CallLimits { calls_max: 2, calls_per_peer_max: 2, ..LIMITS };
        b.answer("/kwaai/slow/1.0.0", limits, |_: PeerId, (): ()| async {
            Timer::after(Duration::from_secs(1)).await;
            Ok(())
        })
        .unwrap();
        let slow = StreamProtocol::new("/kwaai/slow/1.0.0");
        let calls = (0..6).map(|_| a.ask::<(), ()>(b.peer_id(), &slow, &(), DEADLINE));
        let answers = futures::future::join_all(calls).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2);
        assert_eq!(a.ask::<(), ()>(b.peer_id(), &slow, &(), DEADLINE).await, Ok(()));
    });
}
