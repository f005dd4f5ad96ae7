//! Peers on the LAN, found by multicast DNS as libp2p does it.
//!
//! A question for the service's name, and answers that name each peer's addresses in TXT records, both to
//! everyone. Real libp2p peers see ours and are seen. Anyone on a LAN can announce anything: what comes is
//! bounded, may only name addresses of this LAN, and is believed no further than to be dialled; the handshake
//! proves who answers.
//!
//! One socket for each of the machine's IPv4 addresses, so that every attached network is asked; the
//! addresses that are told may be of either family.

mod packets;

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::{Multiaddr, PeerId};
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::{Async, Timer};
use socket2::{Domain, Protocol, Socket, Type};

use crate::budget::Rate;
use crate::gate::ip_of;
use crate::limits::{
    LAN_ANSWER_INTERVAL_MIN, LAN_PACKET_BYTES_MAX, LAN_PACKETS_PER_SECOND_MAX, LAN_QUERY_INTERVAL,
    LAN_QUERY_INTERVAL_MIN,
};
use crate::transport::{interfaces, is_local};
use packets::{Heard, answer, heard, query};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;

/// A peer that announced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// Where the node listens, as the swarm's task knows it.
pub(crate) type Listening = Arc<RwLock<Vec<Multiaddr>>>;

/// Everything that the discovery needs to know of the node.
pub(crate) struct Lan {
    pub(crate) service: String,
    pub(crate) own: PeerId,
    pub(crate) listening: Listening,
    /// Speaks when the node listens elsewhere than before.
    pub(crate) moves: Receiver<()>,
    pub(crate) seen: Sender<Vec<Seen>>,
}

/// A packet, and the interface's address whose socket took it.
type Packet = (Ipv4Addr, Vec<u8>);

struct Interface {
    socket: Async<UdpSocket>,
    rate: Rate,
    /// Somebody asked, and we have not yet answered.
    asked: bool,
    /// From when on we may answer.
    answer_from: Instant,
}

enum Happening {
    Packet(Packet),
    Query,
    Answer,
    Moved,
}

impl Lan {
    /// Asks and answers until it is dropped or nobody wants to hear of peers any more.
    pub(crate) async fn run(self) {
        let mut interfaces = HashMap::new();
        let mut interval = LAN_QUERY_INTERVAL_MIN;
        let mut next_query = Instant::now();
        loop {
            let next_answer = self.next_answer(&interfaces);
            let packet = async {
                let packet = poll_fn(|context| poll_packet(&interfaces, context)).await;
                Happening::Packet(packet)
            };
            let asking = async {
                Timer::at(next_query).await;
                Happening::Query
            };
            let answering = async {
                match next_answer {
                    Some(at) => Timer::at(at).await,
                    None => Timer::never().await,
                };
                Happening::Answer
            };
            let moving = async {
                match self.moves.recv().await {
                    Ok(()) => Happening::Moved,
                    // The node is gone, and this task will be.
                    Err(_) => std::future::pending().await,
                }
            };
            match packet.race(asking).race(answering).race(moving).await {
                Happening::Packet((own_ip, packet)) => {
                    if self.on_packet(own_ip, &packet, &mut interfaces).await.is_err() {
                        return;
                    }
                }
                Happening::Query => {
                    // Networks come and go: whatever is there now is asked, and told of us.
                    look_around(&mut interfaces);
                    for interface in interfaces.values_mut() {
                        send(&interface.socket, query(&self.service)).await;
                        interface.asked = true;
                    }
                    next_query = Instant::now() + interval;
                    interval = (interval * 2).min(LAN_QUERY_INTERVAL);
                }
                Happening::Answer => self.answer(&mut interfaces).await,
                Happening::Moved => {
                    interval = LAN_QUERY_INTERVAL_MIN;
                    next_query = Instant::now();
                }
            }
        }
    }

    /// When the next answer is due.
    fn next_answer(&self, interfaces: &HashMap<Ipv4Addr, Interface>) -> Option<Instant> {
        let asked = interfaces.values().filter(|interface| interface.asked);
        asked.map(|interface| interface.answer_from).min()
    }

    async fn answer(&self, interfaces: &mut HashMap<Ipv4Addr, Interface>) {
        let now = Instant::now();
        for (own_ip, interface) in interfaces {
            if !interface.asked || interface.answer_from > now {
                continue;
            }
            interface.asked = false;
            interface.answer_from = now + LAN_ANSWER_INTERVAL_MIN;
            let listening = self.listening.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            let here = own_ip.is_loopback();
            let tellable = listening
                .into_iter()
                .filter(|address| ip_of(address).is_some_and(|ip| ip.is_loopback() == here));
            if let Some(packet) = answer(&self.service, self.own, tellable) {
                send(&interface.socket, Some(packet)).await;
            }
        }
    }

    /// # Errors
    ///
    /// When nobody wants to hear of peers any more.
    async fn on_packet(
        &self,
        own_ip: Ipv4Addr,
        packet: &[u8],
        interfaces: &mut HashMap<Ipv4Addr, Interface>,
    ) -> Result<(), ()> {
        let Some(interface) = interfaces.get_mut(&own_ip) else { return Ok(()) };
        if !interface.rate.take(1.0, Instant::now()) {
            return Ok(());
        }
        match heard(packet, &self.service) {
            Heard::Question => interface.asked = true,
            Heard::Peers(peers) => {
                let near = |address: &Multiaddr| ip_of(address).is_some_and(|ip| is_near(ip, own_ip));
                let others = peers.into_iter().filter(|seen| seen.peer != self.own).map(|mut seen| {
                    seen.addresses.retain(near);
                    seen
                });
                let seen: Vec<Seen> = others.filter(|seen| !seen.addresses.is_empty()).collect();
                if !seen.is_empty() {
                    self.seen.send(seen).await.map_err(|_| ())?;
                }
            }
            Heard::Nothing => {}
        }
        Ok(())
    }
}

/// Whether an address heard on the network of `own_ip` may be of that network.
fn is_near(ip: IpAddr, own_ip: Ipv4Addr) -> bool {
    match ip {
        _ if ip.is_loopback() => own_ip.is_loopback(),
        _ if is_local(ip) => true,
        // Some LANs have public addresses.
        IpAddr::V4(ip) => ip.octets()[..3] == own_ip.octets()[..3],
        IpAddr::V6(_) => false,
    }
}

/// The next packet of any interface.
fn poll_packet(interfaces: &HashMap<Ipv4Addr, Interface>, context: &mut Context<'_>) -> Poll<Packet> {
    let mut buffer = [0; LAN_PACKET_BYTES_MAX];
    for (ip, interface) in interfaces {
        let socket = &interface.socket;
        loop {
            match socket.get_ref().recv_from(&mut buffer) {
                Ok((length, _)) => return Poll::Ready((*ip, buffer[..length].to_vec())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // An error of the reactor leaves this interface silent until the next look around.
                    let Poll::Ready(Ok(())) = socket.poll_readable(context) else { break };
                }
                Err(_) => break,
            }
        }
    }
    Poll::Pending
}

/// Opens sockets for interfaces that have come, and closes those that went.
fn look_around(interfaces: &mut HashMap<Ipv4Addr, Interface>) {
    let Ok(found) = self::interfaces() else { return };
    let ipv4 = found.iter().filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let mut wanted: Vec<Ipv4Addr> = ipv4.clone().filter(|ip| !ip.is_loopback()).collect();
    if wanted.is_empty() {
        // A machine on its own, or a test.
        wanted.extend(ipv4.filter(|ip| ip.is_loopback()).take(1));
    }
    interfaces.retain(|ip, _| wanted.contains(ip));
    for ip in wanted {
        if interfaces.contains_key(&ip) {
            continue;
        }
        // An interface that can't do multicast is none of ours.
        let Ok(socket) = open(ip) else { continue };
        let per_second = f64::from(LAN_PACKETS_PER_SECOND_MAX);
        let now = Instant::now();
        let rate = Rate::new(per_second, per_second, now);
        interfaces.insert(ip, Interface { socket, rate, asked: false, answer_from: now });
    }
}

fn open(ip: Ipv4Addr) -> io::Result<Async<UdpSocket>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Others on this machine ask and answer on the same port.
    socket.set_reuse_address(true)?;
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    socket.join_multicast_v4(&GROUP, &ip)?;
    socket.set_multicast_if_v4(&ip)?;
    // Two nodes on one machine find each other too.
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(255)?;
    // Else each socket takes the packets of all interfaces.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_multicast_all_v4(false)?;
    Async::new_nonblocking(socket.into())
}

/// Sends a packet to everyone. One that is lost is made good by the next.
async fn send(socket: &Async<UdpSocket>, packet: Option<Vec<u8>>) {
    if let Some(packet) = packet {
        let _ = socket.send_to(&packet, (GROUP, PORT)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_same_lan_are_believed() {
        let own = Ipv4Addr::new(192, 168, 1, 7);
        for (ip, near) in [
            ("192.168.1.9", true),
            ("10.0.0.1", true),
            ("fe80::1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("1.1.1.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_near(ip.parse().unwrap(), own), near, "{ip}");
        }
        let public = Ipv4Addr::new(5, 6, 7, 8);
        assert!(is_near("5.6.7.200".parse().unwrap(), public));
        assert!(!is_near("5.6.8.1".parse().unwrap(), public));
        assert!(is_near("127.0.0.1".parse().unwrap(), Ipv4Addr::LOCALHOST));
    }
}
