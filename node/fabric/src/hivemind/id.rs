//! Places in the DHT: 160-bit ids of nodes and keys, and the distance between them.
//!
//! Wire protocols, section 4.2. A key's id is the SHA-1 of its msgpack; a node's own id is the SHA-1 of its
//! peer id, so that it stays the same as long as the identity does, and so that KwaaiNet's nodes, which guess
//! others' ids that way, guess ours right.

use std::fmt;

use libp2p::PeerId;
use sha1::{Digest, Sha1};

use super::Malformed;
use super::msgpack::Value;

/// Bytes of an id.
pub const ID_BYTES: usize = 20;

/// A place in the DHT: 160 bits, big-endian, so that the order of the bytes is the order of the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; ID_BYTES]);

/// How far two ids are from each other: their exclusive or, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance([u8; ID_BYTES]);

impl Id {
    /// Where the records of a text key are kept.
    pub fn of_key(key: &str) -> Id {
        Id(Sha1::digest(Value::from(key).encode()).into())
    }

    /// Our own place for as long as we have this peer id.
    pub fn of_peer(peer: PeerId) -> Id {
        Id(Sha1::digest(peer.to_bytes()).into())
    }

    /// How far `other` is.
    pub fn distance(&self, other: &Id) -> Distance {
        let mut bytes = self.0;
        bytes.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
        Distance(bytes)
    }

    /// The bit at `depth`, counted from the most significant; `depth` is under 160.
    pub fn bit(&self, depth: usize) -> bool {
        self.0[depth / 8] >> (7 - depth % 8) & 1 == 1
    }

    /// How many leading bits are the same; 160 for the same ids.
    pub fn common_bits(&self, other: &Id) -> usize {
        let differing = self.0.iter().zip(other.0).position(|(a, b)| *a != b);
        differing.map_or(ID_BYTES * 8, |at| at * 8 + (self.0[at] ^ other.0[at]).leading_zeros() as usize)
    }
}

impl TryFrom<&[u8]> for Id {
    type Error = Malformed;

    /// Shorter ids are numbers with leading zeros, which Hivemind reads too.
    fn try_from(bytes: &[u8]) -> Result<Id, Malformed> {
        let mut id = [0; ID_BYTES];
        if bytes.is_empty() || bytes.len() > ID_BYTES {
            return Err(Malformed(format!(
                "an id of the DHT has {} bytes; it has 1 to {ID_BYTES}",
                bytes.len()
            )));
        }
        id[ID_BYTES - bytes.len()..].copy_from_slice(bytes);
        Ok(Id(id))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_where_the_reference_puts_them() {
        for (key, id) in [
            ("_petals.models", "0a63ed21831f3f7d24f07949cea69a94476b4faf"),
            ("Llama-3-1-8B-Instruct.0", "821ccf962f07b3a728a8b3b8e1c6a5391fb6db37"),
            ("Llama-3-1-8B-Instruct.31", "8b3a8ef6a8316aaf6f3efd366c1fabe2b48f6f47"),
            ("_kwaai.vpk.nodes", "50ec7a4dbc12f7484b1fa44d9296de7d4180331b"),
            ("_kwaai.inference.nodes", "531c2cf657a8e75384a436a0dcf6d170c8040d8a"),
            ("heartbeat", "a46d6b70223dbc8c5e40bcdbd435a6f35f7ab7b5"),
        ] {
            assert_eq!(Id::of_key(key).to_string(), id, "{key}");
        }
    }

    #[test]
    fn ids_of_other_lengths_are_numbers_or_refused() {
        let mut one = [0; ID_BYTES];
        one[ID_BYTES - 1] = 1;
        assert_eq!(Id::try_from(&[1][..]).unwrap(), Id(one));
        assert_eq!(Id::try_from(&[7; ID_BYTES][..]).unwrap(), Id([7; ID_BYTES]));
        let refused = Id::try_from(&[7; ID_BYTES + 1][..]).unwrap_err();
        assert_eq!(refused.0, "an id of the DHT has 21 bytes; it has 1 to 20");
        assert!(Id::try_from(&[][..]).is_err());
    }

    #[test]
    fn distance_is_a_number_and_bits_count_from_the_top() {
        let (zero, mut far, mut near) = (Id([0; 20]), Id([0; 20]), Id([0; 20]));
        far.0[0] = 0x80;
        near.0[19] = 0xff;
        assert!(zero.distance(&near) < zero.distance(&far));
        assert!(far.bit(0) && !far.bit(1) && near.bit(159));
        assert_eq!(zero.common_bits(&far), 0);
        assert_eq!(zero.common_bits(&near), 152);
        assert_eq!(zero.common_bits(&zero), 160);
    }
}
