//! A dictionary value: records under one key, told apart by subkeys, each with its own expiration.
//!
//! Wire protocols, sections 4.3 and 4.4. On the wire a subkey is msgpack, and inside a dictionary it is the
//! value that this msgpack holds; here a subkey is always kept as its msgpack, in shortest form, so that equal
//! subkeys are equal bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use rmp::encode;

use super::Malformed;
use super::limits::{SUBKEY_BYTES_MAX, TIME_SECONDS_MAX};
use super::msgpack::{self, Value};

/// The tag of a plain value in a store request: msgpack's nil.
pub const TAG_PLAIN: &[u8] = &[0xc0];
/// The tag of a whole dictionary.
pub const TAG_DICTIONARY: &[u8] = &[];

/// The msgpack of a subkey.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subkey(Arc<[u8]>);

impl Subkey {
    /// Reads a tag of a store request that is neither plain nor a dictionary's.
    ///
    /// # Errors
    ///
    /// Says why Python could not use it as a subkey, or that it is too long.
    pub fn decode(tag: &[u8]) -> Result<Subkey, Malformed> {
        if tag.len() > SUBKEY_BYTES_MAX {
            return Err(Malformed(format!(
                "a subkey has {} bytes; it has at most {SUBKEY_BYTES_MAX}",
                tag.len()
            )));
        }
        Subkey::new(&Value::decode(tag)?)
    }

    /// The subkey that holds `value`.
    ///
    /// # Errors
    ///
    /// As [`Subkey::decode`].
    pub fn new(value: &Value) -> Result<Subkey, Malformed> {
        let bytes = value.encode();
        if *value == Value::Nil {
            Err(Malformed("a subkey is nil, which stands for no subkey".to_owned()))
        } else if !value.is_hashable() {
            Err(Malformed("a subkey is a list, a map or something else that can't be compared".to_owned()))
        } else if bytes.len() > SUBKEY_BYTES_MAX {
            Err(Malformed(format!("a subkey has {} bytes; it has at most {SUBKEY_BYTES_MAX}", bytes.len())))
        } else {
            // What is kept can be read again: it nests no deeper than may be.
            Value::decode(&bytes)?;
            Ok(Subkey(bytes.into()))
        }
    }

    /// The subkey of a short text.
    ///
    /// # Errors
    ///
    /// Says that the text is too long.
    pub fn text(text: &str) -> Result<Subkey, Malformed> {
        Subkey::new(&Value::from(text))
    }

    /// Its msgpack, which is its tag in a store request.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What it holds.
    pub fn value(&self) -> Value {
        Value::decode(&self.0).expect("it was read or written before")
    }
}

/// One entry's value and its expiration.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value's bytes.
    pub value: Vec<u8>,
    /// Until when it lives, in seconds since 1970.
    pub expiration: f64,
}

/// A dictionary as it travels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dictionary {
    /// The entries by their subkeys.
    pub entries: BTreeMap<Subkey, Entry>,
}

impl Dictionary {
    /// When its last entry expires.
    pub fn expiration(&self) -> f64 {
        self.entries.values().map(|entry| entry.expiration).fold(0.0, f64::max)
    }

    /// Reads extension 0x50.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Dictionary, Malformed> {
        let shape = || Malformed("a dictionary value is not [capacity, expiration, entries]".to_owned());
        let Value::Extension(msgpack::DICTIONARY, inside) = Value::decode(bytes)? else {
            return Err(Malformed("a dictionary value is not msgpack's extension 0x50".to_owned()));
        };
        let Value::List(parts) = Value::decode(&inside)? else { return Err(shape()) };
        let Ok([_capacity, _latest, Value::List(items)]) = <[Value; 3]>::try_from(parts) else {
            return Err(shape());
        };
        let mut entries = BTreeMap::new();
        for item in items {
            let Value::List(triple) = item else { return Err(shape()) };
            let Ok([subkey, Value::Bytes(value), expiration]) = <[Value; 3]>::try_from(triple) else {
                return Err(Malformed("an entry is not [subkey, byte string, expiration]".to_owned()));
            };
            let expiration = match expiration {
                Value::Float(seconds) if !seconds.is_nan() => seconds.clamp(0.0, TIME_SECONDS_MAX),
                Value::Integer(seconds) => (seconds as f64).clamp(0.0, TIME_SECONDS_MAX),
                _ => return Err(Malformed("the expiration of an entry is not a number".to_owned())),
            };
            entries.insert(Subkey::new(&subkey)?, Entry { value, expiration });
        }
        Ok(Dictionary { entries })
    }

    /// Writes extension 0x50.
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.entries.iter();
        let entries = entries.map(|(subkey, entry)| (subkey, &entry.value[..], entry.expiration));
        encode_entries(self.expiration(), entries)
    }

    /// Takes in what another node has under the same key: for each subkey the later one stays.
    pub fn merge(&mut self, other: Dictionary) {
        for (subkey, entry) in other.entries {
            let known = self.entries.get(&subkey);
            if known.is_none_or(|known| known.expiration < entry.expiration) {
                self.entries.insert(subkey, entry);
            }
        }
    }
}

/// Writes extension 0x50 of entries as they lie in a storage. Its capacity is given as unbounded, as Python
/// does: ours is our own matter.
pub fn encode_entries<'a>(
    expiration: f64,
    entries: impl ExactSizeIterator<Item = (&'a Subkey, &'a [u8], f64)>,
) -> Vec<u8> {
    let (mut inside, vector) = (Vec::new(), "a vector takes every byte");
    encode::write_array_len(&mut inside, 3).expect(vector);
    encode::write_f64(&mut inside, f64::INFINITY).expect(vector);
    encode::write_f64(&mut inside, expiration).expect(vector);
    let count = u32::try_from(entries.len()).expect("a dictionary fits into a message");
    encode::write_array_len(&mut inside, count).expect(vector);
    for (subkey, value, expiration) in entries {
        encode::write_array_len(&mut inside, 3).expect(vector);
        inside.extend_from_slice(subkey.bytes());
        encode::write_bin(&mut inside, value).expect(vector);
        encode::write_f64(&mut inside, expiration).expect(vector);
    }
    Value::Extension(msgpack::DICTIONARY, inside).encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hivemind::limits::SUBKEY_BYTES_MAX;

    #[test]
    fn subkeys_are_bounded_and_comparable() {
        let text = |count: usize| Subkey::text(&"x".repeat(count));
        assert!(text(SUBKEY_BYTES_MAX - 3).is_ok());
        assert!(text(SUBKEY_BYTES_MAX - 2).unwrap_err().0.contains("2049 bytes"));
        assert!(Subkey::decode(&[0x90]).unwrap_err().0.contains("can't be compared"));
        assert!(Subkey::decode(&[0xc0]).is_err());
        let deep = (0..20).fold(Value::Bool(true), |inside, _| Value::Tuple(vec![inside]));
        assert!(Subkey::new(&deep).unwrap_err().0.contains("deeper than 16 levels"));
        // The same number in a longer form is the same subkey.
        assert_eq!(Subkey::decode(&[0xcd, 0, 7]).unwrap(), Subkey::decode(&[7]).unwrap());
    }

    #[test]
    fn the_later_entry_stays_when_dictionaries_meet() {
        let entry = |value: u8, expiration| Entry { value: vec![value], expiration };
        let key = |text| Subkey::text(text).unwrap();
        let mut ours = Dictionary { entries: [(key("a"), entry(1, 5.0)), (key("b"), entry(1, 5.0))].into() };
        ours.merge(Dictionary {
            entries: [(key("a"), entry(2, 6.0)), (key("b"), entry(2, 5.0)), (key("c"), entry(2, 1.0))].into(),
        });
        let values: Vec<u8> = ours.entries.values().map(|entry| entry.value[0]).collect();
        assert_eq!(values, [2, 1, 2]);
        assert_eq!(ours.expiration(), 6.0);
    }

    #[test]
    fn dictionaries_of_other_shapes_are_refused() {
        for (value, why) in [
            (Value::List(vec![]), "extension 0x50"),
            (
                Value::Extension(0x50, Value::List(vec![Value::Nil]).encode()),
                "[capacity, expiration, entries]",
            ),
            (Value::Extension(0x50, vec![0xc1]), "byte c1"),
        ] {
            let refusal = Dictionary::decode(&value.encode()).unwrap_err().0;
            assert!(refusal.contains(why), "{refusal}");
        }
        let with = |item: Value| {
            let parts = vec![Value::Nil, Value::Float(1.0), Value::List(vec![item])];
            Dictionary::decode(&Value::Extension(0x50, Value::List(parts).encode()).encode())
        };
        let value = || Value::Bytes(vec![]);
        assert!(with(Value::List(vec!["a".into(), value(), 1.5.into()])).is_ok());
        assert!(with(Value::List(vec!["a".into(), value(), f64::NAN.into()])).is_err());
        assert!(with(Value::List(vec![Value::List(vec![]), value(), 1.5.into()])).is_err());
        assert!(with(Value::List(vec!["a".into(), "text".into(), 1.5.into()])).is_err());
    }
}
