//! Storing and getting records over the whole network.
//!
//! Wire protocols, section 4.9. Replication is the caller's job: a record goes to the five nearest nodes that
//! answer, ourselves among them where we are near. What was got is checked, put together from all who keep a
//! part of it, and left as a copy on the nearest node that lacks it, so that the next one finds it sooner.

use std::collections::{BTreeMap, VecDeque};

use futures::stream::{self, StreamExt};
use libp2p::PeerId;

use super::dht::Dht;
use super::dictionary::{Dictionary, Entry, Subkey, TAG_DICTIONARY, TAG_PLAIN};
use super::id::Id;
use super::limits::{BATCH_BYTES_MAX, LIFE_SECONDS_MAX, REPLICAS, STORE_CALLS_MAX, STORE_KEYS_MAX};
use super::messages::{Node, StoreItem, WireValue};
use super::search::{Goal, search};
use super::validators;
use crate::call::CallError;

/// One record: a plain value, or an entry of a dictionary.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where it is kept.
    pub key: Id,
    /// Which entry it is; none for a plain value.
    pub subkey: Option<Subkey>,
    /// The value's bytes: msgpack, for Hivemind's and Petals' readers.
    pub value: Vec<u8>,
    /// Until when it lives, in seconds since 1970.
    pub expiration: f64,
}

impl Record {
    fn item(&self) -> StoreItem {
        StoreItem {
            key: self.key,
            tag: self.subkey.as_ref().map_or(TAG_PLAIN, Subkey::bytes).to_vec(),
            value: self.value.clone(),
            expiration: self.expiration,
            in_cache: false,
        }
    }
}

/// Where a record was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Nodes that answered.
    pub answered: usize,
    /// Those of them that keep it.
    pub kept: usize,
}

/// What is kept under a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A plain value.
    Plain(Entry),
    /// Entries by their subkeys.
    Dictionary(Dictionary),
}

impl Found {
    /// Until when it lives, in seconds since 1970; of a dictionary, its latest entry.
    pub fn expiration(&self) -> f64 {
        match self {
            Found::Plain(entry) => entry.expiration,
            Found::Dictionary(dictionary) => dictionary.expiration(),
        }
    }

    /// What another node says it keeps, without what has expired or is not its owner's; none if nothing is
    /// left.
    pub(super) fn check(key: Id, value: WireValue, now: f64) -> Option<Found> {
        let is_valid = |subkey: Option<&Subkey>, entry: &Entry| {
            entry.expiration > now && validators::check(key, subkey, &entry.value, entry.expiration).is_ok()
        };
        let shorten = |subkey: Option<&Subkey>, entry: &mut Entry| {
            if !validators::is_owned(subkey) {
                entry.expiration = entry.expiration.min(now + LIFE_SECONDS_MAX);
            }
        };
        if value.is_dictionary {
            let mut dictionary = Dictionary::decode(&value.bytes).ok()?;
            dictionary.entries.retain(|subkey, entry| is_valid(Some(subkey), entry));
            dictionary.entries.iter_mut().for_each(|(subkey, entry)| shorten(Some(subkey), entry));
            (!dictionary.entries.is_empty()).then_some(Found::Dictionary(dictionary))
        } else {
            let mut entry = Entry { value: value.bytes, expiration: value.expiration };
            shorten(None, &mut entry);
            is_valid(None, &entry).then_some(Found::Plain(entry))
        }
    }

    /// Both together: entries by subkey, otherwise the later one.
    pub(super) fn merge(self, other: Found) -> Found {
        match (self, other) {
            (Found::Dictionary(mut ours), Found::Dictionary(theirs)) => {
                ours.merge(theirs);
                Found::Dictionary(ours)
            }
            (ours, theirs) if theirs.expiration() > ours.expiration() => theirs,
            (ours, _) => ours,
        }
    }

    /// As it travels.
    fn wire(&self) -> WireValue {
        let (is_dictionary, bytes) = match self {
            Found::Plain(entry) => (false, entry.value.clone()),
            Found::Dictionary(dictionary) => (true, dictionary.encode()),
        };
        WireValue { is_dictionary, bytes, expiration: self.expiration() }
    }

    /// Without signatures, as a reader wants it.
    fn strip(mut self, key: Id) -> Found {
        if let Found::Dictionary(dictionary) = &mut self {
            for (subkey, entry) in &mut dictionary.entries {
                if validators::is_owned(Some(subkey))
                    && let Ok(value) = validators::check(key, Some(subkey), &entry.value, entry.expiration)
                {
                    entry.value = value.into_owned();
                }
            }
        }
        self
    }
}

impl Dht {
    /// Stores one record.
    pub async fn store(&self, record: Record) -> Stored {
        self.store_many(&[record]).await.pop().unwrap_or_default()
    }

    /// Stores records, each on the nodes nearest to its key.
    pub async fn store_many(&self, records: &[Record]) -> Vec<Stored> {
        let mut keys: Vec<Id> = records.iter().map(|record| record.key).collect();
        keys.sort_unstable();
        keys.dedup();
        let nearest: BTreeMap<Id, Vec<Node>> =
            keys.iter().copied().zip(self.nearest_nodes(&keys).await).collect();
        let mut placements: Vec<Placement> = records
            .iter()
            .map(|record| Placement {
                candidates: self.with_ourselves(record.key, &nearest[&record.key]),
                stored: Stored::default(),
            })
            .collect();
        loop {
            let mut plan: BTreeMap<PeerId, Vec<usize>> = BTreeMap::new();
            for (index, placement) in placements.iter_mut().enumerate() {
                for peer in placement.next_candidates() {
                    plan.entry(peer).or_default().push(index);
                }
            }
            if plan.is_empty() {
                break;
            }
            let mut calls = stream::iter(plan)
                .map(|(peer, indexes)| async move {
                    let some: Vec<Record> = indexes.iter().map(|index| records[*index].clone()).collect();
                    (indexes, self.store_at(peer, &some).await)
                })
                .buffer_unordered(STORE_CALLS_MAX);
            while let Some((indexes, results)) = calls.next().await {
                let Ok(results) = results else { continue };
                for (index, kept) in indexes.into_iter().zip(results) {
                    placements[index].stored.answered += 1;
                    placements[index].stored.kept += usize::from(kept);
                }
            }
        }
        placements.into_iter().map(|placement| placement.stored).collect()
    }

    /// Stores records at one peer, near or not, and tells for each whether it is kept. The peer may be
    /// ourselves.
    ///
    /// # Errors
    ///
    /// Says why there is no answer.
    pub async fn store_at(&self, peer: PeerId, records: &[Record]) -> Result<Vec<bool>, CallError> {
        let items: Vec<StoreItem> = records.iter().map(Record::item).collect();
        if peer == self.peer_id() {
            return Ok(self.keep_all(peer, items).await);
        }
        let mut kept = Vec::new();
        for batch in batches(items) {
            kept.extend(self.call_store(peer, batch).await?);
        }
        Ok(kept)
    }

    /// Any value under the key that has not expired: the first one found.
    pub async fn get(&self, key: Id) -> Option<Found> {
        self.get_many(&[key], Goal::AnyValue).await.pop().flatten()
    }

    /// The latest value under the key, for which all nodes near to it are asked.
    pub async fn get_latest(&self, key: Id) -> Option<Found> {
        self.get_many(&[key], Goal::LatestValue).await.pop().flatten()
    }

    /// What is kept under each of the keys.
    pub async fn get_many(&self, keys: &[Id], goal: Goal) -> Vec<Option<Found>> {
        let now = self.now();
        let own: Vec<Option<Found>> =
            keys.iter().map(|key| self.local(key).and_then(|value| Found::check(*key, value, now))).collect();
        let enough = |known: &Option<Found>| goal == Goal::AnyValue && known.is_some();
        let open: Vec<usize> = (0..keys.len()).filter(|index| !enough(&own[*index])).collect();
        let mut results = own.clone();
        let asked: Vec<Id> = open.iter().map(|index| keys[*index]).collect();
        let known = open.iter().map(|index| own[*index].clone()).collect();
        let outcomes = search(self, &asked, known, goal).await;
        for (index, outcome) in open.into_iter().zip(outcomes) {
            if outcome.from_others
                && let Some(found) = &outcome.found
            {
                self.leave_copies(keys[index], found.wire(), outcome.lacking);
            }
            results[index] = outcome.found;
        }
        let pairs = results.into_iter().zip(keys);
        pairs.map(|(found, key)| found.map(|found| found.strip(*key))).collect()
    }

    /// The nodes nearest to each key that can be found; without ourselves.
    pub(super) async fn nearest_nodes(&self, keys: &[Id]) -> Vec<Vec<Node>> {
        let known = vec![None; keys.len()];
        let outcomes = search(self, keys, known, Goal::Nodes).await;
        outcomes.into_iter().map(|outcome| outcome.nearest).collect()
    }

    /// What we keep under a key ourselves: a copy only where it is later.
    pub(super) fn local(&self, key: &Id) -> Option<WireValue> {
        let (state, now) = (self.state(), self.now());
        let kept = state.storage.expiration(key, now);
        let copied = state.cache.expiration(key, now);
        match (kept, copied) {
            (Some(kept), Some(copied)) if copied <= kept => state.storage.get(key, now),
            (Some(_), None) => state.storage.get(key, now),
            _ => state.cache.get(key, now),
        }
    }

    /// Candidates for a key's record, the nearest first.
    fn with_ourselves(&self, key: Id, nearest: &[Node]) -> VecDeque<PeerId> {
        let own = key.distance(&self.id());
        let nearer = nearest.iter().take_while(|node| key.distance(&node.id) < own).count();
        let mut candidates: VecDeque<PeerId> = nearest.iter().map(|node| node.peer).collect();
        if !self.is_client_only() {
            candidates.insert(nearer, self.peer_id());
        }
        candidates
    }

    /// Keeps a copy here and leaves one with the node named.
    fn leave_copies(&self, key: Id, value: WireValue, lacking: Option<PeerId>) {
        let tag = if value.is_dictionary { TAG_DICTIONARY } else { TAG_PLAIN };
        let item = StoreItem {
            key,
            tag: tag.to_vec(),
            value: value.bytes,
            expiration: value.expiration,
            in_cache: true,
        };
        let own = self.peer_id();
        self.errand(move |dht| async move {
            if let Some(peer) = lacking {
                let _ = dht.call_store(peer, vec![item.clone()]).await;
            }
            dht.keep_all(own, vec![item]).await;
        });
    }
}

/// A record on its way to the nodes that shall keep it.
struct Placement {
    candidates: VecDeque<PeerId>,
    stored: Stored,
}

impl Placement {
    /// As many candidates as answers are missing.
    fn next_candidates(&mut self) -> Vec<PeerId> {
        let missing = REPLICAS.saturating_sub(self.stored.answered);
        self.candidates.drain(..missing.min(self.candidates.len())).collect()
    }
}

/// Divides what goes to one peer so that each call stays within a message. An item that alone is longer goes
/// alone, and is refused by the carrier.
pub(super) fn batches(items: Vec<StoreItem>) -> Vec<Vec<StoreItem>> {
    let (mut batches, mut bytes) = (Vec::<Vec<StoreItem>>::new(), 0);
    for item in items {
        let item_bytes = item.tag.len() + item.value.len() + ITEM_OVERHEAD_BYTES;
        bytes += item_bytes;
        match batches.last_mut() {
            Some(batch) if bytes <= BATCH_BYTES_MAX && batch.len() < STORE_KEYS_MAX => batch.push(item),
            _ => {
                batches.push(vec![item]);
                bytes = item_bytes;
            }
        }
    }
    batches
}

/// What an item takes in a message beside its subkey and value: the key, the times and lengths, in bytes.
const ITEM_OVERHEAD_BYTES: usize = 48;
