//! The node: command line, HTTP API and supervision of the rooms below.
//!
//! Only this crate knows that there is a person at a terminal or a client on a socket.

mod api;
mod cli;
mod config;
mod control;
mod door;
mod exit;
mod home;
mod http;
mod limits;
mod lock;
mod log;
mod metrics;
mod model;
mod network;
mod node;
mod notify;
mod parts;
mod passphrase;
mod signals;

fn main() -> std::process::ExitCode {
    let exit = cli::main();
    std::process::ExitCode::from(exit as u8)
}
