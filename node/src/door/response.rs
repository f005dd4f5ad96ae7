//! An answer and how its head is written.

use std::fmt::Write as _;
use std::pin::Pin;

use serde_json::Value;
use smol::stream::Stream;

/// Server-sent events, each item the bytes of one or more whole events.
pub type Events = Pin<Box<dyn Stream<Item = Vec<u8>>>>;

/// What follows the head.
pub enum Body {
    /// Nothing.
    Empty,
    /// Bytes of a media type, sent with their length.
    Whole(&'static str, Vec<u8>),
    /// A stream of events, each sent at once.
    Events(Events),
}

/// An answer.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Fields beyond those that follow from the body.
    pub headers: Vec<(&'static str, String)>,
    /// What follows the head.
    pub body: Body,
}

impl Response {
    /// A JSON answer, ended by a newline for people with curl.
    pub fn json(status: u16, value: &Value) -> Self {
        Response::json_bytes(status, format!("{value}\n").into_bytes())
    }

    /// A JSON answer that is written already.
    pub fn json_bytes(status: u16, bytes: Vec<u8>) -> Self {
        Response { status, headers: Vec::new(), body: Body::Whole("application/json", bytes) }
    }

    /// A text of a media type.
    pub fn text(status: u16, media_type: &'static str, text: String) -> Self {
        Response { status, headers: Vec::new(), body: Body::Whole(media_type, text.into_bytes()) }
    }

    /// A stream of events.
    pub fn events(events: impl Stream<Item = Vec<u8>> + 'static) -> Self {
        Response { status: 200, headers: Vec::new(), body: Body::Events(Box::pin(events)) }
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Response { status, headers: Vec::new(), body: Body::Empty }
    }

    /// The head as it goes over the wire. `chunked` says whether events are framed in chunks (HTTP/1.1) or
    /// end with the connection (HTTP/1.0).
    pub(super) fn head(&self, keep_alive: bool, chunked: bool) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let connection = if keep_alive { "keep-alive" } else { "close" };
        match &self.body {
            Body::Empty if self.status == 204 => {}
            Body::Empty => head.push_str("Content-Length: 0\r\n"),
            Body::Whole(media_type, bytes) => {
                let length = bytes.len();
                let _ = write!(head, "Content-Type: {media_type}\r\nContent-Length: {length}\r\n");
            }
            Body::Events(_) => {
                head.push_str("Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n");
                if chunked {
                    head.push_str("Transfer-Encoding: chunked\r\n");
                }
            }
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Connection: {connection}\r\n\r\n");
        head
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}
