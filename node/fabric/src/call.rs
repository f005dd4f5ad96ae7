//! One call to a peer: a method's name, the request's bytes, the answer's bytes.
//!
//! The seam between those who have something to ask (the DHT, Petals' methods, reachability) and those who
//! carry it (libp2p, or a network in memory in tests). Both sides know these types and nothing of each other.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use libp2p::PeerId;

/// Who can be called. The fabric is one; a test's network in memory is another.
pub trait Remote: Send + Sync + 'static {
    /// Our own id, as the called peers see it.
    fn peer_id(&self) -> PeerId;

    /// Sends `request` to `method` of `peer` and waits for the answer, at most `deadline`.
    ///
    /// `method` is a protocol's name as it stands on the wire, such as `DHTProtocol.rpc_find`. Dropping the
    /// future cancels the call.
    ///
    /// # Errors
    ///
    /// Says why there is no answer; [`CallError::Refused`] holds the callee's own words.
    fn call(
        &self,
        peer: PeerId,
        method: &'static str,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, CallError>>;
}

/// Who answers a method's calls.
pub trait CallHandler: Send + Sync {
    /// The answer to `request`, or a sentence that the caller is told instead.
    ///
    /// `from` is the peer that the connection proved, never what a message claims. The future is dropped when
    /// the caller is gone.
    fn answer(&self, from: PeerId, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>>;
}

/// A method, what its calls may cost, and who answers it: what a part of the node gives to the fabric.
pub type Served = (&'static str, CallLimits, Arc<dyn CallHandler>);

/// What the calls of one method may cost us. The carrier keeps them, so that a handler sees only what is
/// within them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Longest request, in bytes, without its envelope.
    pub request_bytes_max: usize,
    /// Longest answer, in bytes, without its envelope.
    pub answer_bytes_max: usize,
    /// Calls being answered at one time, all peers together.
    pub calls_max: usize,
    /// Calls being answered at one time for one peer.
    pub calls_per_peer_max: usize,
    /// Longest time from the stream's opening to the answer's last byte.
    pub deadline: Duration,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// No connection to the peer, and none could be made; or it does not know the method.
    Unreachable(String),
    /// The callee answered with an error; its own text, of at most some kilobytes.
    Refused(String),
    /// No answer within the deadline.
    TimedOut,
    /// The request or the answer is longer than may be.
    TooLarge {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// The stream ended early, or what came on it is no answer.
    Broken(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            CallError::Unreachable(why) => write!(out, "the peer can't be reached: {why}"),
            CallError::Refused(words) => write!(out, "the peer refused: {words}"),
            CallError::TimedOut => write!(out, "the peer did not answer in time"),
            CallError::TooLarge { bytes, bytes_max } => {
                write!(out, "the message has {bytes} bytes; at most {bytes_max} may be sent in one call")
            }
            CallError::Broken(why) => write!(out, "the call broke off: {why}"),
        }
    }
}

impl std::error::Error for CallError {}
