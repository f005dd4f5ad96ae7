//! From bytes to a checked [`Header`].

use std::collections::HashSet;
use std::fmt;

use kwaainet_kernels::Format;

use super::value::{Array, Kind, Numbers, Scalar, Value};
use super::{Header, MAGIC, Metadata, TensorInfo};
use crate::Error;
use crate::limits::{
    GGUF_ALIGNMENT_BYTES_MAX, GGUF_ARRAY_DEPTH_MAX, GGUF_ARRAY_ELEMENTS_MAX, GGUF_KEY_BYTES_MAX,
    GGUF_METADATA_MAX, GGUF_STRING_BYTES_MAX, GGUF_TENSOR_NAME_BYTES_MAX, TENSOR_DIMENSIONS_MAX, TENSORS_MAX,
};

/// Alignment of tensor data when the file does not say, in bytes.
const ALIGNMENT_BYTES_DEFAULT: u64 = 32;
/// The least a metadata entry takes: length of the key, type, one byte of value.
const METADATA_BYTES_MIN: u64 = 8 + 4 + 1;
/// The least an entry of the tensor table takes: length of the name, count of dimensions, one, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 8 + 4 + 8;

/// Reads and checks the header of a whole file.
///
/// `file` is the name for messages; `bytes` is all of the file, of which only the header is touched.
///
/// # Errors
///
/// [`Error::Broken`] with field and offset if the header contradicts itself or the file's length;
/// [`Error::Unsupported`] for another byte order, another version, or a tensor type without kernels.
pub fn parse_header<'a>(file: &str, bytes: &'a [u8]) -> Result<Header<'a>, Error> {
    let mut reader = Reader { file, bytes, at: 0 };
    let magic = reader.take(4, format_args!("the magic"))?;
    if magic != MAGIC {
        return Err(
            reader.broken(0, format_args!("the magic should be \"GGUF\", but is {}", magic.escape_ascii()))
        );
    }
    let version = reader.version()?;
    let tensor_count = reader.count(format_args!("the count of tensors"), TENSORS_MAX, TENSOR_BYTES_MIN)?;
    let metadata_count =
        reader.count(format_args!("the count of metadata"), GGUF_METADATA_MAX, METADATA_BYTES_MIN)?;

    let mut keys = HashSet::with_capacity(metadata_count);
    let mut metadata = Vec::with_capacity(metadata_count);
    for index in 0..metadata_count {
        let at = reader.at;
        let key = reader.string(GGUF_KEY_BYTES_MAX, format_args!("the key of metadata {index}"))?;
        if !keys.insert(key) {
            return Err(reader.broken(at, format_args!("the metadata key {key:?} comes twice")));
        }
        let kind = reader.u32(format_args!("the type of {key}"))?;
        let offset = reader.at as u64;
        let value = reader.value(kind, key)?;
        metadata.push(Metadata { key, value, offset });
    }

    let mut header = Header {
        file: file.to_owned(),
        version,
        alignment: ALIGNMENT_BYTES_DEFAULT,
        metadata,
        tensors: Vec::with_capacity(tensor_count),
        header_bytes: 0,
    };
    if let Some(alignment) = header.unsigned("general.alignment")? {
        if !alignment.is_power_of_two() || alignment > GGUF_ALIGNMENT_BYTES_MAX {
            let what =
                format!("is {alignment}, but has to be a power of two up to {GGUF_ALIGNMENT_BYTES_MAX}");
            return Err(header.broken("general.alignment", what));
        }
        header.alignment = alignment;
    }

    let mut names = HashSet::with_capacity(tensor_count);
    for index in 0..tensor_count {
        let tensor = reader.tensor(index, header.alignment)?;
        if !names.insert(tensor.name) {
            let what = format_args!("the tensor {:?} comes twice", tensor.name);
            return Err(reader.broken(tensor.entry_offset as usize, what));
        }
        header.tensors.push(tensor);
    }
    header.header_bytes = reader.at as u64;
    place_tensors(&mut header, bytes.len() as u64)?;
    Ok(header)
}

/// Turns offsets within the data into offsets within the file, and checks that every tensor lies inside the
/// file and that no two share a byte.
fn place_tensors(header: &mut Header<'_>, file_bytes: u64) -> Result<(), Error> {
    let broken = |file: &str, tensor: &TensorInfo<'_>, what: String| {
        Error::broken_at(file, tensor.entry_offset, format!("the tensor {} {what}", tensor.name))
    };
    // Cannot overflow: the header lies inside the file and the alignment is small.
    let data = header.header_bytes.next_multiple_of(header.alignment);
    for tensor in &mut header.tensors {
        let begin = data.checked_add(tensor.offset);
        match begin.and_then(|begin| begin.checked_add(tensor.bytes)) {
            Some(end) if end <= file_bytes => tensor.offset += data,
            _ => {
                let what = format!(
                    "has {} bytes at offset {} of the data, which begins at byte {data}, but the file ends \
                    at byte {file_bytes}; it may be cut short: fetch it again",
                    tensor.bytes, tensor.offset
                );
                return Err(broken(&header.file, tensor, what));
            }
        }
    }
    let mut order: Vec<&TensorInfo<'_>> = header.tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let what = format!("overlaps {}", pair[0].name);
            return Err(broken(&header.file, pair[1], what));
        }
    }
    Ok(())
}

/// A cursor over the file that refuses to pass its end.
struct Reader<'n, 'a> {
    file: &'n str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'_, 'a> {
    fn broken(&self, at: usize, what: fmt::Arguments<'_>) -> Error {
        Error::broken_at(self.file, at as u64, what.to_string())
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, count: u64, field: fmt::Arguments<'_>) -> Result<&'a [u8], Error> {
        if count > self.left() {
            let left = self.left();
            return Err(self.broken(
                self.at,
                format_args!(
                    "{field} needs {count} bytes, but only {left} are left; the file may be cut short"
                ),
            ));
        }
        let begin = self.at;
        self.at += count as usize; // at most `left`, which is a usize
        Ok(&self.bytes[begin..self.at])
    }

    fn u32(&mut self, field: fmt::Arguments<'_>) -> Result<u32, Error> {
        let bytes = self.take(4, field)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self, field: fmt::Arguments<'_>) -> Result<u64, Error> {
        let bytes = self.take(8, field)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    fn version(&mut self) -> Result<u32, Error> {
        let version = self.u32(format_args!("the version"))?;
        let file = self.file;
        match version {
            2 | 3 => Ok(version),
            1 => Err(Error::unsupported(format!(
                "{file} is GGUF version 1, which nothing has written since 2023; versions 2 and 3 can be \
                read: fetch or convert the model anew"
            ))),
            _ if (1..=3).contains(&version.swap_bytes()) => Err(Error::unsupported(format!(
                "{file} is a big-endian GGUF; only little-endian ones can be read: fetch the usual one"
            ))),
            _ => Err(Error::unsupported(format!(
                "{file} says it is GGUF version {version} (at byte 4); versions 2 and 3 can be read"
            ))),
        }
    }

    /// A count of things that take at least `bytes_min` each; never more than fit in what is left of the
    /// file.
    fn count(&mut self, field: fmt::Arguments<'_>, count_max: u64, bytes_min: u64) -> Result<usize, Error> {
        let at = self.at;
        let count = self.u64(field)?;
        let left = self.left();
        if count > count_max {
            return Err(self.broken(at, format_args!("{field} is {count}; the limit is {count_max}")));
        }
        match count.checked_mul(bytes_min) {
            Some(bytes) if bytes <= left => Ok(count as usize), // fits: at most `left`
            _ => Err(self.broken(
                at,
                format_args!(
                    "{field} is {count}, which takes at least {bytes_min} bytes each, but only {left} \
                     are left"
                ),
            )),
        }
    }

    fn string(&mut self, bytes_max: u64, field: fmt::Arguments<'_>) -> Result<&'a str, Error> {
        let at = self.at;
        let length = self.u64(field)?;
        if length > bytes_max {
            return Err(
                self.broken(at, format_args!("{field} is {length} bytes long; the limit is {bytes_max}"))
            );
        }
        let begin = self.at;
        let bytes = self.take(length, field)?;
        std::str::from_utf8(bytes).map_err(|error| {
            self.broken(begin + error.valid_up_to(), format_args!("{field} is not valid UTF-8"))
        })
    }

    fn kind(&self, id: u32, key: &str) -> Result<Kind, Error> {
        Kind::from_id(id)
            .ok_or_else(|| self.broken(self.at - 4, format_args!("{key} has the unknown value type {id}")))
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value<'a>, Error> {
        Ok(match self.kind(kind, key)? {
            Kind::Scalar(scalar) => {
                let bytes = self.scalars(scalar, 1, key)?;
                scalar.decode(bytes)
            }
            Kind::String => {
                Value::String(self.string(GGUF_STRING_BYTES_MAX, format_args!("the value of {key}"))?)
            }
            Kind::Array => Value::Array(self.array(key, 1)?),
        })
    }

    /// The encoded bytes of `count` numbers; booleans among them are checked to be 0 or 1.
    fn scalars(&mut self, scalar: Scalar, count: usize, key: &str) -> Result<&'a [u8], Error> {
        let at = self.at;
        let length = (count as u64).checked_mul(scalar.bytes() as u64);
        let bytes = self.take(length.unwrap_or(u64::MAX), format_args!("the value of {key}"))?;
        if scalar == Scalar::Bool
            && let Some(index) = bytes.iter().position(|&byte| byte > 1)
        {
            let byte = bytes[index];
            return Err(
                self.broken(at + index, format_args!("{key} holds the boolean {byte}, which is not 0 or 1"))
            );
        }
        Ok(bytes)
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<Array<'a>, Error> {
        if depth > GGUF_ARRAY_DEPTH_MAX {
            let what = format_args!("{key} nests arrays deeper than the limit of {GGUF_ARRAY_DEPTH_MAX}");
            return Err(self.broken(self.at, what));
        }
        let id = self.u32(format_args!("the element type of {key}"))?;
        let kind = self.kind(id, key)?;
        let bytes_min = match kind {
            Kind::Scalar(scalar) => scalar.bytes() as u64,
            Kind::String => 8,
            Kind::Array => 12,
        };
        let count = self.count(format_args!("the length of {key}"), GGUF_ARRAY_ELEMENTS_MAX, bytes_min)?;
        match kind {
            Kind::Scalar(scalar) => {
                let bytes = self.scalars(scalar, count, key)?;
                Ok(Array::Numbers(Numbers { kind: scalar, bytes }))
            }
            Kind::String => {
                let mut strings = Vec::with_capacity(count);
                for index in 0..count {
                    strings
                        .push(self.string(GGUF_STRING_BYTES_MAX, format_args!("element {index} of {key}"))?);
                }
                Ok(Array::Strings(strings))
            }
            Kind::Array => {
                let mut arrays = Vec::with_capacity(count);
                for _ in 0..count {
                    arrays.push(self.array(key, depth + 1)?);
                }
                Ok(Array::Arrays(arrays))
            }
        }
    }

    /// One entry of the tensor table; its offset is still relative to the data.
    fn tensor(&mut self, index: usize, alignment: u64) -> Result<TensorInfo<'a>, Error> {
        let entry_offset = self.at as u64;
        let name = self.string(GGUF_TENSOR_NAME_BYTES_MAX, format_args!("the name of tensor {index}"))?;
        let at = self.at;
        let count = self.u32(format_args!("the count of dimensions of {name}"))?;
        if count == 0 || count as usize > TENSOR_DIMENSIONS_MAX {
            let what =
                format_args!("{name} has {count} dimensions; 1 to {TENSOR_DIMENSIONS_MAX} are possible");
            return Err(self.broken(at, what));
        }
        let dimensions_at = self.at;
        let mut dimensions = Vec::with_capacity(count as usize);
        for dimension in 0..count {
            let at = self.at;
            let length = self.u64(format_args!("dimension {dimension} of {name}"))?;
            if length == 0 {
                return Err(self.broken(at, format_args!("dimension {dimension} of {name} is 0")));
            }
            dimensions.push(length);
        }
        let type_at = self.at;
        let id = self.u32(format_args!("the type of {name}"))?;
        let format = self.format(id, name, type_at)?;

        let rows = dimensions[1..].iter().try_fold(1u64, |product, &length| product.checked_mul(length));
        let row_bytes = usize::try_from(dimensions[0]).ok().and_then(|columns| format.row_bytes(columns));
        let bytes = rows.zip(row_bytes).and_then(|(rows, row_bytes)| rows.checked_mul(row_bytes as u64));
        let Some(bytes) = bytes else {
            let (type_name, block) = (format.name(), format.block_columns());
            return Err(self.broken(
                dimensions_at,
                format_args!(
                    "{name} has the dimensions {dimensions:?}; the first has to be a multiple of {block} \
                    for type {type_name}, and the product has to fit in 64 bits"
                ),
            ));
        };

        let at = self.at;
        let offset = self.u64(format_args!("the offset of {name}"))?;
        if !offset.is_multiple_of(alignment) {
            let what = format_args!(
                "the offset of {name} is {offset}, which is no multiple of the alignment {alignment}"
            );
            return Err(self.broken(at, what));
        }
        Ok(TensorInfo { name, format, dimensions, offset, bytes, entry_offset })
    }

    fn format(&self, id: u32, name: &str, at: usize) -> Result<Format, Error> {
        if let Some(format) = Format::from_ggml(id) {
            return Ok(format);
        }
        let file = self.file;
        match type_name(id) {
            Some(type_name) => Err(Error::unsupported(format!(
                "{file} stores the tensor {name} as {type_name} (at byte {at}), for which there are no \
                kernels; fetch the model as Q4_K_M, Q8_0, Q4_0 or F16"
            ))),
            None => Err(self.broken(at, format_args!("{name} has the unknown tensor type {id}"))),
        }
    }
}

/// Names of tensor types that exist but that have no kernels here.
fn type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}
