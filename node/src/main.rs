//! The node: command line, HTTP API and supervision of the rooms below.
//!
//! Only this crate knows that there is a person at a terminal or a client on a socket.

mod api;
mod cli;
mod door;
mod exit;
mod home;
mod limits;
mod model;
mod signals;

fn main() -> std::process::ExitCode {
    let exit = cli::main();
    std::process::ExitCode::from(exit as u8)
}
