//! A key sealed by a passphrase.
//!
//! Argon2id (RFC 9106) makes a key of the passphrase, XChaCha20-Poly1305 seals the stored form with it. The
//! whole header is authenticated, and what it asks for is bounded before anything is computed.
//!
//! | bytes | what |
//! |---|---|
//! | 0..16 | `kwaainet sealed\n` |
//! | 16 | version, 1 |
//! | 17..29 | memory in KiB, passes, lanes: three u32, little-endian |
//! | 29..45 | salt |
//! | 45..69 | nonce |
//! | 69.. | the sealed stored form and its tag of 16 bytes |

use argon2::{Algorithm, Argon2, ParamsBuilder, Version};
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::limits::{
    KEY_FILE_BYTES_MAX, PASSPHRASE_BYTES_MAX, SEAL_LANES, SEAL_LANES_MAX, SEAL_MEMORY_KIB,
    SEAL_MEMORY_KIB_MAX, SEAL_MEMORY_KIB_MIN, SEAL_PASSES, SEAL_PASSES_MAX,
};
use crate::{Error, Secret};

const MAGIC: &[u8; 16] = b"kwaainet sealed\n";
const VERSION: u8 = 1;
const SALT_AT: usize = 29;
const NONCE_AT: usize = 45;
const HEADER_BYTES: usize = 69;
/// Poly1305's.
const TAG_BYTES: usize = 16;

/// What Argon2id costs.
#[derive(Clone, Copy)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

const COST: Cost = Cost { memory_kib: SEAL_MEMORY_KIB, passes: SEAL_PASSES, lanes: SEAL_LANES };

/// Whether these bytes are meant to be a sealed key.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Seals a stored form.
pub fn seal(stored: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, Error> {
    seal_at(stored, passphrase, COST)
}

fn seal_at(stored: &[u8], passphrase: &[u8], cost: Cost) -> Result<Vec<u8>, Error> {
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    for number in [cost.memory_kib, cost.passes, cost.lanes] {
        out.extend(number.to_le_bytes());
    }
    let mut random = [0; HEADER_BYTES - SALT_AT];
    getrandom::fill(&mut random)
        .map_err(|error| Error::Broken(format!("the system gives no randomness: {error}")))?;
    out.extend(random);
    let cipher = cipher(&out, passphrase)?;
    let mut body = Zeroizing::new(Vec::with_capacity(stored.len() + TAG_BYTES));
    body.extend_from_slice(stored);
    cipher
        .encrypt_in_place(XNonce::from_slice(&out[NONCE_AT..HEADER_BYTES]), &out, &mut *body)
        .map_err(|_| Error::Broken("the key is too long to be sealed".into()))?;
    out.extend_from_slice(&body);
    Ok(out)
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`Error::Broken`] if it is of another version or asks for more than the limits, [`Error::WrongPassphrase`]
/// if the passphrase is another or a byte was changed.
pub fn open(sealed: &[u8], passphrase: &[u8]) -> Result<Secret, Error> {
    let broken = |what: String| Err(Error::Broken(format!("the sealed key {what}")));
    if sealed.len() > KEY_FILE_BYTES_MAX || sealed.len() < HEADER_BYTES {
        return broken(format!("has {} bytes, not {HEADER_BYTES} to {KEY_FILE_BYTES_MAX}", sealed.len()));
    }
    let (header, body) = sealed.split_at(HEADER_BYTES);
    if header[16] != VERSION {
        return broken(format!("is of version {}; this node reads version {VERSION}", header[16]));
    }
    let cipher = cipher(header, passphrase)?;
    let mut body = Zeroizing::new(body.to_vec());
    cipher
        .decrypt_in_place(XNonce::from_slice(&header[NONCE_AT..]), header, &mut *body)
        .map_err(|_| Error::WrongPassphrase)?;
    Ok(body)
}

/// The cipher for a header and a passphrase. Its memory is wiped by the library, the block of Argon2id by its
/// own.
fn cipher(header: &[u8], passphrase: &[u8]) -> Result<XChaCha20Poly1305, Error> {
    if passphrase.is_empty() || passphrase.len() > PASSPHRASE_BYTES_MAX {
        return Err(Error::Broken(format!("a passphrase has 1 to {PASSPHRASE_BYTES_MAX} bytes")));
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let cost = Cost { memory_kib: number(17), passes: number(21), lanes: number(25) };
    let is_fair = (SEAL_MEMORY_KIB_MIN..=SEAL_MEMORY_KIB_MAX).contains(&cost.memory_kib)
        && (1..=SEAL_PASSES_MAX).contains(&cost.passes)
        && (1..=SEAL_LANES_MAX).contains(&cost.lanes);
    if !is_fair {
        return Err(Error::Broken(format!(
            "the sealed key asks for {} KiB, {} passes and {} lanes; {SEAL_MEMORY_KIB_MIN} to \
             {SEAL_MEMORY_KIB_MAX} KiB, {SEAL_PASSES_MAX} and {SEAL_LANES_MAX} are allowed",
            cost.memory_kib, cost.passes, cost.lanes
        )));
    }
    let costs = ParamsBuilder::new()
        .m_cost(cost.memory_kib)
        .t_cost(cost.passes)
        .p_cost(cost.lanes)
        .output_len(32)
        .build()
        .expect("the limits lie inside Argon2's own");
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, costs)
        .hash_password_into(passphrase, &header[SALT_AT..NONCE_AT], key.as_mut_slice())
        .map_err(|error| Error::Broken(format!("the passphrase can't be hashed: {error}")))?;
    Ok(XChaCha20Poly1305::new_from_slice(key.as_slice()).expect("the key has the cipher's 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: SEAL_MEMORY_KIB_MIN, passes: 1, lanes: 1 };

    #[test]
    fn what_is_sealed_opens_with_its_passphrase_alone() {
        let sealed = seal_at(b"secret", b"open sesame", CHEAP).unwrap();
        assert!(is_sealed(&sealed));
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(open(&sealed, b"open sesame").unwrap().as_slice(), b"secret");
        assert!(matches!(open(&sealed, b"open sesamE"), Err(Error::WrongPassphrase)));
    }

    #[test]
    fn the_same_secret_is_sealed_differently_each_time() {
        assert_ne!(seal_at(b"s", b"p", CHEAP).unwrap(), seal_at(b"s", b"p", CHEAP).unwrap());
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let sealed = seal_at(b"secret", b"p", CHEAP).unwrap();
        for at in 16..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&changed, b"p").is_err(), "byte {at}");
            assert!(open(&sealed[..at], b"p").is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_header_may_ask_for_no_more_than_the_limits() {
        let said = |cost: Cost| {
            let mut header = seal_at(b"", b"p", CHEAP).unwrap();
            for (at, number) in [(17, cost.memory_kib), (21, cost.passes), (25, cost.lanes)] {
                header[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            open(&header, b"p").unwrap_err().to_string()
        };
        let refused = |cost| said(cost).contains("are allowed");
        assert!(refused(Cost { memory_kib: SEAL_MEMORY_KIB_MAX + 1, ..CHEAP }));
        assert!(refused(Cost { memory_kib: SEAL_MEMORY_KIB_MIN - 1, ..CHEAP }));
        assert!(refused(Cost { passes: SEAL_PASSES_MAX + 1, ..CHEAP }));
        assert!(refused(Cost { passes: 0, ..CHEAP }));
        assert!(refused(Cost { lanes: SEAL_LANES_MAX + 1, ..CHEAP }));
        assert!(refused(Cost { lanes: 0, ..CHEAP }));
        assert!(!refused(Cost { passes: SEAL_PASSES_MAX, lanes: SEAL_LANES_MAX, ..CHEAP }));
    }

    #[test]
    fn a_passphrase_has_a_length() {
        let long = vec![b'p'; PASSPHRASE_BYTES_MAX + 1];
        assert!(seal_at(b"s", &long, CHEAP).is_err());
        assert!(seal_at(b"s", b"", CHEAP).is_err());
        let sealed = seal_at(b"s", &long[1..], CHEAP).unwrap();
        assert_eq!(open(&sealed, &long[1..]).unwrap().as_slice(), b"s");
    }
}
