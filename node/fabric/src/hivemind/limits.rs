//! Every bound of the Hivemind DHT, with unit and reason.
//!
//! What a peer sends is checked against these before anything is kept or answered. Where the protocol has a
//! number of its own, the reason names it (wire protocols, section 13).

use std::time::Duration;

// Messages.

/// Longest request or answer of the DHT's methods, in bytes. The protocol would carry 4 MiB; records are some
/// hundred bytes, and on a small board many calls at once must fit into memory.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Most keys in one `rpc_find`. Hivemind asks for 16, KwaaiNet for all blocks of a model, at most 126.
pub const FIND_KEYS_MAX: usize = 256;
/// Most keys in one `rpc_store`, as KwaaiNet has it.
pub const STORE_KEYS_MAX: usize = 1024;
/// Most keys that we put into one `rpc_find`, as Hivemind does (`chunk_size`).
pub const FIND_KEYS_ASKED_MAX: usize = 16;
/// Most neighbours taken from one result. The protocol's bucket has 20.
pub const NEIGHBOURS_MAX: usize = 20;
/// Longest peer id in a message, in bytes; libp2p's own ids have at most 42.
pub const PEER_ID_BYTES_MAX: usize = 64;
/// Most calls of one method that are answered at one time. Their bytes are bounded by the fabric, whatever
/// their count.
pub const CALLS_MAX: usize = 256;
/// The same for one peer. Hivemind stores a hundred records with as many calls side by side.
pub const CALLS_PER_PEER_MAX: usize = 128;
/// Longest time that answering a call may take: the callers wait 3 s.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Bytes that a result with neighbours alone takes in an answer, at most: twenty of them, 62 bytes each.
pub const RESULT_BYTES_MAX: usize = 2048;
/// Bytes of records in one of our store requests, so that message and envelope stay within what others take.
pub const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (16 << 10);
/// Keys that are worked on before other tasks get their turn: some hundred microseconds.
pub const KEYS_AT_ONCE: usize = 32;

// msgpack.

/// Deepest nesting of lists, maps and tuples. Records have four levels.
pub const MSGPACK_DEPTH_MAX: usize = 16;
/// Most values in one msgpack text, whatever their nesting; a value takes 32 bytes of memory, so 2 MiB.
pub const MSGPACK_VALUES_MAX: usize = 1 << 16;

// Storage.

/// Bytes of records that others may keep with us, each counted with [`RECORD_OVERHEAD_BYTES`]: about 20,000
/// block records.
pub const STORAGE_BYTES_MAX: usize = 12 << 20;
/// The same for records that are only cached with us.
pub const CACHE_BYTES_MAX: usize = 4 << 20;
/// What a record costs beside its own bytes, in bytes: its places in the indexes.
pub const RECORD_OVERHEAD_BYTES: usize = 320;
/// Longest value of one record, in bytes. Block records have 400.
pub const VALUE_BYTES_MAX: usize = 256 << 10;
/// Longest subkey, in bytes of msgpack. One with an RSA owner's key in it has 420.
pub const SUBKEY_BYTES_MAX: usize = 2048;
/// Bytes of one dictionary, each entry counted with [`ENTRY_OVERHEAD_BYTES`]; it must fit into one answer.
pub const DICTIONARY_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (64 << 10);
/// What an entry of a dictionary costs on the wire beside its own bytes, in bytes, at most.
pub const ENTRY_OVERHEAD_BYTES: usize = 24;
/// Longest life of a record, in seconds. Upstream has no bound, and so keeps what says "for ever".
pub const LIFE_SECONDS_MAX: f64 = 24.0 * 3600.0;
/// Largest DHT time that is believed in a message, in seconds since 1970: the year 2500.
pub const TIME_SECONDS_MAX: f64 = 16_725_225_600.0;
/// Allowed difference of two peers' clocks, in seconds (the protocol's own).
pub const CLOCK_SKEW_SECONDS_MAX: f64 = 3.0;

// Routing.

/// Nodes in a bucket (the protocol's own).
pub const BUCKET_NODES_MAX: usize = 20;
/// Nodes that wait for a place in a bucket.
pub const BUCKET_WAITING_MAX: usize = 8;
/// A bucket without our own id is divided unless its depth is a multiple of this (the protocol's own).
pub const BUCKET_DEPTH_MODULO: usize = 5;
/// Nodes in the whole table: a quarter of a megabyte.
pub const TABLE_NODES_MAX: usize = 2048;
/// A node that was silent for so long is asked whether it is still there.
pub const STALE_AFTER: Duration = Duration::from_secs(15 * 60);
/// Stale nodes asked in one round of upkeep.
pub const STALE_ASKED_MAX: usize = 3;
/// Time between rounds of upkeep, before jitter.
pub const UPKEEP_PERIOD: Duration = Duration::from_secs(60);

// What we ask of others.

/// Longest wait for one answer (the protocol's own).
pub const CALL_TIME_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a bootstrap peer: it may have to be found and dialled, and calls us back.
pub const JOIN_TIME_MAX: Duration = Duration::from_secs(8);
/// Calls of one search under way at one time (Hivemind's `num_workers`).
pub const SEARCH_CALLS_MAX: usize = 4;
/// Nearest nodes that a search visits for each key (Hivemind's beam).
pub const BEAM_NODES_MAX: usize = 20;
/// Nodes that a search remembers for each key, in case nearer ones are silent.
pub const SEARCH_NODES_MAX: usize = 80;
/// Calls that one search makes in all, so that no answer can keep it going.
pub const SEARCH_CALLS_TOTAL_MAX: usize = 512;
/// Nodes that hold each record (the protocol's own).
pub const REPLICAS: usize = 5;
/// Store calls under way at one time.
pub const STORE_CALLS_MAX: usize = 8;
/// Errands under way at one time: newcomers that are handed their records, copies, questions to the silent.
pub const ERRANDS_MAX: usize = 16;
/// Keys handed to one newcomer at most.
pub const HANDOVER_KEYS_MAX: usize = 1024;
/// First pause after a peer's failure; it doubles with each further one (Hivemind's).
pub const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// Longest such pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);
/// Peers whose failures are remembered.
pub const FAILURES_REMEMBERED_MAX: usize = 1024;
/// Bootstrap peers that are asked at one time.
pub const BOOTSTRAPS_MAX: usize = 64;

// Announcing.

/// Time between announcements, before jitter; Petals has 60 to 120 s, KwaaiNet 300 s.
pub const ANNOUNCE_PERIOD: Duration = Duration::from_secs(120);
/// Life of what is announced, in seconds: three periods, and KwaaiNet's own.
pub const ANNOUNCE_LIFE_SECONDS: f64 = 360.0;
/// Blocks announced by one node at most; the deepest model known has 126.
pub const ANNOUNCED_BLOCKS_MAX: u32 = 1024;
/// Longest names in an announcement, in bytes: model prefix, public name, version, address of a repository.
pub const NAME_BYTES_MAX: usize = 256;
/// Most round-trip times in an announcement; Petals measures at most ten.
pub const NEXT_PINGS_MAX: usize = 16;
/// Most adapters in an announcement.
pub const ADAPTERS_MAX: usize = 64;

// Reachability and information.

/// Longest request and answer of `rpc_check` and `rpc_info`, in bytes. Answers with schemas have 1300.
pub const INFO_BYTES_MAX: usize = 16 << 10;

/// Longest wait for a peer's answer about another (Petals').
pub const REACHABILITY_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a peer's answer about itself (Petals').
pub const REACHABILITY_PROBE_TIME_MAX: Duration = Duration::from_secs(5);
/// Peers that we try to reach for others at one time.
pub const REACHABILITY_PROBES_MAX: usize = 4;
