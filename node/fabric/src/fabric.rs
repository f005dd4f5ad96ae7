//! The handle on the network: what the node's other parts hold.
//!
//! Cheap to clone. Calls and streams go straight to a connected peer; only what needs the swarm's state asks
//! its task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, Stream, StreamExt};
use libp2p::identity::Keypair;
use libp2p::swarm::{self, Swarm};
use libp2p::{Multiaddr, PeerId, StreamProtocol, ping};
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::channel::Sender;

use crate::behaviour::Behaviour;
use crate::budget::{Budget, Places};
use crate::call::{CallError, CallHandler, CallLimits, Remote};
use crate::calls::{Call, Envelope, Method, within};
use crate::counters::{Counters, Counts};
use crate::error::Error;
use crate::frames::{Frames, StreamLimits};
use crate::kept;
use crate::limits::{ACCEPTS_WAITING_MAX, COMMANDS_MAX, IDLE_TIME_MAX, NEGOTIATIONS_MAX, PING_TIME_MAX};
use crate::peers::Peer;
use crate::settings::Settings;
use crate::status::Status;
use crate::streams::{self, Opener, Servers};
use crate::swarm::{Command, Connected, Task};
use crate::transport::{self, local_name};

/// The network, running.
#[derive(Clone)]
pub struct Fabric(Arc<Inner>);

struct Inner {
    peer_id: PeerId,
    commands: Sender<Command>,
    opener: Opener,
    servers: Servers,
    connected: Connected,
    budget: Budget,
    counters: Arc<Counters>,
}

impl Fabric {
    /// Starts the network: it listens when this returns, and joins others beside it.
    ///
    /// # Errors
    ///
    /// When a setting is wrong, or none of the addresses can be listened on.
    pub async fn start(keys: Keypair, settings: Settings) -> Result<Fabric, Error> {
        settings.check()?;
        let peer_id = keys.public().to_peer_id();
        let counters = Arc::<Counters>::default();
        let (transport, relay_client) = transport::build(&keys, settings.scope(), &counters)?;
        let servers = Servers::default();
        let (streams, opener) = streams::Behaviour::new(servers.clone());
        let behaviour = Behaviour::new(&keys, &settings, relay_client, streams, counters.clone());
        let config = swarm::Config::with_executor(|task| smol::spawn(task).detach())
            .with_idle_connection_timeout(IDLE_TIME_MAX)
            .with_max_negotiating_inbound_streams(NEGOTIATIONS_MAX);
        let mut swarm = Swarm::new(transport, behaviour, peer_id, config);
        listen(&mut swarm, &settings)?;
        // The listeners' addresses are told by the first events; nobody is heard yet who could cause others.
        while smol::future::poll_once(swarm.next()).await.is_some() {}
        for address in &settings.announce {
            swarm.add_external_address(address.clone());
        }
        let connected = Connected::default();
        let (commands, receiver) = smol::channel::bounded(COMMANDS_MAX);
        let kept = match settings.folder.as_deref().map(kept::path_in) {
            Some(path) => smol::unblock(move || kept::load(&path)).await?,
            None => Vec::new(),
        };
        let task = Task::new(swarm, settings, counters.clone(), connected.clone(), kept);
        smol::spawn(task.run(receiver)).detach();
        let budget = Budget::default();
        Ok(Fabric(Arc::new(Inner { peer_id, commands, opener, servers, connected, budget, counters })))
    }

    /// Who we are.
    pub fn peer_id(&self) -> PeerId {
        self.0.peer_id
    }

    /// The network at this moment.
    ///
    /// # Errors
    ///
    /// When it was stopped.
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask_task(Command::Status).await
    }

    /// Bytes, streams and calls so far.
    pub fn counts(&self) -> Counts {
        self.0.counters.read()
    }

    /// Everyone who is known, the furthest come first.
    ///
    /// # Errors
    ///
    /// When the network was stopped.
    pub async fn peers(&self) -> Result<Vec<Peer>, Error> {
        self.ask_task(Command::Peers).await
    }

    /// Connects to whoever is at an address, and to nobody else when it ends in `/p2p/PEER`.
    ///
    /// # Errors
    ///
    /// Says why there is no connection.
    pub async fn connect(&self, to: Multiaddr) -> Result<PeerId, Error> {
        self.ask_task(|reply| Command::Connect(to, reply)).await?
    }

    /// A peer's addresses: those known, else those that other peers tell; none when nobody knows it.
    ///
    /// # Errors
    ///
    /// When the network was stopped.
    pub async fn find(&self, peer: PeerId) -> Result<Vec<Multiaddr>, Error> {
        self.ask_task(|reply| Command::Find(peer, reply)).await
    }

    /// The round trip to a peer, connecting first where needed.
    ///
    /// # Errors
    ///
    /// Says why there was no answer.
    pub async fn ping(&self, peer: PeerId) -> Result<Duration, Error> {
        let work = async {
            self.reach(peer).await.map_err(|error| CallError::Unreachable(error.to_string()))?;
            let broken = |error: std::io::Error| CallError::Broken(error.to_string());
            let opened = self.0.opener.open(peer, ping::PROTOCOL_NAME).await;
            let mut stream = opened.map_err(|error| CallError::Unreachable(error.to_string()))?;
            let mut sent = [0; 32];
            getrandom::fill(&mut sent).map_err(|error| CallError::Broken(error.to_string()))?;
            let start = Instant::now();
            stream.write_all(&sent).await.map_err(broken)?;
            stream.flush().await.map_err(broken)?;
            let mut received = [0; 32];
            stream.read_exact(&mut received).await.map_err(broken)?;
            if received != sent {
                return Err(CallError::Broken("the peer answered with other bytes".to_owned()));
            }
            Ok(start.elapsed())
        };
        let answered = within(PING_TIME_MAX, work).await;
        answered.map_err(|error| Error::unreachable(format!("{peer}: {error}")))
    }

    /// A unary call in Hivemind's envelope, connecting first where needed. Dropping the future cancels it.
    ///
    /// # Errors
    ///
    /// Says why there is no answer.
    pub async fn call(
        &self,
        peer: PeerId,
        method: &str,
        request: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        self.call_in(Envelope::Hivemind, peer, method, request, deadline).await
    }

    /// Answers the calls of `method`, on connections that exist as well.
    ///
    /// # Errors
    ///
    /// When the method is served already or its name can't be one.
    pub fn serve_call(
        &self,
        method: &'static str,
        limits: CallLimits,
        handler: Arc<dyn CallHandler>,
    ) -> Result<(), Error> {
        self.serve(Envelope::Hivemind, method, limits, handler)
    }

    /// A unary call of our own: a request and an answer in postcard.
    ///
    /// # Errors
    ///
    /// Says why there is no answer.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        peer: PeerId,
        protocol: &StreamProtocol,
        question: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        let broken = |error: postcard::Error| CallError::Broken(format!("postcard: {error}"));
        let request = postcard::to_stdvec(question).map_err(broken)?;
        let answer = self.call_in(Envelope::Plain, peer, protocol.as_ref(), request, deadline).await?;
        postcard::from_bytes(&answer).map_err(broken)
    }

    /// Answers what [`Fabric::ask`] asks: `answer` gets the peer, as its connection proved it, and the
    /// question, and gives the answer or a sentence that the peer is told instead.
    ///
    /// # Errors
    ///
    /// When the protocol is served already.
    pub fn answer<Q, A, F>(
        &self,
        protocol: &'static str,
        limits: CallLimits,
        answer: impl Fn(PeerId, Q) -> F + Send + Sync + 'static,
    ) -> Result<(), Error>
    where
        Q: DeserializeOwned + 'static,
        A: Serialize + 'static,
        F: Future<Output = Result<A, String>> + Send + 'static,
    {
        let handler = move |from: PeerId, request: Vec<u8>| {
            let work = postcard::from_bytes::<Q>(&request).map(|question| answer(from, question));
            async move {
                let found =
                    work.map_err(|error| format!("the question is no postcard of its type: {error}"))?;
                postcard::to_stdvec(&found.await?).map_err(|error| format!("the answer: {error}"))
            }
            .boxed()
        };
        self.serve(Envelope::Plain, protocol, limits, Arc::new(Answerer(handler)))
    }

    /// Opens a long-lived stream of frames; returns once the peer has accepted the protocol.
    ///
    /// # Errors
    ///
    /// Says why there is none.
    pub async fn open(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
        limits: StreamLimits,
        deadline: Duration,
    ) -> Result<Frames, Error> {
        let work = async {
            self.reach(peer).await.map_err(|error| CallError::Unreachable(error.to_string()))?;
            let opened = self.0.opener.open(peer, protocol.clone()).await;
            opened.map_err(|error| CallError::Unreachable(error.to_string()))
        };
        let stream = within(deadline, work).await;
        let stream = stream.map_err(|error| Error::unreachable(format!("{protocol} of {peer}: {error}")))?;
        Ok(Frames::new(stream, peer, limits, self.0.budget.clone(), None))
    }

    /// The streams of `protocol` that peers open, each with the peer that its connection proved. Streams
    /// beyond the limits, or that nobody takes from here in time, are reset. Dropping it ends the service.
    ///
    /// # Errors
    ///
    /// When the protocol is served already.
    pub fn accept(
        &self,
        protocol: StreamProtocol,
        limits: StreamLimits,
    ) -> Result<impl Stream<Item = (PeerId, Frames)> + Send + use<>, Error> {
        let places = Places::new(limits.streams_max, limits.streams_per_peer_max);
        let (sender, receiver) = smol::channel::bounded(ACCEPTS_WAITING_MAX);
        let (budget, counters) = (self.0.budget.clone(), self.0.counters.clone());
        let server = move |peer: PeerId, stream: libp2p::Stream| {
            let may = budget.begin(peer, Instant::now());
            let Some(place) = may.then(|| places.take(peer)).flatten() else {
                counters.streams_refused.add(1);
                return;
            };
            let frames = Frames::new(stream, peer, limits, budget.clone(), Some(place));
            if sender.try_send((peer, frames)).is_err() {
                counters.streams_refused.add(1);
            }
        };
        self.0.servers.add(protocol.clone(), Arc::new(server))?;
        let service = Service { servers: self.0.servers.clone(), protocol };
        Ok(futures::stream::unfold((receiver, service), async |(receiver, service)| {
            let next = receiver.recv().await.ok()?;
            Some((next, (receiver, service)))
        })
        .boxed())
    }

    /// Stops the network; connections are closed when this returns.
    pub async fn stop(&self) {
        // It may have been stopped already.
        let _ = self.ask_task(Command::Stop).await;
    }

    async fn ask_task<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(command(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// Has a connection to `peer`; tells whether it is known to be useful.
    async fn reach(&self, peer: PeerId) -> Result<bool, Error> {
        let known = {
            let connected = self.0.connected.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            connected.get(&peer).copied()
        };
        match known {
            Some(useful) => Ok(useful),
            None => self.ask_task(|reply| Command::Reach(peer, reply)).await?.map(|()| false),
        }
    }

    async fn call_in(
        &self,
        envelope: Envelope,
        peer: PeerId,
        name: &str,
        request: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        self.0.counters.calls_made.add(1);
        let mut useful = false;
        let work = async {
            let protocol = local_name(name)
                .ok_or_else(|| CallError::Broken(format!("\"{name}\" can't be a protocol's name")))?;
            useful = self.reach(peer).await.map_err(|error| CallError::Unreachable(error.to_string()))?;
            Call { peer, name, protocol, envelope, request }.make(&self.0.opener).await
        };
        let answer = within(deadline, work).await;
        // The book learns of it when there is room for one more command; it is no loss otherwise.
        match &answer {
            Ok(_) | Err(CallError::Refused(_)) if !useful => {
                let _ = self.0.commands.try_send(Command::Answered(peer));
            }
            Ok(_) | Err(CallError::Refused(_)) => {}
            Err(error) => {
                self.0.counters.calls_failed.add(1);
                let _ = self.0.commands.try_send(Command::Failed(peer, format!("{name}: {error}")));
            }
        }
        answer
    }

    fn serve(
        &self,
        envelope: Envelope,
        name: &'static str,
        limits: CallLimits,
        handler: Arc<dyn CallHandler>,
    ) -> Result<(), Error> {
        // A name with a slash arrives as it is; one without is told from others by its prefix.
        let protocol = match name.starts_with('/') {
            true => StreamProtocol::try_from_owned(name.to_owned()).ok(),
            false => local_name(name),
        };
        let protocol =
            protocol.ok_or_else(|| Error::setting(format!("\"{name}\" can't be a protocol's name")))?;
        let (budget, counters) = (self.0.budget.clone(), self.0.counters.clone());
        let method = Method { limits, envelope, handler, budget, counters };
        self.0.servers.add(protocol, method.server())
    }
}

fn listen(swarm: &mut Swarm<Behaviour>, settings: &Settings) -> Result<(), Error> {
    let mut failure = None;
    let mut count = 0;
    for address in &settings.listen {
        match swarm.listen_on(address.clone()) {
            Ok(_) => count += 1,
            Err(error) => failure = Some((address, error)),
        }
    }
    match failure {
        // A machine without IPv6 still has IPv4, and the other way round.
        Some((address, error)) if count == 0 => {
            let source = match error {
                libp2p::TransportError::Other(error) => error,
                other => std::io::Error::other(other.to_string()),
            };
            Err(Error::io(format!("listening on {address}"), source))
        }
        _ => Ok(()),
    }
}

/// Ends the service of a protocol when dropped.
struct Service {
    servers: Servers,
    protocol: StreamProtocol,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.servers.remove(&self.protocol);
    }
}

/// A function that answers calls.
struct Answerer<F>(F);

impl<F> CallHandler for Answerer<F>
where
    F: Fn(PeerId, Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync,
{
    fn answer(&self, from: PeerId, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        (self.0)(from, request)
    }
}

impl Remote for Fabric {
    fn peer_id(&self) -> PeerId {
        self.0.peer_id
    }

    fn call(
        &self,
        peer: PeerId,
        method: &'static str,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, CallError>> {
        Fabric::call(self, peer, method, request, deadline).boxed()
    }
}

#[cfg(test)]
mod floods;
