//! TCP on smol's reactor, as libp2p wants a transport.
//!
//! libp2p's own TCP transport is tied to another runtime. This one listens on IPv4 and IPv6 apart, follows
//! the machine's interfaces, dials names, uses the listening port for dials towards the open network so that
//! holes can be punched, and outlives a lack of descriptors.

use std::collections::{BTreeSet, VecDeque};
use std::future::Ready;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use smol::{Async, Timer};

use super::dns::{self, Family, within};
use super::{Scope, ports};
use crate::limits::{ACCEPT_PAUSE, CONNECT_TIME_MAX, INTERFACES_INTERVAL, NAME_DEPTH_MAX};
use crate::settings::peer_of;

type Event = TransportEvent<Ready<io::Result<Async<TcpStream>>>, io::Error>;

/// The transport.
pub(super) struct Tcp {
    scope: Scope,
    listeners: Vec<Listener>,
    events: VecDeque<Event>,
    waker: Option<Waker>,
}

struct Listener {
    id: ListenerId,
    local: SocketAddr,
    socket: Async<TcpListener>,
    /// What was announced.
    addresses: BTreeSet<IpAddr>,
    /// Next look at the interfaces; only for a listener on all of them.
    look: Option<Timer>,
    /// After a failed `accept`.
    pause: Option<Timer>,
}

/// What an address asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Ip(SocketAddr),
    Name { name: String, port: u16, family: Family },
    List { name: String },
}

/// The target of `address`, a peer id at its end left aside; none for another transport's address.
fn target(address: &Multiaddr) -> Option<Target> {
    let mut parts = address.iter();
    let host = parts.next()?;
    if let Protocol::Dnsaddr(name) = host {
        let end = parts.next();
        let fits = matches!(end, None | Some(Protocol::P2p(_))) && parts.next().is_none();
        return fits.then(|| Target::List { name: name.into_owned() });
    }
    let Some(Protocol::Tcp(port)) = parts.next() else { return None };
    if !matches!((parts.next(), parts.next()), (None, None) | (Some(Protocol::P2p(_)), None)) {
        return None;
    }
    match host {
        Protocol::Ip4(ip) => Some(Target::Ip((ip, port).into())),
        Protocol::Ip6(ip) => Some(Target::Ip((ip, port).into())),
        Protocol::Dns(name) => Some(Target::Name { name: name.into_owned(), port, family: Family::Any }),
        Protocol::Dns4(name) => Some(Target::Name { name: name.into_owned(), port, family: Family::V4 }),
        Protocol::Dns6(name) => Some(Target::Name { name: name.into_owned(), port, family: Family::V6 }),
        _ => None,
    }
}

fn multiaddr(ip: IpAddr, port: u16) -> Multiaddr {
    Multiaddr::from(ip).with(Protocol::Tcp(port))
}

impl Tcp {
    pub(super) fn new(scope: Scope) -> Self {
        Tcp { scope, listeners: Vec::new(), events: VecDeque::new(), waker: None }
    }

    /// The listening port to dial `address` from. Towards a LAN any port is better: two nodes that dial each
    /// other at the same moment would meet in one connection that both believe to have opened.
    fn port_towards(&self, address: SocketAddr) -> Option<SocketAddr> {
        if ports::is_local(address.ip()) {
            return None;
        }
        let fits = |local: &SocketAddr| {
            local.is_ipv4() == address.is_ipv4() && (local.ip().is_unspecified() || !local.ip().is_loopback())
        };
        self.listeners.iter().map(|listener| listener.local).find(fits)
    }

    fn check(&self, target: &Target) -> io::Result<()> {
        match (self.scope, target) {
            (Scope::Everywhere, _) => Ok(()),
            (Scope::Lan, Target::Ip(address)) if ports::is_local(address.ip()) => Ok(()),
            (Scope::Lan, Target::Ip(_)) => Err(refused("a LAN-only node dials no address outside")),
            (Scope::Lan, _) => Err(refused("a LAN-only node resolves no names")),
        }
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what)
}

async fn connect(address: SocketAddr, from: Option<SocketAddr>) -> io::Result<Async<TcpStream>> {
    within(CONNECT_TIME_MAX, ports::connect(address, from)).await
}

/// Connects to the first address that answers.
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<Async<TcpStream>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address of the wanted kind");
    for address in addresses {
        match connect(address, None).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to what the name's list holds, for the peer at the end of `address` if it names one.
fn connect_list(
    address: Multiaddr,
    name: String,
    depth: usize,
) -> BoxFuture<'static, io::Result<Async<TcpStream>>> {
    async move {
        let peer = peer_of(&address);
        let mut last =
            io::Error::new(io::ErrorKind::NotFound, format!("/dnsaddr/{name} lists no usable address"));
        for found in dns::resolve_dnsaddr(&name).await? {
            if peer.is_some() && peer_of(&found) != peer {
                continue;
            }
            let connected = match target(&found) {
                Some(Target::Ip(address)) => connect(address, None).await,
                Some(Target::Name { name, port, family }) => {
                    connect_any(dns::resolve(&name, port, family).await?).await
                }
                Some(Target::List { name }) if depth < NAME_DEPTH_MAX => {
                    connect_list(found, name, depth + 1).await
                }
                _ => continue,
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
    .boxed()
}

impl libp2p::Transport for Tcp {
    type Output = Async<TcpStream>;
    type Error = io::Error;
    type ListenerUpgrade = Ready<io::Result<Async<TcpStream>>>;
    type Dial = BoxFuture<'static, io::Result<Async<TcpStream>>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let Some(Target::Ip(wanted)) = target(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let socket = ports::listen(wanted).map_err(TransportError::Other)?;
        let local = socket.get_ref().local_addr().map_err(TransportError::Other)?;
        let look = local.ip().is_unspecified().then(|| Timer::interval(INTERFACES_INTERVAL));
        let mut listener = Listener { id, local, socket, addresses: BTreeSet::new(), look, pause: None };
        self.events.extend(listener.changed_addresses().map_err(TransportError::Other)?);
        self.listeners.push(listener);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let Some(index) = self.listeners.iter().position(|listener| listener.id == id) else { return false };
        self.listeners.remove(index);
        self.events.push_back(TransportEvent::ListenerClosed { listener_id: id, reason: Ok(()) });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        true
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(target) = target(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        self.check(&target).map_err(TransportError::Other)?;
        Ok(match target {
            Target::Ip(address) => {
                let reuse = options.port_use == PortUse::Reuse;
                let from = reuse.then(|| self.port_towards(address)).flatten();
                connect(address, from).boxed()
            }
            Target::Name { name, port, family } => {
                async move { connect_any(dns::resolve(&name, port, family).await?).await }.boxed()
            }
            Target::List { name } => connect_list(address, name, 0),
        })
    }

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Event> {
        let me = self.get_mut();
        if let Some(event) = me.events.pop_front() {
            return Poll::Ready(event);
        }
        for listener in &mut me.listeners {
            me.events.extend(listener.look_around(context));
            if let Some(event) = listener.accept(context) {
                me.events.push_back(event);
            }
        }
        if let Some(event) = me.events.pop_front() {
            return Poll::Ready(event);
        }
        me.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Listener {
    /// What to tell of addresses that came or went since the last look.
    fn changed_addresses(&mut self) -> io::Result<Vec<Event>> {
        let now = ports::addresses_of(self.local.ip())?;
        let (id, port) = (self.id, self.local.port());
        let gone = self
            .addresses
            .difference(&now)
            .map(|ip| TransportEvent::AddressExpired { listener_id: id, listen_addr: multiaddr(*ip, port) });
        let come = now
            .difference(&self.addresses)
            .map(|ip| TransportEvent::NewAddress { listener_id: id, listen_addr: multiaddr(*ip, port) });
        let events = gone.chain(come).collect();
        self.addresses = now;
        Ok(events)
    }

    fn look_around(&mut self, context: &mut Context<'_>) -> Vec<Event> {
        let mut due = false;
        if let Some(look) = &mut self.look {
            while Pin::new(&mut *look).poll_next(context).is_ready() {
                due = true;
            }
        }
        // A machine that can't tell its interfaces just now is asked again at the next look.
        if due { self.changed_addresses().unwrap_or_default() } else { Vec::new() }
    }

    /// The next connection, or why there is none; nothing when it has to be waited for.
    fn accept(&mut self, context: &mut Context<'_>) -> Option<Event> {
        if let Some(pause) = &mut self.pause {
            if pause.poll_unpin(context).is_pending() {
                return None;
            }
            self.pause = None;
        }
        loop {
            match self.socket.get_ref().accept() {
                Ok((stream, remote)) => {
                    // A connection that was reset meanwhile has no local address.
                    let Ok(local) = stream.local_addr() else { continue };
                    return Some(TransportEvent::Incoming {
                        listener_id: self.id,
                        upgrade: std::future::ready(ports::accepted(stream)),
                        local_addr: multiaddr(local.ip(), local.port()),
                        send_back_addr: multiaddr(remote.ip(), remote.port()),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.socket.poll_readable(context) {
                        Poll::Pending => return None,
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Some(self.failed(error, context)),
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted
                            | io::ErrorKind::ConnectionReset
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Some(self.failed(error, context)),
            }
        }
    }

    /// No descriptors left, most likely: pause, and never give up.
    fn failed(&mut self, error: io::Error, context: &mut Context<'_>) -> Event {
        let mut pause = Timer::after(ACCEPT_PAUSE);
        if pause.poll_unpin(context).is_pending() {
            self.pause = Some(pause);
        }
        TransportEvent::ListenerError { listener_id: self.id, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Target> {
        target(&text.parse().unwrap())
    }

    #[test]
    fn tcp_addresses_are_taken_with_and_without_their_peer() {
        let peer = libp2p::PeerId::random();
        let ip = Some(Target::Ip("1.2.3.4:5".parse().unwrap()));
        assert_eq!(parsed("/ip4/1.2.3.4/tcp/5"), ip);
        assert_eq!(parsed(&format!("/ip4/1.2.3.4/tcp/5/p2p/{peer}")), ip);
        let name = Target::Name { name: "a.example".to_owned(), port: 5, family: Family::V6 };
        assert_eq!(parsed("/dns6/a.example/tcp/5"), Some(name));
        let list = Target::List { name: "a.example".to_owned() };
        assert_eq!(parsed(&format!("/dnsaddr/a.example/p2p/{peer}")), Some(list));
    }

    #[test]
    fn addresses_of_other_transports_are_left_to_them() {
        let peer = libp2p::PeerId::random();
        for text in [
            "/ip4/1.2.3.4/udp/5/quic-v1".to_owned(),
            "/ip4/1.2.3.4/tcp/5/ws".to_owned(),
            "/ip4/1.2.3.4".to_owned(),
            format!("/ip4/1.2.3.4/tcp/5/p2p/{peer}/p2p-circuit"),
        ] {
            assert_eq!(parsed(&text), None, "{text}");
        }
    }

    #[test]
    fn a_lan_only_node_dials_and_resolves_nothing_outside() {
        let tcp = Tcp::new(Scope::Lan);
        for text in ["/ip4/192.168.1.5/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/fd00::1/tcp/1", "/ip6/::1/tcp/1"]
        {
            assert!(tcp.check(&parsed(text).unwrap()).is_ok(), "{text}");
        }
        for text in [
            "/ip4/1.1.1.1/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/ip6/::ffff:1.1.1.1/tcp/1",
            "/dns/localhost/tcp/1",
            "/dnsaddr/a.example",
        ] {
            assert!(tcp.check(&parsed(text).unwrap()).is_err(), "{text}");
        }
    }
}
