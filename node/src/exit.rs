//! How the process ends: its exit codes, and the failures that lead to them.
//!
//! The codes are documented in `docs/cli.md`; scripts rely on them.

use std::fmt;
use std::io;

use kwaainet_engine::Error;

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// Something failed that is none of the below: a file can't be read, a port is taken.
    Failure = 1,
    /// The command line asks for something that can't be done.
    Usage = 2,
    /// No node runs that could be asked or stopped.
    NotRunning = 3,
    /// A node of this home folder runs already.
    AlreadyRunning = 4,
    /// The processor lacks what this build or `KWAAINET_KERNELS` needs.
    WrongProcessor = 64,
    /// The model's files are broken, or of a kind that isn't supported.
    BrokenModel = 65,
    /// The model doesn't fit into memory.
    DoesNotFit = 69,
    /// The identity can't be had: its file is missing, broken, open to others, or sealed and nobody opens it.
    NoIdentity = 77,
    /// `config.toml` or a setting in the environment is wrong.
    Config = 78,
    /// Ended by Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    const ALL: [Exit; 11] = [
        Exit::Success,
        Exit::Failure,
        Exit::Usage,
        Exit::NotRunning,
        Exit::AlreadyRunning,
        Exit::WrongProcessor,
        Exit::BrokenModel,
        Exit::DoesNotFit,
        Exit::NoIdentity,
        Exit::Config,
        Exit::Interrupted,
    ];

    /// The code of a process of this binary; [`Exit::Failure`] for any that it doesn't have.
    pub fn from_code(code: i32) -> Exit {
        Exit::ALL.into_iter().find(|exit| *exit as i32 == code).unwrap_or(Exit::Failure)
    }
}

/// Why a command failed: a sentence for standard error, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What was tried, what was found, what to do.
    pub message: String,
}

impl Failure {
    /// A failure with its code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, message: message.into() }
    }

    /// The command line asks for something that can't be done.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Broken { .. } | Error::Unsupported { .. } => Exit::BrokenModel,
            Error::DoesNotFit { .. } => Exit::DoesNotFit,
            Error::Request { .. } => Exit::Usage,
            Error::Io { .. } => Exit::Failure,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<kwaainet_trust::Error> for Failure {
    fn from(error: kwaainet_trust::Error) -> Self {
        use kwaainet_trust::Error as Trust;
        let exit = match &error {
            Trust::Io { .. } | Trust::Exists(_) => Exit::Failure,
            Trust::Exposed { .. } | Trust::Broken(_) | Trust::Sealed | Trust::WrongPassphrase => {
                Exit::NoIdentity
            }
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<io::Error> for Failure {
    /// A reader that closed the pipe has what it wanted; that is no failure.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Exit::Success, ""),
            _ => Failure::new(Exit::Failure, format!("standard input or output failed: {error}")),
        }
    }
}
