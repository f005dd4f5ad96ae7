//! The network of nodes: libp2p on smol.
//!
//! It exists so that nodes find each other and speak, and it does not know what models are. [`Fabric`] is the
//! whole of it to the node's other parts; beside it stand the Hivemind DHT and what a node announces there.

mod behaviour;
mod budget;
pub mod call;
mod calls;
mod counters;
mod envelope;
mod error;
mod fabric;
mod frames;
mod gate;
pub mod hivemind;
mod kept;
mod lan;
pub mod limits;
mod peers;
mod relays;
mod settings;
mod status;
mod streams;
mod swarm;
mod transport;

pub use counters::Counts;
pub use error::Error;
pub use fabric::Fabric;
pub use frames::{FrameReceiver, FrameSender, Frames, StreamLimits};
pub use libp2p::identity::Keypair;
pub use libp2p::{Multiaddr, PeerId, StreamProtocol};
pub use peers::{Peer, PeerState};
pub use settings::{PORT, Settings};
pub use status::{Reachability, Status};
