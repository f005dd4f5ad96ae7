//! Merging neighbours, best first: what byte-level BPE and SentencePiece's BPE have in common.
//!
//! Symbols form a linked list and candidate pairs a heap, so a word of n symbols takes n log n steps, whatever it is
//! made of. Of pairs with the same priority the leftmost is merged first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Marks the absence of an id or of a neighbour.
pub const NONE: u32 = u32::MAX;

/// A stretch of a word, with the id of the piece that it is, or [`NONE`].
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    /// First byte in the word.
    pub start: u32,
    /// Byte after the last; equal to `start` once the symbol was merged into its left neighbour.
    pub end: u32,
    /// Its piece.
    pub id: u32,
    previous: u32,
    next: u32,
}

// Ordered by priority, then by place; the rest identifies the pair as it was when found.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u32,
    left: u32,
    middle: u32,
    end: u32,
    id: u32,
}

/// Buffers that are kept from word to word.
#[derive(Default)]
pub struct Merger {
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Begins a new word.
    pub fn clear(&mut self) {
        self.symbols.clear();
        self.candidates.clear();
    }

    /// Appends a symbol that ends at `end`; it begins where the last one ended. At most 2^32 - 2 of them.
    pub fn push(&mut self, end: u32, id: u32) {
        let index = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |last| last.end);
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        let previous = if index == 0 { NONE } else { index - 1 };
        self.symbols.push(Symbol { start, end, id, previous, next: NONE });
    }

    /// Merges as long as `pair(left, right)` gives a priority (low is first) and the id of the merged piece.
    pub fn merge(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        for left in 0..(self.symbols.len() as u32).saturating_sub(1) {
            self.consider(left, left + 1, &pair);
        }
        while let Some(Reverse(candidate)) = self.candidates.pop() {
            let left = self.symbols[candidate.left as usize];
            // Out of date if either side has grown or has been swallowed since.
            if left.end != candidate.middle || left.start == left.end || left.next == NONE {
                continue;
            }
            let right = self.symbols[left.next as usize];
            if right.end != candidate.end {
                continue;
            }
            let swallowed = left.next;
            self.symbols[swallowed as usize].start = right.end;
            let merged = &mut self.symbols[candidate.left as usize];
            merged.end = right.end;
            merged.id = candidate.id;
            merged.next = right.next;
            if right.next != NONE {
                self.symbols[right.next as usize].previous = candidate.left;
                self.consider(candidate.left, right.next, &pair);
            }
            if left.previous != NONE {
                self.consider(left.previous, candidate.left, &pair);
            }
        }
    }

    fn consider(&mut self, left: u32, right: u32, pair: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let (first, second) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((priority, id)) = pair(first, second) {
            let (middle, end) = (first.end, second.end);
            self.candidates.push(Reverse(Candidate { priority, left, middle, end, id }));
        }
    }

    /// The symbols that are left, in order.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.start < symbol.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Merges as the definition says: look at all pairs, take the best and leftmost, repeat.
    fn naive(mut ids: Vec<u32>, pair: impl Fn(u32, u32) -> Option<(u32, u32)>) -> Vec<u32> {
        loop {
            let best = (1..ids.len())
                .filter_map(|right| {
                    pair(ids[right - 1], ids[right]).map(|(priority, id)| (priority, right, id))
                })
                .min();
            let Some((_, right, id)) = best else { return ids };
            ids[right - 1] = id;
            ids.remove(right);
        }
    }

    #[test]
    fn the_heap_merges_as_the_definition_does() {
        // Ids are sums; a pair merges if its sum is small enough, in an order that jumps about.
        let pair = |a: u32, b: u32| {
            (a + b < 40 && !(a * b).is_multiple_of(5)).then(|| ((a * 7 + b * 3) % 11, a + b))
        };
        let mut state = 1u32;
        let mut merger = Merger::default();
        for length in 0..60 {
            let ids: Vec<u32> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    1 + (state >> 24) % 4
                })
                .collect();
            merger.clear();
            for (index, id) in ids.iter().enumerate() {
                merger.push(index as u32 + 1, *id);
            }
            merger.merge(|left, right| pair(left.id, right.id));
            let merged: Vec<u32> = merger.symbols().map(|symbol| symbol.id).collect();
            assert_eq!(merged, naive(ids, pair), "{length} symbols");
        }
    }
}
