//! Records that only their owner can write.
//!
//! Wire protocols, section 4.10. A subkey that names an owner between `[owner:` and `]` makes its record a
//! signed one: its value ends with `[signature:`, base64 and `]`, over the key, the subkey, the value before
//! the signature and the expiration. Hivemind's owners are RSA keys in OpenSSH's words. Ours are peer ids
//! between `[kwaai-owner:` and `]`: an Ed25519 peer id holds its own public key, and Hivemind's validator
//! passes such records by, since it knows only its own mark. Records without either mark need no signature.

use std::borrow::Cow;

use data_encoding::BASE64;
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};

use super::Malformed;
use super::dictionary::Subkey;
use super::id::Id;
use super::msgpack::Value;
use super::rsa_key::RsaKey;

const RSA_OWNER: &[u8] = b"[owner:";
const PEER_OWNER: &[u8] = b"[kwaai-owner:";
const SIGNATURE: &[u8] = b"[signature:";
const END: u8 = b']';
/// Multihash code of an id that holds its public key instead of the key's hash.
const IDENTITY_HASH: u64 = 0;

/// Who alone may write a record.
enum Owner<'a> {
    Rsa(&'a [u8]),
    Peer(&'a [u8]),
}

/// The subkey of a record that only `peer` can write; `name` tells its records apart.
///
/// # Errors
///
/// Says that the name is too long.
pub fn owned_subkey(peer: PeerId, name: &str) -> Result<Subkey, Malformed> {
    Subkey::text(&format!("{name}[kwaai-owner:{peer}]"))
}

/// The value with its owner's signature behind it.
///
/// # Errors
///
/// Says that the key can't sign.
pub fn sign(
    keys: &Keypair,
    key: Id,
    subkey: &Subkey,
    value: &[u8],
    expiration: f64,
) -> Result<Vec<u8>, Malformed> {
    let signature = keys.sign(&signed_bytes(key, subkey, value, expiration));
    let signature = signature.map_err(|error| Malformed(format!("the record can't be signed: {error}")))?;
    Ok([value, SIGNATURE, BASE64.encode(&signature).as_bytes(), &[END]].concat())
}

/// Whether a record names an owner, and so has a signature over its expiration too.
pub fn is_owned(subkey: Option<&Subkey>) -> bool {
    subkey
        .is_some_and(|subkey| find(subkey.bytes(), RSA_OWNER).or(find(subkey.bytes(), PEER_OWNER)).is_some())
}

/// The record's value without its signature, once that is found to be its owner's.
///
/// # Errors
///
/// Says what is wrong with the owner or the signature.
pub fn check<'a>(
    key: Id,
    subkey: Option<&Subkey>,
    value: &'a [u8],
    expiration: f64,
) -> Result<Cow<'a, [u8]>, Malformed> {
    let Some((subkey, owner)) = owner(subkey)? else { return Ok(Cow::Borrowed(value)) };
    let at = find(value, SIGNATURE).ok_or_else(|| refusal("the record of an owner bears no signature"))?;
    let (stripped, rest) = value.split_at(at);
    let inside = rest[SIGNATURE.len()..].strip_suffix(&[END]);
    let signature = inside.and_then(|text| BASE64.decode(text).ok());
    let signature = signature.ok_or_else(|| refusal("a record's signature is no base64 at its end"))?;
    let bytes = signed_bytes(key, subkey, stripped, expiration);
    let is_owners = match owner {
        Owner::Rsa(text) => RsaKey::from_open_ssh(text)?.verify(&bytes, &signature),
        Owner::Peer(text) => public_key(text)?.verify(&bytes, &signature),
    };
    if is_owners {
        Ok(Cow::Borrowed(stripped))
    } else {
        Err(refusal("the record is signed by another than the owner that its subkey names"))
    }
}

fn owner(subkey: Option<&Subkey>) -> Result<Option<(&Subkey, Owner<'_>)>, Malformed> {
    let Some(subkey) = subkey else { return Ok(None) };
    let mut owners: Vec<&[u8]> = marked(subkey.bytes(), RSA_OWNER).collect();
    let rsa_count = owners.len();
    owners.extend(marked(subkey.bytes(), PEER_OWNER));
    let Some(first) = owners.first() else { return Ok(None) };
    if owners.iter().any(|other| other != first) {
        return Err(refusal("a subkey names two owners"));
    }
    Ok(Some((subkey, if rsa_count > 0 { Owner::Rsa(first) } else { Owner::Peer(first) })))
}

/// The public key that an Ed25519 peer id holds.
fn public_key(peer: &[u8]) -> Result<PublicKey, Malformed> {
    let none = || refusal("an owner is no peer id that holds its public key (12D3Koo...)");
    let peer: PeerId = std::str::from_utf8(peer).ok().and_then(|text| text.parse().ok()).ok_or_else(none)?;
    let hash = peer.as_ref();
    if hash.code() != IDENTITY_HASH {
        return Err(none());
    }
    PublicKey::try_decode_protobuf(hash.digest()).map_err(|_| none())
}

/// What is signed: the tuple of key, subkey, value and expiration in msgpack.
fn signed_bytes(key: Id, subkey: &Subkey, value: &[u8], expiration: f64) -> Vec<u8> {
    let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
    Value::Tuple(vec![bytes(&key.0), bytes(subkey.bytes()), bytes(value), Value::Float(expiration)]).encode()
}

/// What stands between each `mark` and the next `]`.
fn marked<'a>(bytes: &'a [u8], mark: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        rest = &rest[find(rest, mark)? + mark.len()..];
        let end = rest.iter().position(|byte| *byte == END)?;
        let (inside, after) = rest.split_at(end);
        rest = after;
        Some(inside)
    })
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn refusal(text: &str) -> Malformed {
    Malformed(text.to_owned())
}
