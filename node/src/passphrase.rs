//! Where the passphrase of a sealed key comes from: a file, the environment, or a person who types it unseen.

use std::env;
use std::fs;
use std::io::Read;
use std::path::Path;

use kwaainet_trust::{Secret, Zeroizing, limits::PASSPHRASE_BYTES_MAX};

use crate::config::{Config, keys};
use crate::exit::{Exit, Failure};

/// The passphrase as settings and environment have it: the first line of `identity.passphrase_file`, else
/// `KWAAINET_PASSPHRASE`.
pub fn from_settings(config: &Config) -> Result<Option<Secret>, Failure> {
    match config.path(&keys::IDENTITY_PASSPHRASE_FILE) {
        Some(path) => from_file(&path).map(Some),
        None => {
            let variable = env::var("KWAAINET_PASSPHRASE").ok().filter(|text| !text.is_empty());
            Ok(variable.map(|text| Zeroizing::new(text.into_bytes())))
        }
    }
}

/// The first line of a file.
pub fn from_file(path: &Path) -> Result<Secret, Failure> {
    let failed = |what: String| {
        Failure::new(Exit::NoIdentity, format!("the passphrase file {}: {what}", path.display()))
    };
    let file = fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 3));
    let read = file.take(PASSPHRASE_BYTES_MAX as u64 + 2).read_to_end(&mut bytes);
    read.map_err(|error| failed(error.to_string()))?;
    Ok(first_line(bytes))
}

/// Cuts a secret behind its first line.
pub fn first_line(mut bytes: Secret) -> Secret {
    let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// Asks at the terminal, unseen; `None` if there is no terminal, or nothing is typed.
#[cfg(unix)]
pub fn prompt(question: &str) -> Option<Secret> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    use std::io::Write;

    let mut terminal = fs::OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    let before = tcgetattr(&terminal).ok()?;
    let mut unseen = before.clone();
    // Without signals, or Ctrl-C would leave the terminal without echo; it comes as a byte instead.
    unseen.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    unseen.local_modes.insert(LocalModes::ECHONL | LocalModes::ICANON);
    write!(terminal, "{question}: ").ok()?;
    tcsetattr(&terminal, OptionalActions::Flush, &unseen).ok()?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 1));
    let mut byte = [0];
    while bytes.len() <= PASSPHRASE_BYTES_MAX && matches!(terminal.read(&mut byte), Ok(1)) {
        match byte[0] {
            b'\n' => break,
            INTERRUPT => {
                bytes.clear();
                break;
            }
            letter => bytes.push(letter),
        }
    }
    // Nothing more can be done for a terminal that refuses its own settings.
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
    (!bytes.is_empty()).then_some(bytes)
}

/// Ctrl-C as a byte.
#[cfg(unix)]
const INTERRUPT: u8 = 3;

/// Asks at the terminal; other systems than Unix take it from a file or the environment.
#[cfg(not(unix))]
pub fn prompt(_question: &str) -> Option<Secret> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_file_is_the_passphrase() {
        let path = env::temp_dir().join(format!("kwaainet-passphrase-{}", std::process::id()));
        for (text, expected) in
            [("open sesame\n", "open sesame"), ("a\r\nb", "a"), ("a b ", "a b "), ("", "")]
        {
            fs::write(&path, text).unwrap();
            assert_eq!(from_file(&path).unwrap().as_slice(), expected.as_bytes(), "{text:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(from_file(&path).unwrap_err().exit, Exit::NoIdentity);
    }
}
