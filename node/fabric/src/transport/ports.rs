//! Sockets, and the addresses of this machine.
//!
//! What socket options a listener and a dialer need, and which local addresses a listener on "any" stands
//! for. Everything that differs between systems is here.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use smol::Async;
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{INTERFACES_MAX, LISTEN_QUEUE};

/// A socket for the family of `address`; `shared` lets a listener and dialers use one port.
fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // The same port is listened on for IPv4 beside it.
        socket.set_only_v6(true)?;
    }
    #[cfg(unix)]
    if shared {
        socket.set_reuse_address(true)?;
        #[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
        socket.set_reuse_port(true)?;
    }
    #[cfg(not(unix))]
    let _ = shared;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Listens on `address`; port 0 lets the system choose.
pub(super) fn listen(address: SocketAddr) -> io::Result<Async<TcpListener>> {
    let socket = socket(address, true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_QUEUE)?;
    Async::new_nonblocking(socket.into())
}

/// Readies an accepted connection.
pub(super) fn accepted(stream: TcpStream) -> io::Result<Async<TcpStream>> {
    stream.set_nodelay(true)?;
    Async::new(stream)
}

/// Connects to `address`, from the port of `from` where that is possible.
pub(super) async fn connect(address: SocketAddr, from: Option<SocketAddr>) -> io::Result<Async<TcpStream>> {
    let mut socket = socket(address, from.is_some())?;
    let bound = from.is_some_and(|from| socket.bind(&from.into()).is_ok());
    socket.set_tcp_nodelay(true)?;
    let mut started = socket.connect(&address.into());
    let taken = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
    };
    if bound && started.as_ref().is_err_and(taken) {
        // There is a connection between these two ports already: take any port.
        socket = self::socket(address, false)?;
        socket.set_tcp_nodelay(true)?;
        started = socket.connect(&address.into());
    }
    if let Err(error) = started
        && !is_in_progress(&error)
    {
        return Err(error);
    }
    let stream = Async::new_nonblocking(TcpStream::from(socket))?;
    stream.writable().await?;
    match stream.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    // EINPROGRESS has no stable kind of its own; Windows says "would block".
    const IN_PROGRESS: &[i32] = if cfg!(target_os = "linux") || cfg!(target_os = "android") {
        &[115]
    } else if cfg!(windows) {
        &[10035, 10036]
    } else {
        &[36]
    };
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error().is_some_and(|code| IN_PROGRESS.contains(&code))
}

/// The addresses that a listener on `address` can be reached at: its own, or those of all interfaces.
pub(super) fn addresses_of(address: IpAddr) -> io::Result<BTreeSet<IpAddr>> {
    if !address.is_unspecified() {
        return Ok(BTreeSet::from([address]));
    }
    Ok(interfaces()?.into_iter().filter(|found| found.is_ipv4() == address.is_ipv4()).collect())
}

/// Addresses of this machine, without those that mean nothing elsewhere without an interface's name.
pub(crate) fn interfaces() -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs()?;
    let addresses = interfaces.into_iter().map(|interface| interface.ip());
    Ok(addresses.filter(|address| !is_link_local_v6(address)).take(INTERFACES_MAX).collect())
}

fn is_link_local_v6(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.segments()[0] & 0xffc0 == 0xfe80)
}

/// Whether `address` belongs to a private network or to this machine: the addresses that a LAN-only node
/// speaks to.
pub(crate) fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_local_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_local_v4(address),
            None => {
                address == Ipv6Addr::LOCALHOST
                    || address.segments()[0] & 0xfe00 == 0xfc00
                    || address.segments()[0] & 0xffc0 == 0xfe80
            }
        },
    }
}

fn is_local_v4(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.is_private() || address.is_link_local()
}
