//! `kwaainet p2p`: what the running node sees of the network.

use std::io::{self, Write};

use argh::FromArgs;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::limits::PINGS_MAX;
use crate::{control, home};

/// the network as the running node sees it
#[derive(FromArgs)]
#[argh(subcommand, name = "p2p")]
pub struct P2p {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Info(Info),
    Peers(Peers),
}

/// who the node is, where it listens, what it counts
#[derive(FromArgs)]
#[argh(subcommand, name = "info")]
struct Info {
    /// answer with one JSON object
    #[argh(switch)]
    json: bool,
}

/// peers: list, find, connect, ping
#[derive(FromArgs)]
#[argh(subcommand, name = "peers")]
struct Peers {
    #[argh(subcommand)]
    command: PeersCommand,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum PeersCommand {
    List(List),
    Find(Find),
    Connect(Connect),
    Ping(Ping),
}

/// all peers that are known, the furthest come first
#[derive(FromArgs)]
#[argh(subcommand, name = "list")]
struct List {
    /// answer with one JSON array
    #[argh(switch)]
    json: bool,
}

/// the addresses of a peer
#[derive(FromArgs)]
#[argh(subcommand, name = "find")]
struct Find {
    /// its PeerId
    #[argh(positional)]
    peer: String,
    /// answer with one JSON array
    #[argh(switch)]
    json: bool,
}

/// connect to whoever is at an address
#[derive(FromArgs)]
#[argh(subcommand, name = "connect")]
#[argh(example = "{command_name} /ip4/192.168.1.7/tcp/8080")]
struct Connect {
    /// a libp2p address; with /p2p/PEERID at its end nobody else will do
    #[argh(positional)]
    address: String,
    /// answer with one JSON object
    #[argh(switch)]
    json: bool,
}

/// the round trip to a peer
#[derive(FromArgs)]
#[argh(subcommand, name = "ping")]
struct Ping {
    /// its PeerId
    #[argh(positional)]
    peer: String,
    /// how often (default: 4)
    #[argh(option, short = 'c', default = "4")]
    count: u64,
    /// answer with one JSON array of milliseconds
    #[argh(switch)]
    json: bool,
}

/// have the running node announce itself in the DHT
#[derive(FromArgs)]
#[argh(subcommand, name = "announce")]
#[argh(note = "What a node announces follows from the model that it serves for others, which comes later.")]
pub struct Announce {
    /// announce a model that does not exist, to see that readers find it
    #[argh(switch)]
    demo: bool,
    /// say that it is gone
    #[argh(switch)]
    gone: bool,
}

impl Announce {
    /// Tells the node.
    pub fn execute(self) -> Result<Exit, Failure> {
        if self.demo == self.gone {
            return Err(Failure::usage("say --demo or --gone"));
        }
        let said = control::ask(&home::path()?, &json!({"ask": "announce", "demo": self.demo}))?;
        if self.demo {
            let prefix = said["prefix"].as_str().unwrap_or_default();
            writeln!(io::stdout(), "Announced {prefix}, blocks 0 and 1.")?;
        }
        Ok(Exit::Success)
    }
}

impl P2p {
    /// Asks the node.
    pub fn execute(self) -> Result<Exit, Failure> {
        let home = home::path()?;
        let ask = |question: Value| control::ask(&home, &question);
        let mut out = io::stdout();
        match self.command {
            Command::Info(command) => {
                let info = ask(json!({"ask": "p2p info"}))?;
                if command.json {
                    writeln!(out, "{info}")?;
                } else {
                    print_info(&mut out, &info)?;
                }
            }
            Command::Peers(Peers { command: PeersCommand::List(command) }) => {
                let peers = ask(json!({"ask": "p2p peers list"}))?;
                if command.json {
                    writeln!(out, "{peers}")?;
                } else {
                    print_peers(&mut out, &peers)?;
                }
            }
            Command::Peers(Peers { command: PeersCommand::Find(command) }) => {
                let addresses = ask(json!({"ask": "p2p peers find", "peer": command.peer}))?;
                if command.json {
                    writeln!(out, "{addresses}")?;
                }
                let addresses = addresses.as_array().cloned().unwrap_or_default();
                for address in addresses.iter().filter(|_| !command.json) {
                    writeln!(out, "{}", address.as_str().unwrap_or_default())?;
                }
                if addresses.is_empty() {
                    let message = format!("nobody knows an address of {}", command.peer);
                    return Err(Failure::new(Exit::Failure, message));
                }
            }
            Command::Peers(Peers { command: PeersCommand::Connect(command) }) => {
                let peer = ask(json!({"ask": "p2p peers connect", "address": command.address}))?;
                if command.json {
                    writeln!(out, "{}", json!({"peer_id": peer}))?;
                } else {
                    writeln!(out, "Connected to {}.", peer.as_str().unwrap_or_default())?;
                }
            }
            Command::Peers(Peers { command: PeersCommand::Ping(command) }) => ping(&mut out, &ask, command)?,
        }
        Ok(Exit::Success)
    }
}

fn ping(
    out: &mut impl Write,
    ask: &impl Fn(Value) -> Result<Value, Failure>,
    command: Ping,
) -> Result<(), Failure> {
    if !(1..=PINGS_MAX).contains(&command.count) {
        return Err(Failure::usage(format!("--count {} is not 1 to {PINGS_MAX}", command.count)));
    }
    let mut times_ms = Vec::new();
    for number in 1..=command.count {
        let answer = ask(json!({"ask": "p2p peers ping", "peer": command.peer}))?;
        let time_ms = answer[0].as_f64().unwrap_or_default();
        if !command.json {
            writeln!(out, "{number}: {time_ms:.2} ms")?;
        }
        times_ms.push(time_ms);
    }
    if command.json {
        writeln!(out, "{}", json!(times_ms))?;
        return Ok(());
    }
    times_ms.sort_by(f64::total_cmp);
    let (least, most) = (times_ms[0], times_ms[times_ms.len() - 1]);
    writeln!(out, "least {least:.2} ms, median {:.2} ms, most {most:.2} ms", times_ms[times_ms.len() / 2])?;
    Ok(())
}

fn print_info(out: &mut impl Write, info: &Value) -> io::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    writeln!(out, "PeerId        {}", text(&info["peer_id"]))?;
    if let Some(swarm) = info["swarm"].as_str().filter(|swarm| !swarm.is_empty()) {
        writeln!(out, "Swarm         {swarm}")?;
    }
    for (title, name) in [("Listens at", "listen"), ("Reached at", "external"), ("Through", "relayed")] {
        for address in info[name].as_array().into_iter().flatten() {
            writeln!(out, "{title:12}  {}", text(address))?;
        }
    }
    let peers = info["peers"].as_object().into_iter().flatten();
    let peers: Vec<String> = peers.map(|(state, count)| format!("{count} {state}")).collect();
    writeln!(out, "Reachability  {}", text(&info["reachability"]))?;
    writeln!(out, "Peers         {}; {} connections", peers.join(", "), info["connections"])?;
    writeln!(out, "Bytes         {} received, {} sent", info["bytes_received"], info["bytes_sent"])?;
    let dht = &info["dht"];
    writeln!(
        out,
        "DHT           {} nodes, {} records, {} bytes",
        dht["nodes"], dht["records"], dht["record_bytes"]
    )
}

fn print_peers(out: &mut impl Write, peers: &Value) -> io::Result<()> {
    for peer in peers.as_array().into_iter().flatten() {
        let text = |name: &str| peer[name].as_str().unwrap_or_default();
        let time = peer["rtt_ms"].as_f64().map_or(String::new(), |time_ms| format!("{time_ms:.1} ms"));
        writeln!(out, "{}  {:13}  {time:>9}  {}", text("peer_id"), text("state"), printable(text("agent")))?;
        for address in peer["addresses"].as_array().into_iter().flatten() {
            writeln!(out, "    {}", address.as_str().unwrap_or_default())?;
        }
        for (state, reason) in peer["failures"].as_object().into_iter().flatten() {
            writeln!(out, "    not {state}: {}", printable(reason.as_str().unwrap_or_default()))?;
        }
    }
    Ok(())
}

/// A peer's own words without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
