//! Model files: from a path to checked tensors.
//!
//! A GGUF (whole or split) and a Hugging Face folder leave this room as the same thing: a [`ModelSpec`], and
//! for each role the rows of bytes where they lie in a mapped file. Opening reads headers only; weights are
//! touched when they are used. A file that contradicts itself is refused here, so that what follows need not
//! doubt a shape.

pub mod gguf;
mod gguf_spec;
pub mod hugging_face;
mod map;
mod roles;
pub mod safetensors;
mod split;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use kwaainet_kernels::Format;
use sha2::{Digest, Sha256};

pub(crate) use map::FileBytes;
pub use map::Map;
pub use roles::Role;

use crate::Error;
use crate::limits::{
    CONFIG_BYTES_MAX, INDEX_BYTES_MAX, MODEL_FILES_MAX, TENSORS_MAX, TOKENIZER_BYTES_MAX,
    TOKENIZER_CONFIG_BYTES_MAX,
};
use crate::spec::ModelSpec;
use map::read_small;
use roles::{Naming, Slot, Slots, row_bytes};

/// Where the bytes of a tensor lie in a model's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    file: usize,
    start: usize,
    bytes: usize,
}

/// A matrix or vector where it lies in a file, in the file's own row order.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// How a row is stored.
    pub format: Format,
    /// 1 for vectors.
    pub rows: usize,
    /// Length of a row in elements.
    pub columns: usize,
    /// `rows * format.row_bytes(columns)` bytes, at no promised alignment.
    pub bytes: &'a [u8],
    /// Where they lie, for looking them up again without a role.
    pub place: Place,
}

/// One entry of the table of all tensors, for `inspect`.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// As the file calls it.
    pub name: String,
    /// The type as the file calls it, such as `Q4_K` or `BF16`.
    pub type_name: String,
    /// The same as a format; `None` if there are no kernels for it.
    pub format: Option<Format>,
    /// Outermost first: `[rows, columns]`, or `[columns]` for vectors.
    pub shape: Vec<u64>,
    /// Length of the data in bytes.
    pub bytes: u64,
    /// Index in [`ModelFiles::files`].
    pub file: usize,
    /// Where the data begins, in bytes from that file's start.
    pub offset: u64,
}

/// Where the tokenizer is described.
#[derive(Debug)]
pub enum TokenizerSource<'a> {
    /// In the metadata of a GGUF.
    Gguf(gguf::Header<'a>),
    /// In files beside the weights.
    HuggingFace {
        /// All of `tokenizer.json`.
        tokenizer_json: Vec<u8>,
        /// All of `tokenizer_config.json`, if there is one.
        tokenizer_config: Option<Vec<u8>>,
    },
}

/// An opened model: every header read and checked, no weight touched.
///
/// The files must not be changed or cut short while this lives: they are mapped, and the system ends a
/// process that reads past the end of a mapped file.
#[derive(Debug)]
pub struct ModelFiles {
    kind: Kind,
    files: Vec<ModelFile>,
    spec: ModelSpec,
    tensors: Vec<TensorInfo>,
    slots: Slots,
    fingerprint: [u8; 32],
    description: Vec<(String, String)>,
    chat_template: Option<String>,
    stop_ids: Vec<u32>,
}

#[derive(Debug)]
enum Kind {
    Gguf,
    HuggingFace { folder: PathBuf },
}

#[derive(Debug)]
struct ModelFile {
    path: PathBuf,
    bytes: FileBytes,
    changed_ns: u128,
}

impl ModelFile {
    fn map(path: PathBuf) -> Result<ModelFile, Error> {
        let (bytes, changed_ns) = FileBytes::map(&path)?;
        Ok(ModelFile { path, bytes, changed_ns })
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Adds to a fingerprint what tells this file from others without reading its weights.
    fn fingerprint(&self, hash: &mut Sha256, header_bytes: u64) {
        hash.update(self.changed_ns.to_le_bytes());
        hash.update((self.bytes.len() as u64).to_le_bytes());
        hash.update(header_bytes.to_le_bytes());
        hash.update(&self.bytes[..header_bytes as usize]); // the header was parsed from these bytes
    }
}

impl ModelFiles {
    /// Opens a `.gguf` (of a split set any part), a Hugging Face folder, or a file in one.
    ///
    /// # Errors
    ///
    /// A sentence that names the file and, for broken ones, the field and the offset.
    pub fn open(path: &Path) -> Result<ModelFiles, Error> {
        if path.is_dir() {
            return Self::open_folder(path);
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("safetensors" | "json")) {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            return Self::open_folder(folder.unwrap_or(Path::new(".")));
        }
        let file = ModelFile::map(path.to_owned())?;
        if !file.bytes.starts_with(gguf::MAGIC) {
            return Err(Error::broken(
                file.name(),
                "it does not begin with \"GGUF\"; a model is a .gguf file, or a folder with config.json and \
                 model.safetensors",
            ));
        }
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Self::from_gguf(file, &stem)
    }

    /// Opens a GGUF that is in memory already, such as one that is compiled into the program.
    pub fn embedded(name: &str, gguf: impl Into<Cow<'static, [u8]>>) -> Result<ModelFiles, Error> {
        let bytes = FileBytes::Held(gguf.into());
        Self::from_gguf(ModelFile { path: PathBuf::from(name), bytes, changed_ns: 0 }, name)
    }

    fn from_gguf(first: ModelFile, name: &str) -> Result<ModelFiles, Error> {
        let files = split::whole_set(first)?;
        let mut tensors = Vec::new();
        let mut hash = Sha256::new();
        // The first file's is kept: a vocabulary makes it long to read.
        let mut first = None;
        for (index, file) in files.iter().enumerate() {
            let header = gguf::parse_header(&file.name(), &file.bytes)?;
            file.fingerprint(&mut hash, header.header_bytes);
            tensors.extend(header.tensors.iter().map(|tensor| TensorInfo {
                name: tensor.name.to_owned(),
                type_name: tensor.format.name().to_owned(),
                format: Some(tensor.format),
                shape: tensor.dimensions.iter().rev().copied().collect(),
                bytes: tensor.bytes,
                file: index,
                offset: tensor.offset,
            }));
            first.get_or_insert(header);
        }
        check_tensors(&files, &tensors)?;
        let header = first.expect("a set has at least the file that was given");
        split::check_total(&header, tensors.len())?;
        let factors = match tensors.iter().find(|tensor| tensor.name == "rope_freqs.weight") {
            Some(tensor) => {
                Some(gguf_spec::rope_factors(&files[tensor.file].name(), tensor, data(&files, tensor))?)
            }
            None => None,
        };
        let spec = gguf_spec::spec_from_header(&header, name, &tensors, factors)?;
        let slots = roles::resolve(header.file(), &spec, Naming::Gguf, &tensors)?;
        let show = |entry: &gguf::Metadata<'_>| (entry.key.to_owned(), entry.value.to_string());
        let description = header.metadata.iter().map(show).collect();
        let chat_template = header.string("tokenizer.chat_template")?.map(str::to_owned);
        let stop_ids = gguf_spec::stop_ids(&header)?;
        let fingerprint = hash.finalize().into();
        drop(header);
        let kind = Kind::Gguf;
        Ok(ModelFiles {
            kind,
            files,
            spec,
            tensors,
            slots,
            fingerprint,
            description,
            chat_template,
            stop_ids,
        })
    }

    fn open_folder(folder: &Path) -> Result<ModelFiles, Error> {
        let config_path = folder.join("config.json");
        let Some(config) = read_small(&config_path, CONFIG_BYTES_MAX)? else {
            return Err(Error::request(format!(
                "{} has no config.json; a model is a .gguf file, or a folder with config.json and \
                 model.safetensors",
                folder.display()
            )));
        };
        let config_name = config_path.display().to_string();
        let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let name = whole.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let spec = hugging_face::spec_from_config(&config_name, &name, &config)?;

        let mut hash = Sha256::new();
        hash.update(&config);
        let (files, tensors) = open_safetensors(folder, &mut hash)?;
        check_tensors(&files, &tensors)?;
        let naming = Naming::of_safetensors(&tensors);
        let slots = roles::resolve(&folder.display().to_string(), &spec, naming, &tensors)?;

        let mut stop_ids = Vec::new();
        let generation_path = folder.join("generation_config.json");
        if let Some(generation) = read_small(&generation_path, CONFIG_BYTES_MAX)? {
            hugging_face::stop_ids(&generation_path.display().to_string(), &generation, &mut stop_ids)?;
        }
        hugging_face::stop_ids(&config_name, &config, &mut stop_ids)?;
        Ok(ModelFiles {
            kind: Kind::HuggingFace { folder: folder.to_owned() },
            files,
            spec,
            tensors,
            slots,
            fingerprint: hash.finalize().into(),
            description: hugging_face::describe(&config_name, &config)?,
            chat_template: folder_chat_template(folder)?,
            stop_ids,
        })
    }

    /// What the model is; checked.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The tensor of a role. `block` is `None` for roles outside blocks.
    ///
    /// `Ok(None)` means that this model does without: biases and norms that its family has not, or the output
    /// matrix of a tied head. Matrices that a file keeps in one tensor (Phi-3) come as their own rows.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] for a block that the model has not, or a role on the wrong side of the blocks.
    pub fn tensor(&self, role: Role, block: Option<usize>) -> Result<Option<Tensor<'_>>, Error> {
        if role.is_outside() != block.is_none() {
            return Err(Error::request(format!("{role:?} was asked of block {block:?}, where it can't be")));
        }
        if let Some(block) = block.filter(|block| *block >= self.spec.blocks) {
            let blocks = self.spec.blocks;
            return Err(Error::request(format!("block {block} was asked of a model of {blocks} blocks")));
        }
        Ok(self.slots.get(&(role, block)).map(|slot| {
            let (format, range) = self.place(slot);
            let tensor = &self.tensors[slot.tensor];
            let place =
                Place { file: tensor.file, start: tensor.offset as usize + range.start, bytes: range.len() };
            Tensor { format, rows: slot.rows, columns: slot.columns, bytes: self.bytes(&place), place }
        }))
    }

    /// The bytes at a place that [`ModelFiles::tensor`] gave.
    pub fn bytes(&self, place: &Place) -> &[u8] {
        &self.files[place.file].bytes[place.start..place.start + place.bytes]
    }

    /// The file of a place, to tell the system about it, and where in it the place lies.
    pub(crate) fn file_of(&self, place: &Place) -> (&FileBytes, std::ops::Range<usize>) {
        (&self.files[place.file].bytes, place.start..place.start + place.bytes)
    }

    /// A slot's format and its bytes within its tensor's data.
    fn place(&self, slot: &Slot) -> (Format, std::ops::Range<usize>) {
        let format = self.tensors[slot.tensor].format.expect("roles are given to tensors with a format only");
        let row_bytes = row_bytes(format, slot.columns);
        // Rows lie inside the tensor, whose length in bytes was checked against the file.
        (format, slot.first_row * row_bytes..(slot.first_row + slot.rows) * row_bytes)
    }

    /// Bytes of all tensors of a block as the files store them, or of those outside blocks.
    pub fn bytes_of(&self, block: Option<usize>) -> u64 {
        let of_block = self.slots.iter().filter(|((_, of), _)| *of == block);
        of_block.map(|(_, slot)| self.place(slot).1.len() as u64).sum()
    }

    /// Weights in the parts of the model that are used, tied ones once.
    pub fn parameters(&self) -> u64 {
        self.slots.values().map(|slot| slot.rows as u64 * slot.columns as u64).sum()
    }

    /// Bytes of every tensor of the files, used or not.
    pub fn tensors_total_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// SHA-256 over all headers, lengths and times of change (and `config.json`): the same as long as nobody
    /// has written to the files. It names packed copies. Weights are not read for it.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Where the tokenizer is described.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] if a folder has no `tokenizer.json`; [`Error::Io`] if it can't be read.
    pub fn tokenizer_source(&self) -> Result<TokenizerSource<'_>, Error> {
        match &self.kind {
            Kind::Gguf => {
                let file = &self.files[0];
                Ok(TokenizerSource::Gguf(gguf::parse_header(&file.name(), &file.bytes)?))
            }
            Kind::HuggingFace { folder } => {
                let path = folder.join("tokenizer.json");
                let tokenizer_json = read_small(&path, TOKENIZER_BYTES_MAX)?.ok_or_else(|| {
                    Error::request(format!("{} is missing; fetch it from where the model is", path.display()))
                })?;
                let config = folder.join("tokenizer_config.json");
                let tokenizer_config = read_small(&config, TOKENIZER_CONFIG_BYTES_MAX)?;
                Ok(TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config })
            }
        }
    }

    /// The model's own chat template (Jinja), if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// All ids that end a text, none twice.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The files with their lengths in bytes, in the order of their parts.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.files.iter().map(|file| (file.path.clone(), file.bytes.len() as u64)).collect()
    }

    /// Keys and values of the metadata or the config, shortened to a line each.
    pub fn describe(&self) -> &[(String, String)] {
        &self.description
    }

    /// All tensors of all files.
    pub fn tensor_table(&self) -> &[TensorInfo] {
        &self.tensors
    }
}

/// The data of a tensor; its reader checked that it lies inside the file.
fn data<'f>(files: &'f [ModelFile], tensor: &TensorInfo) -> &'f [u8] {
    &files[tensor.file].bytes[tensor.offset as usize..][..tensor.bytes as usize]
}

/// No name twice in a set of files, and no more tensors than the limit.
fn check_tensors(files: &[ModelFile], tensors: &[TensorInfo]) -> Result<(), Error> {
    if tensors.len() as u64 > TENSORS_MAX {
        let what = format!("the set has {} tensors; the limit is {TENSORS_MAX}", tensors.len());
        return Err(Error::broken(files[0].name(), what));
    }
    let mut names = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        Some(tensor) => {
            let what = format!("the tensor {} is in another file of the set too", tensor.name);
            Err(Error::broken(files[tensor.file].name(), what))
        }
        None => Ok(()),
    }
}

/// Opens `model.safetensors`, or else the parts that `model.safetensors.index.json` names.
fn open_safetensors(folder: &Path, hash: &mut Sha256) -> Result<(Vec<ModelFile>, Vec<TensorInfo>), Error> {
    const WHOLE: &str = "model.safetensors";
    let index_path = folder.join("model.safetensors.index.json");
    let index_name = index_path.display().to_string();
    let map = match read_small(&index_path, INDEX_BYTES_MAX)? {
        Some(index) if !folder.join(WHOLE).is_file() => Some(hugging_face::weight_map(&index_name, &index)?),
        _ => None,
    };
    let mut parts: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    match &map {
        Some(map) => map.iter().for_each(|(tensor, part)| {
            parts.entry(part).or_default().insert(tensor);
        }),
        None => {
            parts.insert(WHOLE, HashSet::new());
        }
    }
    if parts.len() > MODEL_FILES_MAX {
        let what = format!("it names {} files; the limit is {MODEL_FILES_MAX}", parts.len());
        return Err(Error::broken(index_name, what));
    }
    let mut files = Vec::with_capacity(parts.len());
    let mut tensors = Vec::new();
    for (index, (part, mut expected)) in parts.into_iter().enumerate() {
        let file = ModelFile::map(folder.join(part))?;
        let header = safetensors::parse_header(&file.name(), &file.bytes)?;
        file.fingerprint(hash, header.header_bytes);
        for tensor in header.tensors {
            // Without an index all tensors count; with one, those that it gives to this file.
            if map.is_some() && !expected.remove(tensor.name.as_str()) {
                continue;
            }
            let safetensors::TensorInfo { name, type_name, format, shape, offset, bytes } = tensor;
            tensors.push(TensorInfo { name, type_name, format, shape, bytes, file: index, offset });
        }
        if let Some(tensor) = expected.iter().min() {
            let what = format!("the index says that it holds the tensor {tensor}, but it does not");
            return Err(Error::broken(file.name(), what));
        }
        files.push(file);
    }
    Ok((files, tensors))
}

/// The chat template of a folder: a file of its own, or else a key of `tokenizer_config.json`.
fn folder_chat_template(folder: &Path) -> Result<Option<String>, Error> {
    let read = |name: &str| -> Result<Option<(String, Vec<u8>)>, Error> {
        let path = folder.join(name);
        Ok(read_small(&path, TOKENIZER_CONFIG_BYTES_MAX)?.map(|bytes| (path.display().to_string(), bytes)))
    };
    if let Some((file, bytes)) = read("chat_template.jinja")? {
        let text = String::from_utf8(bytes).map_err(|error| {
            Error::broken_at(file, error.utf8_error().valid_up_to() as u64, "the template is not valid UTF-8")
        })?;
        return Ok(Some(text));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        if let Some((file, bytes)) = read(name)?
            && let Some(template) = hugging_face::chat_template(&file, &bytes)?
        {
            return Ok(Some(template));
        }
    }
    Ok(None)
}
