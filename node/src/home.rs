//! The node's folder: `KWAAINET_HOME`, or `.kwaainet` in the user's own.

use std::env;
use std::fs;
use std::path::PathBuf;

/// The folder; `None` if neither `KWAAINET_HOME` nor a home is known.
pub fn folder() -> Option<PathBuf> {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("KWAAINET_HOME")
        .or_else(|| named("HOME").or_else(|| named("USERPROFILE")).map(|home| home.join(".kwaainet")))
}

/// Where packed copies of models are kept. Without a folder that can be made, weights are packed into memory
/// at each start; a sentence on standard error says so.
pub fn cache_folder() -> Option<PathBuf> {
    let Some(home) = folder() else {
        eprintln!(
            "There is no home folder to keep packed weights in; set KWAAINET_HOME. Packing into memory."
        );
        return None;
    };
    let folder = home.join("cache");
    match fs::create_dir_all(&folder) {
        Ok(()) => Some(folder),
        Err(error) => {
            eprintln!("The folder {} can't be made ({error}); packing into memory.", folder.display());
            None
        }
    }
}
