//! The Hivemind DHT: where nodes of Hivemind, Petals and KwaaiNet find each other's records.
//!
//! It is apart from libp2p's Kademlia, which finds the addresses of a peer: this one keeps small records with
//! an expiration, under 160-bit keys, on the nodes nearest to them. Wire protocols, section 4, describes it;
//! [`Dht`] is a node of it, client and server. The rest are what other peers ask of a node that
//! wants to be found and counted: [`announce`] says what it serves, [`petals`] answers `rpc_info`,
//! [`reachability`] answers `rpc_check`.
//!
//! It asks and answers through [`crate::call`] alone, so a test's network is as good as a real one.

use std::fmt;

pub mod announce;
mod clock;
mod dht;
pub mod dictionary;
mod failures;
mod handover;
pub mod id;
pub mod limits;
pub mod messages;
pub mod msgpack;
pub mod petals;
mod protobuf;
pub mod reachability;
mod records;
mod routing;
mod rsa_key;
mod search;
mod server;
mod storage;
pub mod validators;

pub use clock::Clock;
pub use dht::{Dht, FIND, Joined, PING, STORE, Settings, Status};
pub use records::{Found, Record, Stored};
pub use search::Goal;

/// Why a message or a record from elsewhere is refused, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}
