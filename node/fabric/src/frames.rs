//! Messages behind their length on a stream, and long-lived streams of them.
//!
//! A frame is its length as a varint and so many bytes. Memory is taken as bytes come, never by what a
//! length claims, and a peer that sends slower than a step in its time is cut off.

use std::io;
use std::time::{Duration, Instant};

use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{PeerId, Stream};
use smol::Timer;
use smol::future::FutureExt;

use crate::budget::{Budget, Bytes, Place, Rate};
use crate::envelope::put_varint;
use crate::error::Error;
use crate::limits::{FRAME_STEP_BYTES, FRAME_STEP_TIME_MAX};

/// What streams of one protocol may cost us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams that peers hold open at one time, all together.
    pub streams_max: usize,
    /// The same for one peer.
    pub streams_per_peer_max: usize,
    /// Longest frame, either way, in bytes.
    pub frame_bytes_max: usize,
    /// Frames taken from one stream each second for long; a faster peer is read slower, not cut off.
    pub frames_per_second_max: u32,
    /// Longest silence between two frames of the peer; then the stream ends.
    pub silence_max: Duration,
}

/// Why a frame could not be read.
#[derive(Debug)]
pub(crate) enum FrameError {
    TooLarge {
        bytes: usize,
        bytes_max: usize,
    },
    /// The peer has too many bytes in flight already.
    OverBudget,
    /// A step did not come in its time.
    Slow,
    Io(io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        FrameError::Io(error)
    }
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            FrameError::TooLarge { bytes, bytes_max } => {
                write!(out, "a frame of {bytes} bytes, at most {bytes_max} may be")
            }
            FrameError::OverBudget => write!(out, "too many bytes of the peer are in flight"),
            FrameError::Slow => write!(out, "the peer sends too slowly"),
            FrameError::Io(error) => write!(out, "{error}"),
        }
    }
}

/// A frame and the room that it takes.
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// Room in the peer's budget, held as long as the frame is worked on.
    pub(crate) room: Option<Bytes>,
}

/// Reads the next frame; none when the peer ended its side between frames.
///
/// The head may take `head_time`, and each further step [`FRAME_STEP_TIME_MAX`].
pub(crate) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
    head_time: Duration,
    budget: Option<(&Budget, PeerId)>,
) -> Result<Option<Frame>, FrameError> {
    let Some(length) = in_time(head_time, read_length(stream)).await? else { return Ok(None) };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(FrameError::TooLarge { bytes: length, bytes_max });
    }
    let room = match budget {
        Some((budget, peer)) => {
            Some(budget.reserve(peer, length, Instant::now()).ok_or(FrameError::OverBudget)?)
        }
        None => None,
    };
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let start = bytes.len();
        let step = (length - start).min(FRAME_STEP_BYTES);
        bytes.resize(start + step, 0);
        in_time(FRAME_STEP_TIME_MAX, async { Ok(stream.read_exact(&mut bytes[start..]).await?) }).await?;
    }
    Ok(Some(Frame { bytes, room }))
}

async fn in_time<T>(
    time: Duration,
    work: impl Future<Output = Result<T, FrameError>>,
) -> Result<T, FrameError> {
    let late = async {
        Timer::after(time).await;
        Err(FrameError::Slow)
    };
    work.or(late).await
}

async fn read_length(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<u64>, FrameError> {
    let mut length = 0;
    for shift in (0..35).step_by(7) {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            if shift == 0 {
                return Ok(None);
            }
            return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        length |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(Some(length));
        }
    }
    let what = "the length of a frame has more than five bytes";
    Err(FrameError::Io(io::Error::new(io::ErrorKind::InvalidData, what)))
}

/// Writes `bytes` behind their length and sends them off.
pub(crate) async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let mut head = Vec::with_capacity(5);
    put_varint(&mut head, bytes.len() as u64);
    stream.write_all(&head).await?;
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// A long-lived stream of frames with one peer.
///
/// Dropping it without [`Frames::close`] resets the stream, which the peer sees as an error.
pub struct Frames {
    sender: FrameSender,
    receiver: FrameReceiver,
}

/// The sending half of [`Frames`].
pub struct FrameSender {
    stream: WriteHalf<Stream>,
    bytes_max: usize,
}

/// The receiving half of [`Frames`].
pub struct FrameReceiver {
    stream: ReadHalf<Stream>,
    peer: PeerId,
    limits: StreamLimits,
    budget: Budget,
    rate: Rate,
    /// The last frame's room: given back when the next is asked for.
    room: Option<Bytes>,
    _place: Option<Place>,
}

impl Frames {
    pub(crate) fn new(
        stream: Stream,
        peer: PeerId,
        limits: StreamLimits,
        budget: Budget,
        place: Option<Place>,
    ) -> Self {
        let (reading, writing) = stream.split();
        let per_second = f64::from(limits.frames_per_second_max.max(1));
        let rate = Rate::new(per_second, per_second, Instant::now());
        Frames {
            sender: FrameSender { stream: writing, bytes_max: limits.frame_bytes_max },
            receiver: FrameReceiver {
                stream: reading,
                peer,
                limits,
                budget,
                rate,
                room: None,
                _place: place,
            },
        }
    }

    /// The peer at the other end, as its connection proved it.
    pub fn peer(&self) -> PeerId {
        self.receiver.peer
    }

    /// See [`FrameSender::send`].
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.sender.send(frame).await
    }

    /// See [`FrameReceiver::receive`].
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn receive(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.receiver.receive().await
    }

    /// Both halves, for a task that sends while another receives.
    pub fn split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }

    /// Ends our side: the peer reads what was sent and then that there is no more.
    ///
    /// # Errors
    ///
    /// When the connection is lost.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.sender.close().await
    }
}

impl FrameSender {
    /// Sends one frame; returns when the connection has taken it, which waits for a slow peer.
    ///
    /// # Errors
    ///
    /// When the frame is longer than the protocol's limit, or the stream is lost.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), Error> {
        if frame.len() > self.bytes_max {
            let what = FrameError::TooLarge { bytes: frame.len(), bytes_max: self.bytes_max };
            return Err(Error::peer(what.to_string()));
        }
        write_frame(&mut self.stream, frame).await.map_err(|error| Error::io("sending a frame", error))
    }

    /// See [`Frames::close`].
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.stream.close().await.map_err(|error| Error::io("closing a stream", error))
    }
}

impl FrameReceiver {
    /// The next frame, or nothing when the peer ended its side.
    ///
    /// # Errors
    ///
    /// When the peer breaks a limit of the protocol, is silent for too long, or is lost.
    pub async fn receive(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.room = None;
        let wait = self.rate.owe(1.0, Instant::now());
        if wait > 0.0 {
            Timer::after(Duration::from_secs_f64(wait)).await;
        }
        let budget = Some((&self.budget, self.peer));
        let limits = &self.limits;
        let frame = read_frame(&mut self.stream, limits.frame_bytes_max, limits.silence_max, budget).await;
        match frame {
            Ok(Some(frame)) => {
                self.room = frame.room;
                Ok(Some(frame.bytes))
            }
            Ok(None) => Ok(None),
            Err(FrameError::Io(error)) => Err(Error::io("receiving a frame", error)),
            Err(error) => Err(Error::peer(format!("{}: {error}", self.peer))),
        }
    }
}
