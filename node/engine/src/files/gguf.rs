//! GGUF headers, versions 2 and 3, little-endian.
//!
//! A header is foreign bytes: whatever it says is checked against the file's length and against `limits.rs`
//! before anything is allocated or believed. Parsing is one pure function over the mapped file; strings are
//! borrowed from it, so that a vocabulary of 128 thousand pieces costs a vector of references and no copies.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod reader;
mod value;

use std::fmt;

use kwaainet_kernels::Format;

use crate::Error;

pub use reader::parse_header;
pub use value::{Array, Numbers, Value};

/// The first four bytes of every GGUF file.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// A checked header, borrowing its strings from the file's bytes.
#[derive(Debug)]
pub struct Header<'a> {
    file: String,
    /// 2 or 3.
    pub version: u32,
    /// Alignment of tensor data, in bytes; a power of two.
    pub alignment: u64,
    /// In the file's order; no key twice.
    pub metadata: Vec<Metadata<'a>>,
    /// In the file's order; no name twice, no two overlapping, all inside the file.
    pub tensors: Vec<TensorInfo<'a>>,
    /// Where the header ends, in bytes from the file's start, before padding.
    pub header_bytes: u64,
}

/// One metadata entry.
#[derive(Debug)]
pub struct Metadata<'a> {
    /// Such as `general.name`.
    pub key: &'a str,
    /// What the key holds.
    pub value: Value<'a>,
    /// Where the value lies, in bytes from the file's start.
    pub offset: u64,
}

/// One entry of the tensor table.
#[derive(Debug)]
pub struct TensorInfo<'a> {
    /// Such as `blk.0.attn_q.weight`.
    pub name: &'a str,
    /// How its rows are stored.
    pub format: Format,
    /// Innermost first, as the file has it: `[columns, rows, ...]`; one to four, none zero.
    pub dimensions: Vec<u64>,
    /// Where its data begins, in bytes from the file's start.
    pub offset: u64,
    /// Length of its data in bytes.
    pub bytes: u64,
    /// Where its entry in the table begins, in bytes from the file's start.
    entry_offset: u64,
}

impl<'a> Header<'a> {
    /// The file's name, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The entry of a key.
    pub fn entry(&self, key: &str) -> Option<&Metadata<'a>> {
        self.metadata.iter().find(|entry| entry.key == key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// A string, or nothing if the key is absent. Fails if the key holds something else.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(*text),
            _ => None,
        })
    }

    /// An integer that is not negative. Fails if the key holds something else.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, Error> {
        self.typed(key, "an integer that is not negative", Value::as_unsigned)
    }

    /// A real number. Fails if the key holds something else, or a number that is not finite.
    pub fn float(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "a finite number", |value| value.as_float().filter(|value| value.is_finite()))
    }

    /// A boolean. Fails if the key holds something else.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a boolean", |value| match value {
            Value::Boolean(value) => Some(*value),
            _ => None,
        })
    }

    /// A token id. Fails if the key holds something else.
    pub fn token(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "a token id", |value| value.as_unsigned().and_then(|id| u32::try_from(id).ok()))
    }

    /// An array of strings. Fails if the key holds something else.
    pub fn strings(&self, key: &str) -> Result<Option<&[&'a str]>, Error> {
        match self.entry(key) {
            None => Ok(None),
            Some(Metadata { value: Value::Array(Array::Strings(strings)), .. }) => Ok(Some(strings)),
            // Writers that know no type for nothing may call an empty array whatever they like.
            Some(Metadata { value: Value::Array(array), .. }) if array.is_empty() => Ok(Some(&[])),
            Some(entry) => Err(self.wrong(entry, "an array of strings")),
        }
    }

    /// An array of real numbers. Fails if the key holds something else.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        self.numbers(key, "an array of real numbers", |value| value.as_float())
    }

    /// An array of integers. Fails if the key holds something else.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, Error> {
        self.numbers(key, "an array of integers", |value| value.as_signed())
    }

    /// An [`Error::Broken`] at a key's value, or at no place if the key is absent.
    pub fn broken(&self, key: &str, what: impl fmt::Display) -> Error {
        match self.entry(key) {
            Some(entry) => Error::broken_at(&self.file, entry.offset, format!("{key} {what}")),
            None => Error::broken(&self.file, format!("{key} {what}")),
        }
    }

    fn typed<'s, T>(
        &'s self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'s Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        match self.entry(key) {
            None => Ok(None),
            Some(entry) => read(&entry.value).map(Some).ok_or_else(|| self.wrong(entry, wanted)),
        }
    }

    fn numbers<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        match self.entry(key) {
            None => Ok(None),
            Some(entry @ Metadata { value: Value::Array(Array::Numbers(numbers)), .. }) => {
                let all: Option<Vec<T>> = numbers.iter().map(read).collect();
                all.map(Some).ok_or_else(|| self.wrong(entry, wanted))
            }
            Some(Metadata { value: Value::Array(array), .. }) if array.is_empty() => Ok(Some(Vec::new())),
            Some(entry) => Err(self.wrong(entry, wanted)),
        }
    }

    fn wrong(&self, entry: &Metadata<'_>, wanted: &str) -> Error {
        let what = format!("{} should be {wanted}, but is {}", entry.key, entry.value);
        Error::broken_at(&self.file, entry.offset, what)
    }
}
