//! GGUF sets split in parts: `NAME-00001-of-00003.gguf` and so on.
//!
//! Whichever part is given, the whole set is opened in order. The first part holds the metadata; each part
//! has a tensor table of its own.

use std::path::PathBuf;

use super::ModelFile;
use super::gguf::{Header, parse_header};
use crate::Error;
use crate::limits::MODEL_FILES_MAX;

/// All parts of the set that a file belongs to, in order; the file alone if it is whole.
pub(super) fn whole_set(given: ModelFile) -> Result<Vec<ModelFile>, Error> {
    let Some((number, count)) = numbers(&given)? else {
        return Ok(vec![given]);
    };
    let paths = part_paths(&given, number, count)?;
    let mut given = Some(given);
    let mut files = Vec::with_capacity(paths.len());
    for (index, path) in paths.into_iter().enumerate() {
        let index = index as u64;
        let file = match given.take_if(|_| index == number) {
            Some(file) => file,
            None => ModelFile::map(path)?,
        };
        if numbers(&file)? != Some((index, count)) {
            let what = format!(
                "its name says that it is part {} of {count}, but split.no or split.count does not",
                index + 1
            );
            return Err(Error::broken(file.name(), what));
        }
        files.push(file);
    }
    Ok(files)
}

/// Which part of how many a file says it is, the first being 0; `None` if it is whole.
fn numbers(file: &ModelFile) -> Result<Option<(u64, u64)>, Error> {
    let name = file.name();
    let header = parse_header(&name, &file.bytes)?;
    let count = header.unsigned("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(None);
    }
    if count > MODEL_FILES_MAX as u64 {
        return Err(header.broken("split.count", format_args!("is {count}; the limit is {MODEL_FILES_MAX}")));
    }
    match header.unsigned("split.no")? {
        Some(number) if number < count => Ok(Some((number, count))),
        Some(number) => {
            Err(header.broken("split.no", format_args!("is {number}, but there are {count} parts")))
        }
        None => Err(Error::broken(name, "the metadata key split.no is missing from a part of a set")),
    }
}

/// Where all parts of the set should be, by the name of one.
fn part_paths(given: &ModelFile, number: u64, count: u64) -> Result<Vec<PathBuf>, Error> {
    let ending = |index: u64| format!("-{:05}-of-{count:05}.gguf", index + 1);
    let name = given.path.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.strip_suffix(&ending(number))) {
        Some(prefix) => {
            let path = |index| given.path.with_file_name(format!("{prefix}{}", ending(index)));
            Ok((0..count).map(path).collect())
        }
        None => Err(Error::request(format!(
            "{} is part {} of {count} of a set, but its name does not end in {}, so the others can't be \
            found; give the parts their names back",
            given.name(),
            number + 1,
            ending(number)
        ))),
    }
}

/// Checks the count of tensors that the first part states for the whole set.
pub(super) fn check_total(header: &Header<'_>, found: usize) -> Result<(), Error> {
    const KEY: &str = "split.tensors.count";
    match header.unsigned(KEY)? {
        Some(total) if total != found as u64 => {
            Err(header.broken(KEY, format_args!("is {total}, but the parts hold {found} tensors")))
        }
        _ => Ok(()),
    }
}
