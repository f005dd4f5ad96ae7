//! What the owner of a node decides about its network.
//!
//! The node's configuration fills this; it is checked once, in [`Settings::check`], and believed afterwards.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, StreamProtocol};

use crate::error::Error;
use crate::limits::{BOOTSTRAPS_MAX, OWN_ADDRESSES_MAX, SWARM_NAME_BYTES_MAX};
use crate::transport::Scope;

/// The port of a node that nobody gave another: KwaaiNet's.
pub const PORT: u16 = 8080;

/// The network's settings. [`Settings::default`] is a node that listens on [`PORT`], finds its LAN, knows
/// no bootstrap peer and relays for nobody.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen: `/ip4/ADDRESS/tcp/PORT` and `/ip6/ADDRESS/tcp/PORT`; port 0 lets the system choose.
    pub listen: Vec<Multiaddr>,
    /// Addresses at which others can reach the node though it can't see them itself (a forwarded port).
    pub announce: Vec<Multiaddr>,
    /// Peers to begin with, each address with its `/p2p/PEER` at the end.
    pub bootstrap: Vec<Multiaddr>,
    /// The swarm's name, or nothing for the common one. Swarms of different names neither find each other on
    /// a LAN nor share a routing table.
    pub swarm_name: String,
    /// Speak to private networks and this machine alone: no name is resolved, nothing outside is dialled and
    /// nobody from outside is let in.
    pub lan_only: bool,
    /// Find and be found by multicast DNS.
    pub mdns: bool,
    /// Relay, within bounds, for peers that can't be reached directly.
    pub relay_server: bool,
    /// Peers that get no connection.
    pub blocked: Vec<PeerId>,
    /// Where known peers are kept between starts; without it they are forgotten.
    pub folder: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        let any = [Multiaddr::from(Ipv4Addr::UNSPECIFIED), Multiaddr::from(Ipv6Addr::UNSPECIFIED)];
        Settings {
            listen: any.into_iter().map(|address| address.with(Protocol::Tcp(PORT))).collect(),
            announce: Vec::new(),
            bootstrap: Vec::new(),
            swarm_name: String::new(),
            lan_only: false,
            mdns: true,
            relay_server: false,
            blocked: Vec::new(),
            folder: None,
        }
    }
}

impl Settings {
    /// Says what is wrong with these settings, if anything is.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] with the setting, what was found and what would do.
    pub fn check(&self) -> Result<(), Error> {
        check_count("listen addresses", self.listen.len(), OWN_ADDRESSES_MAX)?;
        check_count("announced addresses", self.announce.len(), OWN_ADDRESSES_MAX)?;
        check_count("bootstrap addresses", self.bootstrap.len(), BOOTSTRAPS_MAX)?;
        for address in &self.bootstrap {
            if peer_of(address).is_none() {
                return Err(Error::setting(format!(
                    "the bootstrap address {address} does not end in /p2p/PEER: add the peer's id"
                )));
            }
        }
        let letters = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if !self.swarm_name.chars().all(letters) || self.swarm_name.len() > SWARM_NAME_BYTES_MAX {
            return Err(Error::setting(format!(
                "the swarm name \"{}\" is not made of at most {SWARM_NAME_BYTES_MAX} letters a-z, digits \
                 and hyphens",
                self.swarm_name
            )));
        }
        Ok(())
    }

    pub(crate) fn scope(&self) -> Scope {
        if self.lan_only { Scope::Lan } else { Scope::Everywhere }
    }

    /// The protocol of our own routing table.
    pub(crate) fn own_kademlia(&self) -> StreamProtocol {
        if self.swarm_name.is_empty() {
            return StreamProtocol::new("/kwaai/kad/1.0.0");
        }
        StreamProtocol::try_from_owned(format!("/kwaai/{}/kad/1.0.0", self.swarm_name))
            .expect("it begins with a slash")
    }

    /// The service that is asked for on a LAN.
    pub(crate) fn service(&self) -> String {
        if self.swarm_name.is_empty() {
            return "_p2p._udp.local".to_owned();
        }
        format!("_p2p-{}._udp.local", self.swarm_name)
    }
}

fn check_count(what: &str, count: usize, count_max: usize) -> Result<(), Error> {
    if count > count_max {
        return Err(Error::setting(format!("{count} {what} were given, at most {count_max} may be")));
    }
    Ok(())
}

/// The peer at the end of an address.
pub(crate) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_address_without_its_peer_is_refused() {
        let mut settings =
            Settings { bootstrap: vec!["/ip4/1.2.3.4/tcp/5".parse().unwrap()], ..Settings::default() };
        assert!(settings.check().unwrap_err().to_string().contains("/p2p/PEER"));
        settings.bootstrap = vec![format!("/ip4/1.2.3.4/tcp/5/p2p/{}", PeerId::random()).parse().unwrap()];
        assert!(settings.check().is_ok());
    }

    #[test]
    fn a_swarm_name_holds_what_a_service_name_may() {
        for (name, good) in [
            ("", true),
            ("my-swarm-2", true),
            (&"a".repeat(SWARM_NAME_BYTES_MAX), true),
            (&"a".repeat(SWARM_NAME_BYTES_MAX + 1), false),
            ("Mine", false),
            ("a.b", false),
            ("a/b", false),
        ] {
            let settings = Settings { swarm_name: name.to_owned(), ..Settings::default() };
            assert_eq!(settings.check().is_ok(), good, "{name}");
        }
    }

    #[test]
    fn the_lists_are_bounded() {
        let address: Multiaddr = format!("/ip4/1.2.3.4/tcp/5/p2p/{}", PeerId::random()).parse().unwrap();
        for (count, good) in [(BOOTSTRAPS_MAX, true), (BOOTSTRAPS_MAX + 1, false)] {
            let settings = Settings { bootstrap: vec![address.clone(); count], ..Settings::default() };
            assert_eq!(settings.check().is_ok(), good);
        }
        for (count, good) in [(OWN_ADDRESSES_MAX, true), (OWN_ADDRESSES_MAX + 1, false)] {
            let settings = Settings { listen: vec![address.clone(); count], ..Settings::default() };
            assert_eq!(settings.check().is_ok(), good);
        }
    }
}
