//! The KV cache: pages of 32 positions, preallocated, counted and shared.
//!
//! One arena is reserved when the engine opens; nothing is allocated afterwards. A page holds the keys and
//! values of 32 positions for every block of the engine's range. Sessions that begin alike share pages; a
//! page that two sessions hold is copied before either writes to it. A session reserves what it may need when
//! it opens, so that a running answer never finds the cache full.

use std::io;

use kwaainet_kernels::{KV_PAGE_TOKENS, KvShape};
use memmap2::MmapMut;

/// Names one session of an engine; a closed session's name is never valid again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    slot: u32,
    generation: u32,
}

#[derive(Debug)]
struct Session {
    generation: u32,
    open: bool,
    pages: Vec<u32>,
    /// Positions that are filled.
    tokens: usize,
    /// Pages promised to this session and not yet taken.
    reserved: usize,
}

/// All pages and sessions of an engine.
pub(crate) struct KvCache {
    /// Zeros that take memory once they are written.
    arena: MmapMut,
    shape: KvShape,
    blocks: usize,
    /// Sessions that hold each page.
    holders: Vec<u32>,
    free: Vec<u32>,
    reserved: usize,
    sessions: Vec<Session>,
    context_tokens: usize,
}

/// Pages that `tokens` positions need.
pub(crate) fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(KV_PAGE_TOKENS)
}

impl KvCache {
    /// Reserves `pages` pages for `blocks` blocks and room for `sessions_max` sessions of at most
    /// `context_tokens`, in large pages if asked for.
    ///
    /// # Errors
    /// When the system doesn't give the memory.
    pub(crate) fn new(
        shape: KvShape,
        blocks: usize,
        pages: usize,
        sessions_max: usize,
        context_tokens: usize,
        huge_pages: bool,
    ) -> io::Result<Self> {
        let arena = MmapMut::map_anon(shape.page_bytes() * blocks * pages)?;
        #[cfg(target_os = "linux")]
        if huge_pages {
            // Only advice: a system without them gives small ones.
            let _ = arena.advise(memmap2::Advice::HugePage);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = huge_pages;
        Ok(KvCache {
            arena,
            shape,
            blocks,
            holders: vec![0; pages],
            free: (0..pages as u32).rev().collect(),
            reserved: 0,
            sessions: (0..sessions_max)
                .map(|_| Session { generation: 0, open: false, pages: Vec::new(), tokens: 0, reserved: 0 })
                .collect(),
            context_tokens,
        })
    }

    pub(crate) fn shape(&self) -> &KvShape {
        &self.shape
    }

    fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(id.slot as usize).filter(|s| s.open && s.generation == id.generation)
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(id.slot as usize).filter(|s| s.open && s.generation == id.generation)
    }

    /// Filled positions of a session; `None` if it isn't open.
    pub(crate) fn tokens(&self, id: SessionId) -> Option<usize> {
        self.session(id).map(|s| s.tokens)
    }

    /// Sessions that are open.
    pub(crate) fn open_sessions(&self) -> usize {
        self.sessions.iter().filter(|s| s.open).count()
    }

    /// Pages that nobody holds and nobody was promised.
    pub(crate) fn unreserved_pages(&self) -> usize {
        self.free.len() - self.reserved
    }

    /// Opens a session that may grow to `tokens_max` positions; `None` when there is no slot or not enough
    /// pages.
    pub(crate) fn open(&mut self, tokens_max: usize) -> Option<SessionId> {
        self.open_with(&[], 0, tokens_max)
    }

    /// Opens a session that begins with the first `tokens` positions of `parent` and may grow to
    /// `tokens_max`.
    ///
    /// Whole pages are shared; a page that is shared only in part is copied at once.
    pub(crate) fn fork(&mut self, parent: SessionId, tokens: usize, tokens_max: usize) -> Option<SessionId> {
        let parent = self.session(parent).filter(|s| s.tokens >= tokens)?;
        let pages: Vec<u32> = parent.pages[..pages_for(tokens)].to_vec();
        self.open_with(&pages, tokens, tokens_max)
    }

    fn open_with(&mut self, shared: &[u32], tokens: usize, tokens_max: usize) -> Option<SessionId> {
        if tokens_max > self.context_tokens || tokens > tokens_max {
            return None;
        }
        let whole = tokens / KV_PAGE_TOKENS;
        let reserved = pages_for(tokens_max) - whole;
        let slot = self.sessions.iter().position(|s| !s.open)?;
        if self.unreserved_pages() < reserved {
            return None;
        }
        for &page in &shared[..whole] {
            self.holders[page as usize] += 1;
        }
        self.reserved += reserved;
        let session = &mut self.sessions[slot];
        session.open = true;
        session.generation = session.generation.wrapping_add(1);
        session.pages.clear();
        session.pages.extend_from_slice(&shared[..whole]);
        session.tokens = tokens;
        session.reserved = reserved;
        if let Some(&partial) = shared.get(whole) {
            let copy = self.take_page(slot);
            self.copy_page(partial, copy);
            self.sessions[slot].pages.push(copy);
        }
        Some(SessionId { slot: slot as u32, generation: self.sessions[slot].generation })
    }

    /// Closes a session and gives its pages back; closing twice does nothing.
    pub(crate) fn close(&mut self, id: SessionId) {
        let Some(session) = self.session_mut(id) else { return };
        session.open = false;
        session.tokens = 0;
        let reserved = std::mem::take(&mut session.reserved);
        let pages = std::mem::take(&mut session.pages);
        self.reserved -= reserved;
        for page in pages {
            self.release_page(page);
        }
    }

    /// Forgets all positions from `tokens` on. Returns false if the session is shorter or not open.
    pub(crate) fn truncate(&mut self, id: SessionId, tokens: usize) -> bool {
        let Some(session) = self.session_mut(id).filter(|s| s.tokens >= tokens) else { return false };
        session.tokens = tokens;
        let dropped = session.pages.split_off(pages_for(tokens));
        session.reserved += dropped.len();
        self.reserved += dropped.len();
        for page in dropped {
            self.release_page(page);
        }
        self.settle_reservation(id);
        true
    }

    /// After shared pages were dropped the promise of pages to write may not be covered by free ones; it
    /// shrinks then.
    fn settle_reservation(&mut self, id: SessionId) {
        let excess = self.reserved.saturating_sub(self.free.len());
        if let Some(session) = self.session_mut(id) {
            let given_up = excess.min(session.reserved);
            session.reserved -= given_up;
            self.reserved -= given_up;
        }
    }

    /// Lets go of the promise of pages that a finished session won't need any more.
    pub(crate) fn give_up_reservation(&mut self, id: SessionId) {
        if let Some(session) = self.session_mut(id) {
            let reserved = std::mem::take(&mut session.reserved);
            self.reserved -= reserved;
        }
    }

    /// Makes room for `count` more positions: pages are taken, shared ones copied. False when there is no
    /// room.
    pub(crate) fn extend(&mut self, id: SessionId, count: usize) -> bool {
        let Some(session) = self.session(id) else { return false };
        let (slot, tokens) = (id.slot as usize, session.tokens);
        let Some(end) = tokens.checked_add(count).filter(|&end| end <= self.context_tokens) else {
            return false;
        };
        let first_written = tokens / KV_PAGE_TOKENS;
        for index in first_written..pages_for(end) {
            let held = self.sessions[slot].pages.get(index).copied();
            if held.is_some_and(|page| self.holders[page as usize] == 1) {
                continue;
            }
            if self.sessions[slot].reserved == 0 && self.unreserved_pages() == 0 {
                return false;
            }
            let page = self.take_page(slot);
            match held {
                Some(shared) => {
                    self.copy_page(shared, page);
                    self.release_page(shared);
                    self.sessions[slot].pages[index] = page;
                }
                None => self.sessions[slot].pages.push(page),
            }
        }
        true
    }

    /// Marks `count` positions as filled; they must have been made room for by [`KvCache::extend`].
    pub(crate) fn advance(&mut self, id: SessionId, count: usize) {
        if let Some(session) = self.session_mut(id) {
            session.tokens += count;
            debug_assert!(pages_for(session.tokens) <= session.pages.len());
        }
    }

    /// The page of one block that holds `position` of a session, to be written.
    pub(crate) fn page_mut(&mut self, id: SessionId, block: usize, position: usize) -> &mut [u8] {
        let page = self.sessions[id.slot as usize].pages[position / KV_PAGE_TOKENS];
        debug_assert_eq!(self.holders[page as usize], 1);
        let bytes = self.shape.page_bytes();
        let start = (page as usize * self.blocks + block) * bytes;
        &mut self.arena[start..start + bytes]
    }

    /// The pages of one block of a session that hold its first `tokens` positions, in order.
    pub(crate) fn pages(&self, id: SessionId, block: usize, tokens: usize) -> Vec<&[u8]> {
        let bytes = self.shape.page_bytes();
        self.sessions[id.slot as usize].pages[..pages_for(tokens)]
            .iter()
            .map(|&page| {
                let start = (page as usize * self.blocks + block) * bytes;
                &self.arena[start..start + bytes]
            })
            .collect()
    }

    fn take_page(&mut self, slot: usize) -> u32 {
        let page = self.free.pop().expect("the caller saw a free or reserved page");
        self.holders[page as usize] = 1;
        let session = &mut self.sessions[slot];
        if session.reserved > 0 {
            session.reserved -= 1;
            self.reserved -= 1;
        }
        page
    }

    fn release_page(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(page);
        }
    }

    fn copy_page(&mut self, source: u32, target: u32) {
        let bytes = self.shape.page_bytes() * self.blocks;
        let start = source as usize * bytes;
        self.arena.copy_within(start..start + bytes, target as usize * bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kwaainet_kernels::KvKind;

    fn cache(pages: usize, sessions: usize) -> KvCache {
        let shape = KvShape { kind: KvKind::F32, kv_heads: 1, head_width: 8 };
        KvCache::new(shape, 2, pages, sessions, 1024, false).unwrap()
    }

    fn fill(cache: &mut KvCache, id: SessionId, count: usize, value: u8) {
        let start = cache.tokens(id).unwrap();
        assert!(cache.extend(id, count));
        for position in start..start + count {
            cache.page_mut(id, 1, position)[position % KV_PAGE_TOKENS] = value;
        }
        cache.advance(id, count);
    }

    fn value_at(cache: &KvCache, id: SessionId, position: usize) -> u8 {
        cache.pages(id, 1, position + 1)[position / KV_PAGE_TOKENS][position % KV_PAGE_TOKENS]
    }

    #[test]
    fn a_session_gets_the_pages_it_reserved_and_no_slot_is_given_beyond_them() {
        let mut cache = cache(4, 8);
        let first = cache.open(64).unwrap();
        let second = cache.open(64).unwrap();
        assert!(cache.open(1).is_none());
        fill(&mut cache, first, 64, 1);
        fill(&mut cache, second, 64, 2);
        assert!(!cache.extend(first, 1));
        cache.close(first);
        assert!(cache.open(64).is_some());
        assert_eq!(value_at(&cache, second, 63), 2);
    }

    #[test]
    fn sessions_are_limited() {
        let mut cache = cache(100, 2);
        let first = cache.open(1).unwrap();
        cache.open(1).unwrap();
        assert!(cache.open(1).is_none());
        cache.close(first);
        let third = cache.open(1).unwrap();
        assert_eq!(cache.tokens(first), None, "a closed name stays closed when its slot is used again");
        assert_eq!(cache.tokens(third), Some(0));
    }

    #[test]
    fn the_context_is_a_limit() {
        let mut cache = cache(100, 2);
        assert!(cache.open(1025).is_none());
        let id = cache.open(1024).unwrap();
        assert!(cache.extend(id, 1024));
        cache.advance(id, 1024);
        assert!(!cache.extend(id, 1));
    }

    #[test]
    fn a_fork_shares_whole_pages_and_copies_the_broken_one() {
        let mut cache = cache(6, 3);
        let parent = cache.open(96).unwrap();
        fill(&mut cache, parent, 70, 7);
        let before = cache.free.len();
        let child = cache.fork(parent, 70, 96).unwrap();
        assert_eq!(before - cache.free.len(), 1);
        fill(&mut cache, child, 10, 9);
        fill(&mut cache, parent, 10, 5);
        assert_eq!(value_at(&cache, child, 69), 7);
        assert_eq!(value_at(&cache, child, 70), 9);
        assert_eq!(value_at(&cache, parent, 70), 5);
        cache.close(parent);
        assert_eq!(value_at(&cache, child, 3), 7);
        cache.close(child);
        assert_eq!((cache.free.len(), cache.reserved), (6, 0));
    }

    #[test]
    fn writing_after_truncating_into_a_shared_page_copies_it_first() {
        let mut cache = cache(8, 3);
        let parent = cache.open(64).unwrap();
        fill(&mut cache, parent, 64, 1);
        let child = cache.fork(parent, 64, 64).unwrap();
        assert!(cache.truncate(child, 40));
        fill(&mut cache, child, 24, 2);
        assert_eq!(value_at(&cache, parent, 50), 1);
        assert_eq!(value_at(&cache, child, 50), 2);
        assert_eq!(value_at(&cache, child, 39), 1);
        assert!(!cache.truncate(child, 65));
    }

    #[test]
    fn nothing_is_lost_over_many_random_lives() {
        let mut cache = cache(40, 6);
        let mut state = 12345u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut open: Vec<SessionId> = Vec::new();
        for _ in 0..20_000 {
            match random(5) {
                0 => open.extend(cache.open(1 + random(300))),
                1 if !open.is_empty() => cache.close(open.swap_remove(random(open.len()))),
                2 if !open.is_empty() => {
                    let parent = open[random(open.len())];
                    let tokens = random(cache.tokens(parent).unwrap() + 1);
                    open.extend(cache.fork(parent, tokens, (tokens + random(100)).max(1)));
                }
                3 if !open.is_empty() => {
                    let id = open[random(open.len())];
                    assert!(cache.truncate(id, random(cache.tokens(id).unwrap() + 1)));
                }
                _ if !open.is_empty() => {
                    let id = open[random(open.len())];
                    let count = random(50);
                    if cache.extend(id, count) {
                        cache.advance(id, count);
                    }
                }
                _ => {}
            }
            let held: usize = cache.holders.iter().filter(|&&h| h > 0).count();
            assert_eq!(held + cache.free.len(), 40);
            assert_eq!(cache.reserved, cache.sessions.iter().map(|s| s.reserved).sum::<usize>());
            assert!(cache.reserved <= cache.free.len());
        }
    }
}
