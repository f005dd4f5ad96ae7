//! Which nodes of the DHT a node knows: Kademlia's buckets.
//!
//! Wire protocols, section 4.8. A bucket holds the nodes whose ids begin with the same bits. A full one is
//! divided if it holds our own id or lies at no multiple of five levels; otherwise newcomers wait until a
//! member that was silent for long is found gone. Members stand in the order in which they were last heard
//! of.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::id::Id;
use super::limits::{BUCKET_DEPTH_MODULO, BUCKET_NODES_MAX, BUCKET_WAITING_MAX, TABLE_NODES_MAX};
use super::messages::Node;

/// What became of a node that was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is new, and in the table.
    New,
    /// It was there.
    Known,
    /// There is no room; it waits. The node named was silent for longest: is it still there?
    Waits(Node),
    /// There is no room at all.
    NoRoom,
}

struct Member {
    node: Node,
    heard: Instant,
}

/// Nodes whose ids share the first `depth` bits with `prefix`.
struct Bucket {
    prefix: Id,
    depth: usize,
    /// The one heard of longest ago comes first.
    members: VecDeque<Member>,
    /// Newcomers, the latest last.
    waiting: VecDeque<Member>,
}

impl Bucket {
    fn divide(self) -> [Bucket; 2] {
        let depth = self.depth + 1;
        let mut upper = self.prefix;
        upper.0[self.depth / 8] |= 0x80 >> (self.depth % 8);
        let empty = |prefix| Bucket { prefix, depth, members: VecDeque::new(), waiting: VecDeque::new() };
        let mut halves = [empty(self.prefix), empty(upper)];
        for member in self.members {
            let half = usize::from(member.node.id.bit(self.depth));
            halves[half].members.push_back(member);
        }
        for member in self.waiting {
            halves[usize::from(member.node.id.bit(self.depth))].waiting.push_back(member);
        }
        halves
    }
}

/// The table of known nodes; our own is not in it.
pub struct Table {
    own: Id,
    /// In the order of their prefixes; together they hold every id.
    buckets: Vec<Bucket>,
    /// The ids under which peers are in the table; a peer has one.
    ids: HashMap<PeerId, Id>,
}

impl Table {
    /// An empty table around our own id.
    pub fn new(own: Id) -> Table {
        let all =
            Bucket { prefix: Id([0; 20]), depth: 0, members: VecDeque::new(), waiting: VecDeque::new() };
        Table { own, buckets: vec![all], ids: HashMap::new() }
    }

    /// Nodes in the table.
    pub fn count(&self) -> usize {
        self.ids.len()
    }

    /// All nodes, by their ids.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.buckets.iter().flat_map(|bucket| bucket.members.iter().map(|member| member.node))
    }

    /// Takes note that a node was heard of.
    pub fn heard_of(&mut self, node: Node, now: Instant) -> Seen {
        if node.id == self.own {
            return Seen::NoRoom;
        }
        // A peer that came back with another id is another node; the old one is gone.
        if self.ids.get(&node.peer).is_some_and(|known| *known != node.id) {
            self.remove(&node.peer);
        }
        loop {
            let index = self.bucket_of(&node.id);
            let bucket = &mut self.buckets[index];
            if let Some(at) = bucket.members.iter().position(|member| member.node.id == node.id) {
                // An id is its peer's for as long as that peer is there.
                if bucket.members[at].node.peer != node.peer {
                    return Seen::NoRoom;
                }
                if let Some(mut member) = bucket.members.remove(at) {
                    member.heard = now;
                    bucket.members.push_back(member);
                }
                return Seen::Known;
            }
            let member = Member { node, heard: now };
            if bucket.members.len() < BUCKET_NODES_MAX {
                if self.ids.len() >= TABLE_NODES_MAX {
                    return Seen::NoRoom;
                }
                bucket.waiting.retain(|waiting| waiting.node.peer != node.peer);
                bucket.members.push_back(member);
                self.ids.insert(node.peer, node.id);
                return Seen::New;
            }
            let ours = self.own.common_bits(&bucket.prefix) >= bucket.depth;
            if bucket.depth < 159 && (ours || !bucket.depth.is_multiple_of(BUCKET_DEPTH_MODULO)) {
                let halves = self.buckets.remove(index).divide();
                self.buckets.splice(index..index, halves);
                continue;
            }
            bucket.waiting.retain(|waiting| waiting.node.peer != node.peer);
            if bucket.waiting.len() == BUCKET_WAITING_MAX {
                bucket.waiting.pop_front();
            }
            bucket.waiting.push_back(member);
            return Seen::Waits(bucket.members[0].node);
        }
    }

    /// Takes a node out, and lets the newest of those who wait for its place in.
    pub fn remove(&mut self, peer: &PeerId) {
        let Some(id) = self.ids.remove(peer) else { return };
        let index = self.bucket_of(&id);
        let bucket = &mut self.buckets[index];
        bucket.members.retain(|member| member.node.peer != *peer);
        while let Some(member) = bucket.waiting.pop_back() {
            // Meanwhile it may have come in under another id.
            if let Entry::Vacant(place) = self.ids.entry(member.node.peer) {
                place.insert(member.node.id);
                bucket.members.push_front(member);
                break;
            }
        }
    }

    /// The nodes nearest to `key`, the nearest first, `count` at most, without `except`.
    pub fn nearest(&self, key: &Id, count: usize, except: Option<&PeerId>) -> Vec<Node> {
        // No two buckets' distances from a key overlap, so whole buckets can be taken in their order.
        let mut order: Vec<&Bucket> = self.buckets.iter().collect();
        order.sort_unstable_by_key(|bucket| {
            let mut near = bucket.prefix;
            for depth in bucket.depth..160 {
                // Bits that a bucket leaves open count as the key's own.
                let mask = 0x80 >> (depth % 8);
                near.0[depth / 8] = near.0[depth / 8] & !mask | key.0[depth / 8] & mask;
            }
            key.distance(&near)
        });
        let mut nodes = Vec::new();
        for bucket in order {
            let begin = nodes.len();
            let members = bucket.members.iter().map(|member| member.node);
            nodes.extend(members.filter(|node| Some(&node.peer) != except));
            nodes[begin..].sort_unstable_by_key(|node| key.distance(&node.id));
            if nodes.len() >= count {
                break;
            }
        }
        nodes.truncate(count);
        nodes
    }

    /// Nodes that were silent for longer than `age`, `count` at most.
    pub fn stale(&self, now: Instant, age: Duration, count: usize) -> Vec<Node> {
        let members = self.buckets.iter().flat_map(|bucket| &bucket.members);
        let stale = members.filter(|member| now.saturating_duration_since(member.heard) > age);
        stale.map(|member| member.node).take(count).collect()
    }

    fn bucket_of(&self, id: &Id) -> usize {
        self.buckets.partition_point(|bucket| bucket.prefix <= *id) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids spread over the whole space by a small generator, the same each time.
    fn node(seed: u64) -> Node {
        let mut id = [0; 20];
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
        for byte in &mut id {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
        Node { id: Id(id), peer: PeerId::random() }
    }

    fn table() -> Table {
        Table::new(Id([0; 20]))
    }

    #[test]
    fn the_nearest_are_those_that_a_search_of_all_finds() {
        let (mut table, now) = (table(), Instant::now());
        for seed in 0..1000 {
            table.heard_of(node(seed), now);
        }
        assert!(table.count() > 200, "{}", table.count());
        let all: Vec<Node> = table.nodes().collect();
        assert_eq!(all.len(), table.count());
        for seed in 5000..5050 {
            let key = node(seed).id;
            let except = all[seed as usize % all.len()].peer;
            let mut expected: Vec<Node> = all.iter().copied().filter(|node| node.peer != except).collect();
            expected.sort_by_key(|node| key.distance(&node.id));
            expected.truncate(20);
            assert_eq!(table.nearest(&key, 20, Some(&except)), expected);
        }
    }

    #[test]
    fn a_full_bucket_keeps_its_members_until_one_is_gone() {
        let (mut table, now) = (table(), Instant::now());
        // Ids of one half far from ours: after five divisions there is no more room.
        let mut waits = None;
        let mut members = Vec::new();
        for seed in 0..20_000 {
            let mut newcomer = node(seed);
            newcomer.id.0[0] = 0xff;
            match table.heard_of(newcomer, now) {
                Seen::Waits(oldest) => {
                    waits = Some((oldest, newcomer));
                    break;
                }
                seen => assert_eq!(seen, Seen::New),
            }
            members.push(newcomer);
        }
        let (oldest, newcomer) = waits.expect("a bucket fills");
        assert!(members.contains(&oldest));
        assert_eq!(table.ids.get(&newcomer.peer), None);
        table.remove(&oldest.peer);
        assert_eq!(table.ids.get(&newcomer.peer), Some(&newcomer.id));
        assert_eq!(table.ids.get(&oldest.peer), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut table, now) = (table(), Instant::now());
        let mut refused = 0;
        // Ids that share ever more bits with ours divide the table as deep as it goes.
        for seed in 0..40_000 {
            let mut newcomer = node(seed);
            let zeros = seed as usize % 140;
            newcomer.id.0[..zeros / 8].fill(0);
            refused += u32::from(table.heard_of(newcomer, now) == Seen::NoRoom);
        }
        assert_eq!(table.count(), TABLE_NODES_MAX);
        assert!(refused > 0);
        let waiting: usize = table.buckets.iter().map(|bucket| bucket.waiting.len()).sum();
        assert!(waiting <= table.buckets.len() * BUCKET_WAITING_MAX);
    }

    #[test]
    fn a_peer_has_one_place_and_an_id_one_peer() {
        let (mut table, now) = (table(), Instant::now());
        let first = node(1);
        assert_eq!(table.heard_of(first, now), Seen::New);
        assert_eq!(table.heard_of(first, now), Seen::Known);
        let moved = Node { id: node(2).id, peer: first.peer };
        assert_eq!(table.heard_of(moved, now), Seen::New);
        assert_eq!(table.count(), 1);
        assert_eq!(table.heard_of(Node { id: moved.id, peer: PeerId::random() }, now), Seen::NoRoom);
        assert_eq!(table.heard_of(Node { id: Id([0; 20]), peer: PeerId::random() }, now), Seen::NoRoom);
    }

    #[test]
    fn silent_nodes_are_stale_and_heard_ones_are_not() {
        let (mut table, begin) = (table(), Instant::now());
        let (silent, heard) = (node(1), node(2));
        table.heard_of(silent, begin);
        table.heard_of(heard, begin);
        let later = begin + Duration::from_secs(100);
        table.heard_of(heard, later);
        assert_eq!(table.stale(later, Duration::from_secs(50), 10), [silent]);
        assert_eq!(table.stale(later, Duration::from_secs(200), 10), []);
    }
}
