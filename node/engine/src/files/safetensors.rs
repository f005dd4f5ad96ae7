//! SafeTensors headers.
//!
//! Eight bytes of length, JSON of that length, then the data. The JSON is foreign: every entry is checked
//! against the file before it is believed, and the data has to be covered without holes or overlaps, as the
//! format demands, so that nothing hides between tensors.
//!
//! The format: <https://github.com/huggingface/safetensors#format>.

use std::collections::HashSet;
use std::fmt;

use kwaainet_kernels::Format;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};

use crate::Error;
use crate::limits::{SAFETENSORS_HEADER_BYTES_MAX, TENSORS_MAX};

/// Bytes before the JSON: its length.
const LENGTH_BYTES: u64 = 8;
/// Most dimensions of a tensor here. No more are used by any model; the bound keeps a shape's memory small.
const DIMENSIONS_MAX: usize = 8;

/// A checked header.
#[derive(Debug)]
pub struct Header {
    /// In the header's order; no name twice, the data covered without holes or overlaps.
    pub tensors: Vec<TensorInfo>,
    /// Where the data begins, in bytes from the file's start.
    pub header_bytes: u64,
}

/// One tensor.
#[derive(Debug)]
pub struct TensorInfo {
    /// Such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The data type's name in the file, such as `BF16`.
    pub type_name: String,
    /// The same as a format of the kernels; `None` for types that have none.
    pub format: Option<Format>,
    /// Outermost first: `[rows, columns]`.
    pub shape: Vec<u64>,
    /// Where its data begins, in bytes from the file's start.
    pub offset: u64,
    /// Length of its data in bytes.
    pub bytes: u64,
}

/// An entry as the JSON has it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The JSON object in its own order, with doubles kept so that they can be refused.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<std::collections::BTreeMap<String, String>>()?;
                    } else if entries.len() as u64 == TENSORS_MAX {
                        return Err(de::Error::custom(format!(
                            "more tensors than the limit of {TENSORS_MAX}"
                        )));
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Reads and checks the header of a whole file.
///
/// `file` is the name for messages; `bytes` is all of the file, of which only the header is touched.
///
/// # Errors
///
/// [`Error::Broken`] with field and offset if the header contradicts itself or the file's length.
pub fn parse_header(file: &str, bytes: &[u8]) -> Result<Header, Error> {
    let broken = |offset: u64, what: String| Error::broken_at(file, offset, what);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let what = format!("it has {} bytes, too few for the header's length; fetch it again", bytes.len());
        return Err(broken(0, what));
    };
    let length = u64::from_le_bytes(*length);
    if length > SAFETENSORS_HEADER_BYTES_MAX {
        let limit = SAFETENSORS_HEADER_BYTES_MAX;
        return Err(broken(0, format!("the header's length is {length} bytes; the limit is {limit}")));
    }
    if length > rest.len() as u64 {
        let what = format!(
            "the header's length is {length} bytes, but only {} follow; the file may be cut short: \
             fetch it again",
            rest.len()
        );
        return Err(broken(0, what));
    }
    let (json, data) = rest.split_at(length as usize); // at most rest's length
    if json.first() != Some(&b'{') {
        return Err(broken(LENGTH_BYTES, "the header should begin with '{'".to_owned()));
    }
    let Entries(entries) = serde_json::from_slice(json).map_err(|error| {
        broken(LENGTH_BYTES + place_of(json, &error), format!("the header is not what it should be: {error}"))
    })?;

    let mut names = HashSet::with_capacity(entries.len());
    for (name, _) in &entries {
        if !names.insert(name.as_str()) {
            return Err(broken(name_offset(json, name), format!("the tensor {name:?} comes twice")));
        }
    }
    let header_bytes = LENGTH_BYTES + length;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in &entries {
        let fail = |what: String| Err(broken(name_offset(json, name), format!("the tensor {name:?} {what}")));
        let [begin, end] = entry.data_offsets;
        if begin > end || end > data.len() as u64 {
            let length = data.len();
            return fail(format!(
                "has data_offsets [{begin}, {end}], but there are {length} bytes of data; the file may \
                 be cut short"
            ));
        }
        if entry.shape.len() > DIMENSIONS_MAX {
            return fail(format!("has {} dimensions; the limit is {DIMENSIONS_MAX}", entry.shape.len()));
        }
        if let Some(element) = element_bits(&entry.dtype) {
            let bits = entry.shape.iter().try_fold(element, |product, &length| product.checked_mul(length));
            if bits != (end - begin).checked_mul(8) {
                return fail(format!(
                    "is {} of shape {:?}, which does not take the {} bytes between its data_offsets",
                    entry.dtype,
                    entry.shape,
                    end - begin
                ));
            }
        }
        tensors.push(TensorInfo {
            name: name.clone(),
            type_name: entry.dtype.clone(),
            format: format_of(&entry.dtype),
            shape: entry.shape.clone(),
            offset: header_bytes + begin,
            bytes: end - begin,
        });
    }
    check_cover(&tensors, bytes.len() as u64, header_bytes)
        .map_err(|(name, what)| broken(name.map_or(0, |name| name_offset(json, name)), what))?;
    Ok(Header { tensors, header_bytes })
}

/// The tensors follow one another without holes or overlaps, from the header's end to the file's.
fn check_cover(
    tensors: &[TensorInfo],
    file_bytes: u64,
    header_bytes: u64,
) -> Result<(), (Option<&str>, String)> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| (tensor.offset, tensor.bytes));
    let mut covered = header_bytes;
    for tensor in order {
        if tensor.offset != covered {
            let relation = if tensor.offset < covered {
                "overlaps the one before it"
            } else {
                "leaves a hole before it"
            };
            let what = format!(
                "the tensor {:?} {relation}: it begins at byte {}, not {covered}",
                tensor.name, tensor.offset
            );
            return Err((Some(&tensor.name), what));
        }
        covered += tensor.bytes;
    }
    if covered != file_bytes {
        return Err((None, format!("the tensors end at byte {covered}, but the file at byte {file_bytes}")));
    }
    Ok(())
}

/// The format of a data type's name.
fn format_of(dtype: &str) -> Option<Format> {
    match dtype {
        "F32" => Some(Format::F32),
        "F16" => Some(Format::F16),
        "BF16" => Some(Format::BF16),
        _ => None,
    }
}

/// Bits of one element; `None` for a type that this page does not know, whose length is then not checked.
fn element_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// Where in the file a tensor's name stands; the JSON's begin if it is written with escapes.
fn name_offset(json: &[u8], name: &str) -> u64 {
    let quoted = format!("\"{name}\"");
    let place = json.windows(quoted.len()).position(|window| window == quoted.as_bytes());
    LENGTH_BYTES + place.unwrap_or(0) as u64
}

/// The byte that a JSON error points at.
fn place_of(json: &[u8], error: &serde_json::Error) -> u64 {
    let lines = json.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    let before: usize = lines.map(<[u8]>::len).sum();
    (before + error.column().saturating_sub(1)) as u64
}
