//! Answering other nodes.
//!
//! Wire protocols, section 4.7. Handlers hold no node alive: when the last handle of a [`Dht`] is gone, they
//! refuse.

use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::PeerId;
use smol::future::yield_now;

use super::Malformed;
use super::dht::{Dht, FIND, Inner, PING, STORE};
use super::dictionary::{Dictionary, Entry, Subkey, TAG_DICTIONARY, TAG_PLAIN};
use super::id::Id;
use super::limits::{
    ANSWER_TIME_MAX, CALLS_MAX, CALLS_PER_PEER_MAX, KEYS_AT_ONCE, LIFE_SECONDS_MAX, MESSAGE_BYTES_MAX,
    NEIGHBOURS_MAX, RESULT_BYTES_MAX, VALUE_BYTES_MAX,
};
use super::messages::{
    FindRequest, FindResponse, FindResult, Node, NodeInfo, PingRequest, PingResponse, StoreItem,
    StoreRequest, StoreResponse,
};
use super::storage::Kept;
use super::validators;
use crate::call::{CallHandler, CallLimits, Served};

/// What every method of the DHT may cost.
const LIMITS: CallLimits = CallLimits {
    request_bytes_max: MESSAGE_BYTES_MAX,
    answer_bytes_max: MESSAGE_BYTES_MAX,
    calls_max: CALLS_MAX,
    calls_per_peer_max: CALLS_PER_PEER_MAX,
    deadline: ANSWER_TIME_MAX,
};

#[derive(Clone, Copy)]
enum Method {
    Ping,
    Store,
    Find,
}

struct Handler {
    dht: Weak<Inner>,
    method: Method,
}

impl CallHandler for Handler {
    fn answer(&self, from: PeerId, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let dht = self.dht.upgrade().map(|inner| Dht { inner });
        let method = self.method;
        async move {
            let dht = dht.filter(|dht| !dht.is_client_only());
            let dht = dht.ok_or("this node keeps no records for others")?;
            let answer = match method {
                Method::Ping => dht.answer_ping(from, &request).await,
                Method::Store => dht.answer_store(from, &request).await,
                Method::Find => dht.answer_find(from, &request).await,
            };
            answer.map_err(|malformed| malformed.to_string())
        }
        .boxed()
    }
}

impl Dht {
    /// The methods that other nodes call, for the fabric to serve.
    pub fn handlers(&self) -> [Served; 3] {
        [(PING, Method::Ping), (STORE, Method::Store), (FIND, Method::Find)].map(|(name, method)| {
            let handler = Handler { dht: Arc::downgrade(&self.inner), method };
            (name, LIMITS, Arc::new(handler) as Arc<dyn CallHandler>)
        })
    }

    async fn answer_ping(&self, from: PeerId, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let request = PingRequest::decode(request)?;
        let mut available = false;
        if let Some(id) = request.node {
            if request.validate {
                let back = self.ping(from, false).await;
                available = back.is_ok_and(|response| response.node == Some(id));
            }
            if available || !request.validate {
                self.heard_of(Node { id, peer: from });
            }
        }
        Ok(PingResponse { node: self.node_info(), time: self.now(), available }.encode())
    }

    async fn answer_store(&self, from: PeerId, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let request = StoreRequest::decode(request)?;
        self.caller(from, request.node);
        let kept = self.keep_all(from, request.items).await;
        Ok(StoreResponse { kept, node: self.node_info() }.encode())
    }

    async fn answer_find(&self, from: PeerId, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let request = FindRequest::decode(request)?;
        self.caller(from, request.node);
        let mut results = Vec::with_capacity(request.keys.len());
        // Who asks gets an answer for every key; what does not fit into it is left to other nodes.
        let mut bytes_left = MESSAGE_BYTES_MAX - request.keys.len() * RESULT_BYTES_MAX;
        for some in request.keys.chunks(KEYS_AT_ONCE) {
            for key in some {
                let value = self.local(key).filter(|value| value.bytes.len() <= bytes_left);
                bytes_left -= value.as_ref().map_or(0, |value| value.bytes.len());
                let nearest = self.state().table.nearest(key, NEIGHBOURS_MAX, Some(&from));
                results.push(FindResult { value, nearest });
            }
            yield_now().await;
        }
        Ok(FindResponse { results, node: self.node_info() }.encode())
    }

    /// A caller that says where it is, is there.
    fn caller(&self, peer: PeerId, node: NodeInfo) {
        if let Some(id) = node {
            self.heard_of(Node { id, peer });
        }
    }

    /// Keeps what `from` brings, and tells for each item whether it is kept. The protocol has no words for
    /// why not.
    pub(super) async fn keep_all(&self, from: PeerId, items: Vec<StoreItem>) -> Vec<bool> {
        let mut kept = Vec::with_capacity(items.len());
        let mut steps = 0;
        for StoreItem { key, tag, value, expiration, in_cache } in items {
            let place = |subkey| Place { key, subkey, in_cache };
            let leaves = match tag.as_slice() {
                TAG_PLAIN => vec![(place(None), Entry { value, expiration })],
                TAG_DICTIONARY => {
                    let dictionary = Dictionary::decode(&value).unwrap_or_default();
                    let entries = dictionary.entries.into_iter();
                    entries.map(|(subkey, entry)| (place(Some(subkey)), entry)).collect()
                }
                tag => match Subkey::decode(tag) {
                    Ok(subkey) => vec![(place(Some(subkey)), Entry { value, expiration })],
                    Err(_) => Vec::new(),
                },
            };
            let mut all_kept = !leaves.is_empty();
            for (place, entry) in leaves {
                all_kept &= self.keep(from, place, entry);
                steps += 1;
                if steps % KEYS_AT_ONCE == 0 {
                    yield_now().await;
                }
            }
            kept.push(all_kept);
        }
        kept
    }

    fn keep(&self, from: PeerId, place: Place, entry: Entry) -> bool {
        let now = self.now();
        let subkey = place.subkey.as_ref();
        let expiration = entry.expiration.min(now + LIFE_SECONDS_MAX);
        // A signature is over the expiration too, so what is signed can't be shortened.
        let is_too_long = expiration < entry.expiration && validators::is_owned(subkey);
        let is_valid = validators::check(place.key, subkey, &entry.value, entry.expiration).is_ok();
        if entry.value.len() > VALUE_BYTES_MAX || is_too_long || !is_valid {
            return false;
        }
        let kept = Kept { value: entry.value, expiration, from };
        let mut state = self.state();
        let storage = if place.in_cache { &mut state.cache } else { &mut state.storage };
        match place.subkey {
            None => storage.store_plain(place.key, kept, now),
            Some(subkey) => storage.store_entry(place.key, subkey, kept, now),
        }
    }
}

/// Where one value of a store request goes.
struct Place {
    key: Id,
    subkey: Option<Subkey>,
    in_cache: bool,
}
