//! Who may have a connection.
//!
//! Every connection, in and out, passes here before anything else sees it: limits in all, for each peer and
//! for each subnet, the block list, and the LAN's border. libp2p's own behaviour for limits knows no subnets
//! and keeps something of every peer that ever came.
//!
//! A limit on the process's memory is left out on purpose: weights are mapped files, which count as memory of
//! the process, so a node with a model would let nobody in. What connections can hold is bounded by their
//! number instead (see the crate's limits).

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure, ListenFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::counters::Counters;
use crate::limits::{
    CONNECTIONS_HERE_MAX, CONNECTIONS_INBOUND_MAX, CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX,
    CONNECTIONS_PER_SUBNET_MAX, CONNECTIONS_RELAYED_MAX, DIALS_MAX, HANDSHAKES_HERE_MAX,
    HANDSHAKES_INBOUND_MAX, HANDSHAKES_PER_SUBNET_MAX,
};
use crate::peers::{Book, is_relayed};
use crate::transport::{Scope, is_local};

/// Addresses that probably belong to one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subnet {
    V4([u8; 3]),
    V6([u16; 3]),
    /// One machine of a private network, or this one.
    Host(IpAddr),
    /// Through a relay: the peer's own address is not known.
    Relayed,
}

impl Subnet {
    fn of(address: &Multiaddr) -> Subnet {
        let ip = ip_of(address);
        match ip {
            _ if is_relayed(address) => Subnet::Relayed,
            None => Subnet::Relayed,
            Some(ip) if is_local(ip) => Subnet::Host(ip),
            Some(IpAddr::V4(ip)) => {
                let [a, b, c, _] = ip.octets();
                Subnet::V4([a, b, c])
            }
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, ..] = ip.segments();
                Subnet::V6([a, b, c])
            }
        }
    }

    fn connections_max(self) -> usize {
        match self {
            Subnet::Host(ip) if ip.is_loopback() => CONNECTIONS_HERE_MAX,
            Subnet::V4(_) | Subnet::V6(_) | Subnet::Host(_) => CONNECTIONS_PER_SUBNET_MAX,
            Subnet::Relayed => CONNECTIONS_RELAYED_MAX,
        }
    }

    fn handshakes_max(self) -> usize {
        match self {
            Subnet::Host(ip) if ip.is_loopback() => HANDSHAKES_HERE_MAX,
            Subnet::V4(_) | Subnet::V6(_) | Subnet::Host(_) => HANDSHAKES_PER_SUBNET_MAX,
            Subnet::Relayed => HANDSHAKES_HERE_MAX,
        }
    }
}

/// The IP address that an address begins with.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.to_ipv4_mapped().map_or(ip.into(), IpAddr::V4)),
        _ => None,
    }
}

/// Why a connection was refused.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

impl std::error::Error for Refusal {}

/// The gate, which also tells the addresses of peers that are dialled.
pub(crate) struct Gate {
    own: PeerId,
    scope: Scope,
    blocked: HashSet<PeerId>,
    pub(crate) book: Book,
    counters: Arc<Counters>,
    handshakes: HashMap<ConnectionId, Subnet>,
    dials: HashSet<ConnectionId>,
    connections: HashMap<ConnectionId, Connection>,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    peer: PeerId,
    subnet: Subnet,
    inbound: bool,
    /// The other end is on this machine.
    here: bool,
}

impl Gate {
    pub(crate) fn new(
        own: PeerId,
        scope: Scope,
        blocked: impl IntoIterator<Item = PeerId>,
        counters: Arc<Counters>,
    ) -> Self {
        Gate {
            own,
            scope,
            blocked: blocked.into_iter().collect(),
            book: Book::new(own),
            counters,
            handshakes: HashMap::new(),
            dials: HashSet::new(),
            connections: HashMap::new(),
        }
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Connections that are being opened by us.
    pub(crate) fn dials(&self) -> usize {
        self.dials.len()
    }

    /// Whether a connection to `peer` comes from or leads to this machine itself.
    pub(crate) fn is_on_this_machine(&self, peer: PeerId) -> bool {
        self.connections.values().any(|connection| connection.peer == peer && connection.here)
    }

    fn refuse<T>(&self, what: String) -> Result<T, ConnectionDenied> {
        self.counters.connections_refused.add(1);
        Err(ConnectionDenied::new(Refusal(what)))
    }

    fn check(&self, what: &str, count: usize, count_max: usize) -> Result<(), ConnectionDenied> {
        if count >= count_max {
            return self.refuse(format!("{count} {what}, that is all there may be"));
        }
        Ok(())
    }

    fn check_handshake(&self, remote: &Multiaddr) -> Result<Subnet, ConnectionDenied> {
        let subnet = Subnet::of(remote);
        if self.scope == Scope::Lan && !matches!(subnet, Subnet::Host(_) | Subnet::Relayed) {
            return self.refuse(format!("{remote} is outside, and the node is LAN-only"));
        }
        self.check("incoming handshakes", self.handshakes.len(), HANDSHAKES_INBOUND_MAX)?;
        let same = self.handshakes.values().filter(|other| **other == subnet).count();
        self.check("incoming handshakes from one subnet", same, subnet.handshakes_max())?;
        self.check("connections", self.connections.len(), CONNECTIONS_MAX)?;
        Ok(subnet)
    }

    fn check_connection(
        &self,
        peer: PeerId,
        remote: &Multiaddr,
        inbound: bool,
    ) -> Result<(), ConnectionDenied> {
        if self.blocked.contains(&peer) {
            return self.refuse(format!("{peer} is blocked"));
        }
        let count = |fits: &dyn Fn(&Connection) -> bool| {
            self.connections.values().filter(|connection| fits(connection)).count()
        };
        self.check("connections", self.connections.len(), CONNECTIONS_MAX)?;
        let own = count(&|connection| connection.peer == peer);
        self.check("connections to one peer", own, CONNECTIONS_PER_PEER_MAX)?;
        if inbound {
            let inbound = count(&|connection| connection.inbound);
            self.check("incoming connections", inbound, CONNECTIONS_INBOUND_MAX)?;
            let subnet = Subnet::of(remote);
            let same = count(&|connection| connection.subnet == subnet);
            self.check("connections with one subnet", same, subnet.connections_max())?;
        }
        Ok(())
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let subnet = self.check_handshake(remote)?;
        self.handshakes.insert(id, subnet);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handshakes.remove(&id);
        // Through a relay, only the local side's address says so.
        self.check_connection(peer, if is_relayed(local) { local } else { remote }, true)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if peer == Some(self.own) {
            return self.refuse("a node does not dial itself".to_owned());
        }
        if let Some(peer) = peer
            && self.blocked.contains(&peer)
        {
            return self.refuse(format!("{peer} is blocked"));
        }
        self.check("dials", self.dials.len(), DIALS_MAX)?;
        self.check("connections", self.connections.len(), CONNECTIONS_MAX)?;
        self.dials.insert(id);
        Ok(peer.map(|peer| self.book.addresses(peer)).unwrap_or_default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.dials.remove(&id);
        self.check_connection(peer, remote, false)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                let relayed = ConnectedPoint::is_relayed(endpoint);
                let subnet = match relayed {
                    true => Subnet::Relayed,
                    false => Subnet::of(endpoint.get_remote_address()),
                };
                let here = ip_of(endpoint.get_remote_address()).is_some_and(|ip| ip.is_loopback());
                let (peer, inbound) = (peer_id, endpoint.is_listener());
                self.connections.insert(connection_id, Connection { peer, subnet, inbound, here });
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.connections.remove(&connection_id);
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.handshakes.remove(&connection_id);
            }
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => {
                self.dials.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(scope: Scope) -> Gate {
        Gate::new(PeerId::random(), scope, [], Arc::default())
    }

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn connect(gate: &mut Gate, number: usize, peer: PeerId, remote: &str) -> Result<(), ConnectionDenied> {
        gate.check_connection(peer, &address(remote), true)?;
        let connection =
            Connection { peer, subnet: Subnet::of(&address(remote)), inbound: true, here: false };
        gate.connections.insert(ConnectionId::new_unchecked(number), connection);
        Ok(())
    }

    #[test]
    fn a_peer_gets_so_many_connections() {
        let (mut gate, peer) = (gate(Scope::Everywhere), PeerId::random());
        for number in 0..CONNECTIONS_PER_PEER_MAX {
            connect(&mut gate, number, peer, "/ip4/1.2.3.4/tcp/1").unwrap();
        }
        assert!(connect(&mut gate, 99, peer, "/ip4/1.2.3.4/tcp/1").is_err());
        assert!(connect(&mut gate, 99, PeerId::random(), "/ip4/1.2.3.4/tcp/1").is_ok());
    }

    #[test]
    fn a_subnet_gets_so_many_connections_and_leaves_room_for_others() {
        let mut gate = gate(Scope::Everywhere);
        for number in 0..CONNECTIONS_PER_SUBNET_MAX {
            connect(&mut gate, number, PeerId::random(), &format!("/ip4/1.2.3.{number}/tcp/1")).unwrap();
        }
        assert!(connect(&mut gate, 98, PeerId::random(), "/ip4/1.2.3.200/tcp/1").is_err());
        assert!(connect(&mut gate, 98, PeerId::random(), "/ip4/1.2.4.1/tcp/1").is_ok());
        for number in 0..CONNECTIONS_PER_SUBNET_MAX {
            let remote = format!("/ip6/2001:db8:1:{number}::1/tcp/1");
            connect(&mut gate, 100 + number, PeerId::random(), &remote).unwrap();
        }
        assert!(connect(&mut gate, 99, PeerId::random(), "/ip6/2001:db8:1:ffff::1/tcp/1").is_err());
        assert!(connect(&mut gate, 99, PeerId::random(), "/ip6/2001:db8:2::1/tcp/1").is_ok());
    }

    #[test]
    fn on_a_lan_each_machine_has_its_share_and_this_one_a_larger() {
        for (remote, count_max, other) in [
            ("/ip4/192.168.1.2/tcp/1", CONNECTIONS_PER_SUBNET_MAX, "/ip4/192.168.1.3/tcp/1"),
            ("/ip4/127.0.0.1/tcp/1", CONNECTIONS_HERE_MAX, "/ip4/127.0.0.2/tcp/1"),
        ] {
            let mut gate = gate(Scope::Everywhere);
            for number in 0..count_max {
                connect(&mut gate, number, PeerId::random(), remote).unwrap();
            }
            assert!(connect(&mut gate, 200, PeerId::random(), remote).is_err());
            assert!(connect(&mut gate, 201, PeerId::random(), other).is_ok());
        }
        let mut gate = gate(Scope::Everywhere);
        let relayed = format!("/ip4/1.2.3.4/tcp/1/p2p/{}/p2p-circuit", PeerId::random());
        for number in 0..CONNECTIONS_RELAYED_MAX {
            connect(&mut gate, number, PeerId::random(), &relayed).unwrap();
        }
        assert!(connect(&mut gate, 200, PeerId::random(), &relayed).is_err());
    }

    #[test]
    fn incoming_connections_leave_room_for_our_own() {
        let mut gate = gate(Scope::Everywhere);
        for number in 0..CONNECTIONS_INBOUND_MAX {
            let remote = format!("/ip4/1.2.{number}.1/tcp/1");
            connect(&mut gate, number, PeerId::random(), &remote).unwrap();
        }
        let stranger = PeerId::random();
        assert!(connect(&mut gate, 999, stranger, "/ip4/9.9.9.9/tcp/1").is_err());
        assert!(gate.check_connection(stranger, &address("/ip4/9.9.9.9/tcp/1"), false).is_ok());
    }

    #[test]
    fn handshakes_are_bounded_in_all_and_for_each_subnet() {
        let mut gate = gate(Scope::Everywhere);
        let mut begin = |number: usize, remote: String| {
            let remote = address(&remote);
            gate.handle_pending_inbound_connection(ConnectionId::new_unchecked(number), &remote, &remote)
        };
        for number in 0..HANDSHAKES_PER_SUBNET_MAX {
            begin(number, format!("/ip4/1.2.3.{number}/tcp/1")).unwrap();
        }
        assert!(begin(90, "/ip4/1.2.3.99/tcp/1".to_owned()).is_err());
        for number in HANDSHAKES_PER_SUBNET_MAX..HANDSHAKES_INBOUND_MAX {
            begin(number, format!("/ip4/1.{number}.3.1/tcp/1")).unwrap();
        }
        assert!(begin(91, "/ip4/9.9.9.9/tcp/1".to_owned()).is_err());
    }

    #[test]
    fn dials_are_bounded() {
        let mut gate = gate(Scope::Everywhere);
        let mut dial = |number| {
            let id = ConnectionId::new_unchecked(number);
            gate.handle_pending_outbound_connection(id, None, &[], Endpoint::Dialer)
        };
        for number in 0..DIALS_MAX {
            dial(number).unwrap();
        }
        assert!(dial(DIALS_MAX).is_err());
    }

    #[test]
    fn a_blocked_peer_gets_no_connection_either_way() {
        let peer = PeerId::random();
        let mut gate = Gate::new(PeerId::random(), Scope::Everywhere, [peer], Arc::default());
        assert!(gate.check_connection(peer, &address("/ip4/1.2.3.4/tcp/1"), true).is_err());
        let id = ConnectionId::new_unchecked(1);
        assert!(gate.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer).is_err());
    }

    #[test]
    fn a_lan_only_node_lets_nobody_in_from_outside() {
        let gate = gate(Scope::Lan);
        assert!(gate.check_handshake(&address("/ip4/192.168.1.7/tcp/1")).is_ok());
        assert!(gate.check_handshake(&address("/ip4/8.8.8.8/tcp/1")).is_err());
        assert!(gate.check_handshake(&address("/ip6/::ffff:8.8.8.8/tcp/1")).is_err());
    }
}
