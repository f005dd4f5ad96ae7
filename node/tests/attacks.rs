//! Five attacks on the open port.
//!
//! Each of them killed or bloated the HTTP server that was looked at first (`../shared/reference/crates.md`
//! section 8). After each the node answers, and its memory has not grown.

#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Server, kwaainet, wait_until};

/// What a server may grow by under attack, in kilobytes: its 32 connections' buffers and what the allocator
/// keeps.
const GROWTH_KILOBYTES_MAX: u64 = 8 * 1024;

fn assert_sound(server: &Server, kilobytes_before: u64) {
    wait_until("an answer", || server.get("/health").0 == 200);
    let kilobytes = server.status_kilobytes("VmHWM").unwrap();
    let growth = kilobytes - kilobytes_before;
    assert!(growth < GROWTH_KILOBYTES_MAX, "the server grew by {growth} kB");
}

fn start() -> (Server, u64) {
    let server = Server::start(&[]);
    let kilobytes = server.status_kilobytes("VmHWM").unwrap();
    (server, kilobytes)
}

#[test]
fn a_declared_length_is_not_believed() {
    let (server, before) = start();
    for length in ["1000000000000", "18446744073709551615", "99999999999999999999999999"] {
        for path in ["/v1/chat/completions", "/health", "/nothing"] {
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\nx");
            assert!(server.send(head.as_bytes()).starts_with("HTTP/1.1 413"), "{length} {path}");
        }
    }
    assert_sound(&server, before);
}

#[test]
fn requests_that_end_in_a_reset_leave_nothing() {
    let (server, before) = start();
    for _ in 0..400 {
        let Ok(mut stream) = TcpStream::connect(server.address) else { continue };
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        // Closing with the answer unread makes the system send a reset.
        drop(stream);
    }
    assert_sound(&server, before);
}

#[test]
fn running_out_of_descriptors_does_not_end_the_listener() {
    let mut command = Command::new("sh");
    let inner = kwaainet();
    command.args(["-c", "ulimit -n 24; exec \"$0\" serve --port 0"]).arg(inner.get_program());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let server = Server::spawn(command);
    server.wait_until_ready();
    let before = server.status_kilobytes("VmHWM").unwrap();
    let crowd: Vec<_> = (0..64).filter_map(|_| TcpStream::connect(server.address).ok()).collect();
    std::thread::sleep(Duration::from_millis(300));
    drop(crowd);
    assert_sound(&server, before);
}

#[test]
fn an_endless_header_is_cut() {
    let (server, before) = start();
    let mut stream = server.connect();
    let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ");
    let piece = vec![b'x'; 1 << 20];
    let sent = (0..300).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(sent < 300, "all of the header was taken");
    let mut answer = Vec::new();
    // The reset may overtake the answer; that it ends is what counts.
    let _ = stream.read_to_end(&mut answer);
    assert_sound(&server, before);
}

#[test]
fn half_open_requests_take_no_threads_and_end() {
    let (server, before) = start();
    let threads = || server.status_kilobytes("Threads").unwrap();
    let threads_before = threads();
    let start = Instant::now();
    let crowd: Vec<_> = (0..500)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(server.address).ok()?;
            let _ = stream.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc");
            Some(stream)
        })
        .collect();
    assert!(crowd.len() > 400);
    // Fewer is fine: the thread that loaded the model may just have ended.
    assert!(threads() <= threads_before, "{} threads, {threads_before} before", threads());
    // The half-open ones are still held by the crowd; it is the server that ends them.
    assert_sound(&server, before);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    drop(crowd);
}
