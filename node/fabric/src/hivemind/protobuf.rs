//! Reading and writing protobuf fields one by one.
//!
//! The messages that we share with Hivemind and Petals are few and flat. Written by hand over
//! quick-protobuf's reader and writer, they need no compiler at build time, and each field is checked and
//! counted as it comes, before anything is kept.

use std::borrow::Cow;

use quick_protobuf::{BytesReader, Writer};

use super::Malformed;

/// A field's content by its wire type.
pub enum Field<'a> {
    /// Wire type 0.
    Number(u64),
    /// Wire type 1.
    Double(f64),
    /// Wire type 2: bytes, a text, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Wire type 5, which none of our messages has.
    Other,
}

impl<'a> Field<'a> {
    /// The content of a bytes field.
    ///
    /// # Errors
    ///
    /// Says that the wire type is another.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed("a protobuf field that should hold bytes holds a number".to_owned())),
        }
    }

    /// The content of a text field.
    ///
    /// # Errors
    ///
    /// Says that it is no UTF-8, or that the wire type is another.
    pub fn text(self) -> Result<&'a str, Malformed> {
        let text = std::str::from_utf8(self.bytes()?);
        text.map_err(|_| Malformed("a protobuf text is not UTF-8".to_owned()))
    }

    /// The content of a bool, enum or integer field.
    ///
    /// # Errors
    ///
    /// Says that the wire type is another.
    pub fn number(self) -> Result<u64, Malformed> {
        match self {
            Field::Number(number) => Ok(number),
            _ => Err(Malformed("a protobuf field that should hold an integer holds another type".to_owned())),
        }
    }

    /// The content of a double field.
    ///
    /// # Errors
    ///
    /// Says that the wire type is another.
    pub fn double(self) -> Result<f64, Malformed> {
        match self {
            Field::Double(number) => Ok(number),
            _ => Err(Malformed("a protobuf field that should hold a double holds another type".to_owned())),
        }
    }

    /// The doubles of a repeated field, packed or single.
    ///
    /// # Errors
    ///
    /// Says that the wire type is another, or that the bytes are no whole doubles.
    pub fn doubles(self) -> Result<Cow<'a, [f64]>, Malformed> {
        let (whole, rest) = match self {
            Field::Double(number) => return Ok(Cow::Owned(vec![number])),
            other => other.bytes()?.as_chunks(),
        };
        if rest.is_empty() {
            Ok(Cow::Owned(whole.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()))
        } else {
            Err(Malformed("packed doubles end in the middle of one".to_owned()))
        }
    }

    /// The bools of a repeated field, packed or single.
    ///
    /// # Errors
    ///
    /// Says that the wire type is another, or that the bytes are no bools.
    pub fn bools(self) -> Result<Vec<bool>, Malformed> {
        match self {
            Field::Number(number) => Ok(vec![number != 0]),
            other => {
                let bytes = other.bytes()?;
                let mut reader = BytesReader::from_bytes(bytes);
                let mut bools = Vec::new();
                while !reader.is_eof() {
                    bools.push(reader.read_bool(bytes).map_err(broken)?);
                }
                Ok(bools)
            }
        }
    }
}

/// Calls `visit` with the number and the content of each field of a message, in their order.
///
/// # Errors
///
/// Says where the bytes are no protobuf, or what `visit` refused.
pub fn read_fields<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(u32, Field<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut reader = BytesReader::from_bytes(bytes);
    while !reader.is_eof() {
        let tag = reader.next_tag(bytes).map_err(broken)?;
        let field = match tag & 7 {
            0 => Field::Number(reader.read_varint64(bytes).map_err(broken)?),
            1 => Field::Double(reader.read_double(bytes).map_err(broken)?),
            2 => Field::Bytes(reader.read_bytes(bytes).map_err(broken)?),
            _ => {
                reader.read_unknown(bytes, tag).map_err(broken)?;
                Field::Other
            }
        };
        visit(tag >> 3, field)?;
    }
    Ok(())
}

fn broken(error: quick_protobuf::Error) -> Malformed {
    Malformed(format!("the message is no protobuf: {error}"))
}

/// A message being written. As proto3 has it, a field with its default value is left out; members of a
/// repeated field are always written.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// A bytes, text or message field.
    pub fn bytes(self, field: u32, bytes: &[u8]) -> Message {
        if bytes.is_empty() { self } else { self.member(field, bytes) }
    }

    /// A member of a repeated bytes, text or message field.
    pub fn member(self, field: u32, bytes: &[u8]) -> Message {
        self.write(field << 3 | 2, |out| out.write_bytes(bytes))
    }

    /// All members of a repeated bytes field.
    pub fn members<T: AsRef<[u8]>>(self, field: u32, members: &[T]) -> Message {
        members.iter().fold(self, |message, member| message.member(field, member.as_ref()))
    }

    /// A double field.
    pub fn double(self, field: u32, number: f64) -> Message {
        // Zero is the default, minus zero is not.
        if number.to_bits() == 0 { self } else { self.write(field << 3 | 1, |out| out.write_double(number)) }
    }

    /// A bool or enum field.
    pub fn number(self, field: u32, number: u64) -> Message {
        if number == 0 { self } else { self.write(field << 3, |out| out.write_varint(number)) }
    }

    /// A repeated field of doubles, packed.
    pub fn doubles(self, field: u32, numbers: &[f64]) -> Message {
        let packed: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.bytes(field, &packed)
    }

    /// A repeated field of bools, packed.
    pub fn bools(self, field: u32, bools: &[bool]) -> Message {
        let packed: Vec<u8> = bools.iter().map(|value| u8::from(*value)).collect();
        self.bytes(field, &packed)
    }

    /// The message's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn write(
        mut self,
        tag: u32,
        content: impl FnMut(&mut Writer<&mut Vec<u8>>) -> quick_protobuf::Result<()>,
    ) -> Message {
        let mut writer = Writer::new(&mut self.0);
        writer.write_with_tag(tag, content).expect("a vector takes every byte");
        self
    }
}
