//! The bytes of model files, wherever they lie.
//!
//! Weights are read, not held: a file is mapped, and the system brings in the pages that are touched and
//! drops them when it needs the room. A model that is compiled into the program has its bytes there already.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::Error;

/// All bytes of one file.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// A file of the system.
    Mapped(memmap2::Mmap),
    /// Bytes of the program, or of a test.
    Held(Cow<'static, [u8]>),
}

impl FileBytes {
    /// Maps a file and reads its time of change, in nanoseconds since 1970.
    pub(crate) fn map(path: &Path) -> Result<(FileBytes, u128), Error> {
        let failed = |what: &str| {
            let what = format!("can't {what} {}", path.display());
            move |source| Error::io(what, source)
        };
        let file = File::open(path).map_err(failed("open"))?;
        let about = file.metadata().map_err(failed("read the length of"))?;
        if !about.is_file() {
            return Err(Error::request(format!("{} is not a file", path.display())));
        }
        // SAFETY: the map is read-only and lives as long as the bytes lent from it. What no program can
        // promise is that nobody else changes the file meanwhile: weights would then change under us (every
        // number read from them is still a number, and headers are parsed into owned or re-checked form), and
        // a file cut short would end the process with SIGBUS. Model files are written once; the manual says
        // not to change them while a node runs.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed("map"))?;
        let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok((FileBytes::Mapped(map), changed.map_or(0, |time| time.as_nanos())))
    }

    /// Tells the system that a range will be read from front to back soon. Only advice: errors are ignored.
    pub(crate) fn advise_soon(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let FileBytes::Mapped(map) = self {
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Takes a range out of this process's memory; it is read again when it is touched. What the system still
    /// holds of the file it may keep, or with `forget` gives up as well. Only advice: errors are ignored.
    pub(crate) fn let_go(&self, range: Range<usize>, forget: bool) {
        #[cfg(target_os = "linux")]
        if let FileBytes::Mapped(map) = self
            && !range.is_empty()
        {
            use rustix::mm::{Advice, madvise};
            let page = rustix::param::page_size();
            let start = range.start / page * page;
            let (address, length) = (map[start..].as_ptr(), range.end.min(map.len()) - start);
            // What other processes have mapped, too, is not paged out, but leaves this one's memory.
            let page_out = forget.then_some(Advice::LinuxPageOut);
            for advice in page_out.into_iter().chain([Advice::LinuxDontNeed]) {
                // SAFETY: the range lies in this map of a file that is never written through it, so a page
                // that is dropped comes back with the same bytes.
                let _ = unsafe { madvise(address.cast_mut().cast(), length, advice) };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (range, forget);
    }

    /// Reads the file in and keeps it in memory.
    pub(crate) fn lock(&self) -> io::Result<()> {
        #[cfg(unix)]
        if let FileBytes::Mapped(map) = self {
            return map.lock();
        }
        Ok(())
    }

    /// Asks for large pages. Only advice: few systems have them for files.
    pub(crate) fn advise_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        if let FileBytes::Mapped(map) = self {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
    }
}

impl std::ops::Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::Held(bytes) => bytes,
        }
    }
}

/// Reads a small file whole, refusing more than `bytes_max`; `None` if there is no such file.
pub(crate) fn read_small(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::io(format!("can't read {}", path.display()), source);
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::broken(
            path.display().to_string(),
            format!("it is longer than the limit of {bytes_max} bytes"),
        ));
    }
    Ok(Some(bytes))
}

/// A file of our own, mapped whole: packed weights.
#[derive(Debug)]
pub struct Map(FileBytes);

impl Map {
    /// Maps a file.
    ///
    /// # Errors
    /// When it can't be opened or mapped.
    pub fn open(path: &Path) -> Result<Map, Error> {
        FileBytes::map(path).map(|(bytes, _)| Map(bytes))
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The file's bytes with what can be said to the system about them.
    pub(crate) fn file(&self) -> &FileBytes {
        &self.0
    }
}
