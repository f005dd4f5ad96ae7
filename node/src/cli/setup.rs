//! `kwaainet setup`: what a node needs before its first start.

use std::io::Write;

use argh::FromArgs;
use kwaainet_trust::key_file;
use serde_json::json;

use crate::config::{Config, ConfigFile, keys};
use crate::exit::{Exit, Failure};
use crate::home;

use super::start;

/// make the node's identity and settings; what is there stays
#[derive(FromArgs)]
#[argh(subcommand, name = "setup")]
pub struct Setup {
    /// answer with one JSON object
    #[argh(switch)]
    json: bool,
}

impl Setup {
    /// Makes what is missing and says what it made.
    pub fn execute(self) -> Result<Exit, Failure> {
        let home = home::path()?;
        kwaainet_trust::disk::create_folder(&home)?;
        let made_config = ConfigFile::create(&home)?;
        let config = Config::load(&home, &[])?;
        let key = config.path(&keys::IDENTITY_KEY_FILE).unwrap_or_else(|| home.join("identity.key"));
        let had_key = key.exists();
        // A sealed key is not opened for this: who it is, only its owner can tell.
        let peer_id = if had_key && key_file::is_sealed(&key)? {
            None
        } else {
            Some(start::identity(&config, &home, None)?.peer_id().to_string())
        };
        let mut out = std::io::stdout();
        let settings = ConfigFile::path(&home);
        if self.json {
            let object = json!({
                "home": home,
                "identity": {"path": key, "peer_id": peer_id, "made": !had_key},
                "config": {"path": settings, "made": made_config},
            });
            writeln!(out, "{object}")?;
            return Ok(Exit::Success);
        }
        let word = |is_made: bool| if is_made { "made" } else { "was there" };
        let peer_id = peer_id.unwrap_or_else(|| "sealed by a passphrase".into());
        writeln!(out, "Identity  {peer_id} ({}, {})", key.display(), word(!had_key))?;
        writeln!(out, "Settings  {} ({})", settings.display(), word(made_config))?;
        writeln!(out, "Next: `kwaainet start`, or `kwaainet start --daemon`.")?;
        Ok(Exit::Success)
    }
}
