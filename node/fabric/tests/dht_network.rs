//! Thirty nodes of the DHT in one process: what is stored anywhere is found everywhere.
//!
//! The nodes speak through a network in memory that loses calls and kills nodes; its clock is turned by hand.

mod memory;

use std::sync::Arc;
use std::time::Duration;

use kwaainet_fabric::hivemind::dictionary::Subkey;
use kwaainet_fabric::hivemind::id::Id;
use kwaainet_fabric::hivemind::msgpack::Value;
use kwaainet_fabric::hivemind::{Dht, Found, Goal, Record, Settings};
use memory::Network;
use smol::Timer;

const NODES: u64 = 30;
const KEYS: usize = 40;

/// A network whose nodes all joined through the first.
async fn joined(seed: u64, losses_per_thousand: u64) -> (Arc<Network>, Vec<Dht>) {
    let network = Network::new(seed);
    network.lose(losses_per_thousand);
    let nodes: Vec<Dht> = (0..NODES).map(|number| network.add(1000 * seed + number)).collect();
    for node in &nodes[1..] {
        // A lost ping is repeated, as the node's upkeep would.
        while node.join(&[nodes[0].peer_id()]).await.answered.is_empty() {}
    }
    (network, nodes)
}

fn key(number: usize) -> String {
    format!("key {number}")
}

fn plain(number: usize, value: &str, expiration: f64) -> Record {
    let value = Value::from(value).encode();
    Record { key: Id::of_key(&key(number)), subkey: None, value, expiration }
}

fn entry(name: &str, subkey: &str, value: u32, expiration: f64) -> Record {
    let subkey = Some(Subkey::text(subkey).unwrap());
    Record { key: Id::of_key(name), subkey, value: Value::from(value).encode(), expiration }
}

fn text(found: Option<Found>) -> Option<String> {
    match found? {
        Found::Plain(entry) => Some(Value::decode(&entry.value).unwrap().as_text().unwrap().to_owned()),
        Found::Dictionary(_) => None,
    }
}

fn numbers(found: Option<Found>) -> Vec<(String, i64)> {
    let Some(Found::Dictionary(dictionary)) = found else { return Vec::new() };
    let entries = dictionary.entries.iter().map(|(subkey, entry)| {
        let value = Value::decode(&entry.value).unwrap().as_integer().unwrap();
        (subkey.value().as_text().unwrap().to_owned(), value)
    });
    entries.collect()
}

/// Lets what runs beside come to its end: copies, records for newcomers.
async fn settle(network: &Network) {
    let mut calls = network.calls();
    let mut quiet = 0;
    while quiet < 10 {
        Timer::after(Duration::from_millis(10)).await;
        let now = network.calls();
        quiet = if now == calls { quiet + 1 } else { 0 };
        calls = now;
    }
}

#[test]
fn everybody_finds_what_anybody_stored_although_calls_get_lost() {
    smol::block_on(async {
        let (network, nodes) = joined(1, 20).await;
        let expiration = network.now() + 1000.0;
        for number in 0..KEYS {
            let stored = nodes[number % nodes.len()].store(plain(number, &key(number), expiration)).await;
            assert_eq!(stored.kept, 5);
        }
        for (index, node) in nodes.iter().enumerate() {
            for number in (index % 4..KEYS).step_by(4) {
                let found = node.get(Id::of_key(&key(number))).await;
                assert_eq!(text(found), Some(key(number)), "node {index}");
            }
        }
        assert_eq!(nodes[3].get(Id::of_key("nobody stored this")).await, None);
    });
}

#[test]
fn the_nodes_know_each_other_and_records_lie_on_the_nearest() {
    smol::block_on(async {
        let (network, nodes) = joined(2, 0).await;
        for node in &nodes {
            assert!(node.status().nodes.len() >= 20, "{}", node.status().nodes.len());
        }
        let record = plain(0, "here", network.now() + 1000.0);
        assert_eq!(nodes[7].store(record.clone()).await.kept, 5);
        let mut by_distance: Vec<&Dht> = nodes.iter().collect();
        by_distance.sort_by_key(|node| record.key.distance(&node.id()));
        let holders: Vec<usize> = by_distance.iter().map(|node| node.status().records).collect();
        assert_eq!(holders[..5], [1; 5]);
        assert_eq!(holders[5..].iter().sum::<usize>(), 0);
    });
}

#[test]
fn many_records_go_out_in_few_calls() {
    smol::block_on(async {
        let (network, nodes) = joined(3, 0).await;
        settle(&network).await;
        let expiration = network.now() + 1000.0;
        let blocks: Vec<Record> =
            (0..80).map(|block| entry(&format!("model.{block}"), "peer", block, expiration)).collect();
        let before = network.calls();
        let stored = nodes[4].store_many(&blocks).await;
        assert!(stored.iter().all(|stored| stored.kept == 5), "{stored:?}");
        let stores = network.calls() - before;
        let keys: Vec<Id> = blocks.iter().map(|block| block.key).collect();
        let found = nodes[9].get_many(&keys, Goal::LatestValue).await;
        for (block, found) in found.into_iter().enumerate() {
            assert_eq!(numbers(found), [("peer".to_owned(), block as i64)]);
        }
        // Every node is asked for sixteen keys at a time, and gets its own records in one call.
        assert!(stores <= NODES * (80 / 16 + 2), "{stores} calls");
    });
}

#[test]
fn values_are_replaced_by_later_ones_and_expire() {
    smol::block_on(async {
        let (network, nodes) = joined(4, 0).await;
        let begin = network.now();
        let id = Id::of_key(&key(0));
        nodes[1].store(plain(0, "first", begin + 100.0)).await;
        assert_eq!(text(nodes[2].get_latest(id).await).unwrap(), "first");
        // Not later, so not kept.
        assert_eq!(nodes[3].store(plain(0, "same time", begin + 100.0)).await.kept, 0);
        nodes[5].store(plain(0, "second", begin + 200.0)).await;
        assert_eq!(text(nodes[6].get_latest(id).await).unwrap(), "second");
        network.pass_seconds(199);
        assert_eq!(text(nodes[7].get_latest(id).await).unwrap(), "second");
        network.pass_seconds(1);
        for node in &nodes {
            assert_eq!(node.get(id).await, None);
            assert_eq!(node.store(plain(0, "past", begin + 150.0)).await.kept, 0);
        }
    });
}

#[test]
fn entries_of_many_writers_come_together_and_die_one_by_one() {
    smol::block_on(async {
        let (network, nodes) = joined(5, 20).await;
        let begin = network.now();
        for (index, node) in (0..).zip(&nodes) {
            let life = if index % 2 == 0 { 100.0 } else { 200.0 };
            node.store(entry("model.0", &format!("peer {index:02}"), index, begin + life)).await;
        }
        let all: Vec<(String, i64)> = (0..30).map(|index| (format!("peer {index:02}"), index)).collect();
        for node in nodes.iter().step_by(7) {
            assert_eq!(numbers(node.get_latest(Id::of_key("model.0")).await), all);
        }
        network.pass_seconds(100);
        let odd: Vec<_> = all.into_iter().filter(|(_, index)| index % 2 == 1).collect();
        for node in nodes.iter().step_by(7) {
            assert_eq!(numbers(node.get_latest(Id::of_key("model.0")).await), odd);
        }
    });
}

#[test]
fn records_outlive_a_third_of_the_nodes() {
    smol::block_on(async {
        let (network, nodes) = joined(6, 20).await;
        let expiration = network.now() + 1000.0;
        for number in 0..KEYS {
            nodes[number % nodes.len()].store(plain(number, &key(number), expiration)).await;
        }
        settle(&network).await;
        let (alive, dead): (Vec<_>, Vec<_>) = (0..).zip(&nodes).partition(|(index, _)| index % 3 != 1);
        dead.iter().for_each(|(_, node)| network.kill(node.peer_id()));
        let mut found = 0;
        for number in 0..KEYS {
            let (_, reader) = alive[number % alive.len()];
            found += usize::from(text(reader.get(Id::of_key(&key(number))).await) == Some(key(number)));
        }
        assert!(found >= KEYS * 19 / 20, "{found} of {KEYS}");
        // And the living still store.
        let stored = alive[0].1.store(plain(KEYS, "after", expiration)).await;
        assert_eq!(stored.kept, 5);
    });
}

#[test]
fn a_found_value_is_left_with_the_nearest_that_lacks_it_and_with_the_reader() {
    smol::block_on(async {
        let (network, nodes) = joined(7, 0).await;
        settle(&network).await;
        let record = plain(0, "copied", network.now() + 1000.0);
        // Only one far node has it, as if the nearest had come later.
        let mut by_distance: Vec<&Dht> = nodes.iter().collect();
        by_distance.sort_by_key(|node| record.key.distance(&node.id()));
        let holder = by_distance[15];
        assert_eq!(holder.store_at(holder.peer_id(), std::slice::from_ref(&record)).await.unwrap(), [true]);
        let reader = by_distance[29];
        assert_eq!(text(reader.get(record.key).await).unwrap(), "copied");
        settle(&network).await;
        let copies: Vec<usize> = by_distance.iter().map(|node| node.status().cached).collect();
        assert_eq!((copies[29], copies.iter().sum::<usize>()), (1, 2));
        network.kill(holder.peer_id());
        assert_eq!(text(by_distance[20].get_latest(record.key).await).unwrap(), "copied");
        // What is at hand needs no call.
        let calls = network.calls();
        assert_eq!(text(reader.get(record.key).await).unwrap(), "copied");
        assert_eq!(network.calls(), calls);
    });
}

#[test]
fn newcomers_are_given_what_belongs_to_them() {
    smol::block_on(async {
        let (network, nodes) = joined(8, 0).await;
        let expiration = network.now() + 1000.0;
        let records: Vec<Record> = (0..KEYS).map(|number| plain(number, &key(number), expiration)).collect();
        nodes[3].store_many(&records).await;
        let newcomers: Vec<Dht> = (500..530).map(|number| network.add(number)).collect();
        for newcomer in &newcomers {
            newcomer.join(&[nodes[0].peer_id()]).await;
        }
        settle(&network).await;
        let given: usize = newcomers.iter().map(|node| node.status().records).sum();
        assert!(given >= KEYS, "{given}");
        // With all who held the records at first gone, the newcomers still have them.
        nodes.iter().for_each(|node| network.kill(node.peer_id()));
        let mut found = 0;
        for record in &records {
            found += usize::from(newcomers[0].get(record.key).await.is_some());
        }
        assert!(found >= KEYS * 9 / 10, "{found} of {KEYS}");
    });
}

#[test]
fn a_node_that_only_asks_is_served_and_never_asked() {
    smol::block_on(async {
        let (network, nodes) = joined(9, 0).await;
        let client = network.add_with(900, Settings { client_only: true, ..Settings::default() });
        let joined = client.join(&[nodes[0].peer_id()]).await;
        assert_eq!((joined.answered.len(), joined.called_back), (1, 0));
        let record = plain(0, "from a client", network.now() + 100.0);
        assert_eq!(client.store(record.clone()).await.kept, 5);
        assert_eq!(text(nodes[12].get(record.key).await).unwrap(), "from a client");
        assert_eq!(text(client.get(record.key).await).unwrap(), "from a client");
        for node in &nodes {
            assert!(node.status().nodes.iter().all(|known| known.peer != client.peer_id()));
        }
    });
}

#[test]
fn joining_tells_who_answered_who_called_back_and_whose_clock_is_wrong() {
    smol::block_on(async {
        let network = Network::new(10);
        let first = network.add(1);
        let second = network.add(2);
        let nobody = memory::keys(3).public().to_peer_id();
        let joined = second.join(&[first.peer_id(), nobody]).await;
        assert_eq!(joined.answered, [first.peer_id()]);
        assert_eq!(joined.failed.len(), 1);
        assert_eq!(joined.called_back, 1);
        assert_eq!(joined.clock_skew_seconds, 0.0);
        assert_eq!(first.status().nodes[0].peer, second.peer_id());
        // A node that can't be called back is not taken into the table for its ping.
        let unreachable = network.add(4);
        network.kill(unreachable.peer_id());
        assert!(!unreachable.ping(first.peer_id(), true).await.unwrap().available);
        assert!(first.status().nodes.iter().all(|node| node.peer != unreachable.peer_id()));
    });
}
