//! What can go wrong in the network, as sentences.
//!
//! Each says what was tried, what was found and what to do. Calls have their own, [`crate::call::CallError`],
//! since whoever calls acts on the difference.

use std::fmt;
use std::io;

/// Why the network refused or failed.
#[derive(Debug)]
pub enum Error {
    /// A setting can't be used.
    Setting {
        /// Which, what was found, and what would do.
        what: String,
    },
    /// The identity can't be used for encryption.
    Identity {
        /// What was found.
        what: String,
    },
    /// The system refused; `what` says what was tried.
    Io {
        /// What was tried, with the address or path.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A peer could not be reached, or not within the time.
    Unreachable {
        /// Who, and why.
        what: String,
    },
    /// A peer was reached, and what it did is against the protocol or a limit.
    Peer {
        /// What it did.
        what: String,
    },
    /// The network was stopped.
    Stopped,
}

impl Error {
    pub(crate) fn setting(what: impl Into<String>) -> Self {
        Error::Setting { what: what.into() }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Error::Io { what: what.into(), source }
    }

    pub(crate) fn unreachable(what: impl Into<String>) -> Self {
        Error::Unreachable { what: what.into() }
    }

    pub(crate) fn peer(what: impl Into<String>) -> Self {
        Error::Peer { what: what.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Setting { what } | Error::Unreachable { what } | Error::Peer { what } => {
                write!(out, "{what}")
            }
            Error::Identity { what } => write!(out, "the identity can't be used: {what}"),
            Error::Io { what, source } => write!(out, "{what}: {source}"),
            Error::Stopped => write!(out, "the network was stopped"),
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
