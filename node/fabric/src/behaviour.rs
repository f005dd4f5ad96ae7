//! Everything that the node speaks on a connection, put together.
//!
//! libp2p's own protocols with our bounds, behind our gate. The gate stands first: what it refuses, none of
//! the others hears of.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, autonat, dcutr, identify, kad, ping, relay};

use crate::counters::Counters;
use crate::gate::Gate;
use crate::limits::{
    CIRCUIT_BYTES_MAX, CIRCUIT_TIME_MAX, CIRCUITS_MAX, CIRCUITS_PER_PEER_MAX, DIAL_BACK_ADDRESSES_MAX,
    DIAL_BACKS_PER_SECOND_MAX, KADEMLIA_MESSAGE_BYTES_MAX, KADEMLIA_REFRESH_INTERVAL, PING_INTERVAL,
    PING_TIME_MAX, QUERY_TIME_MAX, REACHABILITY_DELAY, REACHABILITY_INTERVAL, REACHABILITY_RETRY_INTERVAL,
    RESERVATIONS_MAX,
};
use crate::settings::Settings;
use crate::streams;

/// The routing table that Hivemind's and IPFS's peers share: p2pd finds the addresses of peers with it.
pub(crate) const COMMON_KADEMLIA: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");
/// What a peer serves that relays for others.
pub(crate) const RELAY: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
/// What identify says of the family of protocols; Go sends the same.
const FAMILY: &str = "ipfs/0.1.0";

/// A routing table.
pub(crate) type Kademlia = kad::Behaviour<MemoryStore>;

/// All protocols.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) gate: Gate,
    pub(crate) streams: streams::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    /// The table of our own swarm alone, so that others can't fill it.
    pub(crate) own_kademlia: Kademlia,
    pub(crate) common_kademlia: Kademlia,
    pub(crate) reachability: Toggle<autonat::v1::Behaviour>,
    pub(crate) relay_client: relay::client::Behaviour,
    pub(crate) relay_server: Toggle<relay::Behaviour>,
    pub(crate) holes: Toggle<dcutr::Behaviour>,
}

impl Behaviour {
    pub(crate) fn new(
        keys: &Keypair,
        settings: &Settings,
        relay_client: relay::client::Behaviour,
        streams: streams::Behaviour,
        counters: Arc<Counters>,
    ) -> Self {
        let own = keys.public().to_peer_id();
        let agent = format!("kwaainet/{}", env!("CARGO_PKG_VERSION"));
        let identify = identify::Config::new(FAMILY.to_owned(), keys.public())
            .with_agent_version(agent)
            .with_push_listen_addr_updates(true)
            // The book keeps addresses.
            .with_cache_size(0);
        let ping = ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIME_MAX);
        // On a LAN every address can be reached as it is: nobody has to be asked, no hole to be punched.
        let outside = !settings.lan_only;
        Behaviour {
            gate: Gate::new(own, settings.scope(), settings.blocked.iter().copied(), counters),
            streams,
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            own_kademlia: kademlia(own, settings.own_kademlia()),
            common_kademlia: kademlia(own, COMMON_KADEMLIA),
            reachability: outside.then(|| autonat::v1::Behaviour::new(own, reachability())).into(),
            relay_client,
            relay_server: settings.relay_server.then(|| relay::Behaviour::new(own, relay_server())).into(),
            holes: outside.then(|| dcutr::Behaviour::new(own)).into(),
        }
    }
}

fn kademlia(own: libp2p::PeerId, protocol: StreamProtocol) -> Kademlia {
    let mut config = kad::Config::new(protocol);
    config
        .set_query_timeout(QUERY_TIME_MAX)
        .set_max_packet_size(KADEMLIA_MESSAGE_BYTES_MAX)
        // Peers come into the table once they told us that they serve it.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_periodic_bootstrap_interval(Some(KADEMLIA_REFRESH_INTERVAL))
        // Tables of peers are all that is wanted here: nobody's records are stored or renewed.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None);
    let store = MemoryStoreConfig { max_records: 0, max_provided_keys: 0, ..MemoryStoreConfig::default() };
    let mut kademlia = Kademlia::with_config(own, MemoryStore::with_config(own, store), config);
    kademlia.set_mode(Some(kad::Mode::Server));
    kademlia
}

fn reachability() -> autonat::v1::Config {
    autonat::v1::Config {
        boot_delay: REACHABILITY_DELAY,
        retry_interval: REACHABILITY_RETRY_INTERVAL,
        refresh_interval: REACHABILITY_INTERVAL,
        throttle_server_period: REACHABILITY_RETRY_INTERVAL / 2,
        confidence_max: 2,
        max_peer_addresses: DIAL_BACK_ADDRESSES_MAX,
        throttle_clients_global_max: DIAL_BACKS_PER_SECOND_MAX,
        throttle_clients_peer_max: 1,
        throttle_clients_period: Duration::from_secs(1),
        ..autonat::v1::Config::default()
    }
}

fn relay_server() -> relay::Config {
    let per_minute = NonZeroU32::new(30).expect("30 is not 0");
    let minute = Duration::from_secs(60);
    relay::Config {
        max_reservations: RESERVATIONS_MAX,
        max_reservations_per_peer: 2,
        max_circuits: CIRCUITS_MAX,
        max_circuits_per_peer: CIRCUITS_PER_PEER_MAX,
        max_circuit_duration: CIRCUIT_TIME_MAX,
        max_circuit_bytes: CIRCUIT_BYTES_MAX,
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    }
    .reservation_rate_per_peer(per_minute, minute)
    .reservation_rate_per_ip(per_minute, minute)
    .circuit_src_per_peer(per_minute, minute)
    .circuit_src_per_ip(per_minute, minute)
}
