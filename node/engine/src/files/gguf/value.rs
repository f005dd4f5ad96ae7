//! Metadata values: numbers stay encoded and strings borrowed until somebody asks.

use std::fmt;

/// A metadata value. Widths of numbers are widened, since readers do not care.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// u8, u16, u32 or u64.
    Unsigned(u64),
    /// i8, i16, i32 or i64.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// One byte that was 0 or 1.
    Boolean(bool),
    /// UTF-8.
    String(&'a str),
    /// Elements of one type.
    Array(Array<'a>),
}

/// A metadata array.
#[derive(Clone, Debug, PartialEq)]
pub enum Array<'a> {
    /// Numbers or booleans, still encoded.
    Numbers(Numbers<'a>),
    /// UTF-8 strings.
    Strings(Vec<&'a str>),
    /// Arrays of arrays.
    Arrays(Vec<Array<'a>>),
}

/// Encoded numbers of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers<'a> {
    pub(super) kind: Scalar,
    pub(super) bytes: &'a [u8],
}

/// Number types and the boolean, by their ids in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

/// A value's type id, sorted by how it is read.
pub(super) enum Kind {
    Scalar(Scalar),
    String,
    Array,
}

impl Kind {
    pub(super) fn from_id(id: u32) -> Option<Kind> {
        Some(match id {
            0 => Kind::Scalar(Scalar::U8),
            1 => Kind::Scalar(Scalar::I8),
            2 => Kind::Scalar(Scalar::U16),
            3 => Kind::Scalar(Scalar::I16),
            4 => Kind::Scalar(Scalar::U32),
            5 => Kind::Scalar(Scalar::I32),
            6 => Kind::Scalar(Scalar::F32),
            7 => Kind::Scalar(Scalar::Bool),
            8 => Kind::String,
            9 => Kind::Array,
            10 => Kind::Scalar(Scalar::U64),
            11 => Kind::Scalar(Scalar::I64),
            12 => Kind::Scalar(Scalar::F64),
            _ => return None,
        })
    }
}

impl Scalar {
    /// Encoded length in bytes.
    pub(super) fn bytes(self) -> usize {
        match self {
            Scalar::U8 | Scalar::I8 | Scalar::Bool => 1,
            Scalar::U16 | Scalar::I16 => 2,
            Scalar::U32 | Scalar::I32 | Scalar::F32 => 4,
            Scalar::U64 | Scalar::I64 | Scalar::F64 => 8,
        }
    }

    /// Decodes one number; `bytes` is exactly [`Scalar::bytes`] long.
    pub(super) fn decode<'a>(self, bytes: &[u8]) -> Value<'a> {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match self {
            Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64 => Value::Unsigned(bits),
            Scalar::I8 => Value::Signed(i64::from(bits as u8 as i8)),
            Scalar::I16 => Value::Signed(i64::from(bits as u16 as i16)),
            Scalar::I32 => Value::Signed(i64::from(bits as u32 as i32)),
            Scalar::I64 => Value::Signed(bits as i64),
            Scalar::F32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
            Scalar::F64 => Value::Float(f64::from_bits(bits)),
            Scalar::Bool => Value::Boolean(bits != 0),
        }
    }
}

impl<'a> Numbers<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.bytes()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Decoded one by one.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let kind = self.kind;
        self.bytes.chunks_exact(kind.bytes()).map(move |bytes| kind.decode(bytes))
    }
}

impl Array<'_> {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            Array::Numbers(numbers) => numbers.len(),
            Array::Strings(strings) => strings.len(),
            Array::Arrays(arrays) => arrays.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Value<'_> {
    /// As a count or an id: any integer that is not negative.
    pub fn as_unsigned(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// As an integer.
    pub fn as_signed(&self) -> Option<i64> {
        match *self {
            Value::Unsigned(value) => i64::try_from(value).ok(),
            Value::Signed(value) => Some(value),
            _ => None,
        }
    }

    /// As a real number.
    pub fn as_float(&self) -> Option<f32> {
        match *self {
            Value::Float(value) => Some(value as f32),
            _ => None,
        }
    }
}

/// One line for `inspect`; long strings and arrays are summed up.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_CHARACTERS: usize = 60;
        match self {
            Value::Unsigned(value) => write!(f, "{value}"),
            Value::Signed(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{}", *value as f32),
            Value::Boolean(value) => write!(f, "{value}"),
            Value::String(text) if text.chars().count() > SHOWN_CHARACTERS => {
                let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
                write!(f, "{shown:?}... ({} bytes)", text.len())
            }
            Value::String(text) => write!(f, "{text:?}"),
            Value::Array(Array::Numbers(numbers)) => write!(f, "[{} numbers]", numbers.len()),
            Value::Array(Array::Strings(strings)) => write!(f, "[{} strings]", strings.len()),
            Value::Array(Array::Arrays(arrays)) => write!(f, "[{} arrays]", arrays.len()),
        }
    }
}
