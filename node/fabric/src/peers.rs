//! The book of peers: who is known, how far we came with each, and whom to dial when.
//!
//! Pure bookkeeping without a socket or a clock of its own, so that each rule is tested as it is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::limits::{
    ADDRESS_BYTES_MAX, ADDRESSES_PER_PEER_MAX, AGENT_BYTES_MAX, LAN_COURTESY, LAN_PEERS_MAX,
    NEIGHBOURS_WANTED, PEERS_KEPT_MAX, PEERS_MAX, PROTOCOLS_PER_PEER_MAX, REASON_BYTES_MAX, REDIAL_TIME_MAX,
    REDIAL_TIME_MIN, REDIALS_MAX,
};

/// How far we came with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// Someone named it, with an address or without.
    Seen,
    /// We are dialling it, or did so last without success.
    Dialled,
    /// There is a connection, and it proved to be who it says.
    Authenticated,
    /// It belongs to our swarm, or it answered a call.
    Useful,
}

impl PeerState {
    /// All of them, in order.
    pub const ALL: [PeerState; 4] =
        [PeerState::Seen, PeerState::Dialled, PeerState::Authenticated, PeerState::Useful];

    /// The state's name, as users read it.
    pub fn name(self) -> &'static str {
        match self {
            PeerState::Seen => "seen",
            PeerState::Dialled => "dialled",
            PeerState::Authenticated => "authenticated",
            PeerState::Useful => "useful",
        }
    }
}

/// What is known of a peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who.
    pub id: PeerId,
    /// How far we came.
    pub state: PeerState,
    /// For each state, by its place in [`PeerState::ALL`], why it was last not reached or lost.
    pub failures: [Option<String>; 4],
    /// Where it can be reached, as it or others said.
    pub addresses: Vec<Multiaddr>,
    /// Its software, as it says.
    pub agent: Option<String>,
    /// Protocols that it says to serve.
    pub protocols: Vec<String>,
    /// Round trip of the last ping, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Connections that are open.
    pub connections: usize,
    /// All of them go through a relay.
    pub relayed: bool,
}

/// Why a peer is dialled of our own accord, the strongest last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    #[default]
    No,
    /// It was of our swarm when we last met.
    Swarm,
    /// It announced itself on the LAN.
    Lan,
    /// The owner named it.
    Bootstrap,
}

#[derive(Debug)]
struct Entry {
    state: PeerState,
    failures: [Option<String>; 4],
    addresses: Vec<Multiaddr>,
    agent: Option<String>,
    protocols: Vec<String>,
    rtt: Option<Duration>,
    connections: Vec<(ConnectionId, bool)>,
    wanted: Wanted,
    /// Dials that failed since the last connection.
    attempts: u32,
    dialling: bool,
    redial_at: Option<Instant>,
    touched: Instant,
}

/// The book.
#[derive(Debug)]
pub(crate) struct Book {
    own: PeerId,
    entries: HashMap<PeerId, Entry>,
}

impl Book {
    pub(crate) fn new(own: PeerId) -> Self {
        Book { own, entries: HashMap::new() }
    }

    /// Notes that `peer` exists, with `addresses`, and how much it is wanted. A wanted peer that is not
    /// connected is due at once when it is new or given up.
    pub(crate) fn saw(
        &mut self,
        peer: PeerId,
        addresses: impl IntoIterator<Item = Multiaddr>,
        wanted: Wanted,
        now: Instant,
    ) {
        let own = self.own;
        if wanted == Wanted::Lan && !self.entries.contains_key(&peer) && self.is_lan_full() {
            return;
        }
        let Some(entry) = self.entry(peer, now) else { return };
        for address in addresses {
            entry.add_address(peer, address);
        }
        entry.wanted = entry.wanted.max(wanted);
        let idle = entry.connections.is_empty() && entry.redial_at.is_none() && !entry.dialling;
        if wanted > Wanted::No && idle {
            let courtesy = wanted == Wanted::Lan && own > peer;
            entry.attempts = 0;
            entry.redial_at = Some(if courtesy { now + LAN_COURTESY } else { now });
        }
    }

    fn is_lan_full(&self) -> bool {
        let unproven = |entry: &&Entry| entry.wanted == Wanted::Lan && entry.connections.is_empty();
        self.entries.values().filter(unproven).count() >= LAN_PEERS_MAX
    }

    fn entry(&mut self, peer: PeerId, now: Instant) -> Option<&mut Entry> {
        if peer == self.own {
            return None;
        }
        if !self.entries.contains_key(&peer) && self.entries.len() >= PEERS_MAX {
            let spare = self.entries.iter().filter(|(_, entry)| entry.connections.is_empty());
            let least = spare.min_by_key(|(_, entry)| (entry.wanted, entry.state, entry.touched));
            let least = *least?.0;
            self.entries.remove(&least);
        }
        let entry = self.entries.entry(peer).or_insert_with(|| Entry {
            state: PeerState::Seen,
            failures: [const { None }; 4],
            addresses: Vec::new(),
            agent: None,
            protocols: Vec::new(),
            rtt: None,
            connections: Vec::new(),
            wanted: Wanted::No,
            attempts: 0,
            dialling: false,
            redial_at: None,
            touched: now,
        });
        entry.touched = now;
        Some(entry)
    }

    /// Has everyone who waits to be dialled again dialled at once.
    pub(crate) fn retry(&mut self, now: Instant) {
        for entry in self.entries.values_mut().filter(|entry| entry.redial_at.is_some()) {
            entry.redial_at = Some(now);
            entry.attempts = 0;
        }
    }

    /// Notes that a dial of `peer` began.
    pub(crate) fn dialling(&mut self, peer: PeerId, now: Instant) {
        if let Some(entry) = self.entry(peer, now) {
            entry.state = entry.state.max(PeerState::Dialled);
            entry.dialling = true;
            entry.redial_at = None;
        }
    }

    /// Notes that a dial failed before or at `state`. `jitter` is a random number from 0 to 1.
    pub(crate) fn dial_failed(
        &mut self,
        peer: PeerId,
        state: PeerState,
        reason: &str,
        jitter: f64,
        now: Instant,
    ) {
        let Some(entry) = self.entry(peer, now) else { return };
        entry.fail(state, reason);
        entry.dialling = false;
        if !entry.connections.is_empty() {
            return;
        }
        entry.attempts = entry.attempts.saturating_add(1);
        let again = match entry.wanted {
            Wanted::No => false,
            Wanted::Bootstrap => true,
            Wanted::Swarm | Wanted::Lan => entry.attempts < REDIALS_MAX,
        };
        entry.redial_at = again.then(|| now + redial_time(entry.attempts, jitter));
    }

    /// Notes why `peer` did not come to `state`, or left it.
    pub(crate) fn failed(&mut self, peer: PeerId, state: PeerState, reason: &str) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.fail(state, reason);
        }
    }

    /// Takes an address away that led elsewhere.
    pub(crate) fn forget_address(&mut self, peer: PeerId, address: &Multiaddr) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            let wrong = without_peer(address.clone(), peer);
            entry.addresses.retain(|known| *known != wrong);
        }
    }

    /// Notes a connection.
    pub(crate) fn connected(&mut self, peer: PeerId, connection: ConnectionId, relayed: bool, now: Instant) {
        if let Some(entry) = self.entry(peer, now) {
            entry.state = entry.state.max(PeerState::Authenticated);
            entry.connections.push((connection, relayed));
            entry.attempts = 0;
            entry.dialling = false;
            entry.redial_at = None;
        }
    }

    /// Notes a connection's end; whoever is wanted is dialled again.
    pub(crate) fn disconnected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        reason: &str,
        jitter: f64,
        now: Instant,
    ) {
        let Some(entry) = self.entry(peer, now) else { return };
        entry.connections.retain(|(id, _)| *id != connection);
        if entry.connections.is_empty() {
            entry.fail(entry.state, reason);
            entry.state = PeerState::Seen;
            entry.rtt = None;
            if entry.wanted > Wanted::No {
                entry.redial_at = Some(now + redial_time(1, jitter));
            }
        }
    }

    /// Notes what a peer says of itself. `ours` when it serves our swarm's routing table.
    pub(crate) fn identified(
        &mut self,
        peer: PeerId,
        agent: &str,
        protocols: impl IntoIterator<Item = String>,
        ours: bool,
        now: Instant,
    ) {
        let Some(entry) = self.entry(peer, now) else { return };
        entry.agent = Some(cut(agent, AGENT_BYTES_MAX));
        entry.protocols = protocols.into_iter().take(PROTOCOLS_PER_PEER_MAX).collect();
        if ours {
            entry.state = PeerState::Useful;
            entry.wanted = entry.wanted.max(Wanted::Swarm);
        }
    }

    /// Notes that `peer` answered a call.
    pub(crate) fn answered(&mut self, peer: PeerId) {
        if let Some(entry) = self.entries.get_mut(&peer)
            && !entry.connections.is_empty()
        {
            entry.state = PeerState::Useful;
        }
    }

    /// Notes a ping's round trip.
    pub(crate) fn pinged(&mut self, peer: PeerId, rtt: Duration) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.rtt = Some(rtt);
        }
    }

    /// Where `peer` can be reached; direct addresses first.
    pub(crate) fn addresses(&self, peer: PeerId) -> Vec<Multiaddr> {
        self.entries.get(&peer).map(|entry| entry.addresses.clone()).unwrap_or_default()
    }

    /// Peers to dial now, the most wanted first.
    pub(crate) fn due(&self, now: Instant) -> Vec<PeerId> {
        let neighbours = self.neighbours();
        let due = self.entries.iter().filter(|(_, entry)| {
            let enough = entry.wanted == Wanted::Swarm && neighbours >= NEIGHBOURS_WANTED;
            entry.redial_at.is_some_and(|at| at <= now) && !enough
        });
        let mut due: Vec<(Wanted, PeerId)> = due.map(|(peer, entry)| (entry.wanted, *peer)).collect();
        due.sort_by(|a, b| b.cmp(a));
        due.into_iter().map(|(_, peer)| peer).collect()
    }

    /// When the next peer is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let neighbours = self.neighbours();
        let wanted = self
            .entries
            .values()
            .filter(|entry| !(entry.wanted == Wanted::Swarm && neighbours >= NEIGHBOURS_WANTED));
        wanted.filter_map(|entry| entry.redial_at).min()
    }

    /// Peers of our swarm that are connected.
    fn neighbours(&self) -> usize {
        self.entries.values().filter(|entry| entry.state == PeerState::Useful).count()
    }

    /// The connected peer that is missed the least: of no use, wanted by nobody, longest untouched.
    pub(crate) fn least_useful(&self) -> Option<PeerId> {
        let connected = self.entries.iter().filter(|(_, entry)| !entry.connections.is_empty());
        let spare = connected.filter(|(_, entry)| entry.wanted < Wanted::Bootstrap);
        spare.min_by_key(|(_, entry)| (entry.state, entry.wanted, entry.touched)).map(|(peer, _)| *peer)
    }

    pub(crate) fn is_connected(&self, peer: PeerId) -> bool {
        self.entries.get(&peer).is_some_and(|entry| !entry.connections.is_empty())
    }

    /// Peers with a direct connection that serve `protocol`, with their direct addresses.
    pub(crate) fn serving(&self, protocol: &str) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let serving = self.entries.iter().filter(|(_, entry)| {
            entry.protocols.iter().any(|served| served == protocol)
                && entry.connections.iter().any(|(_, relayed)| !relayed)
        });
        let direct =
            |entry: &Entry| entry.addresses.iter().filter(|address| !is_relayed(address)).cloned().collect();
        serving.map(|(peer, entry)| (*peer, direct(entry))).collect()
    }

    /// Addresses worth keeping for the next start: of useful and configured peers, with their ids.
    pub(crate) fn worth_keeping(&self) -> Vec<Multiaddr> {
        let worth = self.entries.iter().filter(|(_, entry)| {
            entry.state == PeerState::Useful
                || entry.wanted == Wanted::Bootstrap && entry.state == PeerState::Authenticated
        });
        let mut worth: Vec<_> = worth.collect();
        worth.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.wanted, entry.state)));
        let addresses = worth.into_iter().take(PEERS_KEPT_MAX).flat_map(|(peer, entry)| {
            entry.addresses.iter().filter_map(|address| address.clone().with_p2p(*peer).ok())
        });
        addresses.collect()
    }

    /// How many peers are in each state, by its place in [`PeerState::ALL`].
    pub(crate) fn counts(&self) -> [usize; 4] {
        PeerState::ALL.map(|state| self.entries.values().filter(|entry| entry.state == state).count())
    }

    /// Everyone, the furthest first.
    pub(crate) fn list(&self) -> Vec<Peer> {
        let mut peers: Vec<Peer> = self.entries.iter().map(|(peer, entry)| entry.tell(*peer)).collect();
        peers.sort_by(|a, b| (b.state, a.id).cmp(&(a.state, b.id)));
        peers
    }
}

impl Entry {
    fn add_address(&mut self, peer: PeerId, address: Multiaddr) {
        let address = without_peer(address, peer);
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || self.addresses.contains(&address) {
            return;
        }
        if self.addresses.len() >= ADDRESSES_PER_PEER_MAX {
            // The oldest makes room.
            self.addresses.remove(0);
        }
        self.addresses.push(address);
        self.addresses.sort_by_key(is_relayed);
    }

    fn fail(&mut self, state: PeerState, reason: &str) {
        self.failures[state as usize] = Some(cut(reason, REASON_BYTES_MAX));
    }

    fn tell(&self, id: PeerId) -> Peer {
        Peer {
            id,
            state: self.state,
            failures: self.failures.clone(),
            addresses: self.addresses.clone(),
            agent: self.agent.clone(),
            protocols: self.protocols.clone(),
            rtt_ms: self.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            connections: self.connections.len(),
            relayed: !self.connections.is_empty() && self.connections.iter().all(|(_, relayed)| *relayed),
        }
    }
}

/// Whether an address leads through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The address without `peer` at its end. A relay's id within stays: without it the address is useless.
fn without_peer(mut address: Multiaddr, peer: PeerId) -> Multiaddr {
    if address.iter().last() == Some(Protocol::P2p(peer)) {
        address.pop();
    }
    address
}

/// The wait after so many failed attempts: doubled each time, a quarter more or less at random.
pub(crate) fn redial_time(attempts: u32, jitter: f64) -> Duration {
    let doubled = REDIAL_TIME_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    doubled.min(REDIAL_TIME_MAX).mul_f64(0.75 + 0.5 * jitter)
}

/// `text`, cut between letters to `bytes_max`, without control characters that a terminal would obey.
fn cut(text: &str, bytes_max: usize) -> String {
    let end = text.floor_char_boundary(bytes_max);
    text[..end].chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: usize) -> Multiaddr {
        format!("/ip4/1.2.3.4/tcp/{port}").parse().unwrap()
    }

    fn only(book: &Book) -> Peer {
        let peers = book.list();
        assert_eq!(peers.len(), 1);
        peers.into_iter().next().unwrap()
    }

    #[test]
    fn a_peer_goes_through_its_states_and_keeps_the_reasons() {
        let (mut book, peer, now) = (Book::new(PeerId::random()), PeerId::random(), Instant::now());
        let connection = ConnectionId::new_unchecked(1);
        book.saw(peer, [address(1)], Wanted::Bootstrap, now);
        assert_eq!(only(&book).state, PeerState::Seen);
        assert_eq!(book.due(now), [peer]);
        book.dialling(peer, now);
        assert_eq!(only(&book).state, PeerState::Dialled);
        assert!(book.due(now).is_empty());
        book.dial_failed(peer, PeerState::Dialled, "refused", 0.5, now);
        assert_eq!(only(&book).failures[1].as_deref(), Some("refused"));
        assert_eq!(book.next_due(), Some(now + REDIAL_TIME_MIN));
        book.connected(peer, connection, false, now);
        assert_eq!(only(&book).state, PeerState::Authenticated);
        assert_eq!(book.next_due(), None);
        book.identified(peer, "kwaainet/1", [], true, now);
        assert_eq!(only(&book).state, PeerState::Useful);
        book.disconnected(peer, connection, "reset", 0.5, now);
        let after = only(&book);
        assert_eq!(after.state, PeerState::Seen);
        assert_eq!(after.failures[3].as_deref(), Some("reset"));
        assert!(book.next_due().is_some(), "a bootstrap peer is dialled again");
    }

    #[test]
    fn a_lan_peer_that_never_answers_is_given_up_until_it_is_seen_again() {
        let (mut book, peer, now) = (Book::new(PeerId::random()), PeerId::random(), Instant::now());
        book.saw(peer, [address(1)], Wanted::Lan, now);
        for attempt in 1..=REDIALS_MAX {
            assert!(book.next_due().is_some(), "before attempt {attempt}");
            book.dialling(peer, now);
            book.dial_failed(peer, PeerState::Dialled, "silent", 0.5, now);
        }
        assert_eq!(book.next_due(), None);
        book.saw(peer, [], Wanted::Lan, now);
        assert_eq!(book.due(now + LAN_COURTESY), [peer]);
    }

    #[test]
    fn liars_on_the_lan_get_so_many_places() {
        let (mut book, now) = (Book::new(PeerId::random()), Instant::now());
        for _ in 0..LAN_PEERS_MAX + 1 {
            book.saw(PeerId::random(), [address(1)], Wanted::Lan, now);
        }
        assert_eq!(book.entries.len(), LAN_PEERS_MAX);
        book.saw(PeerId::random(), [address(1)], Wanted::Bootstrap, now);
        assert_eq!(book.entries.len(), LAN_PEERS_MAX + 1);
    }

    #[test]
    fn of_two_that_hear_of_each_other_one_dials_first() {
        let (a, b, now) = (PeerId::random(), PeerId::random(), Instant::now());
        let due = |own, other| {
            let mut book = Book::new(own);
            book.saw(other, [address(1)], Wanted::Lan, now);
            (book.due(now).len(), book.due(now + LAN_COURTESY).len())
        };
        assert_eq!((due(a, b), due(b, a)), if a < b { ((1, 1), (0, 1)) } else { ((0, 1), (1, 1)) });
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread() {
        assert_eq!(redial_time(1, 0.5), REDIAL_TIME_MIN);
        assert_eq!(redial_time(2, 0.5), REDIAL_TIME_MIN * 2);
        assert_eq!(redial_time(40, 0.5), REDIAL_TIME_MAX);
        assert!(redial_time(1, 0.0) < redial_time(1, 1.0));
    }

    #[test]
    fn the_book_holds_so_many_peers_and_forgets_the_least_wanted() {
        let (mut book, now) = (Book::new(PeerId::random()), Instant::now());
        let wanted = PeerId::random();
        book.saw(wanted, [address(1)], Wanted::Bootstrap, now);
        for _ in 0..PEERS_MAX + 1 {
            book.saw(PeerId::random(), [], Wanted::No, now);
        }
        assert_eq!(book.entries.len(), PEERS_MAX);
        assert!(book.entries.contains_key(&wanted));
    }

    #[test]
    fn addresses_of_a_peer_are_bounded_and_told_once_without_its_id() {
        let (mut book, peer, now) = (Book::new(PeerId::random()), PeerId::random(), Instant::now());
        let with_id = address(0).with(Protocol::P2p(peer));
        book.saw(peer, [address(0), with_id], Wanted::No, now);
        assert_eq!(book.addresses(peer), [address(0)]);
        book.saw(peer, (1..=ADDRESSES_PER_PEER_MAX).map(address), Wanted::No, now);
        assert_eq!(book.addresses(peer).len(), ADDRESSES_PER_PEER_MAX);
        assert!(!book.addresses(peer).contains(&address(0)), "the oldest made room");
        let relay = PeerId::random();
        let circuit = address(1).with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        book.saw(peer, [circuit.clone().with(Protocol::P2p(peer)), address(99)], Wanted::No, now);
        assert_eq!(
            book.addresses(peer).last(),
            Some(&circuit),
            "a relay is the last resort and keeps its id"
        );
    }

    #[test]
    fn the_node_itself_is_never_in_its_book() {
        let own = PeerId::random();
        let mut book = Book::new(own);
        book.saw(own, [address(1)], Wanted::Bootstrap, Instant::now());
        assert!(book.list().is_empty());
    }

    #[test]
    fn texts_of_others_are_cut_and_hold_no_terminal_orders() {
        assert_eq!(cut("a\u{1b}[2Jb", 100), "a [2Jb");
        assert_eq!(cut("ää", 3), "ä");
    }
}
