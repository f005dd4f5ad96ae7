//! Finding the nodes nearest to keys, and what they keep.
//!
//! Wire protocols, section 4.9: a beam search. For each key the twenty nearest nodes heard of are asked, the
//! nearest first, a few at one time; each names nodes that are nearer, and what it keeps itself. A call asks
//! for several keys at once. A key is done when what was found will do, or when its twenty nearest have all
//! been asked.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::PeerId;

use super::dht::Dht;
use super::id::{Distance, Id};
use super::limits::{
    BEAM_NODES_MAX, FIND_KEYS_ASKED_MAX, SEARCH_CALLS_MAX, SEARCH_CALLS_TOTAL_MAX, SEARCH_NODES_MAX,
};
use super::messages::{FindResult, Node};
use super::records::Found;
use crate::call::CallError;

/// What a search is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The nodes alone.
    Nodes,
    /// Any value that has not expired.
    AnyValue,
    /// The latest value that any of the nearest nodes keeps.
    LatestValue,
}

/// What a search found for one key.
pub struct Outcome {
    /// Nodes that did not fail, the nearest first.
    pub nearest: Vec<Node>,
    /// The best value, from whomever; with the one that it began with.
    pub found: Option<Found>,
    /// The nearest node that answered and lacks that value.
    pub lacking: Option<PeerId>,
    /// Whether the value came from another node than ourselves.
    pub from_others: bool,
}

enum Asked {
    No,
    Waiting,
    /// Until when the value lives that it told us, or zero.
    Answered(f64),
}

struct Target {
    key: Id,
    nodes: BTreeMap<Distance, (Node, Asked)>,
    waiting: usize,
    found: Option<Found>,
    from_others: bool,
    done: bool,
}

impl Target {
    fn add(&mut self, node: Node) {
        let distance = self.key.distance(&node.id);
        self.nodes.entry(distance).or_insert((node, Asked::No));
        if self.nodes.len() > SEARCH_NODES_MAX {
            self.nodes.pop_last();
        }
    }

    /// The nearest node that is worth asking.
    fn next(&self) -> Option<Node> {
        if self.done {
            return None;
        }
        let beam = self.nodes.values().take(BEAM_NODES_MAX);
        beam.into_iter().find(|(_, asked)| matches!(asked, Asked::No)).map(|(node, _)| *node)
    }

    /// Whether `node` was asked before.
    fn was_asked(&self, node: &Node) -> bool {
        let known = self.nodes.get(&self.key.distance(&node.id));
        known.is_some_and(|(_, asked)| !matches!(asked, Asked::No))
    }

    fn mark(&mut self, node: &Node, asked: Asked) {
        self.nodes.insert(self.key.distance(&node.id), (*node, asked));
    }

    fn finish(self) -> Outcome {
        let expiration = self.found.as_ref().map_or(0.0, Found::expiration);
        let mut answered = self.nodes.values().filter_map(|(node, asked)| match asked {
            Asked::Answered(until) => Some((node.peer, *until)),
            _ => None,
        });
        let lacking = answered.find(|(_, until)| *until < expiration).map(|(peer, _)| peer);
        Outcome {
            lacking,
            nearest: self.nodes.into_values().map(|(node, _)| node).take(BEAM_NODES_MAX).collect(),
            found: self.found,
            from_others: self.from_others,
        }
    }
}

/// Searches for all keys together. `known` is what we keep ourselves under each of them.
pub async fn search(dht: &Dht, keys: &[Id], known: Vec<Option<Found>>, goal: Goal) -> Vec<Outcome> {
    let mut targets = begin(dht, keys, known);
    let mut failed: HashSet<PeerId> = HashSet::new();
    let mut calls = FuturesUnordered::new();
    let mut calls_total = 0;
    loop {
        while calls.len() < SEARCH_CALLS_MAX && calls_total < SEARCH_CALLS_TOTAL_MAX {
            let Some((node, indexes)) = next_call(&targets) else { break };
            let asked: Vec<Id> = indexes.iter().map(|index| targets[*index].key).collect();
            for index in &indexes {
                targets[*index].mark(&node, Asked::Waiting);
                targets[*index].waiting += 1;
            }
            calls_total += 1;
            calls.push(async move { (node, indexes, dht.call_find(node.peer, &asked).await) });
        }
        let Some((node, indexes, results)) = calls.next().await else { break };
        for index in &indexes {
            targets[*index].waiting -= 1;
        }
        absorb(dht, &mut targets, &mut failed, (node, indexes), results, goal);
        if targets.iter().all(|target| target.done) {
            break;
        }
    }
    drop(calls);
    targets.into_iter().map(Target::finish).collect()
}

fn begin(dht: &Dht, keys: &[Id], known: Vec<Option<Found>>) -> Vec<Target> {
    let state = dht.state();
    let now = Instant::now();
    let targets = keys.iter().zip(known).map(|(key, found)| {
        let mut target =
            Target { key: *key, nodes: BTreeMap::new(), waiting: 0, found, from_others: false, done: false };
        let nearest = state.table.nearest(key, SEARCH_NODES_MAX, None);
        nearest
            .into_iter()
            .filter(|node| state.failures.may_ask(&node.peer, now))
            .for_each(|node| target.add(node));
        target
    });
    targets.collect()
}

/// Whom to ask next, and for which of the keys: first for the one that fewest calls are under way for.
fn next_call(targets: &[Target]) -> Option<(Node, Vec<usize>)> {
    let open = || targets.iter().enumerate().filter(|(_, target)| !target.done);
    let (first, node) = open()
        .filter_map(|(index, target)| Some((index, target.next()?)))
        .min_by_key(|(index, _)| targets[*index].waiting)?;
    let mut indexes: Vec<usize> =
        open().map(|(index, _)| index).filter(|index| !targets[*index].was_asked(&node)).collect();
    indexes.sort_unstable_by_key(|index| (*index != first, targets[*index].key.distance(&node.id)));
    indexes.truncate(FIND_KEYS_ASKED_MAX);
    Some((node, indexes))
}

fn absorb(
    dht: &Dht,
    targets: &mut [Target],
    failed: &mut HashSet<PeerId>,
    (node, indexes): (Node, Vec<usize>),
    results: Result<Vec<FindResult>, CallError>,
    goal: Goal,
) {
    let Ok(results) = results else {
        failed.insert(node.peer);
        for target in targets {
            target.nodes.remove(&target.key.distance(&node.id));
        }
        return;
    };
    let (now, own) = (dht.now(), dht.peer_id());
    for (index, result) in indexes.into_iter().zip(results) {
        let target = &mut targets[index];
        let mut until = 0.0;
        if goal != Goal::Nodes
            && let Some(value) = result.value
            && let Some(found) = Found::check(target.key, value, now)
        {
            until = found.expiration();
            target.from_others = true;
            target.found = Some(match target.found.take() {
                Some(known) => known.merge(found),
                None => found,
            });
        }
        target.mark(&node, Asked::Answered(until));
        let new = result.nearest.into_iter();
        let new = new.filter(|node| node.peer != own && !failed.contains(&node.peer));
        let state = dht.state();
        new.filter(|node| state.failures.may_ask(&node.peer, Instant::now()))
            .for_each(|node| target.add(node));
        drop(state);
        target.done |= goal == Goal::AnyValue && target.found.is_some();
    }
}
