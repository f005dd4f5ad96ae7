//! What the network tells of itself.

use libp2p::{Multiaddr, PeerId};

use crate::counters::Counts;
use crate::peers::PeerState;

/// Whether others can open connections to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reachability {
    /// Nobody has tried yet.
    #[default]
    Unknown,
    /// A peer outside could.
    Public,
    /// Peers outside could not: a NAT or a firewall is between.
    Private,
}

impl Reachability {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Reachability::Unknown => "unknown",
            Reachability::Public => "public",
            Reachability::Private => "private",
        }
    }
}

/// The network at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who we are.
    pub peer_id: PeerId,
    /// The swarm's name, or nothing for the common one.
    pub swarm_name: String,
    /// Where we listen.
    pub listen: Vec<Multiaddr>,
    /// Where others can reach us, as found out or configured.
    pub external: Vec<Multiaddr>,
    /// Where others can reach us through a relay.
    pub relayed: Vec<Multiaddr>,
    /// Whether others can reach us.
    pub reachability: Reachability,
    /// How many peers are in each state.
    pub peers: [(PeerState, usize); 4],
    /// Connections that are open.
    pub connections: usize,
    /// Peers in the routing table of our swarm.
    pub own_routing: usize,
    /// Peers in the routing table that is shared with Hivemind's peers.
    pub common_routing: usize,
    /// Bytes, streams and calls.
    pub counts: Counts,
}
