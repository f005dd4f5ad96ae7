//! Any bytes as msgpack and as a dictionary of the DHT.
//!
//! What is read is written again to bytes that read the same.

#![no_main]

use kwaainet_fabric::hivemind::dictionary::{Dictionary, Subkey};
use kwaainet_fabric::hivemind::msgpack::Value;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = Value::decode(bytes) {
        let written = value.encode();
        let again = Value::decode(&written).expect("what we write we read");
        assert_eq!(again.encode(), written);
    }
    if let Ok(subkey) = Subkey::decode(bytes) {
        assert_eq!(Subkey::decode(subkey.bytes()).as_ref(), Ok(&subkey));
    }
    if let Ok(dictionary) = Dictionary::decode(bytes) {
        assert_eq!(Dictionary::decode(&dictionary.encode()), Ok(dictionary));
    }
});
