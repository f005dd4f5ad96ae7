//! The node's folder: `KWAAINET_HOME`, or `.kwaainet` in the user's own.
//!
//! | in it | what |
//! |---|---|
//! | `config.toml` | the settings |
//! | `identity.key` | the key |
//! | `logs/` | what the node said |
//! | `run/` | lock and control socket of the running node |
//! | `cache/` | packed weights; may be deleted |
//! | `network/` | peers that were seen |

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use kwaainet_trust::disk;

use crate::exit::{Exit, Failure};

/// The folder; `None` if neither `KWAAINET_HOME` nor a home is known.
pub fn folder() -> Option<PathBuf> {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("KWAAINET_HOME")
        .or_else(|| named("HOME").or_else(|| named("USERPROFILE")).map(|home| home.join(".kwaainet")))
}

/// The folder's path, whole, for commands that can't do without; it need not be there.
pub fn path() -> Result<PathBuf, Failure> {
    let folder = folder().ok_or_else(|| {
        Failure::new(
            Exit::Failure,
            "there is no home folder; set KWAAINET_HOME to a folder of the node's own",
        )
    })?;
    std::path::absolute(folder).map_err(|error| {
        Failure::new(Exit::Failure, format!("the home folder's path can't be told: {error}"))
    })
}

/// A folder inside, made with all above it for the owner alone.
pub fn inner(home: &Path, name: &str) -> Result<PathBuf, Failure> {
    let folder = home.join(name);
    disk::create_folder(&folder)?;
    Ok(folder)
}

/// Where packed copies of models are kept. Without a folder that can be made, weights are packed into memory
/// at each start; a sentence says so.
pub fn cache_folder() -> Option<PathBuf> {
    let Some(home) = folder() else {
        crate::log::say(
            "There is no home folder to keep packed weights in; set KWAAINET_HOME. Packing into memory.",
        );
        return None;
    };
    let folder = home.join("cache");
    match fs::create_dir_all(&folder) {
        Ok(()) => Some(folder),
        Err(error) => {
            crate::log::say(&format!(
                "The folder {} can't be made ({error}); packing into memory.",
                folder.display()
            ));
            None
        }
    }
}
