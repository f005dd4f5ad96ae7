//! The messages of the DHT's methods, of `rpc_check` and of `rpc_info`.
//!
//! Wire protocols, sections 4.1 and 5.4. Decoding checks lengths and counts, so that past it a message is
//! within its bounds. `auth` is neither read nor written: neither Petals nor KwaaiNet has an authorizer.

use libp2p::PeerId;

use super::Malformed;
use super::id::Id;
use super::limits::{FIND_KEYS_MAX, NEIGHBOURS_MAX, PEER_ID_BYTES_MAX, STORE_KEYS_MAX, TIME_SECONDS_MAX};
use super::protobuf::{Field, Message, read_fields};

/// What the sender says about itself: its place in the DHT, or nothing if it only asks and serves nobody.
pub type NodeInfo = Option<Id>;

fn node_info(bytes: &[u8]) -> Result<NodeInfo, Malformed> {
    let mut id = None;
    read_fields(bytes, |number, field| {
        if number == 1 {
            let bytes = field.bytes()?;
            id = if bytes.is_empty() { None } else { Some(Id::try_from(bytes)?) };
        }
        Ok(())
    })?;
    Ok(id)
}

/// A client's `NodeInfo` is an empty message, and is written, as Hivemind does.
fn write_node_info(message: Message, field: u32, id: NodeInfo) -> Message {
    let inside = id.map_or_else(Vec::new, |id| Message::default().bytes(1, &id.0).finish());
    message.member(field, &inside)
}

/// Keeps one more member of a repeated field, if it may still have one.
fn push<T>(list: &mut Vec<T>, member: T, count_max: usize, what: &str) -> Result<(), Malformed> {
    if list.len() == count_max {
        return Err(Malformed(format!("the message has more than {count_max} {what}")));
    }
    list.push(member);
    Ok(())
}

fn time(seconds: f64) -> Result<f64, Malformed> {
    if seconds.is_nan() {
        return Err(Malformed("a time in the message is not a number".to_owned()));
    }
    Ok(seconds.clamp(0.0, TIME_SECONDS_MAX))
}

/// Asks whether a node is there, and lets it get to know the asker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PingRequest {
    /// Who asks.
    pub node: NodeInfo,
    /// Whether the callee shall call back to see if the asker can be reached.
    pub validate: bool,
}

impl PingRequest {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<PingRequest, Malformed> {
        let mut request = PingRequest::default();
        read_fields(bytes, |number, field| {
            match number {
                2 => request.node = node_info(field.bytes()?)?,
                3 => request.validate = field.number()? != 0,
                _ => {}
            }
            Ok(())
        })?;
        Ok(request)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let message = write_node_info(Message::default(), 2, self.node);
        message.number(3, self.validate.into()).finish()
    }
}

/// Answers a [`PingRequest`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PingResponse {
    /// Who answers.
    pub node: NodeInfo,
    /// The answerer's clock, in seconds since 1970.
    pub time: f64,
    /// Whether the asker answered when it was called back.
    pub available: bool,
}

impl PingResponse {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<PingResponse, Malformed> {
        let mut response = PingResponse::default();
        read_fields(bytes, |number, field| {
            match number {
                2 => response.node = node_info(field.bytes()?)?,
                4 => response.time = time(field.double()?)?,
                5 => response.available = field.number()? != 0,
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let message = write_node_info(Message::default(), 2, self.node);
        message.double(4, self.time).number(5, self.available.into()).finish()
    }
}

/// One record in a [`StoreRequest`].
#[derive(Clone, Debug, PartialEq)]
pub struct StoreItem {
    /// Where it belongs.
    pub key: Id,
    /// What kind it is (section 4.4): `c0` for a plain value, empty for a whole dictionary, otherwise the
    /// msgpack of the subkey.
    pub tag: Vec<u8>,
    /// The value's bytes.
    pub value: Vec<u8>,
    /// Until when it lives, in seconds since 1970.
    pub expiration: f64,
    /// Whether it is kept as a copy for faster answers only.
    pub in_cache: bool,
}

/// Asks a node to keep records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreRequest {
    /// The records.
    pub items: Vec<StoreItem>,
    /// Who asks.
    pub node: NodeInfo,
}

impl StoreRequest {
    /// Reads it. The message holds five lists side by side; they must have the same length.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<StoreRequest, Malformed> {
        let (mut keys, mut tags, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (mut expirations, mut in_cache) = (Vec::new(), Vec::new());
        let mut node = None;
        read_fields(bytes, |number, field| {
            match number {
                2 => push(&mut keys, Id::try_from(field.bytes()?)?, STORE_KEYS_MAX, "keys")?,
                3 => push(&mut tags, field.bytes()?, STORE_KEYS_MAX, "subkeys")?,
                4 => push(&mut values, field.bytes()?, STORE_KEYS_MAX, "values")?,
                5 => {
                    for seconds in field.doubles()?.iter() {
                        push(&mut expirations, time(*seconds)?, STORE_KEYS_MAX, "expirations")?;
                    }
                }
                6 => {
                    for flag in field.bools()? {
                        push(&mut in_cache, flag, STORE_KEYS_MAX, "cache flags")?;
                    }
                }
                7 => node = node_info(field.bytes()?)?,
                _ => {}
            }
            Ok(())
        })?;
        let count = keys.len();
        if [tags.len(), values.len(), expirations.len(), in_cache.len()] != [count; 4] {
            return Err(Malformed(format!(
                "a store has {count} keys, {} subkeys, {} values, {} expirations and {} cache flags; it has \
                 as many of each",
                tags.len(),
                values.len(),
                expirations.len(),
                in_cache.len()
            )));
        }
        let lists = keys.into_iter().zip(tags).zip(values).zip(expirations).zip(in_cache);
        let items = lists.map(|((((key, tag), value), expiration), in_cache)| StoreItem {
            key,
            tag: tag.to_vec(),
            value: value.to_vec(),
            expiration,
            in_cache,
        });
        Ok(StoreRequest { items: items.collect(), node })
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let items = &self.items;
        let message = Message::default()
            .members(2, &items.iter().map(|item| item.key.0).collect::<Vec<_>>())
            .members(3, &items.iter().map(|item| &item.tag).collect::<Vec<_>>())
            .members(4, &items.iter().map(|item| &item.value).collect::<Vec<_>>())
            .doubles(5, &items.iter().map(|item| item.expiration).collect::<Vec<_>>())
            .bools(6, &items.iter().map(|item| item.in_cache).collect::<Vec<_>>());
        write_node_info(message, 7, self.node).finish()
    }
}

/// Answers a [`StoreRequest`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreResponse {
    /// For each record, whether it is kept.
    pub kept: Vec<bool>,
    /// Who answers.
    pub node: NodeInfo,
}

impl StoreResponse {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<StoreResponse, Malformed> {
        let mut response = StoreResponse::default();
        read_fields(bytes, |number, field| {
            match number {
                2 => {
                    for flag in field.bools()? {
                        push(&mut response.kept, flag, STORE_KEYS_MAX, "results")?;
                    }
                }
                3 => response.node = node_info(field.bytes()?)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        write_node_info(Message::default().bools(2, &self.kept), 3, self.node).finish()
    }
}

/// Asks for what is kept under keys, and who is near to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FindRequest {
    /// The keys.
    pub keys: Vec<Id>,
    /// Who asks.
    pub node: NodeInfo,
}

impl FindRequest {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<FindRequest, Malformed> {
        let mut request = FindRequest::default();
        read_fields(bytes, |number, field| {
            match number {
                2 => push(&mut request.keys, Id::try_from(field.bytes()?)?, FIND_KEYS_MAX, "keys")?,
                3 => request.node = node_info(field.bytes()?)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(request)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let keys: Vec<_> = self.keys.iter().map(|key| key.0).collect();
        write_node_info(Message::default().members(2, &keys), 3, self.node).finish()
    }
}

/// What a node keeps under a key, as it stands on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct WireValue {
    /// Whether it is a dictionary (extension 0x50) or a plain value.
    pub is_dictionary: bool,
    /// The value's bytes.
    pub bytes: Vec<u8>,
    /// Until when it lives, in seconds since 1970; of a dictionary, its latest entry.
    pub expiration: f64,
}

/// A node and how to call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its place in the DHT.
    pub id: Id,
    /// Its peer id.
    pub peer: PeerId,
}

/// The answer for one key of a [`FindRequest`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FindResult {
    /// What the answerer keeps.
    pub value: Option<WireValue>,
    /// Nodes nearer to the key, the nearest first.
    pub nearest: Vec<Node>,
}

impl FindResult {
    fn decode(bytes: &[u8]) -> Result<FindResult, Malformed> {
        let (mut kind, mut value, mut expiration) = (0, &[][..], 0.0);
        let (mut ids, mut peers) = (Vec::new(), Vec::new());
        read_fields(bytes, |number, field| {
            match number {
                1 => kind = field.number()?,
                2 => value = field.bytes()?,
                3 => expiration = time(field.double()?)?,
                // More neighbours than a bucket holds are no harm: the nearest come first.
                4 if ids.len() < NEIGHBOURS_MAX => ids.push(Id::try_from(field.bytes()?)?),
                5 if peers.len() < NEIGHBOURS_MAX => peers.push(peer_id(field)?),
                _ => {}
            }
            Ok(())
        })?;
        if ids.len() != peers.len() {
            return Err(Malformed(format!(
                "a result names {} node ids and {} peer ids; it names as many of each",
                ids.len(),
                peers.len()
            )));
        }
        let is_dictionary = match kind {
            0 => None,
            1 => Some(false),
            2 => Some(true),
            other => return Err(Malformed(format!("a result is of type {other}; types are 0, 1 and 2"))),
        };
        Ok(FindResult {
            value: is_dictionary.map(|is_dictionary| WireValue {
                is_dictionary,
                bytes: value.to_vec(),
                expiration,
            }),
            nearest: ids.into_iter().zip(peers).map(|(id, peer)| Node { id, peer }).collect(),
        })
    }

    /// Its bytes inside a [`FindResponse`].
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Message::default();
        if let Some(value) = &self.value {
            message = message.number(1, 1 + u64::from(value.is_dictionary));
            message = message.bytes(2, &value.bytes).double(3, value.expiration);
        }
        let ids: Vec<_> = self.nearest.iter().map(|node| node.id.0).collect();
        let peers: Vec<_> = self.nearest.iter().map(|node| node.peer.to_bytes()).collect();
        message.members(4, &ids).members(5, &peers).finish()
    }
}

fn peer_id(field: Field) -> Result<PeerId, Malformed> {
    let bytes = field.bytes()?;
    if bytes.len() > PEER_ID_BYTES_MAX {
        return Err(Malformed(format!(
            "a peer id has {} bytes; it has at most {PEER_ID_BYTES_MAX}",
            bytes.len()
        )));
    }
    PeerId::from_bytes(bytes).map_err(|error| Malformed(format!("a peer id is none: {error}")))
}

/// Answers a [`FindRequest`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FindResponse {
    /// A result for each key, in their order.
    pub results: Vec<FindResult>,
    /// Who answers.
    pub node: NodeInfo,
}

impl FindResponse {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<FindResponse, Malformed> {
        let mut response = FindResponse::default();
        read_fields(bytes, |number, field| {
            match number {
                2 => {
                    let result = FindResult::decode(field.bytes()?)?;
                    push(&mut response.results, result, FIND_KEYS_MAX, "results")?;
                }
                3 => response.node = node_info(field.bytes()?)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let results: Vec<_> = self.results.iter().map(FindResult::encode).collect();
        write_node_info(Message::default().members(2, &results), 3, self.node).finish()
    }
}

/// Asks a peer whether it reaches another: a [`PingRequest`] whose node id is a peer id instead.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckRequest {
    /// Who is to be reached.
    pub peer: PeerId,
}

impl CheckRequest {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<CheckRequest, Malformed> {
        let mut peer = None;
        read_fields(bytes, |number, field| {
            if number == 2 {
                read_fields(field.bytes()?, |number, field| {
                    if number == 1 {
                        peer = Some(peer_id(field)?);
                    }
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        let peer = peer.ok_or_else(|| Malformed("a reachability check names no peer".to_owned()))?;
        Ok(CheckRequest { peer })
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let inside = Message::default().bytes(1, &self.peer.to_bytes()).finish();
        Message::default().member(2, &inside).finish()
    }
}

/// The block, or the chain of blocks, that `rpc_info` asks about (`ExpertUID`); empty for none.
pub fn decode_uid(bytes: &[u8]) -> Result<String, Malformed> {
    let mut uid = String::new();
    read_fields(bytes, |number, field| {
        if number == 1 {
            uid = field.text()?.to_owned();
        }
        Ok(())
    })?;
    Ok(uid)
}

/// An `ExpertInfo` around the msgpack of what is told.
pub fn encode_info(info: &[u8]) -> Vec<u8> {
    Message::default().bytes(1, info).finish()
}
