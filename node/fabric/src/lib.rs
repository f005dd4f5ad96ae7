//! The network of nodes: libp2p on smol.
//!
//! It exists so that nodes find each other and speak, and it does not know what models are.

pub mod call;
pub mod hivemind;
