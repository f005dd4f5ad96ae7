//! The network part of the node: libp2p, the DHT of Hivemind, and what commands ask of them.
//!
//! The supervisor keeps it running. Without it the node answers all the same, and `status` tells why it is
//! away.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use kwaainet_fabric::hivemind::announce::Announcer;
use kwaainet_fabric::hivemind::petals::{self, Announcement, Notice, ServedModel, info_handler};
use kwaainet_fabric::hivemind::reachability::check_handler;
use kwaainet_fabric::hivemind::{self, Dht};
use kwaainet_fabric::{Fabric, Multiaddr, Peer, PeerId, PeerState, Settings, Status};
use kwaainet_trust::Identity;
use serde_json::{Value, json};
use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{self, FutureExt};

use crate::config::{Config, Key, keys};
use crate::control::Answer;
use crate::exit::{Exit, Failure};
use crate::home;
use crate::limits::{FAREWELL_TIME_MAX, JOIN_PEERS_MAX, NETWORK_LOOK, PINGS_MAX};
use crate::log;
use crate::metrics::{Kind, Metric};
use crate::parts::{Parts, State};

/// The part's name.
const NAME: &str = "network";

/// The network as the node holds it, running or not.
pub struct Network {
    identity: Identity,
    /// None if the owner wants none.
    settings: Option<Settings>,
    /// What people see of the node.
    public_name: Option<String>,
    live: RefCell<Option<Live>>,
    /// Tells others what the node serves, while the network runs.
    announcer: RefCell<Option<Announcer>>,
    /// Closed once it is known whether the first attempt came up.
    begins: Sender<()>,
    begun: Receiver<()>,
}

/// A network that runs.
#[derive(Clone)]
struct Live {
    fabric: Fabric,
    dht: Dht,
}

impl Network {
    /// Reads the settings; nothing is opened yet.
    pub fn new(config: &Config, identity: Identity, home: &Path) -> Result<Rc<Network>, Failure> {
        let settings =
            if config.is_on(&keys::NETWORK_ENABLED) { Some(settings(config, home)?) } else { None };
        let public_name = config.text(&keys::NETWORK_PUBLIC_NAME).map(str::to_owned);
        let (live, announcer) = Default::default();
        let (begins, begun) = bounded(1);
        Ok(Rc::new(Network { identity, settings, public_name, live, announcer, begins, begun }))
    }

    /// Ends once it is known whether the first attempt came up.
    pub async fn begun(&self) {
        // The channel never carries anything but its end.
        let _ = self.begun.recv().await;
    }

    /// Keeps the network running, for ever.
    pub async fn keep(&self, parts: &Parts) {
        let Some(settings) = &self.settings else {
            parts.set(NAME, State::Off("network.enabled is false".into()));
            self.begins.close();
            return future::pending().await;
        };
        parts.keep(NAME, || self.attempt(settings.clone(), parts)).await;
    }

    /// Starts it and watches it; gives the reason when it is over.
    async fn attempt(&self, settings: Settings, parts: &Parts) -> String {
        let bootstrap: Vec<PeerId> = settings.bootstrap.iter().filter_map(peer_of).collect();
        let begun = self.begin(settings, &bootstrap).await;
        self.begins.close();
        let live = match begun {
            Ok(live) => live,
            Err(reason) => return reason,
        };
        parts.set(NAME, State::Running(Instant::now()));
        *self.live.borrow_mut() = Some(live.clone());
        let reason = watch(&live, &bootstrap).await;
        *self.live.borrow_mut() = None;
        *self.announcer.borrow_mut() = None;
        live.fabric.stop().await;
        reason
    }

    async fn begin(&self, settings: Settings, bootstrap: &[PeerId]) -> Result<Live, String> {
        let said = |error: kwaainet_fabric::Error| error.to_string();
        let fabric = Fabric::start(self.identity.keypair(), settings).await.map_err(said)?;
        let remote = Arc::new(fabric.clone());
        let dht = Dht::new(remote, hivemind::Settings::default());
        let notice = Notice::default();
        notice
            .set(self.announcement(petals::State::Offline, None))
            .map_err(|malformed| malformed.to_string())?;
        let served = dht.handlers().into_iter();
        let served =
            served.chain([info_handler(&dht, notice.clone()), check_handler(fabric.peer_id(), None)]);
        for (method, limits, handler) in served {
            fabric.serve_call(method, limits, handler).map_err(said)?;
        }
        for address in &fabric.status().await.map_err(said)?.listen {
            log::say(&format!("Peers can connect to {address}."));
        }
        *self.announcer.borrow_mut() = Some(Announcer::start(dht.clone(), bootstrap, notice));
        Ok(Live { fabric, dht })
    }

    /// What is told of the node. Without a model nothing is written into the DHT; who asks the node is
    /// answered.
    fn announcement(&self, state: petals::State, model: Option<ServedModel>) -> Announcement {
        let version = Some(env!("CARGO_PKG_VERSION").to_owned());
        Announcement {
            state,
            model,
            version,
            public_name: self.public_name.clone(),
            ..Announcement::default()
        }
    }

    /// Says farewell to peers, within bounds.
    pub async fn farewell(&self) {
        let Some(live) = self.live.borrow_mut().take() else { return };
        let announcer = self.announcer.borrow_mut().take();
        let leave = async {
            if let Some(announcer) = announcer {
                announcer.stop().await;
            }
            live.fabric.stop().await;
        };
        let late = async {
            Timer::after(FAREWELL_TIME_MAX).await;
        };
        leave.or(late).await;
    }

    fn live(&self) -> Result<Live, String> {
        let away = "the network does not run; `kwaainet status` tells why";
        self.live.borrow().clone().ok_or_else(|| away.to_owned())
    }

    /// Who this node is and how its network fares, for `status` and `p2p info`.
    pub async fn status(&self) -> Value {
        let mut out = json!({"peer_id": self.identity.peer_id().to_string()});
        let Ok(live) = self.live() else { return out };
        let Ok(status) = live.fabric.status().await else { return out };
        let texts =
            |addresses: &[Multiaddr]| -> Vec<String> { addresses.iter().map(Multiaddr::to_string).collect() };
        let states = status.peers.iter().map(|(state, count)| (state.name().to_owned(), json!(count)));
        let dht = live.dht.status();
        out["swarm"] = json!(status.swarm_name);
        out["listen"] = json!(texts(&status.listen));
        out["external"] = json!(texts(&status.external));
        out["relayed"] = json!(texts(&status.relayed));
        out["reachability"] = json!(status.reachability.name());
        out["peers"] = Value::Object(states.collect());
        out["connections"] = json!(status.connections);
        out["bytes_received"] = json!(status.counts.bytes_received);
        out["bytes_sent"] = json!(status.counts.bytes_sent);
        out["streams_open"] = json!(status.counts.streams_open);
        out["dht"] = json!({
            "nodes": dht.nodes.len(),
            "records": dht.records,
            "record_bytes": dht.record_bytes,
            "client_only": dht.client_only,
        });
        out
    }

    /// Answers what `p2p` commands ask.
    pub async fn answer(&self, word: &str, question: &Value) -> Answer {
        let text = |name: &str| question[name].as_str().unwrap_or_default().to_owned();
        let peer =
            || text("peer").parse::<PeerId>().map_err(|_| format!("{:.100} is no PeerId", text("peer")));
        let said = |error: kwaainet_fabric::Error| error.to_string();
        match word {
            "p2p info" => {
                self.live()?;
                Ok(self.status().await)
            }
            "p2p peers list" => {
                let peers = self.live()?.fabric.peers().await.map_err(said)?;
                Ok(peers.iter().map(peer_json).collect())
            }
            "p2p peers find" => {
                let addresses = self.live()?.fabric.find(peer()?).await.map_err(said)?;
                Ok(addresses.iter().map(Multiaddr::to_string).collect())
            }
            "p2p peers connect" => {
                let address = text("address");
                let address: Multiaddr = address
                    .parse()
                    .map_err(|error| format!("{address:.200} is no libp2p address: {error}"))?;
                let peer = self.live()?.fabric.connect(address).await.map_err(said)?;
                Ok(json!(peer.to_string()))
            }
            "p2p peers ping" => {
                let (live, peer) = (self.live()?, peer()?);
                let mut times_ms = Vec::new();
                for _ in 0..question["count"].as_u64().unwrap_or(1).min(PINGS_MAX) {
                    let time = live.fabric.ping(peer).await.map_err(said)?;
                    times_ms.push(json!(time.as_secs_f64() * 1e3));
                }
                Ok(times_ms.into())
            }
            "announce" => {
                self.live()?;
                let is_wanted = question["demo"].as_bool().unwrap_or(false);
                // What was announced once is not forgotten but said to be gone.
                let state = if is_wanted { petals::State::Online } else { petals::State::Offline };
                let announcer = self.announcer.borrow();
                let announcer = announcer.as_ref().ok_or("the network does not run yet")?;
                let said = announcer.say(self.announcement(state, Some(demo())));
                said.map(|()| json!({"prefix": DEMO})).map_err(|malformed| malformed.to_string())
            }
            _ => Err(format!("the node does not know the question {word:.50}")),
        }
    }

    /// What the network counts.
    pub async fn metrics(&self) -> Vec<Metric> {
        let Ok(live) = self.live() else { return Vec::new() };
        let Ok(status) = live.fabric.status().await else { return Vec::new() };
        let mut metrics = fabric_metrics(&status);
        let dht = live.dht.status();
        let gauge = |name, help, value: usize| Metric::one(name, Kind::Gauge, help, value as f64);
        metrics.push(gauge("dht_nodes", "Nodes in the DHT's routing table.", dht.nodes.len()));
        metrics.push(gauge("dht_records", "Records that are kept for others.", dht.records));
        metrics.push(gauge("dht_record_bytes", "Bytes that these take.", dht.record_bytes));
        metrics.push(gauge("dht_cached", "Records that are kept as copies.", dht.cached));
        metrics
    }
}

fn fabric_metrics(status: &Status) -> Vec<Metric> {
    let counts = &status.counts;
    let states = status.peers.iter().map(|(state, count)| (state.name().to_owned(), *count as f64));
    let total = |name, help, value: u64| Metric::one(name, Kind::Counter, help, value as f64);
    vec![
        Metric::by("peers", Kind::Gauge, "Peers by how far we came with them.", "state", states),
        Metric::one("connections", Kind::Gauge, "Connections to peers.", status.connections as f64),
        Metric::one("streams", Kind::Gauge, "Streams that are open.", counts.streams_open as f64),
        total("received_bytes_total", "Bytes from peers.", counts.bytes_received),
        total("sent_bytes_total", "Bytes to peers.", counts.bytes_sent),
        total("streams_refused_total", "Streams of peers that were refused.", counts.streams_refused),
        total(
            "connections_refused_total",
            "Connections of peers that were refused.",
            counts.connections_refused,
        ),
        total("calls_made_total", "Calls to peers.", counts.calls_made),
        total("calls_failed_total", "Calls to peers that failed.", counts.calls_failed),
        total("calls_answered_total", "Calls of peers that were answered.", counts.calls_answered),
        total("calls_refused_total", "Calls of peers that were refused.", counts.calls_refused),
    ]
}

fn peer_json(peer: &Peer) -> Value {
    let failures = PeerState::ALL.iter().zip(&peer.failures);
    let failures =
        failures.filter_map(|(state, reason)| Some((state.name().to_owned(), json!(reason.as_ref()?))));
    json!({
        "peer_id": peer.id.to_string(),
        "state": peer.state.name(),
        "failures": Value::Object(failures.collect()),
        "addresses": peer.addresses.iter().map(Multiaddr::to_string).collect::<Vec<_>>(),
        "agent": peer.agent,
        "protocols": peer.protocols,
        "rtt_ms": peer.rtt_ms,
        "connections": peer.connections,
        "relayed": peer.relayed,
    })
}

/// A model that does not exist, to see that announcements reach readers.
const DEMO: &str = "kwaainet-demo";

fn demo() -> ServedModel {
    ServedModel {
        prefix: DEMO.to_owned(),
        blocks: 2,
        served: 0..2,
        repository: None,
        hidden: 64,
        dtype: "float32".to_owned(),
    }
}

/// Joins the DHT, and joins it anew while it knows nobody; ends with the reason when the network does.
async fn watch(live: &Live, bootstrap: &[PeerId]) -> String {
    loop {
        if live.dht.status().nodes.is_empty() {
            let mut peers = bootstrap.to_vec();
            match live.fabric.peers().await {
                Ok(known) => peers.extend(known.iter().filter(|peer| is_met(peer)).map(|peer| peer.id)),
                Err(error) => return error.to_string(),
            }
            peers.dedup();
            peers.truncate(JOIN_PEERS_MAX);
            let joined = live.dht.join(&peers).await;
            if !joined.answered.is_empty() {
                log::say(&format!("Joined the DHT by {} of {} peers.", joined.answered.len(), peers.len()));
            }
        }
        Timer::after(NETWORK_LOOK).await;
        if let Err(error) = live.fabric.status().await {
            return error.to_string();
        }
    }
}

/// Whether there is a connection to this peer.
fn is_met(peer: &Peer) -> bool {
    peer.state >= PeerState::Authenticated
}

/// The peer at the end of an address.
fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    address.to_string().rsplit_once("/p2p/")?.1.parse().ok()
}

fn settings(config: &Config, home: &Path) -> Result<Settings, Failure> {
    let wrong = |key: &Key, what: String| Failure::new(Exit::Config, format!("{}: {what}", key.name));
    let addresses = |key: &Key| -> Result<Vec<Multiaddr>, Failure> {
        let parse = |text: &String| {
            text.parse().map_err(|error| wrong(key, format!("{text} is no libp2p address: {error}")))
        };
        config.list(key).iter().map(parse).collect()
    };
    let peer = |text: &String| {
        text.parse().map_err(|_| wrong(&keys::NETWORK_BLOCKED, format!("{text} is no PeerId")))
    };
    let settings = Settings {
        listen: addresses(&keys::NETWORK_LISTEN)?,
        announce: addresses(&keys::NETWORK_ANNOUNCE)?,
        bootstrap: addresses(&keys::NETWORK_BOOTSTRAP)?,
        swarm_name: config.text(&keys::NETWORK_SWARM).unwrap_or_default().to_owned(),
        lan_only: config.is_on(&keys::NETWORK_LAN_ONLY),
        mdns: config.is_on(&keys::NETWORK_MDNS),
        relay_server: config.is_on(&keys::NETWORK_RELAY_SERVER),
        blocked: config.list(&keys::NETWORK_BLOCKED).iter().map(peer).collect::<Result<_, _>>()?,
        folder: Some(home::inner(home, "network")?),
    };
    settings.check().map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    Ok(settings)
}
