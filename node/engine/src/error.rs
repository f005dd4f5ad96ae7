//! What can go wrong in the engine, as sentences.
//!
//! Each variant says what was tried, what was found and what to do, so that a caller can print it as it is.

use std::fmt;
use std::io;

/// Why the engine refused or failed.
#[derive(Debug)]
pub enum Error {
    /// The system refused to read or write; `what` says what was tried.
    Io {
        /// What was tried, with the path.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file contradicts itself or its format.
    Broken {
        /// The file's name.
        file: String,
        /// The field and what was found in it.
        what: String,
        /// Where in the file, in bytes from its start, if known.
        offset: Option<u64>,
    },
    /// Well formed, but not something this engine can run.
    Unsupported {
        /// What was found and what would be supported.
        what: String,
    },
    /// The memory needed is more than the memory there is; the sentence holds both numbers and the nearest
    /// thing that fits.
    DoesNotFit {
        /// The whole sentence.
        what: String,
    },
    /// The caller asked for something that can't be done.
    Request {
        /// What was asked, and what is possible.
        what: String,
    },
}

impl Error {
    /// An [`Error::Io`] with its context.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Error::Io { what: what.into(), source }
    }

    /// An [`Error::Broken`] at a known place.
    pub fn broken_at(file: impl Into<String>, offset: u64, what: impl Into<String>) -> Self {
        Error::Broken { file: file.into(), what: what.into(), offset: Some(offset) }
    }

    /// An [`Error::Broken`] without a place.
    pub fn broken(file: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Broken { file: file.into(), what: what.into(), offset: None }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>) -> Self {
        Error::Unsupported { what: what.into() }
    }

    /// An [`Error::Request`].
    pub fn request(what: impl Into<String>) -> Self {
        Error::Request { what: what.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { what, source } => write!(f, "{what}: {source}"),
            Error::Broken { file, what, offset: Some(offset) } => {
                write!(f, "{file} is broken at byte {offset}: {what}")
            }
            Error::Broken { file, what, offset: None } => write!(f, "{file} is broken: {what}"),
            Error::Unsupported { what } | Error::DoesNotFit { what } | Error::Request { what } => {
                f.write_str(what)
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
