//! A bare network node for situations: it answers `Echo.rpc_echo`, obeys its input and prints JSON lines.
//!
//! Options: `--listen ADDRESS`, `--bootstrap ADDRESS` (both any number of times), `--name SWARM`,
//! `--folder PATH`, `--lan-only`, `--no-mdns`, `--relay`. Commands, one a line: `status`, `peers`,
//! `connect ADDRESS`, `find PEER`, `ping PEER`, `call PEER TEXT`, `quit`; it ends with its input.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use kwaainet_fabric::call::{CallHandler, CallLimits};
use kwaainet_fabric::{Fabric, Keypair, PeerId, Settings};
use serde_json::{Value, json};
use smol::io::{AsyncBufReadExt, BufReader};
use smol::stream::StreamExt;

const METHOD: &str = "Echo.rpc_echo";
const DEADLINE: Duration = Duration::from_secs(30);
const LIMITS: CallLimits = CallLimits {
    request_bytes_max: 1 << 20,
    answer_bytes_max: 1 << 20,
    calls_max: 64,
    calls_per_peer_max: 32,
    deadline: DEADLINE,
};

struct Echo;

impl CallHandler for Echo {
    fn answer(&self, _: PeerId, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        Box::pin(async { Ok(request) })
    }
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings::default();
    let mut listen = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{name} needs a value"));
        let address = |text: String| text.parse().map_err(|error| format!("{text}: {error}"));
        match name.as_str() {
            "--listen" => listen.push(address(value()?)?),
            "--bootstrap" => settings.bootstrap.push(address(value()?)?),
            "--name" => settings.swarm_name = value()?,
            "--folder" => settings.folder = Some(value()?.into()),
            "--lan-only" => settings.lan_only = true,
            "--no-mdns" => settings.mdns = false,
            "--relay" => settings.relay_server = true,
            other => return Err(format!("{other} is no option")),
        }
    }
    if !listen.is_empty() {
        settings.listen = listen;
    }
    Ok(settings)
}

async fn obey(fabric: &Fabric, line: &str) -> Result<Value, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let told = |error: kwaainet_fabric::Error| error.to_string();
    let peer = |text: &str| text.parse::<PeerId>().map_err(|error| error.to_string());
    match words[..] {
        ["status"] => {
            let status = fabric.status().await.map_err(told)?;
            let peers: Vec<Value> =
                status.peers.iter().map(|(state, count)| json!([state.name(), count])).collect();
            Ok(json!({
                "listen": texts(&status.listen), "external": texts(&status.external),
                "relayed": texts(&status.relayed), "reachability": status.reachability.name(),
                "peers": peers, "connections": status.connections, "own_routing": status.own_routing,
                "common_routing": status.common_routing, "counts": format!("{:?}", status.counts),
            }))
        }
        ["peers"] => {
            let peers = fabric.peers().await.map_err(told)?;
            let peers = peers.iter().map(|peer| {
                json!({
                    "peer": peer.id.to_string(), "state": peer.state.name(), "relayed": peer.relayed,
                    "connections": peer.connections, "addresses": texts(&peer.addresses),
                    "agent": peer.agent, "failures": peer.failures, "rtt_ms": peer.rtt_ms,
                })
            });
            Ok(Value::Array(peers.collect()))
        }
        ["connect", address] => {
            let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
            Ok(json!(fabric.connect(address).await.map_err(told)?.to_string()))
        }
        ["find", id] => Ok(json!(texts(&fabric.find(peer(id)?).await.map_err(told)?))),
        ["ping", id] => {
            let rtt = fabric.ping(peer(id)?).await.map_err(told)?;
            Ok(json!(rtt.as_secs_f64() * 1e3))
        }
        ["call", id, text] => {
            let start = Instant::now();
            let request = text.as_bytes().to_vec();
            let answer = fabric.call(peer(id)?, METHOD, request, DEADLINE).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            Ok(json!({"answer": answer, "milliseconds": start.elapsed().as_secs_f64() * 1e3}))
        }
        _ => Err("no such command".to_owned()),
    }
}

fn texts(addresses: &[kwaainet_fabric::Multiaddr]) -> Vec<String> {
    addresses.iter().map(|address| address.to_string()).collect()
}

fn main() {
    let done = smol::block_on(async {
        let start = Instant::now();
        let fabric = Fabric::start(Keypair::generate_ed25519(), settings()?).await;
        let fabric = fabric.map_err(|error| error.to_string())?;
        fabric.serve_call(METHOD, LIMITS, Arc::new(Echo)).map_err(|error| error.to_string())?;
        let listen = texts(&fabric.status().await.map_err(|error| error.to_string())?.listen);
        let peer = fabric.peer_id().to_string();
        let ready = start.elapsed().as_secs_f64() * 1e3;
        println!("{}", json!({"peer": peer, "listen": listen, "ready_milliseconds": ready}));
        let mut lines = BufReader::new(smol::Unblock::new(std::io::stdin())).lines();
        while let Some(Ok(line)) = lines.next().await {
            if line.trim() == "quit" {
                break;
            }
            match obey(&fabric, &line).await {
                Ok(value) => println!("{}", json!({"ok": value})),
                Err(error) => println!("{}", json!({"error": error})),
            }
        }
        fabric.stop().await;
        Ok::<(), String>(())
    });
    if let Err(error) = done {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
