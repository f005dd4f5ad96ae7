//! From bytes on a wire to streams of a proven peer.
//!
//! TCP or a relay's circuit, then noise, then yamux, then the names of protocols; each is one step here and
//! has its own room below. QUIC is left out: none of its implementations is free of another runtime.

mod dns;
mod names;
mod ports;
mod tcp;

use std::sync::Arc;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _, noise, relay, yamux};

use crate::counters::Counters;
use crate::error::Error;
use crate::limits::{HANDSHAKE_TIME_MAX, STREAMS_PER_CONNECTION_MAX};

pub(crate) use names::{InboundStreams, is_unknown_name, local_name};
pub(crate) use ports::{interfaces, is_local};

/// Which addresses a node dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Any address, and names are resolved.
    Everywhere,
    /// Addresses of private networks and of this machine alone; no name is ever resolved.
    Lan,
}

/// The whole stack, and the relay client's behaviour that belongs to it.
///
/// # Errors
///
/// Says so when noise refuses the key.
pub(crate) fn build(
    keys: &Keypair,
    scope: Scope,
    counters: &Arc<Counters>,
) -> Result<(Boxed<(PeerId, StreamMuxerBox)>, relay::client::Behaviour), Error> {
    let (circuits, relay_client) = relay::client::new(keys.public().to_peer_id());
    let secrecy = noise::Config::new(keys).map_err(|error| Error::Identity { what: error.to_string() })?;
    let mut multiplexer = yamux::Config::default();
    multiplexer.set_max_num_streams(STREAMS_PER_CONNECTION_MAX);
    let inbound = InboundStreams::new(counters.clone());
    let transport = tcp::Tcp::new(scope)
        .or_transport(circuits)
        .upgrade(Version::V1Lazy)
        .authenticate(secrecy)
        .multiplex(multiplexer)
        .timeout(HANDSHAKE_TIME_MAX)
        .map(move |(peer, muxer), _| (peer, StreamMuxerBox::new(names::Named::new(muxer, &inbound))))
        .boxed();
    Ok((transport, relay_client))
}
