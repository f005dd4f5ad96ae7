//! The node: command line, HTTP API and supervision of the rooms below.
//!
//! Only this crate knows that there is a person at a terminal or a client on a socket.

fn main() {}
