//! Packed copies of weights: made once, kept in a cache file, mapped ever after.
//!
//! Kernels eat quantised weights eight rows at a time, in an order that no model file uses. The copy in that
//! order is made a block at a time, through a buffer of a few panels, and lies in one file for each block, so
//! that a node whose range moves packs only what is new to it.
//!
//! The head of such a file names the weights it was made of, when it was made, and the SHA-256 of each matrix
//! and of itself. That time is also the file's time of change, so a file that nobody has written to since is
//! known by its head, its length and its time, and mapped without being read. When the time differs (the file
//! was copied, or something wrote to it) the sums are computed once and, if they hold, the time is put right.
//! A file that isn't what it should be is made again.

use std::fs;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kwaainet_kernels::{Format, Layout, PANEL_ROWS, decode, encode, pack};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::files::{Map, Tensor};
use crate::limits::{PACK_ALIGNMENT_BYTES, PACK_BUFFER_BYTES};

/// Changes whenever the layout of panels or of this file does.
const MAGIC: &[u8; 8] = b"KWPACK\x00\x03";

/// Bytes of a SHA-256.
const SUM_BYTES: usize = 32;

/// What is told while weights are made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many more bytes of packed weights are ready.
    Packed {
        /// Bytes since the last word.
        bytes: u64,
    },
    /// A packed file isn't what it should be and is made again: a sentence.
    Damaged(String),
}

/// Hears how far weights are.
pub(crate) type Listener<'a> = &'a mut dyn FnMut(Progress);

/// How a tensor is stored for the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) format: Format,
    pub(crate) layout: Layout,
}

/// One matrix of a packed file: where it comes from and where it will lie.
pub(crate) struct Entry<'a> {
    pub(crate) source: Tensor<'a>,
    pub(crate) form: Form,
    /// Bytes from the start of the file.
    pub(crate) start: usize,
    pub(crate) bytes: usize,
}

/// Everything that one packed file will hold.
pub(crate) struct Plan<'a> {
    entries: Vec<Entry<'a>>,
    bytes: usize,
    head_bytes: usize,
}

/// The bytes of a packed file, mapped or, for small models without a cache folder, in memory.
pub(crate) enum Packed {
    Mapped(Map),
    Memory(Vec<u8>),
}

impl Packed {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Packed::Mapped(map) => map.bytes(),
            Packed::Memory(bytes) => bytes,
        }
    }

    /// The file behind the bytes, if there is one.
    pub(crate) fn map(&self) -> Option<&Map> {
        match self {
            Packed::Mapped(map) => Some(map),
            Packed::Memory(_) => None,
        }
    }
}

/// Bytes of a matrix in a given form; `None` if its shape doesn't allow the form.
pub(crate) fn form_bytes(form: Form, rows: usize, columns: usize) -> Option<usize> {
    match form.layout {
        Layout::Rows => form.format.row_bytes(columns)?.checked_mul(rows),
        Layout::Panels => pack::packed_bytes(form.format, rows, columns),
    }
}

impl<'a> Plan<'a> {
    /// Lays the matrices out one after the other.
    ///
    /// # Errors
    /// When a matrix can't have the form asked for.
    pub(crate) fn new(matrices: Vec<(Tensor<'a>, Form)>) -> Result<Self, Error> {
        let align = |bytes: usize| bytes.next_multiple_of(PACK_ALIGNMENT_BYTES);
        let named_bytes = MAGIC.len() + SUM_BYTES + 8 + matrices.len() * 40;
        let head_bytes = align(named_bytes + 8 + (matrices.len() + 1) * SUM_BYTES);
        let mut start = head_bytes;
        let mut entries = Vec::with_capacity(matrices.len());
        for (source, form) in matrices {
            let bytes = form_bytes(form, source.rows, source.columns).ok_or_else(|| {
                let (rows, columns, name) = (source.rows, source.columns, form.format.name());
                Error::unsupported(format!("a matrix of {rows} x {columns} can't be stored as {name}"))
            })?;
            entries.push(Entry { source, form, start, bytes });
            start = align(start + bytes);
        }
        Ok(Plan { entries, bytes: start, head_bytes })
    }

    pub(crate) fn entries(&self) -> &[Entry<'a>] {
        &self.entries
    }

    /// The beginning of the head: what is known before anything is packed.
    fn name(&self, fingerprint: &[u8; 32]) -> Vec<u8> {
        let mut name = Vec::with_capacity(self.head_bytes);
        name.extend_from_slice(MAGIC);
        name.extend_from_slice(fingerprint);
        name.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            let layout = match entry.form.layout {
                Layout::Rows => 0u32,
                Layout::Panels => 1,
            };
            name.extend_from_slice(&entry.form.format.ggml_id().to_le_bytes());
            name.extend_from_slice(&layout.to_le_bytes());
            for number in [entry.source.rows, entry.source.columns, entry.start, entry.bytes] {
                name.extend_from_slice(&(number as u64).to_le_bytes());
            }
        }
        name
    }

    /// The whole head: name, time of making in seconds since 1970, sums of the matrices, sum of all before.
    fn head(&self, fingerprint: &[u8; 32], made_s: u64, sums: &[[u8; SUM_BYTES]]) -> Vec<u8> {
        let mut head = self.name(fingerprint);
        head.extend_from_slice(&made_s.to_le_bytes());
        head.extend_from_slice(sums.as_flattened());
        let sum = Sha256::digest(&head);
        head.extend_from_slice(&sum);
        head.resize(self.head_bytes, 0);
        head
    }

    /// A file name that differs for every model and content.
    fn file_name(&self, label: &str, fingerprint: &[u8; 32]) -> String {
        let digest = Sha256::digest(self.name(fingerprint));
        let name: String = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}-{label}.packed")
    }

    /// Maps the cache file, making it first if it isn't there or isn't whole.
    ///
    /// # Errors
    /// When the folder can't be written or the file can't be mapped.
    pub(crate) fn open_or_make(
        &self,
        folder: &Path,
        label: &str,
        fingerprint: &[u8; 32],
        tell: Listener<'_>,
    ) -> Result<Packed, Error> {
        let path = folder.join(self.file_name(label, fingerprint));
        match self.open(&path, fingerprint) {
            Ok(Some(map)) => {
                tell(Progress::Packed { bytes: self.bytes as u64 });
                return Ok(Packed::Mapped(map));
            }
            Ok(None) => {}
            Err(damage) => {
                let path = path.display();
                tell(Progress::Damaged(format!(
                    "the packed weights in {path} are damaged: {damage}; they are made again"
                )));
            }
        }
        fs::create_dir_all(folder)
            .map_err(|e| Error::io(format!("can't make the cache folder {}", folder.display()), e))?;
        let temporary = temporary_beside(&path);
        let written = self.write_file(&temporary, fingerprint, tell);
        if let Err(source) = written.and_then(|()| fs::rename(&temporary, &path)) {
            let _ = fs::remove_file(&temporary);
            let needed_mb = self.bytes / 1_000_000;
            return Err(Error::io(
                format!(
                    "can't write the packed weights to {} ({needed_mb} MB); make room there or name another \
                     folder with KWAAINET_HOME",
                    path.display()
                ),
                source,
            ));
        }
        Map::open(&path).map(Packed::Mapped)
    }

    /// Maps a packed file that is whole; `None` if there is none.
    ///
    /// # Errors
    /// What is wrong with it.
    fn open(&self, path: &Path, fingerprint: &[u8; 32]) -> Result<Option<Map>, String> {
        let about = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            about => about.map_err(|error| error.to_string())?,
        };
        if about.len() != self.bytes as u64 {
            return Err(format!("it has {} bytes and should have {}", about.len(), self.bytes));
        }
        let map = Map::open(path).map_err(|error| error.to_string())?;
        let name = self.name(fingerprint);
        // The lengths were computed in `new` and the file has them.
        let (head, _) = map.bytes().split_at(self.head_bytes);
        let (summed, rest) = head.split_at(name.len() + 8 + self.entries.len() * SUM_BYTES);
        if !summed.starts_with(&name) || !rest.starts_with(&Sha256::digest(summed)) {
            return Err("its head is not the one that was written".into());
        }
        let (made_s, sums) = summed[name.len()..].split_first_chunk().expect("the time has eight bytes");
        let made = time(u64::from_le_bytes(*made_s));
        if made.is_none() || about.modified().ok() != made {
            for (entry, sum) in self.entries.iter().zip(sums.chunks_exact(SUM_BYTES)) {
                let bytes = &map.bytes()[entry.start..entry.start + entry.bytes];
                if Sha256::digest(bytes).as_slice() != sum {
                    return Err("the sum of a matrix doesn't hold".into());
                }
            }
            // Where this isn't allowed, the sums are computed at the next start again.
            if let (Ok(file), Some(made)) = (fs::File::options().write(true).open(path), made) {
                let _ = file.set_modified(made);
            }
        }
        Ok(Some(map))
    }

    /// Packs into memory, for models that come without a place for a cache file.
    pub(crate) fn make_in_memory(&self, tell: Listener<'_>) -> Packed {
        let mut bytes = Vec::with_capacity(self.bytes);
        self.write(&mut bytes, tell).expect("writing to memory doesn't fail");
        Packed::Memory(bytes)
    }

    fn write_file(&self, path: &Path, fingerprint: &[u8; 32], tell: Listener<'_>) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(PACK_BUFFER_BYTES, fs::File::create(path)?);
        let sums = self.write(&mut out, tell)?;
        // Whole even seconds, which every file system can store.
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let made_s = now_s / 2 * 2;
        out.rewind()?;
        out.write_all(&self.head(fingerprint, made_s, &sums))?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        if let Some(made) = time(made_s) {
            file.set_modified(made)?;
        }
        file.sync_all()
    }

    /// Writes all matrices behind room for the head; gives their sums back.
    fn write(&self, out: &mut dyn Write, tell: Listener<'_>) -> io::Result<Vec<[u8; SUM_BYTES]>> {
        out.write_all(&vec![0; self.head_bytes])?;
        let mut sums = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let mut sum = Sha256::new();
            write_matrix(&entry.source, entry.form, &mut |bytes| {
                out.write_all(bytes)?;
                sum.update(bytes);
                tell(Progress::Packed { bytes: bytes.len() as u64 });
                Ok(())
            })?;
            sums.push(sum.finalize().into());
            let end = entry.start + entry.bytes;
            out.write_all(&vec![0; end.next_multiple_of(PACK_ALIGNMENT_BYTES) - end])?;
        }
        Ok(sums)
    }
}

/// Gives one matrix in its form to `write`, eight rows at a time.
fn write_matrix(
    source: &Tensor,
    form: Form,
    write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let columns = source.columns;
    let source_row =
        source.format.row_bytes(columns).expect("a tensor's shape was checked when its file was opened");
    let target_row = form.format.row_bytes(columns).expect("the plan checked the form");
    let mut values = vec![0f32; if source.format == form.format { 0 } else { PANEL_ROWS * columns }];
    let mut recoded = vec![0u8; if source.format == form.format { 0 } else { PANEL_ROWS * target_row }];
    let mut panel = match form.layout {
        Layout::Rows => Vec::new(),
        Layout::Panels => {
            vec![0u8; pack::panel_bytes(form.format, columns).expect("the plan checked the form")]
        }
    };
    for strip in source.bytes.chunks(PANEL_ROWS * source_row) {
        let rows = strip.len() / source_row;
        let strip = if source.format == form.format {
            strip
        } else {
            let values = &mut values[..rows * columns];
            let recoded = &mut recoded[..rows * target_row];
            decode(source.format, strip, values);
            encode(form.format, values, recoded)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            &*recoded
        };
        let done = match form.layout {
            Layout::Rows => strip,
            Layout::Panels => {
                pack::pack_panel(form.format, columns, strip, &mut panel);
                &panel
            }
        };
        write(done)?;
    }
    Ok(())
}

/// A time in seconds since 1970; `None` beyond what the system can tell.
fn time(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}
