//! The front door: HTTP/1.1 for whoever knocks, with a bound on everything.
//!
//! It knows HTTP and nothing of models: it reads a bounded request, checks who may ask, hands it to a
//! [`Service`] and writes the answer, whole or as a stream of events. All connections live on the caller's
//! executor thread. An answer is a future, and a client that goes away drops it: that is how its work is
//! cancelled.

mod connection;
mod guard;
mod head;
mod refusal;
mod response;
mod server;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;

pub use guard::Guard;
pub use head::Method;
pub use refusal::Refusal;
pub use response::Response;
pub use server::Door;

/// A request that came through the door: complete, bounded, from someone who may ask.
pub struct Request {
    /// The path without its query; its method is one that [`Service::methods`] allows.
    pub path: String,
    /// The body; empty if there was none.
    pub body: Vec<u8>,
}

/// What answers behind the door.
pub trait Service {
    /// The methods that a path answers to; none if there is no such path.
    fn methods(&self, path: &str) -> &'static [Method];
    /// Whether a path may be asked without the key.
    fn is_public(&self, path: &str) -> bool;
    /// The answer. Dropping the future cancels the work.
    fn answer(&self, request: Request) -> Pin<Box<dyn Future<Output = Response>>>;
}
