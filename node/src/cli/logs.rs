//! `kwaainet logs`: what the node said.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use argh::FromArgs;

use crate::exit::{Exit, Failure};
use crate::limits::{LOG_FILES_MAX, LOG_LINES_MAX};
use crate::signals::Signals;
use crate::{home, log};

/// How often a follower looks for more.
const LOOK: Duration = Duration::from_millis(250);

/// print what the node said
#[derive(FromArgs)]
#[argh(subcommand, name = "logs")]
pub struct Logs {
    /// the last so many lines (default: 50)
    #[argh(option, short = 'n', default = "50")]
    lines: usize,
    /// go on as more comes, until Ctrl-C
    #[argh(switch, short = 'f')]
    follow: bool,
}

impl Logs {
    /// Prints the log.
    pub fn execute(self) -> Result<Exit, Failure> {
        if self.lines > LOG_LINES_MAX {
            return Err(Failure::usage(format!("-n {} is more than {LOG_LINES_MAX} lines", self.lines)));
        }
        let path = log::path(&home::path()?.join("logs"));
        let mut out = io::stdout().lock();
        if !path.exists() && !self.follow {
            let message =
                format!("there is no log at {}; a node that was started writes one", path.display());
            return Err(Failure::new(Exit::Failure, message));
        }
        for line in last_lines(&path, self.lines)? {
            writeln!(out, "{line}")?;
        }
        if self.follow {
            follow(&path, &mut out)?;
            return Ok(Exit::Interrupted);
        }
        Ok(Exit::Success)
    }
}

/// The last lines of all logs that are kept, in order.
fn last_lines(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut lines = std::collections::VecDeque::new();
    for index in (0..LOG_FILES_MAX).rev() {
        let Ok(file) = File::open(log::older(path, index)) else { continue };
        for line in BufReader::new(file).split(b'\n') {
            lines.push_back(String::from_utf8_lossy(&line?).into_owned());
            if lines.len() > count {
                lines.pop_front();
            }
        }
    }
    Ok(lines.into())
}

/// Prints what comes, from now on; a log that was begun anew is read from its beginning.
fn follow(path: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let mut file = File::open(path).ok();
    if let Some(file) = &mut file {
        file.seek(SeekFrom::End(0))?;
    }
    while !signals.came() {
        let mut bytes = Vec::new();
        if let Some(file) = &mut file {
            file.read_to_end(&mut bytes)?;
            out.write_all(&bytes)?;
            out.flush()?;
        }
        if bytes.is_empty() && is_another(path, file.as_ref()) {
            file = File::open(path).ok();
        } else if bytes.is_empty() {
            thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// Whether the file at `path` is another than the open one.
#[cfg(unix)]
fn is_another(path: &Path, open: Option<&File>) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(there) = fs::metadata(path) else { return false };
    let open = open.and_then(|file| file.metadata().ok());
    open.is_none_or(|open| (open.dev(), open.ino()) != (there.dev(), there.ino()))
}

/// Whether the file at `path` is another than the open one: one that came, or is shorter.
#[cfg(not(unix))]
fn is_another(path: &Path, open: Option<&File>) -> bool {
    let Ok(there) = fs::metadata(path) else { return false };
    let open = open.and_then(|file| file.metadata().ok());
    open.is_none_or(|open| there.len() < open.len())
}
