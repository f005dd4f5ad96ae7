//! Calls: one request and one answer on a stream of their own.
//!
//! Hivemind's unary calls and our own take the same way and differ in their envelope alone. A stream that is
//! dropped cancels its call on both sides. Nobody half-closes before the answer: Go would take that for a
//! cancellation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, Stream, StreamProtocol};
use smol::Timer;
use smol::future::FutureExt;

use crate::budget::{Budget, Place, Places};
use crate::call::{CallError, CallHandler, CallLimits};
use crate::counters::Counters;
use crate::envelope;
use crate::frames::{FrameError, read_frame, write_frame};
use crate::limits::{
    CALL_RECEIVED_BYTES_MAX, CALL_SENT_BYTES_MAX, ENVELOPE_BYTES_MAX, FRAME_STEP_TIME_MAX, REFUSAL_BYTES_MAX,
};
use crate::streams::{OpenError, Opener, Server};
use crate::transport::is_unknown_name;

/// What stands around a call's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// p2pd's, for everything that Hivemind's peers may call.
    Hivemind,
    /// Ours: the request is the frame; the answer's first byte is 0 for a payload and 1 for an error's text.
    Plain,
}

const PLAIN_ANSWER: u8 = 0;
const PLAIN_ERROR: u8 = 1;

/// A call that is to be made.
pub(crate) struct Call<'a> {
    pub(crate) peer: PeerId,
    /// The name on the wire.
    pub(crate) name: &'a str,
    /// The name to open the stream with.
    pub(crate) protocol: StreamProtocol,
    pub(crate) envelope: Envelope,
    pub(crate) request: Vec<u8>,
}

impl Call<'_> {
    /// Makes the call on a stream of its own; the caller bounds the time.
    pub(crate) async fn make(self, opener: &Opener) -> Result<Vec<u8>, CallError> {
        let bytes_max = CALL_SENT_BYTES_MAX - ENVELOPE_BYTES_MAX;
        if self.request.len() > bytes_max {
            return Err(CallError::TooLarge { bytes: self.request.len(), bytes_max });
        }
        let mut stream =
            opener.open(self.peer, self.protocol.clone()).await.map_err(|error| match error {
                OpenError::UnknownProtocol => unknown(self.name),
                other => CallError::Unreachable(other.to_string()),
            })?;
        match self.envelope {
            Envelope::Hivemind => {
                let mut id = envelope::CallId::default();
                getrandom::fill(&mut id)
                    .map_err(|error| CallError::Broken(format!("no random call id: {error}")))?;
                let frame = envelope::request(&id, &self.peer, self.name, &self.request);
                drop(self.request);
                stream.write_all(&frame).await.map_err(broken)?;
                drop(frame);
                stream.flush().await.map_err(broken)?;
                let message = read_answer(&mut stream, self.name).await?;
                let answer =
                    envelope::read_answer(&message).map_err(|why| CallError::Broken(why.to_owned()))?;
                if answer.id != id {
                    return Err(CallError::Broken("the answer is another call's".to_owned()));
                }
                answer.result.map_err(CallError::Refused)
            }
            Envelope::Plain => {
                write_frame(&mut stream, &self.request).await.map_err(broken)?;
                let mut message = read_answer(&mut stream, self.name).await?;
                match message.first() {
                    Some(&PLAIN_ANSWER) => Ok(message.split_off(1)),
                    Some(&PLAIN_ERROR) => {
                        message.truncate(1 + REFUSAL_BYTES_MAX);
                        Err(CallError::Refused(String::from_utf8_lossy(&message[1..]).into_owned()))
                    }
                    _ => Err(CallError::Broken("the answer is neither a payload nor an error".to_owned())),
                }
            }
        }
    }
}

fn broken(error: std::io::Error) -> CallError {
    CallError::Broken(error.to_string())
}

fn unknown(name: &str) -> CallError {
    CallError::Unreachable(format!("the peer does not know {name}"))
}

async fn read_answer(stream: &mut Stream, name: &str) -> Result<Vec<u8>, CallError> {
    // The answer's head may take as long as the call's deadline lets it.
    let frame = read_frame(stream, CALL_RECEIVED_BYTES_MAX, Duration::MAX, None).await;
    let frame = frame.map_err(|error| match error {
        FrameError::TooLarge { bytes, bytes_max } => CallError::TooLarge { bytes, bytes_max },
        FrameError::Io(error) if is_unknown_name(&error) => unknown(name),
        other => CallError::Broken(other.to_string()),
    })?;
    let frame = frame.ok_or_else(|| CallError::Broken("the stream ended without an answer".to_owned()))?;
    // The peer has said all: ending the stream in order spares it an error, and it need not succeed.
    let _ = stream.close().await;
    Ok(frame.bytes)
}

/// Runs `work` for at most `deadline`.
pub(crate) async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let late = async {
        Timer::after(deadline).await;
        Err(CallError::TimedOut)
    };
    work.or(late).await
}

/// Who answers one method, with what it may cost.
pub(crate) struct Method {
    pub(crate) limits: CallLimits,
    pub(crate) envelope: Envelope,
    pub(crate) handler: Arc<dyn CallHandler>,
    pub(crate) budget: Budget,
    pub(crate) counters: Arc<Counters>,
}

impl Method {
    /// What takes the method's streams.
    pub(crate) fn server(self) -> Server {
        let places = Places::new(self.limits.calls_max, self.limits.calls_per_peer_max);
        let method = Arc::new(self);
        Arc::new(move |peer, stream| {
            let may = method.budget.begin(peer, Instant::now());
            let Some(place) = may.then(|| places.take(peer)).flatten() else {
                // The stream is dropped: whoever asks too much is not worth an answer's bytes.
                method.counters.calls_refused.add(1);
                return;
            };
            smol::spawn(method.clone().serve(peer, stream, place)).detach();
        })
    }

    async fn serve(self: Arc<Self>, peer: PeerId, mut stream: Stream, place: Place) {
        let answered = within(self.limits.deadline, self.answer(peer, &mut stream)).await;
        match answered {
            Ok(()) => self.counters.calls_answered.add(1),
            Err(_) => self.counters.calls_refused.add(1),
        }
        drop(place);
    }

    async fn answer(&self, peer: PeerId, stream: &mut Stream) -> Result<(), CallError> {
        let bytes_max = (self.limits.request_bytes_max + ENVELOPE_BYTES_MAX).min(CALL_RECEIVED_BYTES_MAX);
        let frame = read_frame(stream, bytes_max, FRAME_STEP_TIME_MAX, Some((&self.budget, peer))).await;
        let frame = frame.map_err(|error| CallError::Broken(error.to_string()))?;
        let frame = frame.ok_or_else(|| CallError::Broken("a call without a request".to_owned()))?;
        let room = frame.room;
        let (id, data) = match self.envelope {
            Envelope::Plain => (None, frame.bytes),
            Envelope::Hivemind => {
                let request =
                    envelope::read_request(&frame.bytes).map_err(|why| CallError::Broken(why.to_owned()))?;
                (Some(request.id), request.data)
            }
        };
        let work = async { Ok(self.handler.answer(peer, data).await) };
        let result = work.or(caller_gone(stream)).await?;
        let result = within_size(result, self.limits.answer_bytes_max);
        let frame = match id {
            Some(id) => envelope::answer(&id, &result),
            None => plain_answer(result),
        };
        // An answer on its way takes memory as a request does, and a caller that asks much and reads slowly could
        // make it grow.
        let sending = self.budget.reserve(peer, frame.len(), Instant::now());
        let sending =
            sending.ok_or_else(|| CallError::Broken("too much is on its way already".to_owned()))?;
        stream.write_all(&frame).await.map_err(broken)?;
        stream.close().await.map_err(broken)?;
        drop((room, sending));
        Ok(())
    }
}

fn plain_answer(result: Result<Vec<u8>, String>) -> Vec<u8> {
    let (kind, payload) = match result {
        Ok(data) => (PLAIN_ANSWER, data),
        Err(text) => (PLAIN_ERROR, text.into_bytes()),
    };
    let mut frame = Vec::with_capacity(payload.len() + 6);
    envelope::put_varint(&mut frame, payload.len() as u64 + 1);
    frame.push(kind);
    frame.extend_from_slice(&payload);
    frame
}

/// The answer, or the sentence that it is too long.
fn within_size(result: Result<Vec<u8>, String>, answer_bytes_max: usize) -> Result<Vec<u8>, String> {
    let bytes_max = answer_bytes_max.min(CALL_SENT_BYTES_MAX - ENVELOPE_BYTES_MAX);
    match result {
        Ok(data) if data.len() > bytes_max => {
            Err(format!("the answer has {} bytes, at most {bytes_max} can be sent", data.len()))
        }
        Err(mut text) if text.len() > REFUSAL_BYTES_MAX => {
            let end = text.floor_char_boundary(REFUSAL_BYTES_MAX);
            text.truncate(end);
            Err(text)
        }
        result => result,
    }
}

/// Ends when the caller is gone. One that merely closed its side still gets its answer: a reset reads as an
/// end as well, but then nothing can be written either.
async fn caller_gone<T>(stream: &mut Stream) -> Result<T, CallError> {
    let mut byte = [0];
    let gone = match stream.read(&mut byte).await {
        Err(error) => Some(error),
        Ok(0) => stream.write(&[]).await.err(),
        Ok(_) => None,
    };
    match gone {
        Some(error) => Err(broken(error)),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_sent_up_to_the_smaller_limit() {
        for bytes in [10, 11] {
            assert_eq!(within_size(Ok(vec![0; bytes]), 10).is_ok(), bytes == 10);
        }
        let bytes_max = CALL_SENT_BYTES_MAX - ENVELOPE_BYTES_MAX;
        assert!(within_size(Ok(vec![0; bytes_max]), usize::MAX).is_ok());
        assert!(within_size(Ok(vec![0; bytes_max + 1]), usize::MAX).is_err());
    }

    #[test]
    fn an_error_text_is_cut_between_letters() {
        let text = within_size(Err("ä".repeat(REFUSAL_BYTES_MAX)), 10).unwrap_err();
        assert_eq!(text.len(), REFUSAL_BYTES_MAX);
        let text = within_size(Err(format!("x{}", "ä".repeat(REFUSAL_BYTES_MAX))), 10).unwrap_err();
        assert_eq!(text.len(), REFUSAL_BYTES_MAX - 1);
    }
}
