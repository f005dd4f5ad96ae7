//! What the network has done so far, in numbers.
//!
//! Rates and totals for `status` and metrics. Each is one atomic, so that streams and calls count without a
//! lock and without asking the swarm's task.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that several tasks change.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The live counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes_received: Count,
    pub(crate) bytes_sent: Count,
    pub(crate) streams_open: Count,
    pub(crate) streams_refused: Count,
    pub(crate) connections_refused: Count,
    pub(crate) calls_made: Count,
    pub(crate) calls_failed: Count,
    pub(crate) calls_answered: Count,
    pub(crate) calls_refused: Count,
}

/// The counters at one moment. All but `streams_open` only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of streams that came in, without the overhead of yamux, noise and TCP.
    pub bytes_received: u64,
    /// Bytes of streams that went out, likewise.
    pub bytes_sent: u64,
    /// Streams that are open now, both ways, libp2p's own among them.
    pub streams_open: u64,
    /// Inbound streams that were reset for a limit.
    pub streams_refused: u64,
    /// Connections that were refused for a limit.
    pub connections_refused: u64,
    /// Calls that we made.
    pub calls_made: u64,
    /// Of these: without an answer.
    pub calls_failed: u64,
    /// Calls of peers that a part of this node answered.
    pub calls_answered: u64,
    /// Calls of peers that were refused for a limit or were malformed.
    pub calls_refused: u64,
}

impl Counters {
    pub(crate) fn read(&self) -> Counts {
        Counts {
            bytes_received: self.bytes_received.get(),
            bytes_sent: self.bytes_sent.get(),
            streams_open: self.streams_open.get(),
            streams_refused: self.streams_refused.get(),
            connections_refused: self.connections_refused.get(),
            calls_made: self.calls_made.get(),
            calls_failed: self.calls_failed.get(),
            calls_answered: self.calls_answered.get(),
            calls_refused: self.calls_refused.get(),
        }
    }
}
