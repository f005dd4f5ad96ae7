//! The door over loopback with a service that echoes, waits or streams.

use std::cell::Cell;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use smol::{LocalExecutor, Timer, stream};

use super::{Door, Guard, Method, Request, Response, Service};
use crate::limits::{BODY_BYTES_MAX, CONNECTIONS_MAX, HEAD_TIME_MAX, REQUESTS_PER_CONNECTION_MAX};

/// Counts the answers that live; a cancelled one counts down.
struct Echo(Arc<AtomicUsize>);

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service for Echo {
    fn methods(&self, path: &str) -> &'static [Method] {
        match path {
            "/echo" | "/wait" => &[Method::Get, Method::Post],
            "/stream" => &[Method::Get],
            _ => &[],
        }
    }

    fn is_public(&self, path: &str) -> bool {
        path == "/echo"
    }

    fn answer(&self, request: Request) -> Pin<Box<dyn Future<Output = Response>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let alive = Alive(self.0.clone());
        Box::pin(async move {
            match request.path.as_str() {
                "/wait" => {
                    Timer::after(Duration::from_secs(60)).await;
                    drop(alive);
                    Response::empty(204)
                }
                "/stream" => {
                    let state = (Cell::new(0), alive);
                    Response::events(stream::unfold(state, |state| async {
                        let index = state.0.get();
                        state.0.set(index + 1);
                        Timer::after(Duration::from_millis(20)).await;
                        (index < 5000).then(|| (format!("data: {index}\n\n").into_bytes(), state))
                    }))
                }
                _ => Response::json(200, &json!({"bytes": request.body.len()})),
            }
        })
    }
}

/// Opens a door on a free port in a thread that lives as long as the test process.
fn open(guard: Guard) -> (SocketAddr, Arc<AtomicUsize>) {
    let alive = Arc::new(AtomicUsize::new(0));
    let service = Echo(alive.clone());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let executor = LocalExecutor::new();
        let door = Door::new(guard, Box::new(service), Rc::default());
        let listener = smol::Async::new(listener).unwrap().into();
        smol::block_on(executor.run(door.run(listener, &executor, std::future::pending())));
    });
    (address, alive)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends and reads until the other side closes.
fn ask(address: SocketAddr, text: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn ask_closing(address: SocketAddr, line: &str, fields: &str, body: &str) -> String {
    ask(address, &format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n{body}"))
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_request_is_answered_and_the_connection_kept() {
    let (address, _) = open(Guard::default());
    let mut stream = connect(address);
    let request = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    stream.write_all(request.repeat(2).as_bytes()).unwrap();
    let mut bytes = Vec::new();
    while String::from_utf8_lossy(&bytes).matches("{\"bytes\":3}").count() < 2 {
        let mut chunk = [0; 512];
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..count]);
    }
    assert!(String::from_utf8_lossy(&bytes).contains("Connection: keep-alive"));
}

#[test]
fn a_kept_connection_ends_after_its_share_of_requests() {
    let (address, _) = open(Guard::default());
    let request = "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut stream = connect(address);
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for _ in 0..REQUESTS_PER_CONNECTION_MAX + 1 {
            if writer.write_all(request.as_bytes()).is_err() {
                break;
            }
        }
    });
    let mut bytes = Vec::new();
    // The last request is never answered; it may turn the close into a reset.
    let _ = stream.read_to_end(&mut bytes);
    sender.join().unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches("HTTP/1.1 200").count(), REQUESTS_PER_CONNECTION_MAX);
}

#[test]
fn unknown_paths_and_methods_are_said_so() {
    let (address, _) = open(Guard::default());
    let missing = ask_closing(address, "GET /nothing", "", "");
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    assert!(missing.contains("\"type\":\"invalid_request_error\""), "{missing}");
    let wrong = ask_closing(address, "DELETE /echo", "", "");
    assert!(
        wrong.starts_with("HTTP/1.1 405") && wrong.contains("Allow: GET, POST, HEAD, OPTIONS"),
        "{wrong}"
    );
    let head = ask_closing(address, "HEAD /echo", "", "");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    let options = ask_closing(address, "OPTIONS /stream", "", "");
    assert!(
        options.starts_with("HTTP/1.1 204") && options.contains("Allow: GET, HEAD, OPTIONS"),
        "{options}"
    );
    let post = ask_closing(address, "POST /nothing", "Content-Length: 5\r\n", "abcde");
    assert!(post.starts_with("HTTP/1.1 404"), "{post}");
}

#[test]
fn a_body_at_the_cap_is_taken_and_one_above_refused_unread() {
    let (address, _) = open(Guard::default());
    let fields = format!("Content-Length: {BODY_BYTES_MAX}\r\n");
    let taken = ask_closing(address, "POST /echo", &fields, &"x".repeat(BODY_BYTES_MAX));
    assert!(taken.contains(&format!("{{\"bytes\":{BODY_BYTES_MAX}}}")), "{taken}");
    let fields = format!("Content-Length: {}\r\n", BODY_BYTES_MAX + 1);
    let refused = ask_closing(address, "POST /echo", &fields, &"x".repeat(BODY_BYTES_MAX + 1));
    assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");
}

#[test]
fn a_client_that_waits_to_continue_is_told_to() {
    let (address, _) = open(Guard::default());
    let mut stream = connect(address);
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ab").unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[test]
fn events_come_one_by_one() {
    let (address, alive) = open(Guard::default());
    let mut stream = connect(address);
    stream.write_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut reads = Vec::new();
    while reads.len() < 6 {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        reads.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
    }
    assert!(reads[0].contains("Transfer-Encoding: chunked"), "{reads:?}");
    assert!(reads.contains(&"9\r\ndata: 1\n\n\r\n".to_string()), "{reads:?}");
    assert_eq!(alive.load(Ordering::SeqCst), 1);
}

#[test]
fn a_client_that_goes_away_ends_its_work() {
    let (address, alive) = open(Guard::default());
    for path in ["/stream", "/wait"] {
        let mut stream = connect(address);
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        wait_until("the answer", || alive.load(Ordering::SeqCst) == 1);
        drop(stream);
        wait_until("the end of the work", || alive.load(Ordering::SeqCst) == 0);
    }
}

#[test]
fn one_connection_too_many_is_turned_away_and_the_next_taken() {
    let (address, alive) = open(Guard::default());
    let mut inside = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = connect(address);
        stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        inside.push(stream);
    }
    wait_until("all places taken", || alive.load(Ordering::SeqCst) == CONNECTIONS_MAX);
    let refused = ask(address, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("Retry-After"), "{refused}");
    inside.pop();
    wait_until("a free place", || alive.load(Ordering::SeqCst) < CONNECTIONS_MAX);
    wait_until("an answer", || ask_closing(address, "GET /echo", "", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_half_open_request_is_ended() {
    let (address, _) = open(Guard::default());
    let start = Instant::now();
    let answer = ask(address, "GET /echo HTTP/1.1\r\nHost");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(start.elapsed() >= HEAD_TIME_MAX);
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let (address, _) = open(Guard { api_key: Some("secret".into()), ..Guard::default() });
    let refused = ask_closing(address, "GET /stream", "", "");
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("invalid_api_key"), "{refused}");
    assert!(refused.contains("WWW-Authenticate: Bearer"), "{refused}");
    let public = ask_closing(address, "GET /echo", "", "");
    assert!(public.starts_with("HTTP/1.1 200"), "{public}");
}

#[test]
fn a_named_origin_gets_its_preflight() {
    let (address, _) = open(Guard { origins: vec!["https://app.example".into()], ..Guard::default() });
    let fields = "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n\
                  Access-Control-Request-Headers: authorization, x-stainless-os\r\n";
    let preflight = ask_closing(address, "OPTIONS /echo", fields, "");
    assert!(preflight.starts_with("HTTP/1.1 204"), "{preflight}");
    assert!(preflight.contains("Access-Control-Allow-Origin: https://app.example"), "{preflight}");
    assert!(preflight.contains("Access-Control-Allow-Headers: authorization, x-stainless-os"), "{preflight}");
    let other = ask_closing(address, "GET /echo", "Origin: https://other.example\r\n", "");
    assert!(other.starts_with("HTTP/1.1 403") && !other.contains("Access-Control"), "{other}");
}
