//! Names of identities: `did:key`, `did:peer`, and their document.
//!
//! `did:key:z…` (W3C Credentials Community Group, The did:key Method) and `did:peer:0z…` (Peer DID Method,
//! method 0, an inception key without a document) hold the public key itself: base 58 of its multicodec and
//! its bytes. KwaaiNet writes `did:peer:` and a bare PeerId, which is no valid form of that method; it is
//! read as an alias and never written as a name of ours.

use std::fmt;

use libp2p_identity::{KeyType, PeerId, PublicKey, rsa};
use serde_json::{Value, json};

use crate::Error;
use crate::limits::DID_BYTES_MAX;

/// Multicodec `ed25519-pub` as a varint.
const ED25519: [u8; 2] = [0xed, 0x01];
/// Multicodec `rsa-pub` as a varint; the key follows as PKCS#1.
const RSA: [u8; 2] = [0x85, 0x24];
/// The AlgorithmIdentifier of RSA in DER (RFC 8017, A.1): rsaEncryption, NULL.
const RSA_ALGORITHM: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];

/// Whom a DID names.
#[derive(Clone, Debug)]
pub struct Did {
    peer_id: PeerId,
    /// None for an alias that holds only the hash of a key.
    key: Option<PublicKey>,
}

impl From<PublicKey> for Did {
    fn from(key: PublicKey) -> Did {
        Did { peer_id: key.to_peer_id(), key: Some(key) }
    }
}

impl PartialEq for Did {
    /// By the key, whatever the form.
    fn eq(&self, other: &Did) -> bool {
        self.peer_id == other.peer_id
    }
}

impl Did {
    /// Reads `did:key:z…`, `did:peer:0z…` or the alias `did:peer:PEERID`.
    ///
    /// # Errors
    /// [`Error::Broken`] for any other text, other kinds of key included.
    pub fn parse(text: &str) -> Result<Did, Error> {
        let broken = |what: &str| Error::Broken(format!("{text:.100} is no DID that is known here: {what}"));
        if text.len() > DID_BYTES_MAX {
            return Err(broken(&format!("it is longer than {DID_BYTES_MAX} bytes")));
        }
        let multibase = match text.split_once(':').map(|(_, rest)| rest).and_then(|rest| rest.split_once(':'))
        {
            _ if !text.starts_with("did:") => return Err(broken("it does not begin with did:")),
            Some(("key", name)) => name,
            Some(("peer", name)) => match name.strip_prefix('0') {
                Some(key) => key,
                None => {
                    let peer_id: PeerId = name.parse().map_err(|_| {
                        broken("of did:peer only method 0 (did:peer:0z…) and a bare PeerId are read")
                    })?;
                    return Ok(Did { peer_id, key: key_inside(&peer_id) });
                }
            },
            _ => return Err(broken("its method is neither key nor peer")),
        };
        let code = multibase.strip_prefix('z').ok_or_else(|| broken("the key is not in base 58 (z…)"))?;
        let bytes = bs58::decode(code).into_vec().map_err(|error| broken(&error.to_string()))?;
        let key = match bytes.split_at_checked(2) {
            Some((codec, key)) if codec == ED25519 => {
                let key = libp2p_identity::ed25519::PublicKey::try_from_bytes(key);
                key.map(PublicKey::from).map_err(|error| broken(&error.to_string()))?
            }
            Some((codec, key)) if codec == RSA => {
                let key = rsa::PublicKey::try_decode_x509(&subject_public_key(key));
                key.map(PublicKey::from).map_err(|error| broken(&error.to_string()))?
            }
            _ => return Err(broken("its key is neither Ed25519 nor RSA")),
        };
        Ok(Did::from(key))
    }

    /// How peers call whom it names.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The public key; `None` for an alias that holds only the hash of a key.
    pub fn public(&self) -> Option<&PublicKey> {
        self.key.as_ref()
    }

    /// `z`, and multicodec and key in base 58.
    fn multibase(&self) -> Option<String> {
        let key = self.key.clone()?;
        let bytes = match key.key_type() {
            KeyType::Ed25519 => {
                let key = key.try_into_ed25519().ok()?;
                [ED25519.as_slice(), &key.to_bytes()].concat()
            }
            KeyType::RSA => {
                let key = key.try_into_rsa().ok()?;
                [RSA.as_slice(), &key.encode_pkcs1()].concat()
            }
            _ => return None,
        };
        Some(format!("z{}", bs58::encode(bytes).into_string()))
    }

    /// `did:key:z…`; `None` without a key.
    pub fn did_key(&self) -> Option<String> {
        self.multibase().map(|key| format!("did:key:{key}"))
    }

    /// `did:peer:0z…`; `None` without a key.
    pub fn did_peer(&self) -> Option<String> {
        self.multibase().map(|key| format!("did:peer:0{key}"))
    }

    /// The form that KwaaiNet writes, which is an alias here.
    pub fn alias(&self) -> String {
        format!("did:peer:{}", self.peer_id)
    }

    /// The document of the `did:key` (W3C Decentralized Identifiers 1.0): one key for signing in every role;
    /// keys to agree on secrets are not derived from it. `None` without a key.
    pub fn document(&self) -> Option<Value> {
        let key = self.multibase()?;
        let did = format!("did:key:{key}");
        let method = format!("{did}#{key}");
        Some(json!({
            "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
            "id": did,
            "alsoKnownAs": [format!("did:peer:0{key}"), self.alias()],
            "verificationMethod": [{
                "id": method,
                "type": "Multikey",
                "controller": did,
                "publicKeyMultibase": key,
            }],
            "authentication": [method],
            "assertionMethod": [method],
            "capabilityDelegation": [method],
            "capabilityInvocation": [method],
        }))
    }
}

impl fmt::Display for Did {
    /// `did:key:z…`, or the alias when there is no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.did_key().unwrap_or_else(|| self.alias()))
    }
}

/// The key that a PeerId holds whole (an identity multihash, code 0), as Ed25519's do.
fn key_inside(peer: &PeerId) -> Option<PublicKey> {
    let bytes = peer.to_bytes();
    match bytes.as_slice() {
        [0, length, key @ ..] if usize::from(*length) == key.len() => {
            PublicKey::try_decode_protobuf(key).ok()
        }
        _ => None,
    }
}

/// PKCS#1 wrapped as a SubjectPublicKeyInfo (RFC 5280, 4.1), the form that libp2p reads.
fn subject_public_key(pkcs1: &[u8]) -> Vec<u8> {
    let bits = element(3, &[&[0], pkcs1].concat());
    element(0x30, &[RSA_ALGORITHM.as_slice(), &bits].concat())
}

/// A DER element of less than 64 KiB, which [`DID_BYTES_MAX`] ensures.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;
    use crate::identity::tests::{RSA as RSA_FILE, RSA_PEER, bytes};

    /// The seed of zeros: its public key and DID are vectors of the did:key method.
    const ZERO_KEY: &str = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29";
    const ZERO_DID: &str = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
    /// The RSA-2048 vector of the did:key method.
    const RSA_DID: &str = concat!(
        "did:key:z4MXj1wBzi9jUstyPMS4jQqB6KdJaiatPkAtVtGc6bQEQEEsKTic4G7Rou3iBf9vPmT5dbkm9qsZsuVNjq8HCuW1",
        "w24nhBFGkRE4cd2Uf2tfrB3N7h4mnyPp1BF3ZttHTYv3DLUPi1zMdkULiow3M1GfXkoC6DoxDUm1jmN6GBj22SjVsr6dxezR",
        "VQc7aj9TxE7JLbMH1wh5X3kA58H3DFW8rnYMakFGbca5CB2Jf6CnGQZmL7o5uJAdTwXfy2iiiyPxXEGerMhHwhjTA1mKYoby",
        "k2CpeEcmvynADfNZ5MBvcCS7m3XkFCMNUYBS9NQ3fze6vMSUPsNa6GVYmKx2x6JrdEjCk3qRMMmyjnjCMfR4pXbRMZa3i"
    );

    fn zero() -> Identity {
        Identity::from_protobuf(&bytes(&format!("08011240{}{ZERO_KEY}", "00".repeat(32)))).unwrap()
    }

    #[test]
    fn the_vectors_of_did_key_read_and_write_the_same() {
        assert_eq!(zero().did().to_string(), ZERO_DID);
        for text in [ZERO_DID, RSA_DID, "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"] {
            assert_eq!(Did::parse(text).unwrap().to_string(), text);
        }
        let key = Did::parse(ZERO_DID).unwrap().public().unwrap().clone();
        assert_eq!(key.try_into_ed25519().unwrap().to_bytes().as_slice(), bytes(ZERO_KEY));
    }

    #[test]
    fn the_vector_of_did_peer_names_the_same_key_as_its_did_key() {
        let peer = Did::parse("did:peer:0z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH").unwrap();
        let key = Did::parse("did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH").unwrap();
        assert_eq!(peer, key);
        assert_eq!(key.did_peer().unwrap(), "did:peer:0z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH");
        assert_ne!(peer, zero().did());
    }

    #[test]
    fn the_alias_of_kwaainet_is_read_and_an_ed25519_one_holds_its_key() {
        let did = zero().did();
        let alias = Did::parse(&format!("did:peer:{}", zero().peer_id())).unwrap();
        assert_eq!(alias, did);
        assert_eq!(alias.to_string(), ZERO_DID);
        let hash = Did::parse(&format!("did:peer:{}", RSA_PEER.trim())).unwrap();
        assert!(hash.public().is_none() && hash.document().is_none());
        assert_eq!(hash.to_string(), hash.alias());
        let rsa = Identity::from_protobuf(RSA_FILE).unwrap().did();
        assert_eq!(rsa, hash);
        assert_eq!(Did::parse(&rsa.to_string()).unwrap(), hash);
    }

    #[test]
    fn the_document_holds_the_key_in_every_role() {
        let document = zero().did().document().unwrap();
        let method = format!("{ZERO_DID}#{}", ZERO_DID.trim_start_matches("did:key:"));
        assert_eq!(document["id"], ZERO_DID);
        assert_eq!(document["verificationMethod"][0]["id"], method);
        assert_eq!(document["verificationMethod"][0]["controller"], ZERO_DID);
        for role in ["authentication", "assertionMethod", "capabilityDelegation", "capabilityInvocation"] {
            assert_eq!(document[role][0], method, "{role}");
        }
        for other in document["alsoKnownAs"].as_array().unwrap() {
            assert_eq!(Did::parse(other.as_str().unwrap()).unwrap(), zero().did());
        }
    }

    #[test]
    fn other_texts_are_refused() {
        // Among them keys of secp256k1 and X25519, did:peer methods 1 and 2, a cut and an unknown letter.
        for text in [
            "",
            "did:",
            "did:key:",
            "did:web:example.com",
            "did:key:z",
            "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",
            "did:key:z6LShs9GGnqk85isEBzzshkuVWrVKsRp24GnDuHk8QWkARMW",
            "did:key:u7QE7aie8zrakLWKjqNAqbw1zZTIVdx3iQ6Y6wEihi1naKQ",
            "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooW",
            "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDoo0p",
            "did:peer:1zQmZMygzYqNwU6Uhmewx5Xepf2VLp5S4HLSwwgf2aiKZuwa",
            "did:peer:2.Ez6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc",
            "did:peer:",
            "key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
        ] {
            assert!(matches!(Did::parse(text), Err(Error::Broken(_))), "{text}");
        }
    }

    #[test]
    fn a_did_is_read_up_to_its_longest() {
        let longest = format!("did:key:z{}", "1".repeat(DID_BYTES_MAX - 9));
        let said = |text: &str| Did::parse(text).unwrap_err().to_string();
        assert!(said(&longest).contains("neither Ed25519 nor RSA"));
        assert!(said(&format!("{longest}1")).contains("longer than"));
    }
}
