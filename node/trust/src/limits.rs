//! Every bound of keys and identities, with unit and reason.
//!
//! Key files and DIDs come from elsewhere; nothing is read, decoded or allocated past these.

/// A key file, in bytes: the private half of an RSA key of 8192 bits takes 4,700, sealed or not.
pub const KEY_FILE_BYTES_MAX: usize = 8 * 1024;
/// A DID, in bytes of text: one of an RSA key of 8192 bits has 1,440. Base 58 takes time by the square of it.
pub const DID_BYTES_MAX: usize = 2048;
/// A passphrase, in bytes: nobody types more, and it is hashed before anything else is known.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Modulus of an RSA key, in bits: what the libp2p specification and the signing library accept.
pub const RSA_BITS_MIN: usize = 2048;

/// Memory that opening a sealed key may take, in KiB. The file says how much, and a board of 512 MB must not
/// be brought down by a file.
pub const SEAL_MEMORY_KIB_MAX: u32 = 256 * 1024;
/// The least that is accepted, in KiB, so that nobody can make a file that is sealed in name only.
pub const SEAL_MEMORY_KIB_MIN: u32 = 8 * 1024;
/// Passes over that memory; with the most memory 16 take a minute on a slow core.
pub const SEAL_PASSES_MAX: u32 = 16;
/// Lanes of it; more bring nothing on four cores.
pub const SEAL_LANES_MAX: u32 = 4;
/// What new files are sealed with, in KiB: RFC 9106's choice for machines with little memory.
pub const SEAL_MEMORY_KIB: u32 = 64 * 1024;
/// Passes for new files, RFC 9106's choice with that memory.
pub const SEAL_PASSES: u32 = 3;
/// Lanes for new files.
pub const SEAL_LANES: u32 = 1;
