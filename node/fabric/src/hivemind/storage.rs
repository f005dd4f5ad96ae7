//! The records that a node keeps for others, within a fixed number of bytes and fairly.
//!
//! Wire protocols, section 4.6. A record is a plain value or a dictionary of entries; each value and each
//! entry has an expiration, and only a later one replaces it. Two things are ours. First, when the room is
//! full, the peer that takes most of it loses what expires first, so a flood only drowns itself; the same
//! holds inside a dictionary. Second, an entry whose subkey is a peer id belongs to that peer: what it stored
//! itself stands until it expires, and others can't replace it.
//!
//! Every step costs O(log n): what is evicted is found by order, never by search.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};
use std::hash::BuildHasher;

use libp2p::PeerId;

use super::dictionary::{Subkey, encode_entries};
use super::id::Id;
use super::limits::{DICTIONARY_BYTES_MAX, ENTRY_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES};
use super::messages::WireValue;

/// A time in seconds since 1970 that is a number, so that times have an order.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Time(f64);

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Time) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Time) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A peer for whom something is kept: its id's hash under a secret key, since ids are long and come with
/// every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Owner(u64);

/// A value and its rights.
struct Leaf {
    value: Box<[u8]>,
    expiration: Time,
    owner: Owner,
    /// Whether its subkey is the id of the peer that stored it.
    by_its_peer: bool,
}

/// Where a leaf lies.
type Place = (Id, Option<Subkey>);

enum Record {
    Plain(Leaf),
    Dictionary {
        /// The latest expiration that any entry ever had, which is what a plain value has to beat.
        latest: Time,
        entries: BTreeMap<Subkey, Leaf>,
        shares: Shares<Subkey>,
    },
}

/// Who takes how much of a room.
struct Shares<Item> {
    bytes: usize,
    accounts: HashMap<Owner, Account<Item>>,
    by_weight: BTreeSet<(usize, Owner)>,
}

struct Account<Item> {
    bytes: usize,
    items: BTreeSet<(Time, Item)>,
}

impl<Item: Ord + Clone> Shares<Item> {
    fn new() -> Shares<Item> {
        Shares { bytes: 0, accounts: HashMap::new(), by_weight: BTreeSet::new() }
    }

    fn add(&mut self, owner: Owner, time: Time, item: Item, bytes: usize) {
        let account =
            self.accounts.entry(owner).or_insert_with(|| Account { bytes: 0, items: BTreeSet::new() });
        self.by_weight.remove(&(account.bytes, owner));
        account.bytes += bytes;
        account.items.insert((time, item));
        self.by_weight.insert((account.bytes, owner));
        self.bytes += bytes;
    }

    fn remove(&mut self, owner: Owner, time: Time, item: Item, bytes: usize) {
        let hash_map::Entry::Occupied(mut entry) = self.accounts.entry(owner) else { return };
        let account = entry.get_mut();
        self.by_weight.remove(&(account.bytes, owner));
        account.bytes -= bytes;
        account.items.remove(&(time, item));
        self.bytes -= bytes;
        if account.items.is_empty() {
            entry.remove();
        } else {
            self.by_weight.insert((account.bytes, owner));
        }
    }

    /// What goes first: of the peer that takes most, what expires first.
    fn first_to_go(&self) -> Option<Item> {
        let (_, owner) = self.by_weight.last()?;
        let (_, item) = self.accounts.get(owner)?.items.first()?;
        Some(item.clone())
    }
}

/// One room for records.
pub struct Storage {
    bytes_max: usize,
    records: HashMap<Id, Record>,
    by_time: BTreeSet<(Time, Place)>,
    shares: Shares<Place>,
    owners: std::hash::RandomState,
}

/// A value to be kept: what it is, until when, and who brought it.
pub struct Kept {
    /// The value's bytes.
    pub value: Vec<u8>,
    /// Until when, in seconds since 1970; a number.
    pub expiration: f64,
    /// The peer that brought it.
    pub from: PeerId,
}

impl Storage {
    /// An empty room of so many bytes.
    pub fn new(bytes_max: usize) -> Storage {
        Storage {
            bytes_max,
            records: HashMap::new(),
            by_time: BTreeSet::new(),
            shares: Shares::new(),
            owners: std::hash::RandomState::new(),
        }
    }

    /// Bytes taken, with what the indexes cost.
    pub fn bytes(&self) -> usize {
        self.shares.bytes
    }

    /// Values and entries kept.
    pub fn count(&self) -> usize {
        self.by_time.len()
    }

    /// The keys under which something is kept.
    pub fn keys(&self) -> impl Iterator<Item = Id> {
        self.records.keys().copied()
    }

    /// Keeps a plain value under `key`, if it is later than what is there. Tells whether it is kept.
    pub fn store_plain(&mut self, key: Id, kept: Kept, now: f64) -> bool {
        self.drop_expired(now);
        let expiration = Time(kept.expiration);
        let stale = self.records.get(&key).is_none_or(|record| match record {
            Record::Plain(leaf) => leaf.expiration < expiration,
            Record::Dictionary { latest, .. } => *latest < expiration,
        });
        if kept.expiration <= now || !stale {
            return false;
        }
        self.remove_record(key);
        let leaf = self.leaf(kept, None);
        self.insert((key, None), leaf)
    }

    /// Keeps an entry under `key` and `subkey`, if it is later than what is there. Tells whether it is kept.
    pub fn store_entry(&mut self, key: Id, subkey: Subkey, kept: Kept, now: f64) -> bool {
        self.drop_expired(now);
        let expiration = Time(kept.expiration);
        let new = self.leaf(kept, Some(&subkey));
        let known = match self.records.get(&key) {
            None => None,
            Some(Record::Plain(leaf)) if leaf.expiration < expiration => {
                self.remove_record(key);
                None
            }
            Some(Record::Plain(_)) => return false,
            Some(Record::Dictionary { entries, .. }) => entries.get(&subkey),
        };
        let stale = known.is_none_or(|known| match (known.by_its_peer, new.by_its_peer) {
            (true, false) => false,
            (false, true) => true,
            _ => known.expiration < expiration,
        });
        if expiration.0 <= now || !stale {
            return false;
        }
        let place = (key, Some(subkey));
        self.remove(&place);
        self.insert(place, new)
    }

    /// What is kept under `key`, without what has expired.
    pub fn get(&self, key: &Id, now: f64) -> Option<WireValue> {
        match self.records.get(key)? {
            Record::Plain(leaf) if leaf.expiration.0 > now => Some(WireValue {
                is_dictionary: false,
                bytes: leaf.value.to_vec(),
                expiration: leaf.expiration.0,
            }),
            Record::Plain(_) => None,
            Record::Dictionary { latest, entries, .. } => {
                let live: Vec<_> = entries.iter().filter(|(_, leaf)| leaf.expiration.0 > now).collect();
                let entries = live.iter().map(|(subkey, leaf)| (*subkey, &leaf.value[..], leaf.expiration.0));
                (!live.is_empty()).then(|| WireValue {
                    is_dictionary: true,
                    bytes: encode_entries(latest.0, entries),
                    expiration: latest.0,
                })
            }
        }
    }

    /// When what is kept under `key` expires.
    pub fn expiration(&self, key: &Id, now: f64) -> Option<f64> {
        let expiration = match self.records.get(key)? {
            Record::Plain(leaf) => leaf.expiration.0,
            Record::Dictionary { latest, .. } => latest.0,
        };
        (expiration > now).then_some(expiration)
    }

    /// Drops what has expired. What is dropped was stored once, so its cost is that of the stores.
    pub fn drop_expired(&mut self, now: f64) {
        while let Some((time, place)) = self.by_time.first()
            && time.0 <= now
        {
            let place = place.clone();
            self.remove(&place);
        }
    }

    fn leaf(&self, kept: Kept, subkey: Option<&Subkey>) -> Leaf {
        let named = subkey.and_then(|subkey| subkey.value().as_text().map(str::to_owned));
        Leaf {
            value: kept.value.into(),
            expiration: Time(kept.expiration),
            owner: Owner(self.owners.hash_one(kept.from)),
            by_its_peer: named.is_some_and(|text| text == kept.from.to_base58()),
        }
    }

    /// Puts a leaf into an empty place, and makes room for it. Tells whether it stayed.
    fn insert(&mut self, place: Place, leaf: Leaf) -> bool {
        let (owner, expiration, value_bytes) = (leaf.owner, leaf.expiration, leaf.value.len());
        let (key, subkey) = place.clone();
        let mut crowded = None;
        match subkey {
            None => {
                self.records.insert(key, Record::Plain(leaf));
            }
            Some(subkey) => {
                let record = self.records.entry(key).or_insert_with(|| Record::Dictionary {
                    latest: expiration,
                    entries: BTreeMap::new(),
                    shares: Shares::new(),
                });
                let Record::Dictionary { latest, entries, shares } = record else { return false };
                *latest = expiration.max(*latest);
                shares.add(owner, expiration, subkey.clone(), entry_bytes(&subkey, value_bytes));
                entries.insert(subkey, leaf);
                if shares.bytes > DICTIONARY_BYTES_MAX {
                    crowded = Some(key);
                }
            }
        }
        self.shares.add(owner, expiration, place.clone(), leaf_bytes(&place.1, value_bytes));
        self.by_time.insert((expiration, place.clone()));
        if let Some(key) = crowded {
            while let Some(Record::Dictionary { shares, .. }) = self.records.get(&key)
                && shares.bytes > DICTIONARY_BYTES_MAX
                && let Some(subkey) = shares.first_to_go()
            {
                self.remove(&(key, Some(subkey)));
            }
        }
        while self.shares.bytes > self.bytes_max
            && let Some(place) = self.shares.first_to_go()
        {
            self.remove(&place);
        }
        self.by_time.contains(&(expiration, place))
    }

    fn remove_record(&mut self, key: Id) {
        let places: Vec<Place> = match self.records.get(&key) {
            None => return,
            Some(Record::Plain(_)) => vec![(key, None)],
            Some(Record::Dictionary { entries, .. }) => {
                entries.keys().map(|subkey| (key, Some(subkey.clone()))).collect()
            }
        };
        places.iter().for_each(|place| self.remove(place));
    }

    fn remove(&mut self, place: &Place) {
        let hash_map::Entry::Occupied(mut record) = self.records.entry(place.0) else { return };
        let leaf = match (record.get_mut(), &place.1) {
            (Record::Plain(_), None) => match record.remove() {
                Record::Plain(leaf) => leaf,
                Record::Dictionary { .. } => return,
            },
            (Record::Dictionary { entries, shares, .. }, Some(subkey)) => {
                let Some(leaf) = entries.remove(subkey) else { return };
                let bytes = entry_bytes(subkey, leaf.value.len());
                shares.remove(leaf.owner, leaf.expiration, subkey.clone(), bytes);
                if entries.is_empty() {
                    record.remove();
                }
                leaf
            }
            _ => return,
        };
        self.by_time.remove(&(leaf.expiration, place.clone()));
        let bytes = leaf_bytes(&place.1, leaf.value.len());
        self.shares.remove(leaf.owner, leaf.expiration, place.clone(), bytes);
    }
}

/// What a leaf takes of the room.
fn leaf_bytes(subkey: &Option<Subkey>, value_bytes: usize) -> usize {
    RECORD_OVERHEAD_BYTES + subkey.as_ref().map_or(0, |subkey| subkey.bytes().len()) + value_bytes
}

/// What an entry takes of its dictionary, and at most of an answer.
fn entry_bytes(subkey: &Subkey, value_bytes: usize) -> usize {
    ENTRY_OVERHEAD_BYTES + subkey.bytes().len() + value_bytes
}

#[cfg(test)]
mod tests;
