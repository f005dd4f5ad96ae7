//! What a storage keeps, replaces and gives up.
//!
//! Rules of the wire specification's section 4.6 first, then bounds and fairness.

use super::*;
use crate::hivemind::dictionary::Dictionary;

const NOW: f64 = 1_700_000_000.0;

fn key(number: u32) -> Id {
    let mut id = [0; 20];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Id(id)
}

fn kept(value: &str, seconds: f64, from: PeerId) -> Kept {
    Kept { value: value.into(), expiration: NOW + seconds, from }
}

fn text(subkey: &str) -> Subkey {
    Subkey::text(subkey).unwrap()
}

fn plain(storage: &Storage, key: Id, now: f64) -> Option<String> {
    let value = storage.get(&key, now)?;
    assert!(!value.is_dictionary);
    Some(String::from_utf8(value.bytes).unwrap())
}

fn entries(storage: &Storage, key: Id, now: f64) -> Vec<(String, String)> {
    let Some(value) = storage.get(&key, now) else { return Vec::new() };
    assert!(value.is_dictionary);
    let dictionary = Dictionary::decode(&value.bytes).unwrap();
    let entries = dictionary.entries.into_iter().map(|(subkey, entry)| {
        (subkey.value().as_text().unwrap().to_owned(), String::from_utf8(entry.value).unwrap())
    });
    entries.collect()
}

fn pair(subkey: &str, value: &str) -> (String, String) {
    (subkey.to_owned(), value.to_owned())
}

#[test]
fn only_a_later_value_replaces_a_value() {
    let (mut storage, peer) = (Storage::new(1 << 20), PeerId::random());
    assert!(storage.store_plain(key(1), kept("a", 10.0, peer), NOW));
    assert!(!storage.store_plain(key(1), kept("b", 10.0, peer), NOW), "equal loses");
    assert!(!storage.store_plain(key(1), kept("b", 9.0, peer), NOW));
    assert!(!storage.store_plain(key(2), kept("b", 0.0, peer), NOW), "past already");
    assert_eq!(plain(&storage, key(1), NOW).unwrap(), "a");
    assert!(storage.store_plain(key(1), kept("b", 11.0, peer), NOW));
    assert_eq!(plain(&storage, key(1), NOW).unwrap(), "b");
    assert_eq!(plain(&storage, key(1), NOW + 11.0), None);
    assert_eq!(storage.count(), 1);
    storage.drop_expired(NOW + 11.0);
    assert_eq!((storage.count(), storage.bytes(), storage.records.len()), (0, 0, 0));
}

#[test]
fn entries_live_and_die_one_by_one() {
    let (mut storage, peer) = (Storage::new(1 << 20), PeerId::random());
    assert!(storage.store_entry(key(1), text("a"), kept("1", 10.0, peer), NOW));
    assert!(storage.store_entry(key(1), text("b"), kept("2", 5.0, peer), NOW));
    assert!(!storage.store_entry(key(1), text("b"), kept("3", 5.0, peer), NOW));
    assert_eq!(entries(&storage, key(1), NOW), [pair("a", "1"), pair("b", "2")]);
    assert_eq!(storage.get(&key(1), NOW).unwrap().expiration, NOW + 10.0);
    assert_eq!(entries(&storage, key(1), NOW + 5.0), [pair("a", "1")]);
    assert!(storage.store_entry(key(1), text("b"), kept("3", 20.0, peer), NOW));
    assert_eq!(storage.expiration(&key(1), NOW), Some(NOW + 20.0));
    assert_eq!(storage.get(&key(1), NOW + 20.0), None);
    storage.drop_expired(NOW + 20.0);
    assert_eq!((storage.bytes(), storage.records.len(), storage.shares.accounts.len()), (0, 0, 0));
}

#[test]
fn a_value_and_a_dictionary_replace_each_other_when_later() {
    let (mut storage, peer) = (Storage::new(1 << 20), PeerId::random());
    assert!(storage.store_plain(key(1), kept("a", 10.0, peer), NOW));
    assert!(!storage.store_entry(key(1), text("a"), kept("1", 10.0, peer), NOW));
    assert!(storage.store_entry(key(1), text("a"), kept("1", 11.0, peer), NOW));
    assert_eq!(entries(&storage, key(1), NOW), [pair("a", "1")]);
    assert!(!storage.store_plain(key(1), kept("b", 11.0, peer), NOW));
    assert!(storage.store_plain(key(1), kept("b", 12.0, peer), NOW));
    assert_eq!(plain(&storage, key(1), NOW).unwrap(), "b");
    assert_eq!(storage.count(), 1);
}

#[test]
fn an_entry_named_after_a_peer_is_that_peers_own() {
    let mut storage = Storage::new(1 << 20);
    let (peer, other) = (PeerId::random(), PeerId::random());
    let subkey = text(&peer.to_base58());
    // Replicas hand records on, so others may bring one; but not against the peer's own word.
    assert!(storage.store_entry(key(1), subkey.clone(), kept("forged", 1000.0, other), NOW));
    assert!(storage.store_entry(key(1), subkey.clone(), kept("own", 10.0, peer), NOW));
    assert!(!storage.store_entry(key(1), subkey.clone(), kept("forged", 2000.0, other), NOW));
    assert_eq!(entries(&storage, key(1), NOW), [pair(&peer.to_base58(), "own")]);
    assert!(!storage.store_entry(key(1), subkey.clone(), kept("older", 9.0, peer), NOW));
    assert!(storage.store_entry(key(1), subkey.clone(), kept("newer", 11.0, peer), NOW));
    // Once it has expired, others may bring it again.
    assert!(storage.store_entry(key(1), subkey, kept("replica", 30.0, other), NOW + 11.0));
}

#[test]
fn the_room_is_bounded_to_the_byte() {
    let peer = PeerId::random();
    let mut storage = Storage::new(2 * (RECORD_OVERHEAD_BYTES + 10));
    assert!(storage.store_plain(key(1), kept("0123456789", 10.0, peer), NOW));
    assert!(storage.store_plain(key(2), kept("0123456789", 20.0, peer), NOW));
    assert_eq!(storage.bytes(), 2 * (RECORD_OVERHEAD_BYTES + 10));
    // One byte more, and what expires first goes; what would go itself is refused.
    assert!(storage.store_plain(key(2), kept("0123456789+", 21.0, peer), NOW));
    assert_eq!(storage.count(), 1);
    assert!(!storage.store_plain(key(1), kept("0123456789", 9.0, peer), NOW));
    assert!(plain(&storage, key(2), NOW).is_some());
    let whole = "x".repeat(storage.bytes_max + 1);
    assert!(!storage.store_plain(key(3), kept(&whole, 100.0, peer), NOW));
    assert!(storage.bytes() <= storage.bytes_max);
}

#[test]
fn a_flood_drowns_only_its_own_records() {
    let mut storage = Storage::new(100 * (RECORD_OVERHEAD_BYTES + 20));
    let honest: Vec<PeerId> = (0..10).map(|_| PeerId::random()).collect();
    for (number, peer) in (0..).zip(&honest) {
        assert!(storage.store_plain(key(number), kept("honest", 30.0, *peer), NOW));
    }
    let flooder = PeerId::random();
    for number in 1000..20_000 {
        storage.store_plain(key(number), kept("flood", 3600.0 + f64::from(number), flooder), NOW);
        assert!(storage.bytes() <= storage.bytes_max);
    }
    for number in 0..10 {
        assert_eq!(plain(&storage, key(number), NOW).unwrap(), "honest", "{number}");
    }
    // And the honest ones still find room.
    for (number, peer) in (100..).zip(&honest) {
        assert!(storage.store_plain(key(number), kept("honest", 30.0, *peer), NOW));
    }
}

#[test]
fn a_dictionary_is_bounded_and_shared_fairly() {
    let mut storage = Storage::new(64 << 20);
    let (honest, flooder) = (PeerId::random(), PeerId::random());
    assert!(storage.store_entry(key(1), text("honest"), kept("here", 30.0, honest), NOW));
    let value = "x".repeat(1000);
    for number in 0..3000 {
        let subkey = text(&format!("flood {number}"));
        storage.store_entry(key(1), subkey, kept(&value, 3600.0 + f64::from(number), flooder), NOW);
    }
    let found = storage.get(&key(1), NOW).unwrap();
    assert!(found.bytes.len() <= DICTIONARY_BYTES_MAX, "{}", found.bytes.len());
    assert!(found.bytes.len() > DICTIONARY_BYTES_MAX * 9 / 10, "{}", found.bytes.len());
    assert!(entries(&storage, key(1), NOW).contains(&pair("honest", "here")));
    // What the dictionary gave up is gone from every index.
    let Some(Record::Dictionary { entries, shares, .. }) = storage.records.get(&key(1)) else {
        panic!("it is a dictionary")
    };
    let counted: usize = shares.accounts.values().map(|account| account.items.len()).sum();
    assert_eq!((entries.len(), counted), (storage.count(), storage.count()));
}
