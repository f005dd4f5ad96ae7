//! Every bound of the network, with unit and reason.
//!
//! Nothing that a peer sends makes the node grow past these. The worst case of buffered bytes is
//! `INBOUND_STREAMS_MAX * STREAM_WINDOW_BYTES + BYTES_IN_FLIGHT_MAX`, 128 MiB, and it takes peers that really
//! send them. A connection itself costs about 75 kB (measured).

use std::time::Duration;

// Connections.

/// Connections at once, all together: about 75 kB each (measured), so at most 10 MB; more peers than this
/// serve no board better.
pub const CONNECTIONS_MAX: usize = 128;
/// Connections that others opened, of all: the rest is left for those that we want.
pub const CONNECTIONS_INBOUND_MAX: usize = 96;
/// Connections to one peer: one over a relay, one direct, and both of a simultaneous opening.
pub const CONNECTIONS_PER_PEER_MAX: usize = 4;
/// Connections from one public subnet (/24 of IPv4, /48 of IPv6), so that one owner of many addresses leaves
/// room for others.
pub const CONNECTIONS_PER_SUBNET_MAX: usize = 16;
/// The same from this machine itself, where several nodes may run and one owner decides anyway.
pub const CONNECTIONS_HERE_MAX: usize = 64;
/// Incoming connections through relays, whose peers' own addresses nobody sees.
pub const CONNECTIONS_RELAYED_MAX: usize = 32;
/// Incoming connections that have not yet proved who they are.
pub const HANDSHAKES_INBOUND_MAX: usize = 32;
/// Incoming handshakes from one subnet, so that silent ones from one place leave room for others.
pub const HANDSHAKES_PER_SUBNET_MAX: usize = 8;
/// Incoming handshakes from one address of this machine, or through relays.
pub const HANDSHAKES_HERE_MAX: usize = 16;
/// Connections that we are opening.
pub const DIALS_MAX: usize = 32;
/// Connections opened by strangers beyond which the longest idle of no use is closed, so that there is room
/// for the next. Below [`CONNECTIONS_MAX`] by the handshakes.
pub const CONNECTIONS_KEPT_MAX: usize = CONNECTIONS_MAX - HANDSHAKES_INBOUND_MAX;
/// From the first byte of a connection to its proven peer and multiplexer.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// One attempt to open a TCP connection to one address.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(8);
/// A connection without any stream is kept this long. Peers stay connected; [`CONNECTIONS_KEPT_MAX`] decides
/// who goes when it is full.
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Pings of each connection, that tell a dead peer and its latency: every one wakes a board.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Longest wait for a ping's answer.
pub const PING_TIME_MAX: Duration = Duration::from_secs(20);

// Streams.

/// What a peer may send on one stream before it is read: yamux fixes it.
pub const STREAM_WINDOW_BYTES: usize = 256 * 1024;
/// Streams of one connection, both ways together. A peer that opens more loses the connection, by yamux.
pub const STREAMS_PER_CONNECTION_MAX: usize = 256;
/// Streams that one connection's peer holds open; more are reset one by one. A Hivemind peer that stores a
/// hundred records opens as many at once.
pub const INBOUND_STREAMS_PER_CONNECTION_MAX: usize = 160;
/// Streams that all peers together hold open: 96 MiB of windows at worst.
pub const INBOUND_STREAMS_MAX: usize = 384;
/// Inbound streams of one connection that still negotiate their protocol.
pub const NEGOTIATIONS_MAX: usize = INBOUND_STREAMS_PER_CONNECTION_MAX;
/// From a stream's opening to its protocol.
pub const NEGOTIATION_TIME_MAX: Duration = Duration::from_secs(10);
/// A line of the negotiation, in bytes: names are below 100.
pub const NEGOTIATION_LINE_BYTES_MAX: usize = 1024;
/// Lines of one negotiation that are translated; then the stream is broken. A peer proposes one to three.
pub const NEGOTIATION_LINES_MAX: usize = 16;
/// Streams that wait for the swarm to open them.
pub const OPENINGS_MAX: usize = 256;
/// Protocols and methods that the parts of this node may serve.
pub const PROTOCOLS_MAX: usize = 64;

// Calls and frames.

/// A unary frame that we send, in bytes, envelope included: Go drops what is longer than 4 MiB.
pub const CALL_SENT_BYTES_MAX: usize = 4 * 1024 * 1024 - 1024;
/// A unary frame that we accept, in bytes, envelope included: KwaaiNet's cap.
pub const CALL_RECEIVED_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Bytes of the envelope around a request or an answer: call id, peer, name and lengths are below 512.
pub const ENVELOPE_BYTES_MAX: usize = 1024;
/// Error text of a peer that is kept, in bytes.
pub const REFUSAL_BYTES_MAX: usize = 4 * 1024;
/// Bytes of requests and frames that are being received, all peers together.
pub const BYTES_IN_FLIGHT_MAX: usize = 32 * 1024 * 1024;
/// The same for one peer: one largest call and a few small ones.
pub const BYTES_IN_FLIGHT_PER_PEER_MAX: usize = 12 * 1024 * 1024;
/// Calls and streams that one peer may begin in a burst, all methods together. A Hivemind peer makes a call
/// of its own for each record and node: storing two hundred at once is a burst of five hundred and more.
pub const PEER_BURST: u32 = 4000;
/// Calls and streams that one peer may begin each second for long: a fifth of a core, when they are pings.
pub const PEER_RATE_PER_SECOND: u32 = 1000;
/// The head of a frame, and each further [`FRAME_STEP_BYTES`] of its body, must come within this time: a
/// slower peer is cut off.
pub const FRAME_STEP_TIME_MAX: Duration = Duration::from_secs(10);
/// Step of reading a long frame, in bytes: memory is taken as bytes come, never by what a length claims.
pub const FRAME_STEP_BYTES: usize = 64 * 1024;
/// Streams of a protocol that wait to be accepted by the part that serves it.
pub const ACCEPTS_WAITING_MAX: usize = 16;
/// Peers whose rates are remembered; the longest quiet is forgotten first.
pub const RATES_MAX: usize = 512;

// Peers that are known.

/// Peers in the book, connected or not: about 1 kB each.
pub const PEERS_MAX: usize = 512;
/// Addresses of one peer.
pub const ADDRESSES_PER_PEER_MAX: usize = 8;
/// One address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Protocols of a peer that are kept.
pub const PROTOCOLS_PER_PEER_MAX: usize = 64;
/// A peer's own texts (agent, versions), in bytes.
pub const AGENT_BYTES_MAX: usize = 128;
/// Reason of a failure, in bytes.
pub const REASON_BYTES_MAX: usize = 200;
/// Peers of our own swarm that a node keeps connected of its own accord.
pub const NEIGHBOURS_WANTED: usize = 24;
/// First wait after a failed dial; doubled each time, plus or minus a quarter at random.
pub const REDIAL_TIME_MIN: Duration = Duration::from_secs(2);
/// Longest wait between dials of a wanted peer.
pub const REDIAL_TIME_MAX: Duration = Duration::from_secs(600);
/// Failed dials after which a peer that nobody configured is no longer dialled of our own accord.
pub const REDIALS_MAX: u32 = 8;
/// Peers kept on disk for the next start.
pub const PEERS_KEPT_MAX: usize = 64;
/// The file of kept peers, in bytes: peers times addresses times text.
pub const PEERS_FILE_BYTES_MAX: u64 = 256 * 1024;
/// The file of kept peers is written at most this often: SD cards wear out.
pub const PEERS_FILE_INTERVAL: Duration = Duration::from_secs(600);
/// The first time after a start: a node that loses power early still knows its peers.
pub const PEERS_FILE_DELAY: Duration = Duration::from_secs(60);
/// Bootstrap addresses in the settings.
pub const BOOTSTRAPS_MAX: usize = 64;
/// Listen and announced addresses in the settings.
pub const OWN_ADDRESSES_MAX: usize = 16;
/// A swarm's name, in bytes; it becomes part of protocol and service names, so letters, digits, `-` alone.
pub const SWARM_NAME_BYTES_MAX: usize = 32;

// Commands from the node's other parts.

/// Commands that wait for the swarm's task.
pub const COMMANDS_MAX: usize = 256;
/// Searches for one peer's addresses that run at once.
pub const SEARCHES_MAX: usize = 32;
/// Parts that wait for one peer to be connected.
pub const WAITERS_MAX: usize = 512;
/// Longest wait for a connection, search for addresses included.
pub const REACH_TIME_MAX: Duration = Duration::from_secs(30);

// Kademlia.

/// One query, all its hops.
pub const QUERY_TIME_MAX: Duration = Duration::from_secs(20);
/// Refresh of the routing tables: as KwaaiNet does it.
pub const KADEMLIA_REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// A message of Kademlia, in bytes: twenty peers with their addresses are below 16 KiB.
pub const KADEMLIA_MESSAGE_BYTES_MAX: usize = 16 * 1024;

// Names.

/// Addresses that one name may stand for.
pub const NAME_ADDRESSES_MAX: usize = 8;
/// `/dnsaddr` that points to `/dnsaddr`, at most this deep.
pub const NAME_DEPTH_MAX: usize = 2;
/// One question to the name server.
pub const NAME_TIME_MAX: Duration = Duration::from_secs(5);
/// An answer of the name server, in bytes.
pub const NAME_ANSWER_BYTES_MAX: usize = 4096;

// Listening.

/// Pause of a listener after a failed `accept`, as when no descriptors are left.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Interfaces are looked at this often: addresses come and go with Wi-Fi and VPNs.
pub const INTERFACES_INTERVAL: Duration = Duration::from_secs(30);
/// Addresses of this machine that are listened on or announced.
pub const INTERFACES_MAX: usize = 32;
/// Incoming connections that wait in the system's queue.
pub const LISTEN_QUEUE: i32 = 128;

// LAN discovery.

/// A packet of multicast DNS, in bytes: an Ethernet frame with room.
pub const LAN_PACKET_BYTES_MAX: usize = 4096;
/// Addresses taken from one packet.
pub const LAN_ADDRESSES_PER_PACKET_MAX: usize = 16;
/// Peers of the book that are there because they announced themselves on a LAN and are not connected: a
/// liar on the LAN can't push others out.
pub const LAN_PEERS_MAX: usize = 128;
/// Lists of peers that wait for the swarm's task.
pub const LAN_SEEN_WAITING_MAX: usize = 16;
/// Of two nodes that hear of each other at once, one dials and the other gives it this time.
pub const LAN_COURTESY: Duration = Duration::from_secs(1);
/// Packets looked at each second on one interface; more are dropped unread.
pub const LAN_PACKETS_PER_SECOND_MAX: u32 = 100;
/// First question after the start; doubled until [`LAN_QUERY_INTERVAL`].
pub const LAN_QUERY_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// Questions in the long run.
pub const LAN_QUERY_INTERVAL: Duration = Duration::from_secs(300);
/// Between two answers of ours on one interface: a burst of questions is answered once.
pub const LAN_ANSWER_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// What others may remember of our answer.
pub const LAN_TIME_TO_LIVE: Duration = Duration::from_secs(360);

// Relays and reachability.

/// Reservations that a node behind a NAT holds.
pub const RELAYS_WANTED: usize = 2;
/// First wait before another relay is asked after a failure; doubled each time.
pub const RELAY_RETRY_TIME_MIN: Duration = Duration::from_secs(5);
/// Longest such wait.
pub const RELAY_RETRY_TIME_MAX: Duration = Duration::from_secs(900);
/// Peers for which a relay of ours holds a reservation.
pub const RESERVATIONS_MAX: usize = 64;
/// Circuits through a relay of ours at once.
pub const CIRCUITS_MAX: usize = 32;
/// Circuits through a relay of ours that begin at one peer.
pub const CIRCUITS_PER_PEER_MAX: usize = 4;
/// Longest life of a circuit: enough to agree on a direct connection and for slow talk meanwhile.
pub const CIRCUIT_TIME_MAX: Duration = Duration::from_secs(1800);
/// Bytes of one circuit, each way.
pub const CIRCUIT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// First question to others whether we can be reached.
pub const REACHABILITY_DELAY: Duration = Duration::from_secs(3);
/// Such questions until the answer is sure.
pub const REACHABILITY_RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Such questions afterwards.
pub const REACHABILITY_INTERVAL: Duration = Duration::from_secs(300);
/// Dial-backs that we do for others each second, all together and for one peer.
pub const DIAL_BACKS_PER_SECOND_MAX: usize = 4;
/// Addresses of one peer that a dial-back tries.
pub const DIAL_BACK_ADDRESSES_MAX: usize = 4;
