//! The one task that drives libp2p's swarm.
//!
//! Commands of the node's other parts come through a bounded channel, events from the network, and one timer
//! wakes the task when the next thing is due; with nothing due it sleeps. All state of the network is here,
//! without a lock.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, RwLock};
use std::time::Instant;

use futures::StreamExt;
use futures::channel::oneshot;
use libp2p::core::ConnectedPoint;
use libp2p::kad::{self, QueryId, QueryResult};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, autonat, identify, noise, ping, relay};
use smol::Timer;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;

use crate::behaviour::{Behaviour, BehaviourEvent, COMMON_KADEMLIA, Kademlia, RELAY};
use crate::counters::Counters;
use crate::error::Error;
use crate::gate::ip_of;
use crate::kept;
use crate::lan::{Lan, Listening, Seen};
use crate::limits::{
    ADDRESSES_PER_PEER_MAX, CONNECTIONS_KEPT_MAX, DIALS_MAX, LAN_SEEN_WAITING_MAX, PEERS_FILE_DELAY,
    PEERS_FILE_INTERVAL, REACH_TIME_MAX, SEARCHES_MAX, WAITERS_MAX,
};
use crate::peers::{Book, Peer, PeerState, Wanted, is_relayed};
use crate::relays::Relays;
use crate::settings::{Settings, peer_of};
use crate::status::{Reachability, Status};
use crate::transport::is_local;

/// What the handle asks of the task.
pub(crate) enum Command {
    /// Have a connection to a peer.
    Reach(PeerId, oneshot::Sender<Result<(), Error>>),
    /// Have a connection to whoever is at an address.
    Connect(Multiaddr, oneshot::Sender<Result<PeerId, Error>>),
    /// Tell a peer's addresses.
    Find(PeerId, oneshot::Sender<Vec<Multiaddr>>),
    Status(oneshot::Sender<Status>),
    Peers(oneshot::Sender<Vec<Peer>>),
    /// A peer answered a call.
    Answered(PeerId),
    /// A peer failed at a call.
    Failed(PeerId, String),
    Stop(oneshot::Sender<()>),
}

/// Peers that are connected, and whether each is known to be useful: what a call looks at before it asks the
/// task.
pub(crate) type Connected = Arc<RwLock<HashMap<PeerId, bool>>>;

/// Which routing table a query runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Table {
    Own,
    Common,
}

/// Who waits for a connection to one peer.
struct Waiting {
    replies: Vec<oneshot::Sender<Result<(), Error>>>,
    searched: bool,
    until: Instant,
}

/// The task's state.
pub(crate) struct Task {
    swarm: Swarm<Behaviour>,
    settings: Settings,
    counters: Arc<Counters>,
    connected: Connected,
    waiting: HashMap<PeerId, Waiting>,
    connecting: HashMap<ConnectionId, oneshot::Sender<Result<PeerId, Error>>>,
    finding: HashMap<PeerId, Vec<oneshot::Sender<Vec<Multiaddr>>>>,
    searches: HashMap<(Table, QueryId), PeerId>,
    reachability: Reachability,
    relays: Relays,
    /// The discovery on the LAN, which ends when it is dropped, and what it sees.
    lan: Option<(smol::Task<()>, Receiver<Vec<Seen>>)>,
    listening: Listening,
    /// Tells the discovery that the node listens elsewhere.
    moved: Option<Sender<()>>,
    /// When known peers are kept next.
    keep_at: Instant,
}

enum Happening {
    Network(Box<SwarmEvent<BehaviourEvent>>),
    Command(Option<Command>),
    Seen(Vec<Seen>),
    Due,
}

impl Task {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        settings: Settings,
        counters: Arc<Counters>,
        connected: Connected,
        kept: Vec<Multiaddr>,
    ) -> Self {
        let mut task = Task {
            swarm,
            settings,
            counters,
            connected,
            waiting: HashMap::new(),
            connecting: HashMap::new(),
            finding: HashMap::new(),
            searches: HashMap::new(),
            reachability: Reachability::Unknown,
            relays: Relays::default(),
            lan: None,
            listening: Listening::default(),
            moved: None,
            keep_at: Instant::now() + PEERS_FILE_DELAY,
        };
        let now = Instant::now();
        for address in kept {
            if let Some(peer) = peer_of(&address) {
                task.book().saw(peer, [address], Wanted::Swarm, now);
            }
        }
        for address in task.settings.bootstrap.clone() {
            if let Some(peer) = peer_of(&address) {
                task.book().saw(peer, [address], Wanted::Bootstrap, now);
            }
        }
        task.note_listening();
        if task.settings.mdns {
            let (seen, lan) = smol::channel::bounded(LAN_SEEN_WAITING_MAX);
            let (service, own) = (task.settings.service(), *task.swarm.local_peer_id());
            let listening = task.listening.clone();
            let (moved, moves) = smol::channel::bounded(1);
            let work = smol::spawn(Lan { service, own, listening, moves, seen }.run());
            task.moved = Some(moved);
            task.lan = Some((work, lan));
        }
        task
    }

    /// Runs until it is told to stop or the last handle is gone.
    pub(crate) async fn run(mut self, commands: Receiver<Command>) {
        loop {
            let due = self.next_due();
            let network = async { Happening::Network(Box::new(self.swarm.select_next_some().await)) };
            let command = async { Happening::Command(commands.recv().await.ok()) };
            let timer = async {
                match due {
                    Some(at) => Timer::at(at).await,
                    None => Timer::never().await,
                };
                Happening::Due
            };
            let seen = async {
                match &self.lan {
                    Some((_, lan)) => lan.recv().await.map_or(Happening::Seen(Vec::new()), Happening::Seen),
                    None => std::future::pending().await,
                }
            };
            match network.race(command).race(seen).race(timer).await {
                Happening::Network(event) => self.on_event(*event),
                Happening::Seen(seen) => self.on_seen(seen),
                Happening::Command(Some(Command::Stop(done))) => {
                    self.keep().await;
                    // Whoever stopped may not wait for it.
                    let _ = done.send(());
                    return;
                }
                Happening::Command(Some(command)) => self.on_command(command),
                Happening::Command(None) => return,
                Happening::Due => {}
            }
            self.do_what_is_due();
            if self.keep_at <= Instant::now() {
                self.keep().await;
            }
        }
    }

    /// Writes down who is worth knowing. A full or broken disk is no reason to stop.
    async fn keep(&mut self) {
        self.keep_at = Instant::now() + PEERS_FILE_INTERVAL;
        let Some(path) = self.settings.folder.as_deref().map(kept::path_in) else { return };
        let addresses = self.book().worth_keeping();
        // A node that met nobody keeps what it knew.
        if !addresses.is_empty() {
            let _ = smol::unblock(move || kept::save(&path, &addresses)).await;
        }
    }

    fn on_seen(&mut self, seen: Vec<Seen>) {
        if seen.is_empty() {
            self.lan = None;
        }
        let now = Instant::now();
        for Seen { peer, addresses } in seen {
            self.book().saw(peer, addresses, Wanted::Lan, now);
        }
    }

    /// Tells the LAN discovery where we listen.
    fn note_listening(&mut self) {
        let addresses = self.swarm.listeners().filter(|address| !is_relayed(address)).cloned().collect();
        *self.listening.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = addresses;
        if let Some(moved) = &self.moved {
            // When one such word waits already, it says the same.
            let _ = moved.try_send(());
        }
    }

    /// Behind a NAT, has a few relays; elsewhere none.
    fn manage_relays(&mut self, now: Instant) {
        if self.reachability != Reachability::Private {
            for listener in self.relays.release() {
                self.swarm.remove_listener(listener);
            }
            return;
        }
        while self.relays.wants_more() {
            let candidates = self.book().serving(RELAY.as_ref());
            let Some(relay) = self.relays.next(candidates.iter().map(|(peer, _)| *peer), now) else { return };
            let addresses = candidates.into_iter().find(|(peer, _)| *peer == relay).map(|(_, all)| all);
            // Others dial the relay at this address: one of the open network before one of a LAN.
            let is_outside = |address: &Multiaddr| ip_of(address).is_none_or(|ip| !is_local(ip));
            let address = addresses.and_then(|all| all.into_iter().max_by_key(is_outside));
            let circuit = address.and_then(|address| address.with_p2p(relay).ok());
            let listened = circuit.map(|address| self.swarm.listen_on(address.with(Protocol::P2pCircuit)));
            match listened {
                Some(Ok(listener)) => self.relays.asked(listener, relay),
                _ => self.relays.refused(relay, random(), now),
            }
        }
    }

    fn book(&mut self) -> &mut Book {
        &mut self.swarm.behaviour_mut().gate.book
    }

    fn next_due(&self) -> Option<Instant> {
        let waiting = self.waiting.values().map(|waiting| waiting.until);
        let gate = &self.swarm.behaviour().gate;
        // With all dials taken, a dial's end wakes the task.
        let dials = (gate.dials() < DIALS_MAX / 2).then(|| gate.book.next_due()).flatten();
        let relays = self.relays.next_due().filter(|_| self.reachability == Reachability::Private);
        let keep = self.settings.folder.is_some().then_some(self.keep_at);
        waiting.chain(dials).chain(relays).chain(keep).min()
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        let late: Vec<PeerId> =
            self.waiting.iter().filter(|(_, waiting)| waiting.until <= now).map(|(peer, _)| *peer).collect();
        for peer in late {
            self.give_up(peer, "no connection came about in time");
        }
        self.manage_relays(now);
        // Half of the dials are left for calls and searches.
        let free = (DIALS_MAX / 2).saturating_sub(self.swarm.behaviour().gate.dials());
        if free > 0 {
            for peer in self.book().due(now).into_iter().take(free) {
                self.dial(peer);
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        // A reply that nobody waits for any more is dropped everywhere below.
        match command {
            Command::Reach(peer, reply) => self.reach(peer, reply),
            Command::Connect(address, reply) => self.connect(address, reply),
            Command::Find(peer, reply) => {
                let known = self.book().addresses(peer);
                if known.is_empty() && self.finding.len() < WAITERS_MAX {
                    self.finding.entry(peer).or_default().push(reply);
                    self.search(peer);
                } else {
                    let _ = reply.send(known);
                }
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Command::Peers(reply) => {
                let _ = reply.send(self.book().list());
            }
            Command::Answered(peer) => {
                self.book().answered(peer);
                self.note_useful(peer);
            }
            Command::Failed(peer, reason) => self.book().failed(peer, PeerState::Useful, &reason),
            Command::Stop(_) => {}
        }
    }

    fn reach(&mut self, peer: PeerId, reply: oneshot::Sender<Result<(), Error>>) {
        if self.book().is_connected(peer) {
            let _ = reply.send(Ok(()));
            return;
        }
        if self.waiting.len() >= WAITERS_MAX {
            let _ = reply.send(Err(Error::unreachable("too many peers are waited for already")));
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&peer) {
            waiting.replies.retain(|reply| !reply.is_canceled());
            waiting.replies.push(reply);
            return;
        }
        let until = Instant::now() + REACH_TIME_MAX;
        self.waiting.insert(peer, Waiting { replies: vec![reply], searched: false, until });
        if self.book().addresses(peer).is_empty() {
            self.search_for_waiting(peer);
        } else {
            self.dial(peer);
        }
    }

    fn connect(&mut self, address: Multiaddr, reply: oneshot::Sender<Result<PeerId, Error>>) {
        let options = match peer_of(&address) {
            Some(peer) if self.book().is_connected(peer) => {
                let _ = reply.send(Ok(peer));
                return;
            }
            Some(peer) => {
                self.book().saw(peer, [address.clone()], Wanted::No, Instant::now());
                DialOpts::peer_id(peer).addresses(vec![address]).condition(PeerCondition::Always).build()
            }
            None => DialOpts::unknown_peer_id().address(address).build(),
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.connecting.insert(id, reply);
            }
            Err(error) => {
                let _ = reply.send(Err(Error::unreachable(words(&error))));
            }
        }
    }

    fn dial(&mut self, peer: PeerId) {
        let now = Instant::now();
        self.book().dialling(peer, now);
        let options = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).build();
        match self.swarm.dial(options) {
            // It is being dialled already, by a search perhaps: that dial's end is heard of.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.on_dial_failed(peer, &error),
        }
    }

    fn search(&mut self, peer: PeerId) {
        if self.searches.values().any(|searched| *searched == peer) {
            return;
        }
        if self.searches.len() >= SEARCHES_MAX {
            self.on_search_over(peer);
            return;
        }
        let behaviour = self.swarm.behaviour_mut();
        let own = behaviour.own_kademlia.get_closest_peers(peer);
        let common = behaviour.common_kademlia.get_closest_peers(peer);
        self.searches.insert((Table::Own, own), peer);
        self.searches.insert((Table::Common, common), peer);
    }

    fn search_for_waiting(&mut self, peer: PeerId) {
        if let Some(waiting) = self.waiting.get_mut(&peer) {
            waiting.searched = true;
            self.search(peer);
        }
    }

    fn on_search_over(&mut self, peer: PeerId) {
        let known = self.book().addresses(peer);
        for reply in self.finding.remove(&peer).unwrap_or_default() {
            let _ = reply.send(known.clone());
        }
        if !self.waiting.contains_key(&peer) || self.book().is_connected(peer) {
            return;
        }
        if known.is_empty() {
            self.give_up(peer, "no address of it is known, and no peer told one");
        } else {
            self.dial(peer);
        }
    }

    fn give_up(&mut self, peer: PeerId, reason: &str) {
        if let Some(waiting) = self.waiting.remove(&peer) {
            for reply in waiting.replies {
                let _ = reply.send(Err(Error::unreachable(format!("{peer}: {reason}"))));
            }
        }
    }

    fn on_dial_failed(&mut self, peer: PeerId, error: &DialError) {
        let state = match error {
            DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } => {
                self.book().forget_address(peer, address);
                PeerState::Authenticated
            }
            DialError::Transport(errors) if errors.iter().any(|(_, error)| is_about_secrecy(error)) => {
                PeerState::Authenticated
            }
            _ => PeerState::Dialled,
        };
        let reason = dial_words(error);
        self.book().dial_failed(peer, state, &reason, random(), Instant::now());
        match self.waiting.get(&peer).map(|waiting| waiting.searched) {
            Some(false) => self.search_for_waiting(peer),
            Some(true) if !self.searches.values().any(|searched| *searched == peer) => {
                self.give_up(peer, &reason);
            }
            _ => {}
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                let reason = cause.map_or("it was closed".to_owned(), |cause| words(&cause));
                self.book().disconnected(peer_id, connection_id, &reason, random(), Instant::now());
                if num_established == 0 {
                    write(&self.connected).remove(&peer_id);
                }
            }
            SwarmEvent::Dialing { peer_id: Some(peer), .. } => {
                self.book().dialling(peer, Instant::now());
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, connection_id } => {
                if let Some(reply) = self.connecting.remove(&connection_id) {
                    let _ = reply.send(Err(Error::unreachable(words(&error))));
                }
                if let Some(peer) = peer_id
                    && !matches!(error, DialError::DialPeerConditionFalse(_))
                {
                    self.on_dial_failed(peer, &error);
                }
            }
            SwarmEvent::NewListenAddr { .. } => {
                self.note_listening();
                // Another network: whoever could not be reached may be in reach now.
                self.book().retry(Instant::now());
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.note_listening(),
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                self.relays.ended(listener_id, random(), Instant::now());
                self.note_listening();
            }
            SwarmEvent::NewExternalAddrOfPeer { peer_id, address } => {
                let connected = self.book().is_connected(peer_id).then_some(peer_id);
                let address = self.believable([address], connected);
                self.book().saw(peer_id, address, Wanted::No, Instant::now());
            }
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        self.book().connected(peer, connection, endpoint.is_relayed(), Instant::now());
        write(&self.connected).entry(peer).or_insert(false);
        if let Some(reply) = self.connecting.remove(&connection) {
            let _ = reply.send(Ok(peer));
        }
        if let Some(waiting) = self.waiting.remove(&peer) {
            for reply in waiting.replies {
                let _ = reply.send(Ok(()));
            }
        }
        if self.swarm.behaviour().gate.connections() > CONNECTIONS_KEPT_MAX
            && let Some(least) = self.book().least_useful()
            && least != peer
        {
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(least);
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Ping(event) => {
                self.on_ping(event);
            }
            BehaviourEvent::OwnKademlia(event) => self.on_kademlia(Table::Own, event),
            BehaviourEvent::CommonKademlia(event) => self.on_kademlia(Table::Common, event),
            BehaviourEvent::Reachability(autonat::v1::Event::StatusChanged { new, .. }) => {
                self.on_reachability(&new);
            }
            BehaviourEvent::RelayClient(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                ..
            }) => self.relays.given(relay_peer_id),
            _ => {}
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(rtt) => self.book().pinged(event.peer, rtt),
            Err(ping::Failure::Unsupported) => {}
            Err(error) => {
                // Dead, or as good as: whoever is wanted is dialled again.
                self.book().failed(event.peer, PeerState::Useful, &words(&error));
                self.swarm.close_connection(event.connection);
            }
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        let now = Instant::now();
        let own_protocol = self.settings.own_kademlia();
        let ours = info.protocols.contains(&own_protocol);
        let common = info.protocols.contains(&COMMON_KADEMLIA);
        let addresses = self.believable(info.listen_addrs, Some(peer));
        let protocols = info.protocols.iter().map(|protocol| protocol.to_string());
        self.book().identified(peer, &info.agent_version, protocols, ours, now);
        self.book().saw(peer, addresses.clone(), Wanted::No, now);
        if ours {
            self.note_useful(peer);
        }
        let behaviour = self.swarm.behaviour_mut();
        for (serves, table) in [(ours, &mut behaviour.own_kademlia), (common, &mut behaviour.common_kademlia)]
        {
            if serves {
                for address in &addresses {
                    table.add_address(&peer, address.clone());
                }
            } else {
                table.remove_peer(&peer);
            }
        }
    }

    /// Addresses of a peer that may be worth a dial: of bounded number, and those of "this machine" only
    /// when the peer is connected from this machine.
    fn believable(
        &mut self,
        addresses: impl IntoIterator<Item = Multiaddr>,
        connected: Option<PeerId>,
    ) -> Vec<Multiaddr> {
        let here = connected.is_none_or(|peer| self.swarm.behaviour().gate.is_on_this_machine(peer));
        let fits = |address: &Multiaddr| {
            let unusable = |ip: std::net::IpAddr| ip.is_unspecified() || (ip.is_loopback() && !here);
            !ip_of(address).is_some_and(unusable)
        };
        addresses.into_iter().filter(fits).take(ADDRESSES_PER_PEER_MAX).collect()
    }

    fn note_useful(&mut self, peer: PeerId) {
        if let Some(useful) = write(&self.connected).get_mut(&peer) {
            *useful = true;
        }
    }

    fn on_kademlia(&mut self, table: Table, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed { id, result, step, .. } = event else { return };
        let QueryResult::GetClosestPeers(result) = result else { return };
        let Some(searched) = self.searches.get(&(table, id)).copied() else { return };
        let found = match result {
            Ok(found) => found.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        for info in found.into_iter().filter(|info| info.peer_id == searched) {
            let addresses = self.believable(info.addrs, None);
            self.book().saw(searched, addresses, Wanted::No, Instant::now());
        }
        if step.last {
            self.searches.remove(&(table, id));
            // The other table's query may still find it; when both are over, that is all.
            let known = !self.book().addresses(searched).is_empty();
            if known || !self.searches.values().any(|peer| *peer == searched) {
                self.on_search_over(searched);
            }
        }
    }

    fn on_reachability(&mut self, status: &autonat::v1::NatStatus) {
        self.reachability = match status {
            autonat::v1::NatStatus::Unknown => Reachability::Unknown,
            autonat::v1::NatStatus::Public(_) => Reachability::Public,
            autonat::v1::NatStatus::Private => Reachability::Private,
        };
        let mode = match self.reachability {
            Reachability::Private => kad::Mode::Client,
            _ => kad::Mode::Server,
        };
        self.swarm.behaviour_mut().common_kademlia.set_mode(Some(mode));
    }

    fn status(&mut self) -> Status {
        let counts = self.book().counts();
        let own_peer = *self.swarm.local_peer_id();
        let (relayed, external) =
            self.swarm.external_addresses().cloned().partition(|address: &Multiaddr| is_relayed(address));
        let listen = self.swarm.listeners().filter(|address| !is_relayed(address)).cloned().collect();
        let connections = self.swarm.behaviour().gate.connections();
        let behaviour = self.swarm.behaviour_mut();
        Status {
            peer_id: own_peer,
            swarm_name: self.settings.swarm_name.clone(),
            listen,
            external,
            relayed,
            reachability: self.reachability,
            peers: std::array::from_fn(|index| (PeerState::ALL[index], counts[index])),
            connections,
            own_routing: table_size(&mut behaviour.own_kademlia),
            common_routing: table_size(&mut behaviour.common_kademlia),
            counts: self.counters.read(),
        }
    }
}

fn table_size(kademlia: &mut Kademlia) -> usize {
    kademlia.kbuckets().map(|bucket| bucket.num_entries()).sum()
}

fn write(connected: &Connected) -> std::sync::RwLockWriteGuard<'_, HashMap<PeerId, bool>> {
    connected.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A random number from 0 to 1; a half when the system has none to give, which spreads nothing and breaks
/// nothing.
pub(crate) fn random() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

/// An error with its causes: the short form hides why.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            // Writing to a string can't fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Why a dial failed: for each address what it came to in the end. The layers between (a transport tried, an
/// upgrade, a second transport that does not know such addresses) each tell the same again.
fn dial_words(error: &DialError) -> String {
    let DialError::Transport(errors) = error else { return words(error) };
    let each = errors.iter().map(|(address, error)| {
        let mut last: &dyn std::error::Error = error;
        while let Some(cause) = last.source() {
            last = cause;
        }
        format!("{address}: {last}")
    });
    each.collect::<Vec<_>>().join("; ")
}

/// Whether an error came from the encrypted handshake, behind a connection that worked.
fn is_about_secrecy(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<noise::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}
