//! A node of the Hivemind DHT on its own, driven by JSON lines.
//!
//! It is what `ci/interop` and `ci/bench/dht` compare with the real Hivemind.
//!
//! usage: dht_peer [--client] [--name NAME] [--initial-peers MULTIADDR...]
//!
//! It listens on loopback, on a port that the system chooses, prints one line when it is ready, and then
//! answers each line of standard input with one line:
//!
//! - `{"do": "store", "items": [[KEY, SUBKEY or null, VALUE, SECONDS]...]}`
//! - `{"do": "get", "keys": [KEY...], "latest": true}`
//! - `{"do": "nodes"}`: the routing table; `{"do": "status"}`: what is kept for others
//! - `{"do": "announce", "prefix": PREFIX, "blocks": N, "served": [FIRST, END]}`, then `{"do": "gone"}`
//! - `{"do": "rate", "method": "ping" or "store", "peer": PEER, "calls": N}`: calls in a second, one by one
//!
//! It ends with its input. Values are JSON, and `{"$bytes": "00ff"}` is a byte string; tuples come out as
//! `{"tuple": [...]}`, lists and maps likewise.

use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use data_encoding::HEXLOWER;
use kwaainet_fabric::hivemind::announce::{Announcer, announce};
use kwaainet_fabric::hivemind::dictionary::Subkey;
use kwaainet_fabric::hivemind::id::Id;
use kwaainet_fabric::hivemind::msgpack::Value;
use kwaainet_fabric::hivemind::petals::{Announcement, Notice, ServedModel, State, info_handler};
use kwaainet_fabric::hivemind::reachability::check_handler;
use kwaainet_fabric::hivemind::{Dht, Found, Goal, Record, Settings as DhtSettings};
use kwaainet_fabric::{Fabric, Keypair, Multiaddr, PeerId, Settings};
use serde_json::{Value as Json, json};

type Failure = Box<dyn Error>;

/// What the command line says.
#[derive(Default)]
struct Options {
    client_only: bool,
    name: String,
    initial_peers: Vec<Multiaddr>,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1).peekable();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--client" => options.client_only = true,
            "--name" => options.name = arguments.next().ok_or("--name wants a name")?,
            "--initial-peers" => {
                while let Some(address) = arguments.next_if(|next| !next.starts_with("--")) {
                    options.initial_peers.push(address.parse()?);
                }
            }
            other => {
                return Err(format!("{other} is no option; the options are in this file's head").into());
            }
        }
    }
    Ok(options)
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    smol::block_on(async {
        let mut peer = Peer::start(&options).await?;
        for line in std::io::stdin().lock().lines() {
            let answer = match serde_json::from_str(&line?) {
                Ok(command) => peer.obey(&command).await,
                Err(error) => Err(error.into()),
            };
            say(answer.unwrap_or_else(|error| json!({ "error": error.to_string() })))?;
        }
        peer.fabric.stop().await;
        Ok(())
    })
}

fn say(line: Json) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

struct Peer {
    fabric: Fabric,
    dht: Dht,
    notice: Notice,
    announcer: Option<Announcer>,
    bootstraps: Vec<PeerId>,
}

impl Peer {
    async fn start(options: &Options) -> Result<Peer, Failure> {
        let begin = Instant::now();
        let settings = Settings {
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
            mdns: false,
            bootstrap: options.initial_peers.clone(),
            swarm_name: options.name.clone(),
            ..Settings::default()
        };
        let fabric = Fabric::start(Keypair::generate_ed25519(), settings).await?;
        let dht_settings = DhtSettings { client_only: options.client_only, ..DhtSettings::default() };
        let dht = Dht::new(Arc::new(fabric.clone()), dht_settings);
        let notice = Notice::default();
        if !options.client_only {
            let others = [info_handler(&dht, notice.clone()), check_handler(fabric.peer_id(), None)];
            for (method, limits, handler) in dht.handlers().into_iter().chain(others) {
                fabric.serve_call(method, limits, handler)?;
            }
        }
        let mut bootstraps = Vec::new();
        for address in &options.initial_peers {
            bootstraps.push(fabric.connect(address.clone()).await?);
        }
        let joined = dht.join(&bootstraps).await;
        let listen = fabric.status().await?.listen;
        let listen = listen.into_iter().filter_map(|address| address.with_p2p(fabric.peer_id()).ok());
        say(json!({
            "event": "ready",
            "seconds": begin.elapsed().as_secs_f64(),
            "peer_id": fabric.peer_id().to_base58(),
            "node_id": dht.id().to_string(),
            "maddrs": listen.map(|address| address.to_string()).collect::<Vec<_>>(),
            "answered": joined.answered.len(),
            "called_back": joined.called_back,
            "clock_skew_seconds": joined.clock_skew_seconds,
        }))?;
        Ok(Peer { fabric, dht, notice, announcer: None, bootstraps })
    }

    async fn obey(&mut self, command: &Json) -> Result<Json, Failure> {
        match command["do"].as_str().unwrap_or_default() {
            "store" => {
                let items = command["items"].as_array().ok_or("items are missing")?;
                let records = items.iter().map(|item| self.record(item)).collect::<Result<Vec<_>, _>>()?;
                let stored = self.dht.store_many(&records).await;
                Ok(json!({ "stored": stored.iter().map(|stored| stored.kept > 0).collect::<Vec<_>>() }))
            }
            "get" => {
                let keys = command["keys"].as_array().ok_or("keys are missing")?;
                let keys: Vec<Id> = keys.iter().filter_map(Json::as_str).map(Id::of_key).collect();
                let latest = command["latest"] == true;
                let goal = if latest { Goal::LatestValue } else { Goal::AnyValue };
                let found = self.dht.get_many(&keys, goal).await;
                let now = self.dht.now();
                Ok(json!({ "found": found.iter().map(|found| show_found(found, now)).collect::<Vec<_>>() }))
            }
            "nodes" => {
                let nodes = self.dht.status().nodes;
                let nodes = nodes.iter().map(|node| (node.peer.to_base58(), node.id.to_string().into()));
                Ok(json!({ "nodes": nodes.collect::<serde_json::Map<String, Json>>() }))
            }
            "status" => {
                let status = self.dht.status();
                Ok(json!({ "records": status.records, "cached": status.cached }))
            }
            "announce" => self.announce(command).await,
            "gone" => {
                let announcer = self.announcer.take().ok_or("nothing was announced")?;
                let round = announcer.stop().await;
                Ok(json!({ "records": round.records, "kept": round.kept }))
            }
            "rate" => self.rate(command).await,
            other => Err(format!("{other} is no command").into()),
        }
    }

    fn record(&self, item: &Json) -> Result<Record, Failure> {
        let key = Id::of_key(item[0].as_str().ok_or("a key is no text")?);
        let subkey = match &item[1] {
            Json::Null => None,
            subkey => Some(Subkey::new(&read(subkey)?)?),
        };
        let seconds = item[3].as_f64().ok_or("the seconds are no number")?;
        Ok(Record { key, subkey, value: read(&item[2])?.encode(), expiration: self.dht.now() + seconds })
    }

    /// Every field filled, so that a reader can be asked for every field.
    async fn announce(&mut self, command: &Json) -> Result<Json, Failure> {
        let number = |value: &Json| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let served = &command["served"];
        let (first, end) = number(&served[0]).zip(number(&served[1])).ok_or("served is [FIRST, END]")?;
        let announcement = Announcement {
            state: State::Online,
            model: Some(ServedModel {
                prefix: command["prefix"].as_str().ok_or("prefix is missing")?.to_owned(),
                blocks: number(&command["blocks"]).ok_or("blocks are missing")?,
                served: first..end,
                repository: Some("https://huggingface.co/kwaai/demo".to_owned()),
                hidden: 64,
                dtype: "float32".to_owned(),
            }),
            public_name: Some("a board".to_owned()),
            version: Some("kwaai-0.1.0".to_owned()),
            throughput: 10.0,
            network_rps: Some(100.0),
            forward_rps: Some(20.0),
            inference_rps: Some(5.0),
            adapters: vec!["an-adapter".to_owned()],
            quantization: Some("int8".to_owned()),
            using_relay: false,
            cache_tokens_left: Some(4096),
            next_pings: self.bootstraps.iter().map(|peer| (*peer, 0.025)).collect(),
            ..Announcement::default()
        };
        let round = announce(&self.dht, &self.bootstraps, &announcement).await?;
        self.notice.set(announcement)?;
        self.announcer = Some(Announcer::start(self.dht.clone(), &self.bootstraps, self.notice.clone()));
        Ok(json!({ "records": round.records, "kept": round.kept, "bootstraps": round.bootstraps_keeping }))
    }

    async fn rate(&self, command: &Json) -> Result<Json, Failure> {
        let peer: PeerId = command["peer"].as_str().ok_or("peer is missing")?.parse()?;
        let calls = command["calls"].as_u64().ok_or("the count of calls is missing")?;
        let is_ping = command["method"] == "ping";
        let begin = Instant::now();
        for number in 0..calls {
            if is_ping {
                self.dht.ping(peer, false).await?;
            } else {
                let record = Record {
                    key: Id::of_key(&format!("rate {number}")),
                    subkey: None,
                    value: vec![0; 100],
                    expiration: self.dht.now() + 60.0,
                };
                let kept = self.dht.store_at(peer, &[record]).await?;
                if kept != [true] {
                    return Err("a record was not kept".into());
                }
            }
        }
        Ok(json!({ "per_second": calls as f64 / begin.elapsed().as_secs_f64() }))
    }
}

/// A value from JSON.
fn read(json: &Json) -> Result<Value, Failure> {
    Ok(match json {
        Json::Null => Value::Nil,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Float(number.as_f64().ok_or("a number is out of range")?),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(values) => Value::List(values.iter().map(read).collect::<Result<_, _>>()?),
        Json::Object(object) => match object.get("$bytes").and_then(Json::as_str) {
            Some(bytes) => Value::Bytes(HEXLOWER.decode(bytes.as_bytes())?),
            None => Value::Map(
                object.iter().map(|(key, value)| Ok((key.as_str().into(), read(value)?))).collect::<Result<
                    _,
                    Failure,
                >>(
                )?,
            ),
        },
    })
}

fn show(value: &Value) -> Json {
    let list = |values: &[Value]| values.iter().map(show).collect::<Vec<_>>();
    match value {
        Value::Nil => Json::Null,
        Value::Bool(truth) => json!(truth),
        Value::Integer(number) => json!(number),
        Value::IntegerAbove(number) => json!(number),
        Value::Float(number) if number.is_finite() => json!(number),
        Value::Float(number) => json!(number.to_string()),
        Value::Text(text) => json!(text),
        Value::Bytes(bytes) => json!({ "$bytes": HEXLOWER.encode(bytes) }),
        Value::List(values) => json!({ "list": list(values) }),
        Value::Tuple(values) => json!({ "tuple": list(values) }),
        Value::Map(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| json!([show(key), show(value)]));
            json!({ "dict": pairs.collect::<Vec<_>>() })
        }
        Value::Extension(kind, bytes) => json!({ "extension": [kind, HEXLOWER.encode(bytes)] }),
    }
}

fn show_found(found: &Option<Found>, now: f64) -> Json {
    let entry = |value: &[u8], expiration: f64| match Value::decode(value) {
        Ok(value) => json!({ "value": show(&value), "expires_in": expiration - now }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    match found {
        None => Json::Null,
        Some(Found::Plain(plain)) => entry(&plain.value, plain.expiration),
        Some(Found::Dictionary(dictionary)) => {
            let entries = dictionary.entries.iter();
            let entries =
                entries.map(|(subkey, it)| json!([show(&subkey.value()), entry(&it.value, it.expiration)]));
            json!({
                "value": { "dict": entries.collect::<Vec<_>>() },
                "expires_in": dictionary.expiration() - now,
            })
        }
    }
}
