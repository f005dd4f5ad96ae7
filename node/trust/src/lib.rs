//! Keys and identities of nodes.
//!
//! It exists so that everyone knows whom they deal with; it does not know the network. An identity is a key;
//! what it is called (a PeerId, a DID) follows from the key alone and is compared by it, never as text.

pub mod did;
pub mod disk;
mod error;
pub mod identity;
pub mod key_file;
pub mod limits;
mod sealed;

pub use did::Did;
pub use error::Error;
pub use identity::Identity;
pub use libp2p_identity::{Keypair, PeerId, PublicKey};
pub use zeroize::Zeroizing;

/// Bytes that are wiped from memory when they are dropped.
pub type Secret = Zeroizing<Vec<u8>>;
