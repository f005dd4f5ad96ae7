//! Tests of the translation of names, on a wire in memory.

use futures::{AsyncReadExt, AsyncWriteExt};
use smol::block_on;

use super::*;

/// What the peer sends, and what it is sent.
#[derive(Default)]
struct Wire {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // Two bytes at a time, so that lines come in pieces.
        let count = buffer.len().min(2);
        Poll::Ready(io::Read::read(&mut self.get_mut().incoming, &mut buffer[..count]))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(3);
        self.get_mut().outgoing.extend(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn line(text: &[u8]) -> Vec<u8> {
    let mut bytes = VecDeque::new();
    put_line(&mut bytes, b"", text);
    bytes.into()
}

fn lines(texts: &[&[u8]]) -> Vec<u8> {
    texts.iter().flat_map(|text| line(text)).collect()
}

fn place() -> Option<Place> {
    Place::take(&Arc::default(), &Arc::default())
}

fn stream(incoming: &[u8], listener: bool) -> NamedStream<Wire> {
    let wire = Wire { incoming: incoming.iter().copied().collect(), outgoing: Vec::new() };
    NamedStream::new(wire, if listener { place() } else { None }, &Arc::default())
}

async fn read(stream: &mut NamedStream<Wire>, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.map(|()| bytes)
}

const BARE: &[u8] = b"DHTProtocol.rpc_find\n";
const LOCAL: &[u8] = b"/call/DHTProtocol.rpc_find\n";

#[test]
fn a_listener_sees_a_bare_name_with_the_prefix_and_accepts_without() {
    block_on(async {
        let mut stream = stream(&[lines(&[HEADER, BARE]), b"payload".to_vec()].concat(), true);
        let seen = lines(&[HEADER, LOCAL]);
        assert_eq!(read(&mut stream, seen.len()).await.unwrap(), seen);
        stream.write_all(&seen).await.unwrap();
        stream.write_all(b"answer").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.outgoing, [lines(&[HEADER, BARE]), b"answer".to_vec()].concat());
        assert_eq!(read(&mut stream, 7).await.unwrap(), b"payload");
        assert!(stream.negotiation.is_none(), "nothing is kept once the protocol is agreed");
    });
}

#[test]
fn a_dialers_proposal_and_first_bytes_travel_together_in_one_round_trip() {
    block_on(async {
        let mut stream = stream(&[lines(&[HEADER, BARE]), b"answer".to_vec()].concat(), false);
        let proposed = lines(&[HEADER, LOCAL]);
        stream.write_all(&proposed).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(read(&mut stream, proposed.len()).await.unwrap(), proposed, "accepted ahead of the peer");
        assert!(stream.stream.outgoing.is_empty(), "nothing is sent yet");
        assert!(!stream.stream.incoming.is_empty(), "and nothing was read");
        stream.write_all(b"request").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.outgoing, [lines(&[HEADER, BARE]), b"request".to_vec()].concat());
        assert_eq!(read(&mut stream, 6).await.unwrap(), b"answer");
    });
}

#[test]
fn a_dialer_that_only_listens_still_proposes() {
    block_on(async {
        let mut stream = stream(&[lines(&[HEADER, BARE]), b"x".to_vec()].concat(), false);
        let proposed = lines(&[HEADER, LOCAL]);
        stream.write_all(&proposed).await.unwrap();
        read(&mut stream, proposed.len()).await.unwrap();
        assert_eq!(read(&mut stream, 1).await.unwrap(), b"x");
        assert_eq!(stream.stream.outgoing, lines(&[HEADER, BARE]));
    });
}

#[test]
fn a_refusal_is_found_on_the_first_read() {
    block_on(async {
        let mut stream = stream(&lines(&[HEADER, NOT_AVAILABLE]), false);
        let proposed = lines(&[HEADER, LOCAL]);
        stream.write_all(&proposed).await.unwrap();
        read(&mut stream, proposed.len()).await.unwrap();
        let error = read(&mut stream, 1).await.unwrap_err();
        assert!(is_unknown_name(&error), "{error}");
    });
}

#[test]
fn ordinary_names_pass_as_they_are_and_wait_for_their_acceptance() {
    block_on(async {
        let name = b"/ipfs/ping/1.0.0\n";
        let both = lines(&[HEADER, name]);
        let mut dialer = stream(&[both.clone(), b"x".to_vec()].concat(), false);
        dialer.write_all(&both).await.unwrap();
        dialer.flush().await.unwrap();
        assert_eq!(dialer.stream.outgoing, both);
        assert_eq!(read(&mut dialer, both.len() + 1).await.unwrap(), [both.clone(), b"x".to_vec()].concat());
        let mut listener = stream(&both, true);
        assert_eq!(read(&mut listener, both.len()).await.unwrap(), both);
        listener.write_all(&both).await.unwrap();
        listener.flush().await.unwrap();
        assert_eq!(listener.stream.outgoing, both);
    });
}

#[test]
fn a_line_is_taken_up_to_its_limit() {
    block_on(async {
        // Two bytes of length, the line's own newline.
        for (length, good) in
            [(NEGOTIATION_LINE_BYTES_MAX - 2, true), (NEGOTIATION_LINE_BYTES_MAX - 1, false)]
        {
            let name = [vec![b'/'; length - 1], b"\n".to_vec()].concat();
            let mut stream = stream(&line(&name), true);
            assert_eq!(read(&mut stream, length + 2).await.is_ok(), good, "{length}");
        }
    });
}

#[test]
fn a_negotiation_ends_after_so_many_lines() {
    block_on(async {
        for (count, good) in [(2 * NEGOTIATION_LINES_MAX, true), (2 * NEGOTIATION_LINES_MAX + 1, false)] {
            let all: Vec<u8> = (0..count).flat_map(|_| line(b"/unknown\n")).collect();
            let mut stream = stream(&all, true);
            assert_eq!(read(&mut stream, all.len()).await.is_ok(), good, "{count}");
        }
    });
}

#[test]
fn places_for_inbound_streams_end_for_a_connection_and_for_all() {
    let all = Arc::<AtomicUsize>::default();
    let own = Arc::<AtomicUsize>::default();
    let mut held: Vec<Place> = (0..INBOUND_STREAMS_PER_CONNECTION_MAX)
        .map(|_| Place::take(&all, &own).expect("within both bounds"))
        .collect();
    assert!(Place::take(&all, &own).is_none());
    while held.len() < INBOUND_STREAMS_MAX {
        held.push(Place::take(&all, &Arc::default()).expect("other connections have room"));
    }
    assert!(Place::take(&all, &Arc::default()).is_none());
    held.clear();
    assert!(Place::take(&all, &own).is_some());
}

#[test]
fn names_that_can_not_be_lines_are_refused() {
    assert!(local_name("DHTProtocol.rpc_find").is_some());
    assert!(local_name("").is_none());
    assert!(local_name("a\nb").is_none());
    let longest = NEGOTIATION_LINE_BYTES_MAX - PREFIX.len() - 1;
    assert!(local_name(&"a".repeat(longest)).is_some());
    assert!(local_name(&"a".repeat(longest + 1)).is_none());
}
