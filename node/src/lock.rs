//! One node a home folder.
//!
//! The system's lock on a file tells whether a node runs: it ends with its process, however that ends, so a
//! number left behind that another process has by now means nothing.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::exit::{Exit, Failure};
use crate::home;

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(20);
/// A lock that is held for longer is a node's.
const TAKE_TIME_MAX: Duration = Duration::from_millis(200);

/// The lock, held while this lives.
pub struct Lock {
    _file: File,
}

fn open(home: &Path) -> Result<File, Failure> {
    let path = home::inner(home, "run")?.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&path).map_err(|error| {
        Failure::new(Exit::Failure, format!("the lock {} can't be opened: {error}", path.display()))
    })
}

impl Lock {
    /// Takes the lock for this process.
    ///
    /// # Errors
    /// [`Exit::AlreadyRunning`] with the process that has it.
    pub fn take(home: &Path) -> Result<Lock, Failure> {
        let mut file = open(home)?;
        // A command that looks whether a node runs has the lock for a moment too.
        let start = Instant::now();
        while file.try_lock().is_err() {
            if start.elapsed() < TAKE_TIME_MAX {
                std::thread::sleep(LOOK);
                continue;
            }
            let who = holder(&mut file).map_or(String::new(), |id| format!(", process {id}"));
            let message = format!(
                "a node runs already in {}{who}; `kwaainet status` tells about it, `kwaainet stop` ends it",
                home.display()
            );
            return Err(Failure::new(Exit::AlreadyRunning, message));
        }
        // In one write and of one width, so that nobody reads a half of it.
        file.rewind()?;
        file.write_all(format!("{:<10}\n", std::process::id()).as_bytes())?;
        Ok(Lock { _file: file })
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The process of the running node, 0 in the moment before it is written; `None` if none runs.
pub fn running(home: &Path) -> Option<u32> {
    // Without the file no node ever ran, and asking must not make folders.
    let mut file = File::open(home.join("run/lock")).ok()?;
    if file.try_lock_shared().is_ok() { None } else { Some(holder(&mut file).unwrap_or(0)) }
}

/// Waits until no node runs; whether that came within `time`.
pub fn wait_until_free(home: &Path, time: Duration) -> bool {
    let start = Instant::now();
    while running(home).is_some() {
        if start.elapsed() > time {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

/// Ends the running node the hard way. It holds the lock at this moment, so the number is its own.
#[cfg(unix)]
pub fn kill(home: &Path) -> bool {
    use rustix::process::{Pid, Signal, kill_process};
    let id = running(home).and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    id.is_some_and(|id| kill_process(id, Signal::KILL).is_ok())
}

/// Ends the running node the hard way; only Unix is served.
#[cfg(not(unix))]
pub fn kill(_home: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_refused_until_the_first_ends() {
        let home = std::env::temp_dir().join(format!("kwaainet-lock-{}", std::process::id()));
        assert_eq!(running(&home), None);
        let lock = Lock::take(&home).unwrap();
        assert_eq!(running(&home), Some(std::process::id()));
        let refused = Lock::take(&home).err().unwrap();
        assert_eq!(refused.exit, Exit::AlreadyRunning);
        assert!(refused.message.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(!wait_until_free(&home, Duration::ZERO));
        drop(lock);
        assert!(wait_until_free(&home, Duration::from_secs(5)));
        // The number is still in the file, and means nothing.
        assert!(!kill(&home));
        Lock::take(&home).unwrap();
        std::fs::remove_dir_all(&home).unwrap();
    }
}
