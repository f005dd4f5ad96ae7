//! One connection: requests one after another, each watched for a client that goes away.

use std::future::Future;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::{self, FutureExt};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;
use smol::stream::StreamExt;

use crate::limits::{
    BODY_TIME_MAX, HEAD_BYTES_MAX, HEAD_TIME_MAX, IDLE_TIME_MAX, LINGER_BYTES_MAX, LINGER_TIME_MAX,
    REQUESTS_PER_CONNECTION_MAX, STREAM_SILENCE_MAX, WRITE_TIME_MAX,
};

use super::head::{Head, Method};
use super::refusal::Refusal;
use super::response::{Body, Events, Response};
use super::server::Door;
use super::{Request, Service};

/// The client is gone or too slow, or nothing sensible can be said to it; the connection ends without a word.
struct Gone;

/// Bytes taken from the socket at a time.
const READ_BYTES: usize = 4096;

/// Why a connection ends before its request was read whole.
enum Failed {
    Gone,
    /// This is the last answer on it.
    Last(Response),
}

impl From<Gone> for Failed {
    fn from(_: Gone) -> Self {
        Failed::Gone
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Failed::Last(refusal.into())
    }
}

/// A connection with what came on it and is not yet used, at most a head and one read.
pub(super) struct Connection {
    reader: TcpStream,
    writer: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Small events must not wait for each other. A socket that can't do it still works.
        let _ = stream.set_nodelay(true);
        Connection { reader: stream.clone(), writer: stream, buffer: Vec::new() }
    }

    /// Serves requests until the client leaves, errs, or had its share.
    pub(super) async fn serve(mut self, door: &Door) {
        for index in 1..=REQUESTS_PER_CONNECTION_MAX {
            let patience = if index == 1 { HEAD_TIME_MAX } else { IDLE_TIME_MAX };
            let head = match self.read_head(patience).await {
                Ok(head) => head,
                Err(Failed::Last(response)) => {
                    door.counts().answered(response.status);
                    return self.turn_away(response).await;
                }
                Err(Failed::Gone) => return,
            };
            let may_stay = head.keep_alive && index < REQUESTS_PER_CONNECTION_MAX && door.has_room();
            if self.serve_one(door, head, may_stay).await.is_err() {
                return;
            }
            if door.is_draining() {
                return;
            }
        }
    }

    /// Serves one request; `Err` if the connection is over.
    async fn serve_one(&mut self, door: &Door, head: Head, may_stay: bool) -> Result<(), Gone> {
        let _busy = door.busy();
        let mut response = match self.read_request(door, &head).await {
            Ok(Ok(request)) => {
                let answer = door.service().answer(request);
                or_gone(answer, &mut self.reader, &mut self.buffer).await?
            }
            Ok(Err(response)) => response,
            Err(Failed::Gone) => return Err(Gone),
            Err(Failed::Last(mut response)) => {
                response.headers.extend(door.guard().cors(&head));
                door.counts().answered(response.status);
                self.turn_away(response).await;
                return Err(Gone);
            }
        };
        response.headers.extend(door.guard().cors(&head));
        let may_stay = may_stay && !door.is_draining();
        self.write(door, response, &head, may_stay).await?;
        if may_stay { Ok(()) } else { Err(Gone) }
    }

    /// Checks a head against the guard and the paths, and reads the body. The inner `Err` is an answer that
    /// needs no body; [`Failed::Last`] is one that leaves a body unread, so the connection must end with it.
    async fn read_request(&mut self, door: &Door, head: &Head) -> Result<Result<Request, Response>, Failed> {
        let service = door.service();
        if let Err(refusal) = door.guard().check(head, service.is_public(&head.path)) {
            return refuse(head, refusal.into());
        }
        if let Err(response) = route(service, head) {
            return refuse(head, response);
        }
        if head.expects_continue && self.buffer.is_empty() {
            write_all(&mut self.writer, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = self.read_body(head.body_bytes).await?;
        Ok(Ok(Request { path: head.path.clone(), body }))
    }

    async fn read_head(&mut self, patience: Duration) -> Result<Head, Failed> {
        if self.buffer.is_empty() {
            within(patience, self.fill()).await.unwrap_or(Err(Gone))?;
        }
        let deadline = Instant::now() + HEAD_TIME_MAX;
        loop {
            if let Some((head, length)) = Head::parse(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(head);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(filled) = within(left, self.fill()).await else {
                let message = format!("The request's head did not come within {HEAD_TIME_MAX:?}.");
                return Err(Refusal::new(408, message).into());
            };
            filled?;
        }
    }

    /// Reads a body; memory grows with what came, not with what was declared.
    async fn read_body(&mut self, length: usize) -> Result<Vec<u8>, Failed> {
        let deadline = Instant::now() + BODY_TIME_MAX;
        let mut body = Vec::new();
        loop {
            let count = (length - body.len()).min(self.buffer.len());
            body.extend(self.buffer.drain(..count));
            if body.len() == length {
                return Ok(body);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(filled) = within(left, self.fill()).await else {
                let message = format!("The request's body did not come within {BODY_TIME_MAX:?}.");
                return Err(Refusal::new(408, message).into());
            };
            filled?;
        }
    }

    /// Takes what the socket has, at least a byte.
    async fn fill(&mut self) -> Result<(), Gone> {
        let mut bytes = [0; READ_BYTES];
        match self.reader.read(&mut bytes).await {
            Ok(0) | Err(_) => Err(Gone),
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(())
            }
        }
    }

    async fn write(
        &mut self,
        door: &Door,
        response: Response,
        head: &Head,
        keep_alive: bool,
    ) -> Result<(), Gone> {
        door.counts().answered(response.status);
        let mut bytes = response.head(keep_alive, head.is_http_1_1).into_bytes();
        let events = match response.body {
            Body::Empty => None,
            _ if head.method == Method::Head => None,
            Body::Whole(_, body) => {
                bytes.extend(body);
                None
            }
            Body::Events(events) => Some(events),
        };
        write_all(&mut self.writer, &bytes).await?;
        match events {
            None => Ok(()),
            Some(events) => self.write_events(events, head.is_http_1_1).await,
        }
    }

    /// Writes each event when it comes; a client that leaves meanwhile ends the stream, and with it its work.
    async fn write_events(&mut self, mut events: Events, chunked: bool) -> Result<(), Gone> {
        loop {
            let next = async { Some(events.next().await) };
            let silence = async {
                Timer::after(STREAM_SILENCE_MAX).await;
                None
            };
            let event = or_gone(next.or(silence), &mut self.reader, &mut self.buffer).await?;
            let bytes = match event {
                Some(Some(bytes)) if bytes.is_empty() => continue,
                Some(Some(bytes)) => bytes,
                Some(None) => break,
                None => b":\n\n".to_vec(),
            };
            let bytes = if chunked { chunk(&bytes) } else { bytes };
            let written = write_all(&mut self.writer, &bytes);
            or_gone(written, &mut self.reader, &mut self.buffer).await??;
        }
        if chunked { write_all(&mut self.writer, b"0\r\n\r\n").await } else { Ok(()) }
    }

    /// Says the last word. Closing while bytes of the client are unread would send a reset, which can
    /// overtake the answer; so what it still sends is thrown away for a moment.
    pub(super) async fn turn_away(&mut self, response: Response) {
        let mut bytes = response.head(false, true).into_bytes();
        if let Body::Whole(_, body) = response.body {
            bytes.extend(body);
        }
        if write_all(&mut self.writer, &bytes).await.is_err()
            || self.writer.shutdown(Shutdown::Write).is_err()
        {
            return;
        }
        let _ = within(LINGER_TIME_MAX, async {
            let mut bytes = [0; READ_BYTES];
            let mut thrown_away = 0;
            while thrown_away < LINGER_BYTES_MAX {
                match self.reader.read(&mut bytes).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => thrown_away += count,
                }
            }
        })
        .await;
    }
}

/// An answer that is known before the body is read: if there is a body, it is the last on this connection.
fn refuse(head: &Head, response: Response) -> Result<Result<Request, Response>, Failed> {
    if head.body_bytes > 0 { Err(Failed::Last(response)) } else { Ok(Err(response)) }
}

/// Whether the path answers to the method; if not, the answer that needs no service. HEAD is a GET without
/// its body.
fn route(service: &dyn Service, head: &Head) -> Result<(), Response> {
    let methods = service.methods(&head.path);
    let allow = || {
        let names = methods.iter().map(|method| method.name());
        let names: Vec<_> = names.chain(methods.contains(&Method::Get).then_some("HEAD")).collect();
        ("Allow", format!("{}, OPTIONS", names.join(", ")))
    };
    if head.method == Method::Options && (head.path == "*" || !methods.is_empty()) {
        let mut response = Response::empty(204);
        if !methods.is_empty() {
            response.headers.push(allow());
        }
        return Err(response);
    }
    if methods.is_empty() {
        let message = format!("There is no path {:.200} here.", head.path);
        return Err(Refusal::new(404, message).code("unknown_url").into());
    }
    let method = if head.method == Method::Head { Method::Get } else { head.method };
    if !methods.contains(&method) {
        let message = format!("The path {:.200} does not answer to this method.", head.path);
        let mut response = Response::from(Refusal::new(405, message).code("method_not_allowed"));
        response.headers.push(allow());
        return Err(response);
    }
    Ok(())
}

/// One chunk of `Transfer-Encoding: chunked`.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    out
}

/// The result of `work`, unless it takes longer.
async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::after(time).await;
        None
    };
    async { Some(work.await) }.or(late).await
}

async fn write_all(writer: &mut TcpStream, bytes: &[u8]) -> Result<(), Gone> {
    match within(WRITE_TIME_MAX, writer.write_all(bytes)).await {
        Some(Ok(())) => Ok(()),
        _ => Err(Gone),
    }
}

/// The result of `work`, unless the client goes away first.
async fn or_gone<T>(
    work: impl Future<Output = T>,
    reader: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Result<T, Gone> {
    async { Ok(work.await) }.or(leaves(reader, buffer)).await
}

/// Ends when the client closes its side or resets. What it sends ahead is kept for the next request; once
/// that is a whole head's worth, the socket is read no further.
async fn leaves<T>(reader: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<T, Gone> {
    let mut bytes = [0; READ_BYTES];
    while buffer.len() < HEAD_BYTES_MAX {
        match reader.read(&mut bytes).await {
            Ok(0) | Err(_) => return Err(Gone),
            Ok(count) => buffer.extend_from_slice(&bytes[..count]),
        }
    }
    future::pending().await
}
