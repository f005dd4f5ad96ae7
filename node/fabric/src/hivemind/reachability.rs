//! Telling other nodes whether they can be reached.
//!
//! Wire protocols, section 5.11. A node that starts asks some peers to call it; if half of them can, it
//! serves. The answer is worth something only if the call needs a new connection, since over the one that the
//! asker opened it always succeeds. So others are called through a `probe`, a second peer of ours that nobody
//! is connected to. A node without one can speak for itself alone, and says so; Petals then asks the next.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::PeerId;
use smol::lock::Semaphore;

use super::limits::{
    ANSWER_TIME_MAX, CALLS_MAX, CALLS_PER_PEER_MAX, INFO_BYTES_MAX, REACHABILITY_PROBE_TIME_MAX,
    REACHABILITY_PROBES_MAX, REACHABILITY_TIME_MAX,
};
use super::messages::{CheckRequest, PingResponse};
use crate::call::{CallError, CallHandler, CallLimits, Remote, Served};

/// Asks a peer whether it reaches another one.
pub const CHECK: &str = "ReachabilityProtocol.rpc_check";

/// Answers `rpc_check` for `own`; for other peers by calling them through `probe`.
pub fn check_handler(own: PeerId, probe: Option<Arc<dyn Remote>>) -> Served {
    let limits = CallLimits {
        request_bytes_max: INFO_BYTES_MAX,
        answer_bytes_max: INFO_BYTES_MAX,
        calls_max: CALLS_MAX,
        calls_per_peer_max: CALLS_PER_PEER_MAX,
        deadline: REACHABILITY_PROBE_TIME_MAX + ANSWER_TIME_MAX,
    };
    let probes = Arc::new(Semaphore::new(REACHABILITY_PROBES_MAX));
    (CHECK, limits, Arc::new(CheckHandler { own, probe, probes }))
}

/// Asks `judge` whether it reaches `peer`.
///
/// # Errors
///
/// Says why there is no answer: many nodes don't know the method, or know nobody to call through.
pub async fn check(remote: &dyn Remote, judge: PeerId, peer: PeerId) -> Result<bool, CallError> {
    let deadline = if judge == peer { REACHABILITY_PROBE_TIME_MAX } else { REACHABILITY_TIME_MAX };
    let answer = remote.call(judge, CHECK, CheckRequest { peer }.encode(), deadline).await?;
    let response = PingResponse::decode(&answer);
    Ok(response.map_err(|malformed| CallError::Broken(malformed.to_string()))?.available)
}

struct CheckHandler {
    own: PeerId,
    probe: Option<Arc<dyn Remote>>,
    /// Calls to others under way.
    probes: Arc<Semaphore>,
}

impl CallHandler for CheckHandler {
    fn answer(&self, _from: PeerId, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let (own, probe, probes) = (self.own, self.probe.clone(), self.probes.clone());
        async move {
            let peer = CheckRequest::decode(&request).map_err(|malformed| malformed.to_string())?.peer;
            let available = if peer == own {
                true
            } else {
                let probe = probe.ok_or("this node has no second peer to call others through")?;
                let _one = probes.try_acquire_arc().ok_or("this node calls enough peers for others now")?;
                check(probe.as_ref(), peer, peer).await.unwrap_or(false)
            };
            Ok(PingResponse { node: None, time: 0.0, available }.encode())
        }
        .boxed()
    }
}
