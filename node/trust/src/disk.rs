//! Files that are never seen half-written, and secrets that nobody else can read.
//!
//! A file is written beside its place, brought to the disk and then given its name, so that whoever reads
//! finds the old or the new one whole, whenever the power goes. What a killed writer leaves behind is swept
//! away by the next one: a writer holds a lock on its half-written file, and a lock without a holder tells
//! who died.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Error;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Only the owner, from the first byte.
    Owner,
    /// Whom the user's own settings (umask) allow.
    Anyone,
}

/// Replaces a file, or makes it.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), Error> {
    put(path, bytes, readers, |half, path| fs::rename(half, path))
}

/// Makes a file that is not there yet.
///
/// # Errors
/// [`Error::Exists`] if it is, even if it came into being at the same moment; then it is untouched.
pub fn create(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), Error> {
    put(path, bytes, readers, |half, path| {
        fs::hard_link(half, path)?;
        fs::remove_file(half)
    })
}

/// Makes a folder, and those above it, that only its owner can enter. One that is there already is left as it
/// is.
pub fn create_folder(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| Error::io(path, "made", error))
}

fn put(
    path: &Path,
    bytes: &[u8],
    readers: Readers,
    name: impl Fn(&Path, &Path) -> io::Result<()>,
) -> Result<(), Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
        _ => Error::io(path, "written", error),
    };
    sweep(path);
    let (half, mut file) = half_written(path, readers).map_err(failed)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| name(&half, path))
        .and_then(|()| sync_folder(path));
    if written.is_err() {
        // Nothing is lost by what could not be removed; the next writer sweeps it.
        let _ = fs::remove_file(&half);
    }
    written.map_err(failed)
}

/// A new, locked file beside `path`.
fn half_written(path: &Path, readers: Readers) -> io::Result<(PathBuf, File)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let half = path.with_file_name(format!("{}{}-{count}{ENDING}", beginning(path), std::process::id()));
    // A dead process may have had our number.
    let _ = fs::remove_file(&half);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if readers == Readers::Owner {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = readers;
    let file = options.open(&half)?;
    file.lock()?;
    Ok((half, file))
}

/// What half-written files of this one are called.
fn beginning(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy())
}

const ENDING: &str = ".half";

/// Removes half-written files whose writers are dead.
fn sweep(path: &Path) {
    let beginning = beginning(path);
    let Ok(entries) = fs::read_dir(folder_of(path)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&beginning) && name.ends_with(ENDING) {
            let is_dead = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
            if is_dead {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Brings the name itself to the disk; only Unix can.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder_of(path))?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::folder;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let folder = folder("a_file_is_replaced");
        let path = folder.join("config.toml");
        replace(&path, b"one", Readers::Anyone).unwrap();
        replace(&path, b"two", Readers::Anyone).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(&folder), ["config.toml"]);
    }

    #[test]
    fn a_file_that_is_there_is_not_created_again() {
        let folder = folder("a_file_that_is_there");
        let path = folder.join("identity.key");
        create(&path, b"one", Readers::Owner).unwrap();
        assert!(matches!(create(&path, b"two", Readers::Owner), Err(Error::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(names(&folder), ["identity.key"]);
    }

    #[test]
    fn of_many_that_create_one_wins() {
        let folder = folder("of_many_that_create");
        let path = folder.join("identity.key");
        let winners: Vec<u8> = std::thread::scope(|scope| {
            let path = &path;
            let writers: Vec<_> = (0..8u8)
                .map(|me| scope.spawn(move || create(path, &[me; 64], Readers::Owner).is_ok().then_some(me)))
                .collect();
            writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1);
        assert_eq!(fs::read(&path).unwrap(), [winners[0]; 64]);
        assert_eq!(names(&folder), ["identity.key"]);
    }

    #[test]
    fn what_the_dead_left_is_swept_and_the_living_are_let_be() {
        let folder = folder("what_the_dead_left");
        let path = folder.join("a");
        let (dead, file) = half_written(&path, Readers::Anyone).unwrap();
        drop(file);
        let (alive, _file) = half_written(&path, Readers::Anyone).unwrap();
        replace(&path, b"", Readers::Anyone).unwrap();
        assert!(!dead.exists());
        assert!(alive.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_is_its_owners_from_the_first_byte() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder("a_secret_is_its_owners");
        let path = folder.join("identity.key");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (half, _file) = half_written(&path, Readers::Owner).unwrap();
        assert_eq!(mode(&half), 0o600);
        create(&path, b"secret", Readers::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
        create_folder(&folder.join("inner/most")).unwrap();
        assert_eq!(mode(&folder.join("inner")), 0o700);
        assert_eq!(mode(&folder.join("inner/most")), 0o700);
    }
}
