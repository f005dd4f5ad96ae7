//! Model files: what is in them, and where each tensor lies.
//!
//! A model is a GGUF file, a set of them, a Hugging Face folder, or bytes compiled into the program. Opening one reads its
//! headers and checks them; the weights stay where they are, mapped, and only what is asked for is touched.

pub mod gguf;
mod gguf_spec;
mod hugging_face;
mod map;
mod roles;
pub mod safetensors;

use std::path::{Path, PathBuf};

use kwaainet_kernels::Format;
use sha2::{Digest, Sha256};

use self::map::{FileBytes, read_small};
use self::roles::{Naming, Slots, row_bytes};
use crate::Error;
use crate::limits::{
    CONFIG_BYTES_MAX, INDEX_BYTES_MAX, MODEL_FILES_MAX, TOKENIZER_BYTES_MAX, TOKENIZER_CONFIG_BYTES_MAX,
};
use crate::spec::ModelSpec;

pub use self::map::Map;
pub use self::roles::Role;

/// Where some bytes of a model lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    file: usize,
    start: usize,
    bytes: usize,
}

/// A matrix where it lies in a mapped file, in the file's own row order. Vectors have one row.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// How its rows are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// `rows` whole rows.
    pub bytes: &'a [u8],
    /// Where they lie; see [`ModelFiles::bytes`].
    pub place: Place,
}

/// A line of the table of tensors, for people.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// The type's name in the file.
    pub type_name: String,
    /// The same as a format of the kernels; `None` for types that have none.
    pub format: Option<Format>,
    /// Outermost first: `[rows, columns]`.
    pub shape: Vec<u64>,
    /// Index of the file that holds it.
    pub file: usize,
    /// Where its data begins, in bytes from that file's start.
    pub offset: u64,
    /// Length of its data in bytes.
    pub bytes: u64,
}

/// What a model's files say about its tokenizer.
pub enum TokenizerSource<'a> {
    /// Metadata of a GGUF.
    Gguf(gguf::Header<'a>),
    /// Files of a Hugging Face folder.
    HuggingFace {
        /// `tokenizer.json`.
        tokenizer_json: Vec<u8>,
        /// `tokenizer_config.json`, if there is one.
        tokenizer_config: Option<Vec<u8>>,
    },
}

enum Source {
    Gguf,
    Folder(PathBuf),
}

/// One open file.
struct ModelFile {
    path: PathBuf,
    bytes: FileBytes,
    header_bytes: u64,
    changed_ns: u128,
}

/// The open files of one model.
pub struct ModelFiles {
    source: Source,
    files: Vec<ModelFile>,
    spec: ModelSpec,
    tensors: Vec<TensorInfo>,
    slots: Slots,
    fingerprint: [u8; 32],
}

impl ModelFiles {
    /// Opens a GGUF file, a set of split ones by any of its parts, or a Hugging Face folder.
    ///
    /// # Errors
    /// When something can't be read, is broken, or is no model that can be run: a sentence with file, field and offset.
    pub fn open(path: &Path) -> Result<ModelFiles, Error> {
        if path.is_dir() {
            return ModelFiles::open_folder(path);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors" | "json") => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                ModelFiles::open_folder(folder.unwrap_or(Path::new(".")))
            }
            _ => {
                let mut files = Vec::new();
                for part in split_parts(path)? {
                    let (bytes, changed_ns) = FileBytes::map(&part)?;
                    files.push(ModelFile { path: part, bytes, header_bytes: 0, changed_ns });
                }
                ModelFiles::from_gguf(files)
            }
        }
    }

    /// Opens a GGUF that is compiled into the program.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub fn embedded(name: &str, gguf: &'static [u8]) -> Result<ModelFiles, Error> {
        let bytes = FileBytes::Held(gguf.into());
        ModelFiles::from_gguf(vec![ModelFile { path: name.into(), bytes, header_bytes: 0, changed_ns: 0 }])
    }

    fn from_gguf(mut files: Vec<ModelFile>) -> Result<ModelFiles, Error> {
        let first_name = files[0].path.display().to_string();
        let mut tensors = Vec::new();
        let mut header_lengths = Vec::with_capacity(files.len());
        let mut factors = None;
        for (index, file) in files.iter().enumerate() {
            let name = file.path.display().to_string();
            let header = gguf::parse_header(&name, &file.bytes)?;
            check_split(&header, index, files.len())?;
            if factors.is_none() {
                factors = gguf_spec::rope_factors(&header, &file.bytes)?;
            }
            tensors.extend(header.tensors.iter().map(|tensor| TensorInfo {
                name: tensor.name.to_owned(),
                type_name: tensor.format.name().to_owned(),
                format: Some(tensor.format),
                shape: tensor.dimensions.iter().rev().copied().collect(),
                file: index,
                offset: tensor.offset,
                bytes: tensor.bytes,
            }));
            header_lengths.push(header.header_bytes);
        }
        for (file, length) in files.iter_mut().zip(header_lengths) {
            file.header_bytes = length;
        }
        let spec = {
            let header = gguf::parse_header(&first_name, &files[0].bytes)?;
            let stem = files[0].path.file_stem().map_or("model".into(), |stem| stem.to_string_lossy());
            gguf_spec::spec_from_header(&header, &stem, factors, &tensors)?
        };
        let slots = roles::resolve(&first_name, &spec, Naming::Gguf, &tensors)?;
        Ok(ModelFiles::new(Source::Gguf, files, spec, tensors, slots, &[]))
    }

    fn open_folder(folder: &Path) -> Result<ModelFiles, Error> {
        let config_path = folder.join("config.json");
        let config = read_small(&config_path, CONFIG_BYTES_MAX)?.ok_or_else(|| {
            Error::request(format!(
                "{} holds no config.json; give a GGUF file or a Hugging Face folder with config.json, tokenizer.json \
                 and model.safetensors",
                folder.display()
            ))
        })?;
        let name = folder.canonicalize().ok();
        let name =
            name.as_deref().and_then(Path::file_name).map_or("model".into(), |name| name.to_string_lossy());
        let config_name = config_path.display().to_string();
        let mut spec = hugging_face::spec_from_config(&config_name, &name, &config)?;
        let mut files = Vec::new();
        let mut tensors = Vec::new();
        for path in weight_files(folder)? {
            let (bytes, changed_ns) = FileBytes::map(&path)?;
            let header = safetensors::parse_header(&path.display().to_string(), &bytes)?;
            tensors.extend(header.tensors.into_iter().map(|tensor| TensorInfo {
                name: tensor.name,
                type_name: tensor.type_name,
                format: tensor.format,
                shape: tensor.shape,
                file: files.len(),
                offset: tensor.offset,
                bytes: tensor.bytes,
            }));
            files.push(ModelFile { path, bytes, header_bytes: header.header_bytes, changed_ns });
        }
        let naming = Naming::of_safetensors(&tensors);
        // A tied model says so, or simply has no head.
        spec.tied_head |= !tensors.iter().any(|tensor| tensor.name.ends_with("lm_head.weight"));
        let slots = roles::resolve(&folder.display().to_string(), &spec, naming, &tensors)?;
        Ok(ModelFiles::new(Source::Folder(folder.to_owned()), files, spec, tensors, slots, &config))
    }

    fn new(
        source: Source,
        files: Vec<ModelFile>,
        spec: ModelSpec,
        tensors: Vec<TensorInfo>,
        slots: Slots,
        config: &[u8],
    ) -> ModelFiles {
        let mut digest = Sha256::new();
        digest.update(config);
        for file in &files {
            digest.update((file.bytes.len() as u64).to_le_bytes());
            digest.update(file.changed_ns.to_le_bytes());
            digest.update(&file.bytes[..file.header_bytes as usize]);
        }
        let fingerprint = digest.finalize().into();
        ModelFiles { source, files, spec, tensors, slots, fingerprint }
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The tensor of a role; `block` is `None` for roles outside blocks. `Ok(None)` if this model has none, which only
    /// optional roles can be: the others were seen when the files were opened.
    ///
    /// # Errors
    /// When there is no such block.
    pub fn tensor(&self, role: Role, block: Option<usize>) -> Result<Option<Tensor<'_>>, Error> {
        if let Some(block) = block.filter(|&block| block >= self.spec.blocks) {
            let blocks = self.spec.blocks;
            return Err(Error::request(format!("block {block} was asked for; the model has 0..{blocks}")));
        }
        let Some(slot) = self.slots.get(&(role, block)) else { return Ok(None) };
        let info = &self.tensors[slot.tensor];
        let format = info.format.expect("only tensors with a format were given roles");
        let row = row_bytes(format, slot.columns);
        let place = Place {
            file: info.file,
            start: info.offset as usize + slot.first_row * row,
            bytes: slot.rows * row,
        };
        let (rows, columns) = (slot.rows, slot.columns);
        Ok(Some(Tensor { format, rows, columns, bytes: self.bytes(&place), place }))
    }

    /// The bytes at a place.
    pub fn bytes(&self, place: &Place) -> &[u8] {
        &self.files[place.file].bytes[place.start..place.start + place.bytes]
    }

    /// SHA-256 over all headers and the files' lengths and times of change: names what is derived from the files.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The files and their lengths in bytes.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.files.iter().map(|file| (file.path.clone(), file.bytes.len() as u64)).collect()
    }

    /// Every tensor of the files.
    pub fn tensor_table(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn first_header(&self) -> Result<gguf::Header<'_>, Error> {
        gguf::parse_header(&self.files[0].path.display().to_string(), &self.files[0].bytes)
    }

    /// What the files say about the tokenizer.
    ///
    /// # Errors
    /// When a folder has no `tokenizer.json`, or a file can't be read.
    pub fn tokenizer_source(&self) -> Result<TokenizerSource<'_>, Error> {
        match &self.source {
            Source::Gguf => Ok(TokenizerSource::Gguf(self.first_header()?)),
            Source::Folder(folder) => {
                let path = folder.join("tokenizer.json");
                let tokenizer_json = read_small(&path, TOKENIZER_BYTES_MAX)?
                    .ok_or_else(|| Error::request(format!("{} is missing", path.display())))?;
                let tokenizer_config =
                    read_small(&folder.join("tokenizer_config.json"), TOKENIZER_CONFIG_BYTES_MAX)?;
                Ok(TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config })
            }
        }
    }

    /// The model's own chat template.
    ///
    /// # Errors
    /// When a file that should hold it can't be read.
    pub fn chat_template(&self) -> Result<Option<String>, Error> {
        match &self.source {
            Source::Gguf => Ok(self.first_header()?.string("tokenizer.chat_template")?.map(str::to_owned)),
            Source::Folder(folder) => {
                if let Some(text) =
                    read_small(&folder.join("chat_template.jinja"), TOKENIZER_CONFIG_BYTES_MAX)?
                {
                    let what = |_| Error::broken("chat_template.jinja", "it is not UTF-8");
                    return String::from_utf8(text).map(Some).map_err(what);
                }
                for name in ["chat_template.json", "tokenizer_config.json"] {
                    let path = folder.join(name);
                    if let Some(bytes) = read_small(&path, TOKENIZER_CONFIG_BYTES_MAX)?
                        && let Some(text) = hugging_face::chat_template(&path.display().to_string(), &bytes)?
                    {
                        return Ok(Some(text));
                    }
                }
                Ok(None)
            }
        }
    }

    /// All tokens that end a text.
    ///
    /// # Errors
    /// When a file that should hold them can't be read.
    pub fn stop_ids(&self) -> Result<Vec<u32>, Error> {
        match &self.source {
            Source::Gguf => gguf_spec::stop_ids(&self.first_header()?),
            Source::Folder(folder) => {
                let mut ids = Vec::new();
                for name in ["generation_config.json", "config.json"] {
                    let path = folder.join(name);
                    if let Some(bytes) = read_small(&path, CONFIG_BYTES_MAX)? {
                        hugging_face::stop_ids(&path.display().to_string(), &bytes, &mut ids)?;
                    }
                }
                Ok(ids)
            }
        }
    }
}

/// Number and count of a split file's name: `name-00002-of-00003.gguf`.
fn split_name(path: &Path) -> Option<(String, usize, usize)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    if number.len() != 5 || count.len() != 5 {
        return None;
    }
    Some((stem.to_owned(), number.parse().ok()?, count.parse().ok()?))
}

/// All files of the set that `path` belongs to, in order; itself alone if it is no part.
fn split_parts(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let Some((stem, number, count)) = split_name(path) else { return Ok(vec![path.to_owned()]) };
    if number == 0 || number > count || count > MODEL_FILES_MAX {
        let what = format!("{} calls itself part {number} of {count}", path.display());
        return Err(Error::request(format!("{what}; 1 to {MODEL_FILES_MAX} are possible")));
    }
    Ok((1..=count).map(|part| path.with_file_name(format!("{stem}-{part:05}-of-{count:05}.gguf"))).collect())
}

/// A part says itself which one it is.
fn check_split(header: &gguf::Header<'_>, index: usize, count: usize) -> Result<(), Error> {
    let says = header.unsigned("split.count")?.unwrap_or(1).max(1);
    if says != count as u64 {
        let what =
            format_args!("says {says} parts, but {count} are open; keep the parts under the names they had");
        return Err(header.broken("split.count", what));
    }
    match header.unsigned("split.no")? {
        Some(number) if count > 1 && number != index as u64 => {
            Err(header.broken("split.no", format_args!("says {number}, but by its name it is {index}")))
        }
        _ => Ok(()),
    }
}

/// The SafeTensors files of a folder: one, or those that the index names.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let index = folder.join("model.safetensors.index.json");
    let Some(bytes) = read_small(&index, INDEX_BYTES_MAX)? else {
        let path = folder.join("model.safetensors");
        if path.is_file() {
            return Ok(vec![path]);
        }
        let what = format!("{} holds neither model.safetensors nor its index", folder.display());
        return Err(Error::request(what));
    };
    let mut names: Vec<String> = Vec::new();
    for (_, name) in hugging_face::weight_map(&index.display().to_string(), &bytes)? {
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > MODEL_FILES_MAX {
            let what = format!("it names more than {MODEL_FILES_MAX} files");
            return Err(Error::broken(index.display().to_string(), what));
        }
    }
    names.sort();
    Ok(names.iter().map(|name| folder.join(name)).collect())
}
