//! What tests of the binary share: starting it, asking it, and finding the shared test data.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The binary with a folder of its own and no settings from outside.
pub fn kwaainet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kwaainet"));
    command.env("KWAAINET_HOME", env!("CARGO_TARGET_TMPDIR")).env_remove("KWAAINET_API_KEY");
    command
}

/// Runs the binary to its end with nothing on standard input.
pub fn run(arguments: &[&str]) -> Output {
    kwaainet().args(arguments).stdin(Stdio::null()).output().expect("the binary starts")
}

/// A file of the shared test data; `None`, said aloud, where it isn't there.
pub fn shared(test: &str, path: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var_os("KWAAINET_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let path = root.join(path);
    if !path.exists() {
        println!("skipped: {test}: no ../shared");
        return None;
    }
    Some(path)
}

/// A running `kwaainet serve`, killed when dropped.
pub struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts it on a free port and waits until the embedded model answers.
    pub fn start(arguments: &[&str]) -> Server {
        let mut command = kwaainet();
        command.args(["serve", "--port", "0"]).args(arguments);
        let server = Server::spawn(command);
        server.wait_until_ready();
        server
    }

    /// Starts `command`, which ends in `kwaainet serve --port 0`, and reads its address.
    pub fn spawn(mut command: Command) -> Server {
        let mut child =
            command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().expect("the binary starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut line = String::new();
        while !line.contains("Listening at http://") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).expect("stderr is text"), 0, "the server ended at once");
        }
        let address = line.trim().trim_start_matches("Listening at http://").trim_end_matches('.');
        Server { child, stderr, address: address.parse().expect("an address is printed") }
    }

    /// Waits until `/health` says that the model is loaded.
    pub fn wait_until_ready(&self) {
        wait_until("the model loaded", || self.get("/health").0 == 200);
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A connection to it.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the port is open");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
        stream
    }

    /// Sends bytes and reads until the server closes.
    pub fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> (u16, Value) {
        split(
            &self.send(
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
            ),
        )
    }

    /// Status and body of a POST.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        split(&self.send(post(path, body).as_bytes()))
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill is there");
        assert!(status.success());
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status.code();
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the server did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A field of `/proc/PID/status` in kilobytes; `None` off Linux.
    pub fn status_kilobytes(&self, field: &str) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut rest = String::new();
        let _ = self.stderr.read_to_string(&mut rest);
        if rest.contains("panicked") {
            eprintln!("{rest}");
        }
    }
}

/// The bytes of a POST on a connection of its own.
pub fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Status and JSON body of an answer that came with its length.
pub fn split(answer: &str) -> (u16, Value) {
    let status = answer.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// The data of the events in an answer that came in chunks.
pub fn events(answer: &str) -> Vec<String> {
    let lines = answer.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(str::to_owned).collect()
}

/// Waits for at most half a minute.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
