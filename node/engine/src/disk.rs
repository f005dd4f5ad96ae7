//! How fast a file can be read from its disk: what bounds a model whose weights are streamed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use crate::limits::{DISK_READ_BUFFER_BYTES, DISK_READ_BYTES_MAX};

/// Reads a file from its start, at most [`DISK_READ_BYTES_MAX`] of it, after asking the system to give up
/// what it holds of it, and gives back bytes a second. Without such a system (only Linux is asked) it is the
/// speed of its memory that is told.
///
/// # Errors
/// When the file can't be opened or read.
pub fn sequential_read_bytes_per_s(path: &Path) -> io::Result<f64> {
    let file = File::open(path)?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut file = file.take(DISK_READ_BYTES_MAX);
    let mut buffer = vec![0; DISK_READ_BUFFER_BYTES];
    let (start, mut bytes) = (Instant::now(), 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes as f64 / start.elapsed().as_secs_f64()),
            count => bytes += count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_at_some_speed_and_an_absent_one_is_an_error() {
        let path = std::env::temp_dir().join(format!("kwaainet-disk-{}", std::process::id()));
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let speed = sequential_read_bytes_per_s(&path).unwrap();
        assert!(speed > 0.0 && speed.is_finite());
        std::fs::remove_file(&path).unwrap();
        assert!(sequential_read_bytes_per_s(&path).is_err());
    }
}
