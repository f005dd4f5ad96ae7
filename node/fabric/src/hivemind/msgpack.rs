//! msgpack as Hivemind speaks it.
//!
//! Wire protocols, section 4.3: Python's `msgpack` with a few extension types. Readers there are strict: a
//! number is a float or an integer and never either, a text is no byte string, and a tuple is extension 0x40.
//! So the types here keep these apart, and what is read and written again has the same bytes (integers in
//! their shortest form).

use rmp::Marker;
use rmp::decode::{RmpRead, read_marker};
use rmp::encode;

use super::Malformed;
use super::limits::{MSGPACK_DEPTH_MAX, MSGPACK_VALUES_MAX};

/// Extension type of a Python tuple.
const TUPLE: i8 = 0x40;
/// Extension type of a dictionary value, as [`super::dictionary`] reads it.
pub const DICTIONARY: i8 = 0x50;
/// Extension type of a tensor's description.
pub const TENSOR: i8 = 0x51;

/// One msgpack value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Python's `None`.
    Nil,
    /// A truth value.
    Bool(bool),
    /// An integer that 64 bits with a sign hold.
    Integer(i64),
    /// An integer above them.
    IntegerAbove(u64),
    /// A float, always of 64 bits when written.
    Float(f64),
    /// A text.
    Text(String),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A map, in the order of writing.
    Map(Vec<(Value, Value)>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// Any other extension: its type and its bytes.
    Extension(i8, Vec<u8>),
}

impl Value {
    /// The value that all of `bytes` hold.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes, or which limit they break.
    pub fn decode(bytes: &[u8]) -> Result<Value, Malformed> {
        let mut reader = Reader { rest: bytes, values_left: MSGPACK_VALUES_MAX };
        let value = reader.value(0)?;
        if reader.rest.is_empty() {
            Ok(value)
        } else {
            Err(Malformed(format!("{} bytes follow the msgpack value; none may", reader.rest.len())))
        }
    }

    /// The bytes of the value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        let written: std::io::Result<()> = match self {
            Value::Nil => encode::write_nil(out),
            Value::Bool(value) => encode::write_bool(out, *value),
            Value::Integer(value) => encode::write_sint(out, *value).map(|_| ()).map_err(Into::into),
            Value::IntegerAbove(value) => encode::write_uint(out, *value).map(|_| ()).map_err(Into::into),
            Value::Float(value) => encode::write_f64(out, *value).map_err(Into::into),
            Value::Text(text) => encode::write_str(out, text).map_err(Into::into),
            Value::Bytes(bytes) => encode::write_bin(out, bytes).map_err(Into::into),
            Value::List(values) => return write_list(values, out),
            Value::Map(pairs) => {
                let written = encode::write_map_len(out, length(pairs.len()));
                for (key, value) in pairs {
                    key.write(out);
                    value.write(out);
                }
                written.map(|_| ()).map_err(Into::into)
            }
            Value::Tuple(values) => {
                let mut inside = Vec::new();
                write_list(values, &mut inside);
                return write_extension(TUPLE, &inside, out);
            }
            Value::Extension(kind, bytes) => return write_extension(*kind, bytes, out),
        };
        written.expect("a vector takes every byte");
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is a float.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The number, if it is an integer of 64 bits with a sign.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// What a map holds under a text key; of the last one where a key comes twice, as in Python.
    pub fn member(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Map(pairs) => {
                pairs.iter().rev().find(|(name, _)| name.as_text() == Some(key)).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// Whether Python can use it as a dictionary's key; and no NaN, which equals not even itself.
    pub fn is_hashable(&self) -> bool {
        match self {
            Value::Float(number) => !number.is_nan(),
            Value::Tuple(values) => values.iter().all(Value::is_hashable),
            Value::List(_) | Value::Map(_) | Value::Extension(..) => false,
            _ => true,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Float(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Integer(number.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Nil, Into::into)
    }
}

/// A map with text keys.
pub fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Map(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

fn length(count: usize) -> u32 {
    u32::try_from(count).expect("what we write fits into a message of some megabytes")
}

fn write_list(values: &[Value], out: &mut Vec<u8>) {
    encode::write_array_len(out, length(values.len())).expect("a vector takes every byte");
    values.iter().for_each(|value| value.write(out));
}

fn write_extension(kind: i8, bytes: &[u8], out: &mut Vec<u8>) {
    encode::write_ext_meta(out, length(bytes.len()), kind).expect("a vector takes every byte");
    out.extend_from_slice(bytes);
}

/// What is left to read, and how many values it may still hold.
struct Reader<'a> {
    rest: &'a [u8],
    values_left: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, Malformed> {
        if depth > MSGPACK_DEPTH_MAX {
            return Err(Malformed(format!("msgpack nests deeper than {MSGPACK_DEPTH_MAX} levels")));
        }
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| Malformed(format!("msgpack holds more than {MSGPACK_VALUES_MAX} values")))?;
        let marker = read_marker(&mut self.rest).map_err(|_| ended())?;
        Ok(match marker {
            Marker::Null => Value::Nil,
            Marker::True => Value::Bool(true),
            Marker::False => Value::Bool(false),
            Marker::FixPos(number) => Value::Integer(number.into()),
            Marker::FixNeg(number) => Value::Integer(number.into()),
            Marker::U8 => Value::Integer(self.unsigned(1)? as i64),
            Marker::U16 => Value::Integer(self.unsigned(2)? as i64),
            Marker::U32 => Value::Integer(self.unsigned(4)? as i64),
            Marker::U64 => {
                let number = self.unsigned(8)?;
                i64::try_from(number).map_or(Value::IntegerAbove(number), Value::Integer)
            }
            Marker::I8 => Value::Integer(self.rest.read_data_i8().map_err(|_| ended())?.into()),
            Marker::I16 => Value::Integer(self.rest.read_data_i16().map_err(|_| ended())?.into()),
            Marker::I32 => Value::Integer(self.rest.read_data_i32().map_err(|_| ended())?.into()),
            Marker::I64 => Value::Integer(self.rest.read_data_i64().map_err(|_| ended())?),
            Marker::F32 => Value::Float(f32::from_bits(self.unsigned(4)? as u32).into()),
            Marker::F64 => Value::Float(f64::from_bits(self.unsigned(8)?)),
            Marker::FixStr(count) => self.text(count.into())?,
            Marker::Str8 => self.counted(1, Self::text)?,
            Marker::Str16 => self.counted(2, Self::text)?,
            Marker::Str32 => self.counted(4, Self::text)?,
            Marker::Bin8 => self.counted(1, Self::byte_string)?,
            Marker::Bin16 => self.counted(2, Self::byte_string)?,
            Marker::Bin32 => self.counted(4, Self::byte_string)?,
            Marker::FixArray(count) => Value::List(self.values(count.into(), depth)?),
            Marker::Array16 => self.counted(2, |reader, count| reader.list(count, depth))?,
            Marker::Array32 => self.counted(4, |reader, count| reader.list(count, depth))?,
            Marker::FixMap(count) => self.map(count.into(), depth)?,
            Marker::Map16 => self.counted(2, |reader, count| reader.map(count, depth))?,
            Marker::Map32 => self.counted(4, |reader, count| reader.map(count, depth))?,
            Marker::FixExt1 => self.extension(1, depth)?,
            Marker::FixExt2 => self.extension(2, depth)?,
            Marker::FixExt4 => self.extension(4, depth)?,
            Marker::FixExt8 => self.extension(8, depth)?,
            Marker::FixExt16 => self.extension(16, depth)?,
            Marker::Ext8 => self.counted(1, |reader, count| reader.extension(count, depth))?,
            Marker::Ext16 => self.counted(2, |reader, count| reader.extension(count, depth))?,
            Marker::Ext32 => self.counted(4, |reader, count| reader.extension(count, depth))?,
            Marker::Reserved => return Err(Malformed("byte c1 begins no msgpack value".to_owned())),
        })
    }

    /// A value that begins with its length, of so many bytes.
    fn counted(
        &mut self,
        length_bytes: usize,
        read: impl FnOnce(&mut Self, usize) -> Result<Value, Malformed>,
    ) -> Result<Value, Malformed> {
        let count = usize::try_from(self.unsigned(length_bytes)?).map_err(|_| ended())?;
        read(self, count)
    }

    fn unsigned(&mut self, bytes: usize) -> Result<u64, Malformed> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn take(&mut self, count: usize) -> Result<&[u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(ended)?;
        self.rest = rest;
        Ok(taken)
    }

    fn text(&mut self, count: usize) -> Result<Value, Malformed> {
        let text = std::str::from_utf8(self.take(count)?);
        text.map(Value::from).map_err(|_| Malformed("a msgpack text is not UTF-8".to_owned()))
    }

    fn byte_string(&mut self, count: usize) -> Result<Value, Malformed> {
        Ok(Value::Bytes(self.take(count)?.to_vec()))
    }

    /// Room is made as values come, so that a false count costs nothing.
    fn values(&mut self, count: usize, depth: usize) -> Result<Vec<Value>, Malformed> {
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth + 1)?);
        }
        Ok(values)
    }

    fn list(&mut self, count: usize, depth: usize) -> Result<Value, Malformed> {
        self.values(count, depth).map(Value::List)
    }

    fn map(&mut self, count: usize, depth: usize) -> Result<Value, Malformed> {
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((self.value(depth + 1)?, self.value(depth + 1)?));
        }
        Ok(Value::Map(pairs))
    }

    fn extension(&mut self, count: usize, depth: usize) -> Result<Value, Malformed> {
        let kind = self.unsigned(1)? as u8 as i8;
        let outer = self.values_left;
        let bytes = self.take(count)?;
        if kind != TUPLE {
            return Ok(Value::Extension(kind, bytes.to_vec()));
        }
        let mut inside = Reader { rest: bytes, values_left: outer };
        let value = inside.value(depth + 1)?;
        let (left, rest) = (inside.values_left, inside.rest.len());
        self.values_left = left;
        match value {
            Value::List(values) if rest == 0 => Ok(Value::Tuple(values)),
            _ => Err(Malformed("a msgpack tuple (extension 0x40) holds something else than one list".into())),
        }
    }
}

fn ended() -> Malformed {
    Malformed("msgpack ends in the middle of a value".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        Value::decode(bytes).unwrap_err().0
    }

    /// Tuples, floats and texts as the wire specification writes them (4.3, 4.11); all other forms are in the
    /// golden vectors.
    #[test]
    fn the_dialect_keeps_tuples_floats_and_texts_apart() {
        let pair = Value::Tuple(vec![Value::Integer(1), Value::Integer(2)]);
        assert_eq!(pair.encode(), [0xc7, 3, 0x40, 0x92, 1, 2]);
        assert_eq!(Value::from(10.0).encode()[0], 0xcb);
        assert_eq!(Value::from(10).encode(), [10]);
        for bytes in [&[0xa1, b'a'][..], &[0xc4, 1, b'a'], &[0xd4, 0x40, 0x90], &[0xd4, 0x07, 1]] {
            assert_eq!(Value::decode(bytes).unwrap().encode(), bytes);
        }
        // A float of 32 bits is read, and written as Python would.
        assert_eq!(Value::decode(&[0xca, 0x3f, 0x80, 0, 0]).unwrap(), Value::Float(1.0));
    }

    #[test]
    fn lengths_that_lie_cost_nothing_and_are_refused() {
        for marker in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
            assert_eq!(refusal(&[marker, 0xff, 0xff, 0xff, 0xff]), "msgpack ends in the middle of a value");
        }
        assert_eq!(refusal(&[]), "msgpack ends in the middle of a value");
        assert_eq!(refusal(&[0xc1]), "byte c1 begins no msgpack value");
        assert_eq!(refusal(&[1, 2]), "1 bytes follow the msgpack value; none may");
        assert_eq!(refusal(&[0xa1, 0xff]), "a msgpack text is not UTF-8");
        assert!(refusal(&[0xd4, 0x40, 1]).contains("something else than one list"));
        assert!(refusal(&[0xd5, 0x40, 0x90, 1]).contains("something else than one list"));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| [vec![0x91; levels], vec![0xc0]].concat();
        assert!(Value::decode(&nested(MSGPACK_DEPTH_MAX)).is_ok());
        assert!(refusal(&nested(MSGPACK_DEPTH_MAX + 1)).contains("deeper than 16 levels"));
        // Tuples in tuples as well.
        let mut tuples = vec![0xc0];
        for _ in 0..=MSGPACK_DEPTH_MAX / 2 {
            tuples = [&[0xc7, tuples.len() as u8 + 1, 0x40, 0x91][..], &tuples].concat();
        }
        assert!(refusal(&tuples).contains("deeper than 16 levels"));
    }

    #[test]
    fn the_count_of_values_is_bounded() {
        let list = |count: usize| {
            let header = [&[0xdd][..], &(count as u32).to_be_bytes()].concat();
            [header, vec![0xc0; count]].concat()
        };
        assert!(Value::decode(&list(MSGPACK_VALUES_MAX - 1)).is_ok());
        assert!(refusal(&list(MSGPACK_VALUES_MAX)).contains("more than 65536 values"));
    }

    #[test]
    fn only_what_python_can_hash_is_a_subkey() {
        assert!(Value::Tuple(vec!["a".into(), Value::Nil, 1.5.into()]).is_hashable());
        assert!(!Value::Tuple(vec![Value::List(vec![])]).is_hashable());
        assert!(!Value::Float(f64::NAN).is_hashable());
        assert!(!Value::Extension(3, vec![]).is_hashable());
    }
}
