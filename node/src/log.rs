//! What the node says, a line at a time: to standard error, and to a log of bounded size.
//!
//! Lines hold what happened, not what is: states are asked with `status`. Control characters are taken out,
//! since parts of a line may come from peers and end on a terminal.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::limits::{LOG_BYTES_MAX, LOG_FILES_MAX, LOG_LINE_BYTES_MAX};

/// The log of this process; without one, lines go to standard error alone.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    file: Mutex<Rotating>,
    /// Whether standard error hears it as well.
    echo: bool,
}

/// From now on lines go to `kwaainet.log` in `folder`, and to standard error as well if `echo` is set. Panics
/// go there too.
pub fn open(folder: &Path, echo: bool) -> io::Result<()> {
    let log = Log { file: Mutex::new(Rotating::open(path(folder), LOG_BYTES_MAX)?), echo };
    // A second log in one process would be a mistake of ours, and the first goes on.
    let _ = LOG.set(log);
    if !echo {
        std::panic::set_hook(Box::new(|panic| say(&panic.to_string())));
    }
    Ok(())
}

/// The file in the folder of logs.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("kwaainet.log")
}

/// Says a line.
pub fn say(line: &str) {
    let line = clean(line);
    let Some(log) = LOG.get() else {
        eprintln!("{line}");
        return;
    };
    if log.echo {
        eprintln!("{line}");
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let line = format!("{} {line}\n", time_text(now_s));
    let mut file = log.file.lock().unwrap_or_else(PoisonError::into_inner);
    // A full disk must not end the node, and there is nobody left to tell.
    let _ = file.write(line.as_bytes());
}

/// One line, not too long, without what a terminal would obey.
fn clean(line: &str) -> Cow<'_, str> {
    if line.len() <= LOG_LINE_BYTES_MAX && !line.chars().any(char::is_control) {
        return Cow::Borrowed(line);
    }
    let mut out = String::new();
    for letter in line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }) {
        if out.len() + letter.len_utf8() > LOG_LINE_BYTES_MAX {
            break;
        }
        out.push(letter);
    }
    Cow::Owned(out)
}

/// Seconds since 1970 as `2026-11-25T22:53:00Z` (RFC 3339).
pub fn time_text(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the leap day is the last one; 400 years are 146,097 days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A file that is begun anew when it is full; the last ones are kept.
struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl Rotating {
    fn open(path: PathBuf, bytes_max: u64) -> io::Result<Rotating> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Rotating { path, file, bytes, bytes_max })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            for index in (1..LOG_FILES_MAX).rev() {
                // There may be no older one yet.
                let _ = fs::rename(older(&self.path, index - 1), older(&self.path, index));
            }
            *self = Rotating::open(self.path.clone(), self.bytes_max)?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// The log before `index` others: `kwaainet.log`, `kwaainet.log.1`, `kwaainet.log.2`.
pub fn older(path: &Path, index: usize) -> PathBuf {
    if index == 0 { path.to_owned() } else { path.with_added_extension(index.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_begun_anew_and_the_oldest_is_dropped() {
        let folder = std::env::temp_dir().join(format!("kwaainet-log-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let mut log = Rotating::open(path(&folder), 10).unwrap();
        for number in 0..20 {
            log.write(format!("{number:04}\n").as_bytes()).unwrap();
        }
        let text = |index| fs::read_to_string(older(&path(&folder), index)).unwrap();
        assert_eq!([text(2), text(1), text(0)], ["0014\n0015\n", "0016\n0017\n", "0018\n0019\n"]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), LOG_FILES_MAX);
        // It goes on where it was, and a line longer than a log has one of its own.
        let mut log = Rotating::open(path(&folder), 10).unwrap();
        log.write(b"longer than ten\n").unwrap();
        assert_eq!([text(1).as_str(), &text(0)], ["0018\n0019\n", "longer than ten\n"]);
    }

    #[test]
    fn times_are_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time_text(seconds), text);
        }
    }

    #[test]
    fn a_line_is_one_line_of_bounded_length() {
        assert_eq!(clean("a\nb\u{1b}[31mc"), "a b [31mc");
        assert_eq!(clean(&"ä".repeat(LOG_LINE_BYTES_MAX)).len(), LOG_LINE_BYTES_MAX);
        assert_eq!(clean(&"a".repeat(LOG_LINE_BYTES_MAX)).len(), LOG_LINE_BYTES_MAX);
        assert_eq!(clean(&"a".repeat(LOG_LINE_BYTES_MAX + 1)).len(), LOG_LINE_BYTES_MAX);
    }
}
