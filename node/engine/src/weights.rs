//! The weights of a block range, ready for the kernels.
//!
//! Every matrix lies in one of two places: in the model's own mapped file, when the kernels eat it as it is,
//! or in a packed copy. Small vectors (norms, biases) are decoded once. Only the tensors of the wanted range
//! are touched.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use kwaainet_kernels::{Format, Layout, Matrix, decode};

use crate::error::Error;
use crate::files::{FileBytes, ModelFiles, Place as FilePlace, Role, Tensor};
use crate::memory::Residence;
use crate::packed::{Form, Listener, Packed, Plan, form_bytes};

/// What is done to weights when a model is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantize {
    /// Nothing: formats stay as they are in the file.
    #[default]
    Keep,
    /// Everything is decoded to F32: exact and large, for checking.
    F32,
    /// Matrices stored as floats become this format where their shape allows it.
    To(Format),
}

impl Quantize {
    /// Reads "keep", "f32", "q8_0", "q4_0" or "q4_k".
    ///
    /// # Errors
    /// A sentence with the possible names.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        match name.to_ascii_lowercase().as_str() {
            "keep" => Ok(Quantize::Keep),
            "f32" => Ok(Quantize::F32),
            "q8_0" => Ok(Quantize::To(Format::Q8_0)),
            "q4_0" => Ok(Quantize::To(Format::Q4_0)),
            "q4_k" => Ok(Quantize::To(Format::Q4K)),
            _ => Err(Error::request(format!(
                "\"{name}\" is no weight format to quantise to; possible are keep, f32, q8_0, q4_0 and q4_k"
            ))),
        }
    }

    /// The form that the kernels will eat a tensor in.
    fn form_of(self, tensor: &Tensor) -> Form {
        let format = match self {
            Quantize::Keep => tensor.format,
            Quantize::F32 => Format::F32,
            Quantize::To(wanted) if tensor.format.is_float() => {
                let divides = |format: &Format| tensor.columns.is_multiple_of(format.block_columns());
                [wanted, Format::Q8_0].into_iter().find(divides).unwrap_or(tensor.format)
            }
            Quantize::To(_) => tensor.format,
        };
        let layout = if format.has_panels() { Layout::Panels } else { Layout::Rows };
        Form { format, layout }
    }
}

#[derive(Clone, Debug)]
enum Place {
    File(FilePlace),
    Packed { part: usize, start: usize },
}

/// A matrix of the loaded range; [`Weights::matrix`] gives its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    place: Place,
    form: Form,
    rows: usize,
    columns: usize,
    bytes: usize,
}

impl Weight {
    pub(crate) fn is_float(&self) -> bool {
        self.form.format.is_float()
    }
}

/// The weights of one block; what a family hasn't is `None`.
pub(crate) struct BlockWeights {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Weight,
    pub(crate) key: Weight,
    pub(crate) value: Weight,
    pub(crate) query_bias: Option<Vec<f32>>,
    pub(crate) key_bias: Option<Vec<f32>>,
    pub(crate) value_bias: Option<Vec<f32>>,
    pub(crate) query_norm: Option<Vec<f32>>,
    pub(crate) key_norm: Option<Vec<f32>>,
    pub(crate) attention_output: Weight,
    pub(crate) attention_output_bias: Option<Vec<f32>>,
    pub(crate) post_attention_norm: Option<Vec<f32>>,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate: Weight,
    pub(crate) up: Weight,
    pub(crate) down: Weight,
    pub(crate) post_feed_forward_norm: Option<Vec<f32>>,
}

impl BlockWeights {
    fn matrices(&self) -> [&Weight; BLOCK_MATRICES.len()] {
        let BlockWeights { query, key, value, attention_output, gate, up, down, .. } = self;
        [query, key, value, attention_output, gate, up, down]
    }
}

/// The last norm and the matrix to the vocabulary.
pub(crate) struct HeadWeights {
    pub(crate) norm: Vec<f32>,
    pub(crate) output: Weight,
}

/// Which part of a model is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) blocks: Range<usize>,
    pub(crate) embedding: bool,
    pub(crate) head: bool,
    pub(crate) quantize: Quantize,
}

/// All weights of a range.
pub(crate) struct Weights {
    files: Arc<ModelFiles>,
    packed: Vec<Packed>,
    pub(crate) embedding: Option<Weight>,
    pub(crate) blocks: Vec<BlockWeights>,
    pub(crate) head: Option<HeadWeights>,
}

const BLOCK_MATRICES: [Role; 7] =
    [Role::Query, Role::Key, Role::Value, Role::AttentionOutput, Role::Gate, Role::Up, Role::Down];

fn required<'a>(files: &'a ModelFiles, role: Role, block: Option<usize>) -> Result<Tensor<'a>, Error> {
    files.tensor(role, block)?.ok_or_else(|| {
        let place = block.map_or(String::new(), |b| format!(" of block {b}"));
        Error::unsupported(format!("the model has no {role:?} tensor{place}"))
    })
}

/// The role whose matrix serves as head, and whether it is the embedding.
fn head_role(files: &ModelFiles) -> Role {
    if files.spec().tied_head { Role::Embedding } else { Role::Output }
}

/// Whether token rows are looked up in the head's packed copy, so that nothing is held twice: the head is the
/// same tensor in the same format, and a row decodes to the same bits from either layout. Else the embedding,
/// which is only looked up, stays in its file as it is.
fn head_serves_as_embedding(files: &ModelFiles, part: &Part) -> Result<bool, Error> {
    let tensor = required(files, Role::Embedding, None)?;
    Ok(part.head && files.spec().tied_head && part.quantize.form_of(&tensor).format == tensor.format)
}

/// Bytes of weights that a part reads from memory and from its packed copies, computed from headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WeightBytes {
    /// All weights, wherever they lie.
    pub(crate) total: u64,
    /// Those of them that are read for every token.
    pub(crate) read_per_token: u64,
    /// Those of them that lie in packed copies.
    pub(crate) packed: u64,
    /// The largest block alone.
    pub(crate) block_max: u64,
    /// What lies outside blocks.
    pub(crate) outside_blocks: u64,
}

impl WeightBytes {
    pub(crate) fn of(files: &ModelFiles, part: &Part) -> Result<Self, Error> {
        let mut sum = WeightBytes::default();
        let mut add = |role: Role, block: Option<usize>| -> Result<u64, Error> {
            let tensor = required(files, role, block)?;
            let form = part.quantize.form_of(&tensor);
            let bytes = form_bytes(form, tensor.rows, tensor.columns).ok_or_else(|| {
                Error::unsupported(format!("{role:?} can't be stored as {}", form.format.name()))
            })? as u64;
            sum.read_per_token += bytes;
            if !stays_in_file(&tensor, form) {
                sum.packed += bytes;
            }
            Ok(bytes)
        };
        let mut outside_blocks = if part.head { add(head_role(files), None)? } else { 0 };
        let mut block_max = 0;
        for block in part.blocks.clone() {
            let mut bytes = 0;
            for role in BLOCK_MATRICES {
                bytes += add(role, Some(block))?;
            }
            block_max = block_max.max(bytes);
        }
        sum.block_max = block_max;
        sum.total = sum.read_per_token;
        if part.embedding && !head_serves_as_embedding(files, part)? {
            let table = required(files, Role::Embedding, None)?.bytes.len() as u64;
            sum.total += table;
            outside_blocks += table;
        }
        sum.outside_blocks = outside_blocks;
        Ok(sum)
    }
}

fn stays_in_file(tensor: &Tensor, form: Form) -> bool {
    form == Form { format: tensor.format, layout: Layout::Rows }
}

impl Weights {
    /// Opens the weights of a part, packing what isn't packed yet into `cache_folder`, or in memory without
    /// one.
    ///
    /// # Errors
    /// When a tensor is missing or the cache can't be written.
    pub(crate) fn open(
        files: Arc<ModelFiles>,
        part: &Part,
        cache_folder: Option<&Path>,
        tell: Listener<'_>,
    ) -> Result<Weights, Error> {
        let mut packed = Vec::new();
        let (embedding, head, blocks) = {
            let mut loader = Loader { files: &files, part, cache_folder, tell, packed: &mut packed };
            let head = loader.head()?;
            let embedding = loader.embedding(head.as_ref())?;
            let blocks = part.blocks.clone().map(|b| loader.block(b)).collect::<Result<Vec<_>, _>>()?;
            (embedding, head, blocks)
        };
        Ok(Weights { files, packed, embedding, blocks, head })
    }

    /// Makes the weights stay as `residence` says.
    ///
    /// # Errors
    /// When the system doesn't let so much be locked.
    pub(crate) fn settle(&self, residence: Residence, huge_pages: bool) -> Result<(), Error> {
        let matrices = self.blocks.iter().flat_map(BlockWeights::matrices);
        let outside = self.embedding.iter().chain(self.head.iter().map(|head| &head.output));
        for weight in matrices.chain(outside) {
            let Some((file, _)) = self.file_of(weight) else { continue };
            if huge_pages {
                file.advise_huge_pages();
            }
            if residence == Residence::Locked {
                file.lock().map_err(|source| {
                    let what = "can't lock the weights in memory; the limit on locked memory is too low \
                                (raise it with `ulimit -l` or LimitMEMLOCK=), or leave --lock out";
                    Error::io(what, source)
                })?;
            }
        }
        Ok(())
    }

    /// The file that a matrix is mapped from, and where in it the matrix lies.
    fn file_of(&self, weight: &Weight) -> Option<(&FileBytes, Range<usize>)> {
        match &weight.place {
            Place::File(place) => Some(self.files.file_of(place)),
            Place::Packed { part, start } => {
                self.packed[*part].map().map(|map| (map.file(), *start..*start + weight.bytes))
            }
        }
    }

    /// What is computed as the `index`-th of a pass: the matrices of a block, after the last the head's.
    fn stretch(&self, index: usize) -> Vec<&Weight> {
        match (self.blocks.get(index), &self.head) {
            (Some(block), _) => block.matrices().to_vec(),
            (None, Some(head)) => vec![&head.output],
            (None, None) => Vec::new(),
        }
    }

    /// For streaming, before the `index`-th stretch is computed: has what comes after it read, around to the
    /// next pass.
    pub(crate) fn read_ahead(&self, index: usize) {
        let stretches = self.blocks.len() + usize::from(self.head.is_some());
        for weight in self.stretch((index + 1) % stretches) {
            if let Some((file, range)) = self.file_of(weight) {
                file.advise_soon(range);
            }
        }
    }

    /// For streaming, after the `index`-th stretch was computed: gives its memory up.
    pub(crate) fn let_go(&self, index: usize) {
        for weight in self.stretch(index) {
            if let Some((file, range)) = self.file_of(weight) {
                file.let_go(range, true);
            }
        }
    }

    /// A weight's bytes, typed.
    pub(crate) fn matrix(&self, weight: &Weight) -> Matrix<'_> {
        let bytes = match &weight.place {
            Place::File(place) => self.files.bytes(place),
            Place::Packed { part, start } => &self.packed[*part].bytes()[*start..*start + weight.bytes],
        };
        Matrix::new(weight.form.format, weight.form.layout, weight.rows, weight.columns, bytes)
            .expect("the shape was checked when the weights were opened")
    }
}

struct Loader<'a> {
    files: &'a ModelFiles,
    part: &'a Part,
    cache_folder: Option<&'a Path>,
    tell: Listener<'a>,
    packed: &'a mut Vec<Packed>,
}

impl Loader<'_> {
    fn embedding(&self, head: Option<&HeadWeights>) -> Result<Option<Weight>, Error> {
        if !self.part.embedding {
            return Ok(None);
        }
        if let Some(head) = head
            && head_serves_as_embedding(self.files, self.part)?
        {
            return Ok(Some(head.output.clone()));
        }
        let tensor = required(self.files, Role::Embedding, None)?;
        let form = Form { format: tensor.format, layout: Layout::Rows };
        let (rows, columns, bytes) = (tensor.rows, tensor.columns, tensor.bytes.len());
        Ok(Some(Weight { place: Place::File(tensor.place), form, rows, columns, bytes }))
    }

    fn head(&mut self) -> Result<Option<HeadWeights>, Error> {
        if !self.part.head {
            return Ok(None);
        }
        let output = self.matrices(&[head_role(self.files)], None, "head")?.remove(0);
        Ok(Some(HeadWeights { norm: self.norm(Role::OutputNorm, None)?, output }))
    }

    fn block(&mut self, block: usize) -> Result<BlockWeights, Error> {
        let label = format!("block{block}");
        let mut weights = self.matrices(&BLOCK_MATRICES, Some(block), &label)?.into_iter();
        let mut next = || weights.next().expect("one weight a role");
        let (query, key, value, attention_output, gate, up, down) =
            (next(), next(), next(), next(), next(), next(), next());
        let at = Some(block);
        Ok(BlockWeights {
            attention_norm: self.norm(Role::AttentionNorm, at)?,
            query,
            key,
            value,
            query_bias: self.vector(Role::QueryBias, at)?,
            key_bias: self.vector(Role::KeyBias, at)?,
            value_bias: self.vector(Role::ValueBias, at)?,
            query_norm: self.optional_norm(Role::QueryNorm, at)?,
            key_norm: self.optional_norm(Role::KeyNorm, at)?,
            attention_output,
            attention_output_bias: self.vector(Role::AttentionOutputBias, at)?,
            post_attention_norm: self.optional_norm(Role::PostAttentionNorm, at)?,
            feed_forward_norm: self.norm(Role::FeedForwardNorm, at)?,
            gate,
            up,
            down,
            post_feed_forward_norm: self.optional_norm(Role::PostFeedForwardNorm, at)?,
        })
    }

    /// Opens some matrices; those that need packing share one packed file.
    fn matrices(&mut self, roles: &[Role], block: Option<usize>, label: &str) -> Result<Vec<Weight>, Error> {
        let mut weights = Vec::with_capacity(roles.len());
        let mut to_pack = Vec::new();
        for &role in roles {
            let tensor = required(self.files, role, block)?;
            let form = self.part.quantize.form_of(&tensor);
            let (rows, columns) = (tensor.rows, tensor.columns);
            if stays_in_file(&tensor, form) {
                let (place, bytes) = (Place::File(tensor.place), tensor.bytes.len());
                weights.push(Weight { place, form, rows, columns, bytes });
            } else {
                let place = Place::Packed { part: self.packed.len(), start: to_pack.len() };
                weights.push(Weight { place, form, rows, columns, bytes: 0 });
                to_pack.push((tensor, form));
            }
        }
        if to_pack.is_empty() {
            return Ok(weights);
        }
        let plan = Plan::new(to_pack)?;
        let packed = match self.cache_folder {
            Some(folder) => plan.open_or_make(folder, label, &self.files.fingerprint(), self.tell)?,
            None => plan.make_in_memory(self.tell),
        };
        // What was read to pack it isn't needed again.
        for entry in plan.entries() {
            let (file, range) = self.files.file_of(&entry.source.place);
            file.let_go(range, false);
        }
        self.packed.push(packed);
        for weight in &mut weights {
            if let Place::Packed { start, .. } = &mut weight.place {
                let entry = &plan.entries()[*start];
                (*start, weight.bytes) = (entry.start, entry.bytes);
            }
        }
        Ok(weights)
    }

    fn vector(&self, role: Role, block: Option<usize>) -> Result<Option<Vec<f32>>, Error> {
        Ok(self.files.tensor(role, block)?.map(|tensor| {
            let mut values = vec![0.0; tensor.rows * tensor.columns];
            decode(tensor.format, tensor.bytes, &mut values);
            values
        }))
    }

    fn optional_norm(&self, role: Role, block: Option<usize>) -> Result<Option<Vec<f32>>, Error> {
        let offset = self.files.spec().norm_weight_offset;
        let norm = self.vector(role, block)?;
        Ok(norm.map(|values| values.into_iter().map(|value| value + offset).collect()))
    }

    fn norm(&self, role: Role, block: Option<usize>) -> Result<Vec<f32>, Error> {
        self.optional_norm(role, block)?
            .ok_or_else(|| Error::unsupported(format!("the model has no {role:?} tensor")))
    }
}
