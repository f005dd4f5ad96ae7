//! The envelope of Hivemind's unary calls, byte for byte.
//!
//! Request and answer are each one `PersistentConnectionRequest` of p2pd's protobuf behind its length as a
//! varint (wire-protocols, section 2). Three message types with five fields in all: they are written and read
//! here by hand, and a reader takes unknown fields as protobuf asks.

use libp2p::PeerId;

use crate::limits::{ENVELOPE_BYTES_MAX, REFUSAL_BYTES_MAX};

/// A call's id: Go refuses any other length.
pub(crate) type CallId = [u8; 16];

const CALL_ID: u64 = 1;
const CALL_UNARY: u64 = 3;
const UNARY_RESPONSE: u64 = 4;
const CALL_DATA: u64 = 3;
const RESPONSE: u64 = 1;
const ERROR: u64 = 2;

/// What a callee finds in a request. Peer and name are left aside: the connection and the negotiation prove
/// them, a message only claims.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) id: CallId,
    pub(crate) data: Vec<u8>,
}

/// What a caller finds in an answer: the payload or the callee's error text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) id: CallId,
    pub(crate) result: Result<Vec<u8>, String>,
}

/// A request's frame, its length included.
pub(crate) fn request(id: &CallId, callee: &PeerId, name: &str, data: &[u8]) -> Vec<u8> {
    let mut call = Vec::with_capacity(data.len() + ENVELOPE_BYTES_MAX);
    put_field(&mut call, 1, &callee.to_bytes());
    put_field(&mut call, 2, name.as_bytes());
    put_field(&mut call, CALL_DATA, data);
    frame(id, CALL_UNARY, &call)
}

/// An answer's frame, its length included.
pub(crate) fn answer(id: &CallId, result: &Result<Vec<u8>, String>) -> Vec<u8> {
    let mut response = Vec::new();
    match result {
        Ok(data) => put_field(&mut response, RESPONSE, data),
        Err(text) => put_field(&mut response, ERROR, text.as_bytes()),
    }
    frame(id, UNARY_RESPONSE, &response)
}

fn frame(id: &CallId, arm: u64, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(body.len() + 32);
    put_field(&mut message, CALL_ID, id);
    put_field(&mut message, arm, body);
    let mut frame = Vec::with_capacity(message.len() + 5);
    put_varint(&mut frame, message.len() as u64);
    frame.extend_from_slice(&message);
    frame
}

/// Reads a request's message, without its length.
///
/// # Errors
///
/// Says what is missing or wrong.
pub(crate) fn read_request(message: &[u8]) -> Result<Request, &'static str> {
    let mut call = None;
    let id = read_message(message, CALL_UNARY, &mut call)?;
    let mut data = None;
    each_field(call.ok_or("a request without a call")?, |field, bytes| {
        if field == CALL_DATA {
            data = Some(bytes);
        }
    })?;
    Ok(Request { id, data: data.ok_or("a call without data")?.to_vec() })
}

/// Reads an answer's message, without its length.
///
/// # Errors
///
/// Says what is missing or wrong.
pub(crate) fn read_answer(message: &[u8]) -> Result<Answer, &'static str> {
    let mut response = None;
    let id = read_message(message, UNARY_RESPONSE, &mut response)?;
    let mut result = None;
    each_field(response.ok_or("an answer without a response")?, |field, bytes| match field {
        RESPONSE => result = Some(Ok(bytes)),
        ERROR => result = Some(Err(bytes)),
        _ => {}
    })?;
    let result = match result.ok_or("a response that is empty")? {
        Ok(data) => Ok(data.to_vec()),
        Err(text) => {
            let text = &text[..text.len().min(REFUSAL_BYTES_MAX)];
            Err(String::from_utf8_lossy(text).into_owned())
        }
    };
    Ok(Answer { id, result })
}

fn read_message<'a>(
    message: &'a [u8],
    arm: u64,
    body: &mut Option<&'a [u8]>,
) -> Result<CallId, &'static str> {
    let mut id = None;
    each_field(message, |field, bytes| {
        if field == CALL_ID {
            id = Some(bytes);
        } else if field == arm {
            *body = Some(bytes);
        }
    })?;
    id.and_then(|id| CallId::try_from(id).ok()).ok_or("a call id that is not 16 bytes long")
}

/// Calls `each` with the number and bytes of every length-delimited field; other fields are skipped.
fn each_field<'a>(mut message: &'a [u8], mut each: impl FnMut(u64, &'a [u8])) -> Result<(), &'static str> {
    const CUT: &str = "a message that ends within a field";
    while !message.is_empty() {
        let tag = take_varint(&mut message).ok_or(CUT)?;
        let length = match tag & 7 {
            0 => {
                take_varint(&mut message).ok_or(CUT)?;
                0
            }
            1 => 8,
            2 => take_varint(&mut message).ok_or(CUT)?,
            5 => 4,
            _ => return Err("a field of no known kind"),
        };
        let length = usize::try_from(length).map_err(|_| CUT)?;
        let bytes = message.split_off(..length).ok_or(CUT)?;
        if tag & 7 == 2 {
            each(tag >> 3, bytes);
        }
    }
    Ok(())
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        // The tenth byte has one bit left.
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Appends `value` as a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    const ID: CallId = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn a_request_has_the_golden_bytes() {
        let callee: PeerId = "QmQhRuheeCLEsVD3RsnknM75gPDDqxAb8DhnWgro7KhaJc".parse().unwrap();
        let golden = hex("54 0a10 000102030405060708090a0b0c0d0e0f 1a40
             0a22 1220230a19057e4144845c090cad4165158b4b9e229fb7207e043d20f53a391c47c1
             1214 44485450726f746f636f6c2e7270635f70696e67 1a04 12001801");
        let frame = request(&ID, &callee, "DHTProtocol.rpc_ping", &hex("12001801"));
        assert_eq!(frame, golden);
        assert_eq!(read_request(&frame[1..]), Ok(Request { id: ID, data: hex("12001801") }));
    }

    #[test]
    fn an_answer_has_the_golden_bytes() {
        let golden = hex("18 0a10 000102030405060708090a0b0c0d0e0f 2204 0a02 2a00");
        let frame = answer(&ID, &Ok(hex("2a00")));
        assert_eq!(frame, golden);
        assert_eq!(read_answer(&frame[1..]), Ok(Answer { id: ID, result: Ok(hex("2a00")) }));
    }

    #[test]
    fn an_empty_answer_is_still_an_answer() {
        let frame = answer(&ID, &Ok(Vec::new()));
        assert!(frame.ends_with(&hex("2202 0a00")));
        assert_eq!(read_answer(&frame[1..]), Ok(Answer { id: ID, result: Ok(Vec::new()) }));
    }

    #[test]
    fn an_error_comes_as_its_text_cut_to_the_limit() {
        for (length, kept) in
            [(REFUSAL_BYTES_MAX, REFUSAL_BYTES_MAX), (REFUSAL_BYTES_MAX + 1, REFUSAL_BYTES_MAX)]
        {
            let frame = answer(&ID, &Err("x".repeat(length)));
            // The length's varint has two bytes here.
            let read = read_answer(&frame[2..]).unwrap();
            assert_eq!(read.result, Err("x".repeat(kept)));
        }
    }

    #[test]
    fn broken_messages_are_refused_with_a_reason() {
        let good = answer(&ID, &Ok(hex("2a00")));
        for length in 1..good.len() - 1 {
            assert!(read_answer(&good[1..length]).is_err(), "cut to {length}");
        }
        assert!(read_answer(&hex("0a0f 000102030405060708090a0b0c0d0e 2202 0a00")).is_err());
        assert!(read_answer(&hex("0a10 000102030405060708090a0b0c0d0e0f 2200")).is_err());
        assert!(read_request(&hex("0a10 000102030405060708090a0b0c0d0e0f 2204 0a02 2a00")).is_err());
        assert!(read_answer(&hex("0affffffffffffffffffff01")).is_err());
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let message = hex("9801 05 0a10 000102030405060708090a0b0c0d0e0f a206 01 ff 2204 0a02 2a00");
        assert_eq!(read_answer(&message), Ok(Answer { id: ID, result: Ok(hex("2a00")) }));
    }
}
