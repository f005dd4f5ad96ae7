//! What can be wrong with a key, as sentences.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why an identity can't be had.
#[derive(Debug)]
pub enum Error {
    /// The system refused.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, such as "read".
        tried: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is a file where a new one was to be made.
    Exists(PathBuf),
    /// Others than the owner can read a secret.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Bytes or text that are no key, no sealed key or no DID; the sentence tells what was found.
    Broken(String),
    /// The key is sealed, and no passphrase was given.
    Sealed,
    /// The passphrase doesn't open it, or it was changed.
    WrongPassphrase,
}

impl Error {
    pub(crate) fn io(path: &Path, tried: &'static str, source: io::Error) -> Error {
        Error::Io { path: path.to_owned(), tried, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, tried, source } => {
                write!(f, "the file {} can't be {tried}: {source}", path.display())
            }
            Error::Exists(path) => write!(f, "{} is there already and is not overwritten", path.display()),
            Error::Exposed { path, mode } => write!(
                f,
                "others can read the key file {path} (mode {mode:04o}); `chmod 600 {path}` mends that, and \
                 if others use this machine, a new key is wiser",
                path = path.display()
            ),
            Error::Broken(what) => f.write_str(what),
            Error::Sealed => f.write_str("the key is sealed by a passphrase, and none was given"),
            Error::WrongPassphrase => {
                f.write_str("the passphrase does not open the key file, or the file was changed")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
