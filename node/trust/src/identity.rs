//! A node's identity: a key pair, and the bytes that it is stored as.
//!
//! The bytes are the libp2p `PrivateKey` message and nothing else (libp2p specification, peer-ids), as
//! KwaaiNet, Hivemind and p2pd write them: Ed25519 for all keys made here, and RSA of 2048 bits or more for
//! those that Hivemind made.
//!
//! What is wiped: the stored form here, and the Ed25519 half inside libp2p's pair when its last copy is
//! dropped. What is not: the numbers of an RSA key inside the signing library (ring), which has no means for
//! it, and what the network copies of a pair while it runs.

use std::fmt;

use libp2p_identity::{KeyType, Keypair, PeerId, PublicKey};
use zeroize::Zeroizing;

use crate::limits::{KEY_FILE_BYTES_MAX, RSA_BITS_MIN};
use crate::{Did, Error, Secret};

/// A key pair with its stored form.
#[derive(Clone)]
pub struct Identity {
    pair: Keypair,
    protobuf: Secret,
}

impl Identity {
    /// A new Ed25519 identity from the system's randomness.
    pub fn generate() -> Identity {
        let pair = Keypair::generate_ed25519();
        let bytes = pair.to_protobuf_encoding().expect("an Ed25519 pair always has a stored form");
        Identity { pair, protobuf: Zeroizing::new(bytes) }
    }

    /// Reads a libp2p `PrivateKey` message.
    ///
    /// # Errors
    /// [`Error::Broken`] for anything but exactly one Ed25519 or RSA key whose halves belong together.
    pub fn from_protobuf(bytes: &[u8]) -> Result<Identity, Error> {
        if bytes.len() > KEY_FILE_BYTES_MAX {
            return Err(Error::Broken(format!("a key has at most {KEY_FILE_BYTES_MAX} bytes")));
        }
        let pair = Keypair::from_protobuf_encoding(bytes).map_err(|error| {
            Error::Broken(format!(
                "these {} bytes are no libp2p private key of a kind known here (Ed25519, RSA): {error}",
                bytes.len()
            ))
        })?;
        match pair.key_type() {
            KeyType::Ed25519 => {
                let canonical = pair.to_protobuf_encoding().map(Zeroizing::new);
                if !canonical.is_ok_and(|canonical| canonical.as_slice() == bytes) {
                    return Err(Error::Broken("the key is followed or encoded by bytes too many".into()));
                }
            }
            // The library refuses less than RSA_BITS_MIN itself.
            KeyType::RSA => {}
            other => {
                return Err(Error::Broken(format!(
                    "the key is of the kind {other:?}; nodes use Ed25519, or RSA of {RSA_BITS_MIN} bits or \
                     more"
                )));
            }
        }
        Ok(Identity { pair, protobuf: Zeroizing::new(bytes.to_vec()) })
    }

    /// The stored form, a secret.
    pub fn to_protobuf(&self) -> &Secret {
        &self.protobuf
    }

    /// The pair for the network to sign with.
    pub fn keypair(&self) -> Keypair {
        self.pair.clone()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.pair.public()
    }

    /// How peers call the node.
    pub fn peer_id(&self) -> PeerId {
        self.public().to_peer_id()
    }

    /// The DID with this key.
    pub fn did(&self) -> Did {
        Did::from(self.public())
    }

    /// The kind of key, as in `identity show`.
    pub fn kind(&self) -> &'static str {
        match self.pair.key_type() {
            KeyType::Ed25519 => "Ed25519",
            _ => "RSA",
        }
    }
}

impl fmt::Debug for Identity {
    /// Never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A new, empty folder for a test.
    pub fn folder(test: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("kwaainet-trust-{}-{test}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn bytes(hexadecimal: &str) -> Vec<u8> {
        let pair = |index| u8::from_str_radix(&hexadecimal[index..index + 2], 16).unwrap();
        (0..hexadecimal.len()).step_by(2).map(pair).collect()
    }

    /// The Ed25519 vector of libp2p's peer-ids specification.
    pub const ED25519: &str = "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d\
                               1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e";

    /// A file as Hivemind makes it (RSA-2048, PKCS#1), made for this test by OpenSSL.
    pub const RSA: &[u8] = include_bytes!("../tests/data/rsa-2048.key");
    /// Its PeerId, computed by `hashlib` from the public half.
    pub const RSA_PEER: &str = include_str!("../tests/data/rsa-2048.peer");

    #[test]
    fn the_ed25519_vector_of_the_specification_reads_and_writes_the_same() {
        let stored = bytes(&ED25519.replace(' ', ""));
        let identity = Identity::from_protobuf(&stored).unwrap();
        assert_eq!(identity.to_protobuf().as_slice(), stored);
        assert_eq!(
            identity.public().encode_protobuf(),
            bytes("080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
        );
        let peer = identity.peer_id();
        assert_eq!(&peer.to_bytes()[..6], bytes("002408011220"));
        assert_eq!(peer.to_bytes().len(), 38);
        assert!(peer.to_base58().starts_with("12D3KooW"));
    }

    #[test]
    fn an_rsa_file_of_hivemind_reads_and_keeps_its_bytes() {
        let identity = Identity::from_protobuf(RSA).unwrap();
        assert_eq!(identity.kind(), "RSA");
        assert_eq!(identity.peer_id().to_base58(), RSA_PEER.trim());
        assert_eq!(identity.to_protobuf().as_slice(), RSA);
        let signature = identity.keypair().sign(b"text").unwrap();
        assert!(identity.public().verify(b"text", &signature));
    }

    #[test]
    fn peer_ids_of_the_public_bootstraps_decode_to_the_documented_bytes() {
        for (text, digest) in [
            (
                "QmQhRuheeCLEsVD3RsnknM75gPDDqxAb8DhnWgro7KhaJc",
                "1220230a19057e4144845c090cad4165158b4b9e229fb7207e043d20f53a391c47c1",
            ),
            (
                "Qmd3A8N5aQBATe2SYvNikaeCS9CAKN4E86jdCPacZ6RZJY",
                "1220da641cd5b35db361407c678a82f5021cc8d9792e46fc6055a7957cd587af8ac9",
            ),
        ] {
            let peer: PeerId = text.parse().unwrap();
            assert_eq!(peer.to_bytes(), bytes(digest));
        }
    }

    #[test]
    fn new_identities_differ_and_survive_their_stored_form() {
        let identity = Identity::generate();
        assert_ne!(identity.peer_id(), Identity::generate().peer_id());
        let again = Identity::from_protobuf(identity.to_protobuf()).unwrap();
        assert_eq!(again.peer_id(), identity.peer_id());
        assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.peer_id()));
    }

    #[test]
    fn what_is_no_key_is_refused_with_a_sentence() {
        let good = bytes(&ED25519.replace(' ', ""));
        let mut mixed = good.clone();
        mixed[60] ^= 1;
        let mut longer = good.clone();
        longer.extend([0x18, 0x01]);
        let secp256k1 = bytes("0802122053dadf1d5a164d6b4acdb15e24aa4c5b1d3461bdbd42abedb0a4404d56ced8fb");
        let huge = vec![8; KEY_FILE_BYTES_MAX + 1];
        for broken in [&good[..67], &mixed, &longer, &secp256k1, &huge, &RSA[..600], b"", b"-----BEGIN"] {
            assert!(matches!(Identity::from_protobuf(broken), Err(Error::Broken(_))), "{broken:?}");
        }
    }

    #[test]
    fn no_byte_of_a_key_can_be_cut_off() {
        let good = bytes(&ED25519.replace(' ', ""));
        for length in 0..good.len() {
            assert!(Identity::from_protobuf(&good[..length]).is_err(), "{length}");
        }
    }
}
