//! Keys and identities of nodes.
//!
//! It exists so that everyone knows whom they deal with; it does not know the network.
