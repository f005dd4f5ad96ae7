//! Packed copies of weights: made once, kept in a cache file, mapped ever after.
//!
//! Kernels eat quantised weights eight rows at a time, in an order that no model file uses. The copy in that
//! order is made a block at a time, through a buffer of a few panels, and lies in one file for each block, so
//! that a node whose range moves packs only what is new to it. The head of such a file is computed from the
//! model's headers alone; a file whose head or length differs from that is made again.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use kwaainet_kernels::{Format, Layout, PANEL_ROWS, decode, encode, pack};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::files::{Map, Tensor};
use crate::limits::{PACK_ALIGNMENT_BYTES, PACK_BUFFER_BYTES};

/// Changes whenever the layout of panels or of this file does.
const MAGIC: &[u8; 8] = b"KWPACK\x00\x02";

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
        let head_bytes = align(MAGIC.len() + 32 + 8 + matrices.len() * 40);
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

    fn head(&self, fingerprint: &[u8; 32]) -> Vec<u8> {
        let mut head = Vec::with_capacity(self.head_bytes);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(fingerprint);
        head.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            let layout = match entry.form.layout {
                Layout::Rows => 0u32,
                Layout::Panels => 1,
            };
            head.extend_from_slice(&entry.form.format.ggml_id().to_le_bytes());
            head.extend_from_slice(&layout.to_le_bytes());
            for number in [entry.source.rows, entry.source.columns, entry.start, entry.bytes] {
                head.extend_from_slice(&(number as u64).to_le_bytes());
            }
        }
        head.resize(self.head_bytes, 0);
        head
    }

    /// A file name that differs for every model and content.
    fn file_name(&self, label: &str, fingerprint: &[u8; 32]) -> String {
        let digest = Sha256::digest(self.head(fingerprint));
        let name: String = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}-{label}.packed")
    }

    /// Maps the cache file, making it first if it isn't there or isn't whole. `made` hears how many bytes
    /// were written.
    ///
    /// # Errors
    /// When the folder can't be written or the file can't be mapped.
    pub(crate) fn open_or_make(
        &self,
        folder: &Path,
        label: &str,
        fingerprint: &[u8; 32],
        made: &mut dyn FnMut(usize),
    ) -> Result<Packed, Error> {
        let path = folder.join(self.file_name(label, fingerprint));
        let head = self.head(fingerprint);
        if let Ok(map) = Map::open(&path)
            && map.bytes().len() == self.bytes
            && map.bytes().starts_with(&head)
        {
            made(self.bytes);
            return Ok(Packed::Mapped(map));
        }
        fs::create_dir_all(folder)
            .map_err(|e| Error::io(format!("can't make the cache folder {}", folder.display()), e))?;
        let temporary = temporary_beside(&path);
        let written = self.write_file(&temporary, &head, made);
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

    /// Packs into memory, for models that come without a place for a cache file.
    pub(crate) fn make_in_memory(&self, made: &mut dyn FnMut(usize)) -> Packed {
        let mut bytes = Vec::with_capacity(self.bytes);
        let head = vec![0; self.head_bytes];
        self.write(&mut bytes, &head, made).expect("writing to memory doesn't fail");
        Packed::Memory(bytes)
    }

    fn write_file(&self, path: &Path, head: &[u8], made: &mut dyn FnMut(usize)) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(PACK_BUFFER_BYTES, fs::File::create(path)?);
        self.write(&mut out, head, made)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()
    }

    fn write(&self, out: &mut dyn Write, head: &[u8], made: &mut dyn FnMut(usize)) -> io::Result<()> {
        out.write_all(head)?;
        let mut written = head.len();
        for entry in &self.entries {
            debug_assert_eq!(written, entry.start);
            write_matrix(out, &entry.source, entry.form, made)?;
            written = (entry.start + entry.bytes).next_multiple_of(PACK_ALIGNMENT_BYTES);
            out.write_all(&vec![0; written - entry.start - entry.bytes])?;
        }
        Ok(())
    }
}

/// Writes one matrix in its form, eight rows at a time.
fn write_matrix(
    out: &mut dyn Write,
    source: &Tensor,
    form: Form,
    made: &mut dyn FnMut(usize),
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
        out.write_all(done)?;
        made(done.len());
    }
    Ok(())
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}
