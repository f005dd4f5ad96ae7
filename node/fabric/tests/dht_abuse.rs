//! What peers who mean harm, or are broken, can do to a node of the DHT: nothing that lasts.
//!
//! Handlers are called as the fabric would call them, without a network between.

mod memory;

use std::sync::Arc;

use kwaainet_fabric::call::CallHandler;
use kwaainet_fabric::hivemind::announce::announce;
use kwaainet_fabric::hivemind::dictionary::{Dictionary, Subkey};
use kwaainet_fabric::hivemind::id::Id;
use kwaainet_fabric::hivemind::limits::*;
use kwaainet_fabric::hivemind::messages::*;
use kwaainet_fabric::hivemind::msgpack::Value;
use kwaainet_fabric::hivemind::petals::{Announcement, Notice, ServedModel, State, info_handler};
use kwaainet_fabric::hivemind::reachability::{check, check_handler};
use kwaainet_fabric::hivemind::{Dht, FIND, Found, PING, Record, STORE, Settings};
use libp2p::PeerId;
use memory::Network;

fn handler(dht: &Dht, method: &str) -> Arc<dyn CallHandler> {
    let handlers = dht.handlers().into_iter();
    handlers.into_iter().find(|(name, _, _)| *name == method).expect("it is served").2
}

async fn store(dht: &Dht, from: PeerId, items: Vec<StoreItem>) -> Vec<bool> {
    let request = StoreRequest { items, node: None }.encode();
    let answer = handler(dht, STORE).answer(from, request).await.unwrap();
    StoreResponse::decode(&answer).unwrap().kept
}

async fn find(dht: &Dht, from: PeerId, keys: Vec<Id>) -> Result<Vec<FindResult>, String> {
    let answer = handler(dht, FIND).answer(from, FindRequest { keys, node: None }.encode()).await?;
    assert!(answer.len() <= MESSAGE_BYTES_MAX, "{}", answer.len());
    Ok(FindResponse::decode(&answer).unwrap().results)
}

fn item(key: u32, value: Vec<u8>, expiration: f64) -> StoreItem {
    let mut id = [0; 20];
    id[..4].copy_from_slice(&key.to_be_bytes());
    StoreItem { key: Id(id), tag: vec![0xc0], value, expiration, in_cache: false }
}

/// A small generator, so that garbage is the same each time.
struct Garbage(u64);

impl Garbage {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = self.next() % 200;
        (0..count).map(|_| (self.next() >> 24) as u8).collect()
    }

    /// Some bytes of a message changed, cut off or doubled.
    fn spoil(&mut self, message: &[u8]) -> Vec<u8> {
        let mut bytes = message.to_vec();
        for _ in 0..1 + self.next() % 4 {
            let at = self.next() as usize % bytes.len().max(1);
            match self.next() % 4 {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at.min(bytes.len())..),
                _ if at < bytes.len() => bytes[at] = (self.next() >> 24) as u8,
                _ => {}
            }
        }
        bytes
    }
}

#[test]
fn garbage_gets_a_sentence_or_a_no_and_leaves_nothing_behind() {
    smol::block_on(async {
        let network = Network::new(1);
        let dht = network.add(1);
        let notice = Notice::default();
        let from = PeerId::random();
        let handlers: Vec<_> = dht
            .handlers()
            .into_iter()
            .chain([info_handler(&dht, notice), check_handler(dht.peer_id(), Some(network.remote(2)))])
            .collect();
        let now = network.now();
        let entry = StoreItem {
            tag: Subkey::text("subkey").unwrap().bytes().to_vec(),
            ..item(1, vec![1; 30], now + 10.0)
        };
        let dictionary = Dictionary {
            entries: [(
                Subkey::text("subkey").unwrap(),
                kwaainet_fabric::hivemind::dictionary::Entry { value: vec![1; 30], expiration: now + 10.0 },
            )]
            .into(),
        };
        let whole = StoreItem { tag: vec![], ..item(2, dictionary.encode(), now + 10.0) };
        let node = Some(Id([9; 20]));
        let messages = [
            PingRequest { node, validate: true }.encode(),
            FindRequest { keys: vec![Id([1; 20]); 3], node }.encode(),
            StoreRequest { items: vec![item(3, vec![1; 30], now + 10.0), entry, whole], node }.encode(),
            CheckRequest { peer: from }.encode(),
        ];
        let mut garbage = Garbage(42);
        let mut refused = 0;
        for round in 0..4000 {
            for (_, _, handler) in &handlers {
                let request = match round % 2 {
                    0 => garbage.bytes(),
                    _ => garbage.spoil(&messages[round / 2 % messages.len()]),
                };
                if let Err(sentence) = handler.answer(from, request).await {
                    assert!(sentence.len() < 1000, "{sentence}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 4000, "{refused}");
        // One peer has one place in the table, whatever it calls itself; what was stored is small.
        let status = dht.status();
        assert!(status.nodes.len() <= 1, "{}", status.nodes.len());
        assert!(status.record_bytes <= STORAGE_BYTES_MAX);
    });
}

#[test]
fn a_store_flood_is_bounded_and_honest_peers_are_still_served() {
    smol::block_on(async {
        let network = Network::new(2);
        let storage_bytes_max = 1 << 20;
        let dht = network.add_with(1, Settings { storage_bytes_max, ..Settings::default() });
        let now = network.now();
        let (honest, flooder) = (PeerId::random(), PeerId::random());
        assert_eq!(store(&dht, honest, vec![item(1, b"honest".to_vec(), now + 100.0)]).await, [true]);
        for round in 0..20 {
            let items = (0..STORE_KEYS_MAX as u32)
                .map(|number| item(1000 + 1024 * round + number, vec![0; 900], now + 80_000.0));
            store(&dht, flooder, items.collect()).await;
            assert!(dht.status().record_bytes <= storage_bytes_max);
        }
        assert!(dht.status().record_bytes > storage_bytes_max * 9 / 10);
        let found = find(&dht, honest, vec![item(1, vec![], 0.0).key]).await.unwrap();
        assert_eq!(found[0].value.as_ref().unwrap().bytes, b"honest");
        assert_eq!(store(&dht, honest, vec![item(2, b"again".to_vec(), now + 50.0)]).await, [true]);
        // The same for what is only cached.
        let copies = |key| StoreItem { in_cache: true, ..item(key, vec![0; 200_000], now + 80_000.0) };
        for round in 0..40 {
            store(&dht, flooder, vec![copies(round)]).await;
        }
        assert!(dht.status().cached_bytes <= CACHE_BYTES_MAX);
    });
}

#[test]
fn requests_are_served_up_to_their_limits() {
    smol::block_on(async {
        let network = Network::new(3);
        let dht = network.add(1);
        let now = network.now();
        let peer = PeerId::random();

        let keys = |count: usize| vec![Id([1; 20]); count];
        assert_eq!(find(&dht, peer, keys(FIND_KEYS_MAX)).await.unwrap().len(), FIND_KEYS_MAX);
        let refusal = find(&dht, peer, keys(FIND_KEYS_MAX + 1)).await.unwrap_err();
        assert_eq!(refusal, "the message has more than 256 keys");

        let items = |count: usize| (0..count as u32).map(|key| item(key, vec![1], now + 9.0)).collect();
        assert_eq!(store(&dht, peer, items(STORE_KEYS_MAX)).await, [true; STORE_KEYS_MAX]);
        let request = StoreRequest { items: items(STORE_KEYS_MAX + 1), node: None }.encode();
        let refusal = handler(&dht, STORE).answer(peer, request).await.unwrap_err();
        assert_eq!(refusal, "the message has more than 1024 keys");

        let value = |bytes: usize| vec![item(5000, vec![1; bytes], now + 9.0)];
        assert_eq!(store(&dht, peer, value(VALUE_BYTES_MAX)).await, [true]);
        assert_eq!(store(&dht, peer, value(VALUE_BYTES_MAX + 1)).await, [false]);

        let subkey = |count: usize| {
            let tag = Value::from("x".repeat(count - 3)).encode();
            assert_eq!(tag.len(), count);
            vec![StoreItem { tag, ..item(5001, vec![1], now + 9.0) }]
        };
        assert_eq!(store(&dht, peer, subkey(SUBKEY_BYTES_MAX)).await, [true]);
        assert_eq!(store(&dht, peer, subkey(SUBKEY_BYTES_MAX + 1)).await, [false]);

        // What says "for ever" is kept for a day.
        for (key, expiration) in [(6000, f64::INFINITY), (6001, now + LIFE_SECONDS_MAX)] {
            assert_eq!(store(&dht, peer, vec![item(key, vec![1], expiration)]).await, [true]);
            let found = find(&dht, peer, vec![item(key, vec![], 0.0).key]).await.unwrap();
            assert_eq!(found[0].value.as_ref().unwrap().expiration, now + LIFE_SECONDS_MAX);
        }
        network.pass_seconds(LIFE_SECONDS_MAX as u64);
        assert_eq!(find(&dht, peer, vec![item(6000, vec![], 0.0).key]).await.unwrap()[0].value, None);
    });
}

#[test]
fn an_answer_never_grows_beyond_a_message() {
    smol::block_on(async {
        let network = Network::new(4);
        let dht = network.add(1);
        let peer = PeerId::random();
        let items = (0..20).map(|key| item(key, vec![1; VALUE_BYTES_MAX], network.now() + 9.0));
        for item in items {
            assert_eq!(store(&dht, peer, vec![item]).await, [true]);
        }
        let keys = (0..20).map(|key| item(key, vec![], 0.0).key).collect();
        let results = find(&dht, peer, keys).await.unwrap();
        assert_eq!(results.len(), 20);
        // Three fit; the others are left to other nodes.
        assert_eq!(results.iter().filter(|result| result.value.is_some()).count(), 3);
    });
}

#[test]
fn owned_records_are_kept_from_their_owner_only() {
    smol::block_on(async {
        use kwaainet_fabric::hivemind::validators::{owned_subkey, sign};
        let network = Network::new(5);
        let dht = network.add(1);
        let (owner, other) = (memory::keys(10), memory::keys(11));
        let expiration = network.now() + 10.0;
        let key = Id::of_key("_kwaai.things");
        let subkey = owned_subkey(owner.public().to_peer_id(), "thing").unwrap();
        let record = |value, expiration| StoreItem {
            key,
            tag: subkey.bytes().to_vec(),
            value,
            expiration,
            in_cache: false,
        };
        let signed = |keys, expiration| sign(keys, key, &subkey, b"value", expiration).unwrap();
        // Anybody may bring it, as replicas do, if the owner signed it.
        let from = PeerId::random();
        assert_eq!(store(&dht, from, vec![record(signed(&other, expiration), expiration)]).await, [false]);
        assert_eq!(store(&dht, from, vec![record(b"value".to_vec(), expiration)]).await, [false]);
        assert_eq!(
            store(&dht, from, vec![record(signed(&owner, expiration), expiration + 1.0)]).await,
            [false]
        );
        assert_eq!(store(&dht, from, vec![record(signed(&owner, expiration), expiration)]).await, [true]);
        // A signed end can't be shortened, so one too far away is refused.
        let far = network.now() + LIFE_SECONDS_MAX + 1.0;
        assert_eq!(store(&dht, from, vec![record(signed(&owner, far), far)]).await, [false]);
        // Readers get it without the signature, and reject what a lying replica tells.
        let reader = network.add(2);
        reader.join(&[dht.peer_id()]).await;
        let Some(Found::Dictionary(found)) = reader.get_latest(key).await else { panic!("it is there") };
        assert_eq!(found.entries[&subkey].value, b"value");
    });
}

#[test]
fn a_false_replica_can_not_displace_what_others_hold() {
    smol::block_on(async {
        let network = Network::new(6);
        let first = network.add(1);
        let second = network.add(2);
        second.join(&[first.peer_id()]).await;
        let record = Record {
            key: Id::of_key("model.0"),
            subkey: Some(Subkey::text(&first.peer_id().to_base58()).unwrap()),
            value: b"own".to_vec(),
            expiration: network.now() + 100.0,
        };
        assert!(first.store(record.clone()).await.kept >= 2);
        // A forger with a later expiration: refused where the peer itself stored its record.
        let forged = StoreItem {
            key: record.key,
            tag: record.subkey.as_ref().unwrap().bytes().to_vec(),
            value: b"forged".to_vec(),
            expiration: record.expiration + 1000.0,
            in_cache: false,
        };
        for node in [&first, &second] {
            assert_eq!(store(node, PeerId::random(), vec![forged.clone()]).await, [false]);
        }
    });
}

#[test]
fn a_flood_of_nodes_does_not_fill_the_table_with_silence() {
    smol::block_on(async {
        let network = Network::new(7);
        let dht = network.add(1);
        let friend = network.add(2);
        friend.join(&[dht.peer_id()]).await;
        let ping = handler(&dht, PING);
        let mut garbage = Garbage(3);
        for _ in 0..5000 {
            let mut id = [0; 20];
            id.iter_mut().for_each(|byte| *byte = (garbage.next() >> 30) as u8);
            // With a call back, a node that isn't there is not taken in.
            let request = PingRequest { node: Some(Id(id)), validate: true }.encode();
            let answer =
                PingResponse::decode(&ping.answer(PeerId::random(), request).await.unwrap()).unwrap();
            assert!(!answer.available);
        }
        assert_eq!(dht.status().nodes.len(), 1);
        // Without, it may say so; the table stays within its bound all the same.
        for _ in 0..5000 {
            let mut id = [0; 20];
            id.iter_mut().for_each(|byte| *byte = (garbage.next() >> 30) as u8);
            let request = PingRequest { node: Some(Id(id)), validate: false }.encode();
            ping.answer(PeerId::random(), request).await.unwrap();
        }
        assert!(dht.status().nodes.len() <= TABLE_NODES_MAX);
        assert!(dht.status().nodes.iter().any(|node| node.peer == friend.peer_id()));
    });
}

#[test]
fn announcements_reach_every_bootstrap_and_tombstones_follow() {
    smol::block_on(async {
        let network = Network::new(8);
        let nodes: Vec<Dht> = (0..12).map(|number| network.add(number)).collect();
        for node in &nodes[1..] {
            node.join(&[nodes[0].peer_id()]).await;
        }
        let announcement = Announcement {
            state: State::Online,
            model: Some(ServedModel {
                prefix: "model-hf".to_owned(),
                blocks: 20,
                served: 0..20,
                repository: None,
                hidden: 64,
                dtype: "float32".to_owned(),
            }),
            throughput: 1.0,
            ..Announcement::default()
        };
        let bootstraps: Vec<PeerId> = nodes[..3].iter().map(|node| node.peer_id()).collect();
        let round = announce(&nodes[11], &bootstraps, &announcement).await.unwrap();
        assert_eq!((round.records, round.kept), (22, 22));
        for bootstrap in &nodes[..3] {
            assert_eq!(bootstrap.status().records, 22);
        }
        let state = || async {
            let Some(Found::Dictionary(found)) = nodes[5].get_latest(Id::of_key("model-hf.7")).await else {
                return None;
            };
            let entry = found.entries.values().next()?;
            let Ok(Value::Tuple(parts)) = Value::decode(&entry.value) else { return None };
            parts[0].as_integer()
        };
        assert_eq!(state().await, Some(2));
        network.pass_seconds(10);
        announce(&nodes[11], &bootstraps, &announcement.gone()).await.unwrap();
        assert_eq!(state().await, Some(0));
        // Nobody renews it, so in the end nothing is left.
        network.pass_seconds(400);
        assert_eq!(state().await, None);
    });
}

#[test]
fn reachability_is_told_only_by_a_call_of_its_own() {
    smol::block_on(async {
        let network = Network::new(9);
        let own = memory::keys(1).public().to_peer_id();
        let judge = memory::keys(2).public().to_peer_id();
        network.serve(own, check_handler(own, None));
        network.serve(judge, check_handler(judge, Some(network.remote(3))));
        let asker = network.remote(4);
        assert_eq!(check(asker.as_ref(), own, own).await, Ok(true));
        assert_eq!(check(asker.as_ref(), judge, own).await, Ok(true));
        network.kill(own);
        assert_eq!(check(asker.as_ref(), judge, own).await, Ok(false));
        // A node without a second peer does not guess.
        network.serve(own, check_handler(own, None));
        let refusal = check(asker.as_ref(), own, judge).await.unwrap_err();
        assert!(refusal.to_string().contains("no second peer"), "{refusal}");
    });
}
