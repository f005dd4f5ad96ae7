//! Streams by protocol: ours to peers, theirs to the part of the node that serves the protocol.
//!
//! libp2p has such a behaviour, still an alpha: it keeps something of every connection that ever was, opens
//! one stream at a time, and drops inbound streams that come in a burst. This one hands an inbound stream to
//! its server at once, within the server's limits, and forgets what is closed.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};

use futures::Stream as _;
use futures::channel::oneshot;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandlerEvent, DialUpgradeError, FullyNegotiatedInbound,
    FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
    StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use smol::channel::{Receiver, Sender};

use crate::error::Error;
use crate::limits::{NEGOTIATION_TIME_MAX, OPENINGS_MAX, PROTOCOLS_MAX};

/// Takes a peer's stream: decides at once whether it may be and begins a task for it, or drops it.
pub(crate) type Server = Arc<dyn Fn(PeerId, Stream) + Send + Sync>;

/// Who serves which protocol.
#[derive(Clone, Default)]
pub(crate) struct Servers(Arc<RwLock<HashMap<StreamProtocol, Server>>>);

impl Servers {
    /// Lets `server` take the streams of `protocol`, on connections that exist as well.
    pub(crate) fn add(&self, protocol: StreamProtocol, server: Server) -> Result<(), Error> {
        let mut servers = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if servers.contains_key(&protocol) {
            return Err(Error::setting(format!("{protocol} is served already")));
        }
        if servers.len() >= PROTOCOLS_MAX {
            return Err(Error::setting(format!(
                "{PROTOCOLS_MAX} protocols are served, that is all there may be"
            )));
        }
        servers.insert(protocol, server);
        Ok(())
    }

    pub(crate) fn remove(&self, protocol: &StreamProtocol) {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(protocol);
    }

    fn find(&self, protocol: &StreamProtocol) -> Option<Server> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(protocol).cloned()
    }

    fn protocols(&self) -> Vec<StreamProtocol> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()).keys().cloned().collect()
    }
}

/// Why a stream could not be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    NotConnected,
    UnknownProtocol,
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            OpenError::NotConnected => write!(out, "the connection was lost"),
            OpenError::UnknownProtocol => write!(out, "the peer does not know the protocol"),
            OpenError::Io(error) => write!(out, "opening a stream: {error}"),
        }
    }
}

/// A stream that is wanted, and who waits for it.
#[derive(Debug)]
pub(crate) struct Opening {
    protocol: StreamProtocol,
    reply: oneshot::Sender<Result<Stream, OpenError>>,
}

/// Opens streams to connected peers.
#[derive(Clone)]
pub(crate) struct Opener(Sender<(PeerId, Opening)>);

impl Opener {
    pub(crate) async fn open(&self, peer: PeerId, protocol: StreamProtocol) -> Result<Stream, OpenError> {
        let (reply, answer) = oneshot::channel();
        let opening = Opening { protocol, reply };
        self.0.send((peer, opening)).await.map_err(|_| OpenError::NotConnected)?;
        answer.await.unwrap_or(Err(OpenError::NotConnected))
    }
}

/// The behaviour.
pub(crate) struct Behaviour {
    servers: Servers,
    openings: Pin<Box<Receiver<(PeerId, Opening)>>>,
    /// Each peer's connections, and whether they go through a relay.
    connections: HashMap<PeerId, Vec<(ConnectionId, bool)>>,
}

impl Behaviour {
    pub(crate) fn new(servers: Servers) -> (Self, Opener) {
        let (sender, receiver) = smol::channel::bounded(OPENINGS_MAX);
        let openings = Box::pin(receiver);
        (Behaviour { servers, openings, connections: HashMap::new() }, Opener(sender))
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler { peer, servers: self.servers.clone(), openings: VecDeque::new() }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
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
                self.connections.entry(peer_id).or_default().push((connection_id, relayed));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(connections) = self.connections.get_mut(&peer_id) {
                    connections.retain(|(id, _)| *id != connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        while let Poll::Ready(Some((peer_id, opening))) = self.openings.as_mut().poll_next(context) {
            // A direct connection when there is one, else the relayed one.
            let connections = self.connections.get(&peer_id);
            let best = connections.and_then(|all| all.iter().min_by_key(|(_, relayed)| *relayed));
            let Some((connection, _)) = best else {
                // Whoever waited may be gone as well.
                let _ = opening.reply.send(Err(OpenError::NotConnected));
                continue;
            };
            let handler = NotifyHandler::One(*connection);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event: opening });
        }
        Poll::Pending
    }
}

/// The streams of one connection.
pub(crate) struct Handler {
    peer: PeerId,
    servers: Servers,
    openings: VecDeque<Opening>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Opening;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Result<Stream, OpenError>>;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(self.servers.protocols()), ()).with_timeout(NEGOTIATION_TIME_MAX)
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, Self::OutboundOpenInfo, Infallible>> {
        while let Some(Opening { protocol, reply }) = self.openings.pop_front() {
            if reply.is_canceled() {
                continue;
            }
            let protocol =
                SubstreamProtocol::new(Offer(vec![protocol]), reply).with_timeout(NEGOTIATION_TIME_MAX);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, opening: Opening) {
        // Bounded by the channel in front of the behaviour: the swarm polls a handler after each event.
        self.openings.push_back(opening);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Offer, Offer, (), Self::OutboundOpenInfo>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                let (stream, protocol) = protocol;
                if let Some(server) = self.servers.find(&protocol) {
                    server(self.peer, stream);
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                // Nobody waits any more when the caller gave up; the stream is reset then.
                let _ = info.send(Ok(protocol.0));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => OpenError::Io(io::ErrorKind::TimedOut.into()),
                    StreamUpgradeError::NegotiationFailed => OpenError::UnknownProtocol,
                    StreamUpgradeError::Io(error) => OpenError::Io(error),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = info.send(Err(error));
            }
            _ => {}
        }
    }
}

/// The protocols that are offered or taken; the stream is handed on as it is.
pub(crate) struct Offer(Vec<StreamProtocol>);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
