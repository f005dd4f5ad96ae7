//! Protocol names as Hivemind writes them, and a bound on the streams that others open.
//!
//! Hivemind's names have no leading slash, and libp2p's Rust code refuses such names on both sides, in four
//! places below anything that a behaviour can reach. The one seam is the multiplexer: each of its streams is
//! wrapped here, and the wrapper translates the few lines at a stream's head (a varint length, a line) until
//! the protocol is agreed. `DHTProtocol.rpc_find` on the wire is `/call/DHTProtocol.rpc_find` to libp2p.
//!
//! The same place saves a round trip: for a name with that prefix the dialer's acceptance is given here at
//! once, and the peer's real one is read and checked in front of the answer. So a call costs one round trip,
//! while every other protocol waits for its acceptance as usual.
//!
//! Bytes behind the negotiation are neither copied nor looked at.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::StreamProtocol;
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::StreamMuxerEvent;

use crate::counters::Counters;
use crate::limits::{
    INBOUND_STREAMS_MAX, INBOUND_STREAMS_PER_CONNECTION_MAX, NEGOTIATION_LINE_BYTES_MAX,
    NEGOTIATION_LINES_MAX,
};

/// What libp2p sees in front of a name that is translated.
const PREFIX: &str = "/call/";
const HEADER: &[u8] = b"/multistream/1.0.0\n";
const NOT_AVAILABLE: &[u8] = b"na\n";
const LIST: &[u8] = b"ls\n";
/// The first bytes behind a proposal travel with it, at most so many are copied for that.
const FIRST_BYTES_MAX: usize = 4096;

/// The name by which libp2p knows `name`, so that it is opened in one round trip; also the name under which
/// a slash-less protocol of ours is served.
pub(crate) fn local_name(name: &str) -> Option<StreamProtocol> {
    let bytes = name.len() + PREFIX.len();
    let fits = !name.is_empty() && bytes < NEGOTIATION_LINE_BYTES_MAX && !name.contains('\n');
    fits.then(|| StreamProtocol::try_from_owned(format!("{PREFIX}{name}")).ok()).flatten()
}

/// Whether a read failed because the peer does not know the protocol.
pub(crate) fn is_unknown_name(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}

/// Counts the streams that peers opened, over all connections.
#[derive(Clone)]
pub(crate) struct InboundStreams {
    open: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl InboundStreams {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        InboundStreams { open: Arc::default(), counters }
    }
}

/// One inbound stream's place among all and among its connection's; given back when dropped.
struct Place {
    all: Arc<AtomicUsize>,
    own: Arc<AtomicUsize>,
}

impl Place {
    fn take(all: &Arc<AtomicUsize>, own: &Arc<AtomicUsize>) -> Option<Place> {
        let place = Place { all: all.clone(), own: own.clone() };
        let all = all.fetch_add(1, Ordering::Relaxed);
        let own = own.fetch_add(1, Ordering::Relaxed);
        (all < INBOUND_STREAMS_MAX && own < INBOUND_STREAMS_PER_CONNECTION_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        self.own.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's multiplexer whose streams speak translated names.
pub(crate) struct Named<M: StreamMuxer> {
    muxer: M,
    /// Inbound streams that have a place and are not yet asked for: at most as many as there are places.
    waiting: VecDeque<NamedStream<M::Substream>>,
    all: Arc<AtomicUsize>,
    own: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl<M: StreamMuxer + Unpin> Named<M> {
    pub(crate) fn new(muxer: M, inbound: &InboundStreams) -> Self {
        let (all, counters) = (inbound.open.clone(), inbound.counters.clone());
        Named { muxer, waiting: VecDeque::new(), all, own: Arc::default(), counters }
    }

    /// Takes in what peers opened, and resets what has no place. Else streams would pile up below, each with
    /// its window, while earlier ones negotiate.
    fn take_in(&mut self, context: &mut Context<'_>) -> Result<(), M::Error> {
        while let Poll::Ready(stream) = Pin::new(&mut self.muxer).poll_inbound(context) {
            let stream = stream?;
            match Place::take(&self.all, &self.own) {
                Some(place) => {
                    self.waiting.push_back(NamedStream::new(stream, Some(place), &self.counters));
                }
                // The stream is dropped, so the peer sees it reset; its other streams go on.
                None => self.counters.streams_refused.add(1),
            }
        }
        Ok(())
    }
}

impl<M> StreamMuxer for Named<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: AsyncRead + AsyncWrite + Unpin,
{
    type Substream = NamedStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let me = self.get_mut();
        me.take_in(context)?;
        match me.waiting.pop_front() {
            Some(stream) => Poll::Ready(Ok(stream)),
            None => Poll::Pending,
        }
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let me = self.get_mut();
        let stream = ready!(Pin::new(&mut me.muxer).poll_outbound(context))?;
        Poll::Ready(Ok(NamedStream::new(stream, None, &me.counters)))
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().muxer).poll_close(context)
    }

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        let me = self.get_mut();
        me.take_in(context)?;
        Pin::new(&mut me.muxer).poll(context)
    }
}

/// A stream whose negotiation is translated.
pub(crate) struct NamedStream<S> {
    stream: S,
    /// Gone once the protocol is agreed.
    negotiation: Option<Box<Negotiation>>,
    counters: Arc<Counters>,
    /// Held by inbound streams.
    place: Option<Place>,
}

impl<S> NamedStream<S> {
    fn new(stream: S, place: Option<Place>, counters: &Arc<Counters>) -> Self {
        counters.streams_open.add(1);
        let negotiation = Some(Box::new(Negotiation::new(place.is_some())));
        NamedStream { stream, negotiation, counters: counters.clone(), place }
    }
}

impl<S> Drop for NamedStream<S> {
    fn drop(&mut self) {
        self.counters.streams_open.subtract(1);
        self.place = None;
    }
}

/// What is left to be done before bytes pass untouched.
struct Negotiation {
    /// We answer proposals; else we make them.
    listener: bool,
    lines: usize,
    /// A line that arrives or is written, as far as it has come.
    reading: Vec<u8>,
    writing: Vec<u8>,
    /// Translated bytes for libp2p to read and for the peer.
    inward: VecDeque<u8>,
    outward: VecDeque<u8>,
    /// The name whose acceptance was given ahead of the peer's, that is still to come.
    promised: Option<Vec<u8>>,
    /// Nothing of ours is to be translated any more.
    written: bool,
    /// Nothing of the peer's is to be translated any more.
    read: bool,
}

impl Negotiation {
    fn new(listener: bool) -> Self {
        Negotiation {
            listener,
            lines: 0,
            reading: Vec::new(),
            writing: Vec::new(),
            inward: VecDeque::new(),
            outward: VecDeque::new(),
            promised: None,
            written: false,
            read: false,
        }
    }

    fn is_over(&self) -> bool {
        self.read && self.written && self.inward.is_empty() && self.outward.is_empty()
    }

    fn count_line(&mut self) -> io::Result<()> {
        self.lines += 1;
        if self.lines > 2 * NEGOTIATION_LINES_MAX {
            return Err(invalid("too many lines before the protocol was agreed"));
        }
        Ok(())
    }

    /// libp2p wrote a whole line.
    fn on_written_line(&mut self) -> io::Result<()> {
        self.count_line()?;
        let line = std::mem::take(&mut self.writing);
        let body = body(&line);
        let name = body.strip_prefix(PREFIX.as_bytes());
        put_line(&mut self.outward, b"", name.unwrap_or(body));
        if self.listener && body.starts_with(b"/") && body != HEADER {
            // The acceptance: both ways are free.
            self.written = true;
            self.read = true;
        }
        if let (false, Some(name)) = (self.listener, name) {
            put_line(&mut self.inward, b"", HEADER);
            put_line(&mut self.inward, b"", body);
            self.promised = Some(name.to_vec());
            self.written = true;
        }
        Ok(())
    }

    /// The peer sent a whole line.
    fn on_read_line(&mut self) -> io::Result<()> {
        self.count_line()?;
        let line = std::mem::take(&mut self.reading);
        let body = body(&line);
        if let Some(name) = &self.promised {
            if body == name {
                self.promised = None;
                self.read = true;
            } else if body == NOT_AVAILABLE {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "the peer does not know this method"));
            } else if body != HEADER {
                return Err(invalid("the peer answered a proposal with something else"));
            }
            return Ok(());
        }
        let is_bare = !body.starts_with(b"/") && body != NOT_AVAILABLE && body != LIST;
        let prefix: &[u8] = if self.listener && is_bare { PREFIX.as_bytes() } else { b"" };
        put_line(&mut self.inward, prefix, body);
        if !self.listener && body.starts_with(b"/") && body != HEADER {
            self.written = true;
            self.read = true;
        }
        Ok(())
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// How many bytes the line still lacks: one at a time until its length is known.
fn missing(line: &[u8]) -> io::Result<usize> {
    let length = match *line {
        [] => return Ok(1),
        [low] if low < 0x80 => 1 + usize::from(low),
        [_] => return Ok(1),
        [low, high, ..] if low >= 0x80 && high < 0x80 => {
            2 + (usize::from(low & 0x7f) | usize::from(high) << 7)
        }
        [low, ..] if low < 0x80 => 1 + usize::from(low),
        _ => return Err(invalid("a negotiation line longer than 16 KiB")),
    };
    if length > NEGOTIATION_LINE_BYTES_MAX {
        return Err(invalid("a negotiation line that is too long"));
    }
    Ok(length - line.len())
}

/// The line without its length, with its newline.
fn body(line: &[u8]) -> &[u8] {
    let head = if line.first().is_some_and(|byte| *byte >= 0x80) { 2 } else { 1 };
    line.get(head..).unwrap_or_default()
}

/// Appends a line with its length; `prefix` and `body` together are below 16 KiB.
fn put_line(out: &mut VecDeque<u8>, prefix: &[u8], body: &[u8]) {
    let length = prefix.len() + body.len();
    if length < 0x80 {
        out.push_back(length as u8);
    } else {
        out.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
    }
    out.extend(prefix);
    out.extend(body);
}

impl<S: AsyncRead + AsyncWrite + Unpin> NamedStream<S> {
    /// Sends what is translated and not yet sent.
    fn poll_outward(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(negotiation) = &mut self.negotiation else { return Poll::Ready(Ok(())) };
        while !negotiation.outward.is_empty() {
            let (first, _) = negotiation.outward.as_slices();
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, first))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            negotiation.outward.drain(..sent);
        }
        self.forget_when_over();
        Poll::Ready(Ok(()))
    }

    fn forget_when_over(&mut self) {
        if self.negotiation.as_ref().is_some_and(|negotiation| negotiation.is_over()) {
            self.negotiation = None;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for NamedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        while let Some(negotiation) = &mut me.negotiation {
            if !negotiation.inward.is_empty() {
                let count = io::Read::read(&mut negotiation.inward, buffer)?;
                me.forget_when_over();
                return Poll::Ready(Ok(count));
            }
            if negotiation.read {
                break;
            }
            let mut piece = [0; 256];
            let wanted = missing(&negotiation.reading)?.min(piece.len());
            if negotiation.promised.is_some() && !negotiation.outward.is_empty() {
                // Whoever only listens must still have proposed.
                ready!(me.poll_outward(context))?;
                ready!(Pin::new(&mut me.stream).poll_flush(context))?;
                continue;
            }
            let count = ready!(Pin::new(&mut me.stream).poll_read(context, &mut piece[..wanted]))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            negotiation.reading.extend_from_slice(&piece[..count]);
            if missing(&negotiation.reading)? == 0 {
                negotiation.on_read_line()?;
                me.forget_when_over();
            }
        }
        let count = ready!(Pin::new(&mut me.stream).poll_read(context, buffer))?;
        me.counters.bytes_received.add(count as u64);
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for NamedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        if let Some(negotiation) = &mut me.negotiation {
            if !negotiation.written {
                let mut used = 0;
                while used < buffer.len() && !negotiation.written {
                    let count = missing(&negotiation.writing)?.min(buffer.len() - used);
                    negotiation.writing.extend_from_slice(&buffer[used..used + count]);
                    used += count;
                    if missing(&negotiation.writing)? == 0 {
                        negotiation.on_written_line()?;
                    }
                }
                return Poll::Ready(Ok(used));
            }
            if !negotiation.outward.is_empty() && negotiation.outward.len() < FIRST_BYTES_MAX {
                let count = buffer.len().min(FIRST_BYTES_MAX);
                negotiation.outward.extend(&buffer[..count]);
                me.counters.bytes_sent.add(count as u64);
                if let Poll::Ready(Err(error)) = me.poll_outward(context) {
                    return Poll::Ready(Err(error));
                }
                return Poll::Ready(Ok(count));
            }
            ready!(me.poll_outward(context))?;
        }
        let count = ready!(Pin::new(&mut me.stream).poll_write(context, buffer))?;
        me.counters.bytes_sent.add(count as u64);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if let Some(negotiation) = &me.negotiation
            && negotiation.promised.is_some()
            && !negotiation.inward.is_empty()
        {
            // The proposal waits for the first bytes behind it, so that both travel together.
            return Poll::Ready(Ok(()));
        }
        ready!(me.poll_outward(context))?;
        Pin::new(&mut me.stream).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.poll_outward(context))?;
        Pin::new(&mut me.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests;
