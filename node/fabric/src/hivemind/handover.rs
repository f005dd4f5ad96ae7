//! Giving a newcomer the records that belong to it.
//!
//! Wire protocols, section 4.8. The node nearest to a record's key gives it to a newcomer that is nearer than
//! the farthest of those who should hold it; so one node gives each record, and nobody has to ask.

use smol::future::yield_now;

use super::dht::Dht;
use super::dictionary::{TAG_DICTIONARY, TAG_PLAIN};
use super::id::Id;
use super::limits::{HANDOVER_KEYS_MAX, KEYS_AT_ONCE, REPLICAS};
use super::messages::{Node, StoreItem};
use super::records::batches;

/// Sends the newcomer its records.
pub async fn give_records(dht: &Dht, newcomer: Node) {
    let keys: Vec<Id> = dht.state().storage.keys().collect();
    let mut items = Vec::new();
    for some in keys.chunks(KEYS_AT_ONCE) {
        items.extend(some.iter().filter_map(|key| item_for(dht, newcomer, key)));
        if items.len() >= HANDOVER_KEYS_MAX {
            break;
        }
        yield_now().await;
    }
    items.truncate(HANDOVER_KEYS_MAX);
    for batch in batches(items) {
        if dht.call_store(newcomer.peer, batch).await.is_err() {
            return;
        }
    }
}

/// The record under `key`, if it is the newcomer's to hold and ours to give.
fn item_for(dht: &Dht, newcomer: Node, key: &Id) -> Option<StoreItem> {
    let state = dht.state();
    let holders = state.table.nearest(key, REPLICAS, Some(&newcomer.peer));
    let is_for_us = match (holders.first(), holders.last()) {
        (Some(nearest), Some(farthest)) => {
            let belongs = holders.len() < REPLICAS || key.distance(&newcomer.id) < key.distance(&farthest.id);
            belongs && key.distance(&dht.id()) < key.distance(&nearest.id)
        }
        _ => true,
    };
    if !is_for_us {
        return None;
    }
    let value = state.storage.get(key, dht.now())?;
    let tag = if value.is_dictionary { TAG_DICTIONARY } else { TAG_PLAIN };
    Some(StoreItem {
        key: *key,
        tag: tag.to_vec(),
        value: value.bytes,
        expiration: value.expiration,
        in_cache: false,
    })
}
