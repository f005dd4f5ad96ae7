//! RSA keys as Hivemind writes them into records, and their signatures.
//!
//! `ssh-rsa` and base64, as OpenSSH writes public keys (RFC 4253, section 6.6). Signatures are PSS with
//! SHA-256 and the longest salt that the key has room for, which is what Python's `cryptography` means by
//! `PSS.MAX_LENGTH`.

use data_encoding::BASE64;
use rsa::pss::{Signature, VerifyingKey};
use rsa::signature::Verifier;
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, PublicKey};
use sha2::{Digest, Sha256};

use super::Malformed;

/// Longest modulus, in bits: twice Hivemind's own, so that checking one signature stays under a millisecond.
const MODULUS_BITS_MAX: u32 = 4096;
const ALGORITHM: &[u8] = b"ssh-rsa";

/// A public key.
pub struct RsaKey(VerifyingKey<Sha256>);

impl RsaKey {
    /// Reads `ssh-rsa AAAA...`.
    ///
    /// # Errors
    ///
    /// Says that it is none.
    pub fn from_open_ssh(text: &[u8]) -> Result<RsaKey, Malformed> {
        read(text).ok_or_else(|| Malformed("an owner is no RSA key in OpenSSH's words".to_owned()))
    }

    /// Whether the signature is this key's over the bytes.
    pub fn verify(&self, bytes: &[u8], signature: &[u8]) -> bool {
        Signature::try_from(signature).is_ok_and(|signature| self.0.verify(bytes, &signature).is_ok())
    }
}

fn read(text: &[u8]) -> Option<RsaKey> {
    let base64 = text.strip_prefix(ALGORITHM)?.strip_prefix(b" ")?;
    let blob = BASE64.decode(base64).ok()?;
    let (algorithm, rest) = part(&blob)?;
    let (exponent, rest) = part(rest)?;
    let (modulus, rest) = part(rest)?;
    if algorithm != ALGORITHM || !rest.is_empty() {
        return None;
    }
    let key = PublicKey::new(number(modulus)?, number(exponent)?).ok()?;
    let salt_bytes = key.size().checked_sub(Sha256::output_size() + 2)?;
    Some(RsaKey(VerifyingKey::new_with_salt_len(key, salt_bytes)))
}

/// Bytes behind their length, and what follows.
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

fn number(bytes: &[u8]) -> Option<BoxedUint> {
    let leading = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[leading..];
    let bits = u32::try_from(bytes.len()).ok()?.checked_mul(8)?;
    (bits <= MODULUS_BITS_MAX).then(|| BoxedUint::from_be_slice(bytes, bits.max(64)).ok())?
}
