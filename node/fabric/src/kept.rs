//! Known peers between two starts.
//!
//! One address a line, each with its peer. Written whole to a new file that then takes the old one's place,
//! so that a crash leaves the old list or the new one and nothing between.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use libp2p::Multiaddr;

use crate::error::Error;
use crate::limits::{ADDRESSES_PER_PEER_MAX, PEERS_FILE_BYTES_MAX, PEERS_KEPT_MAX};
use crate::settings::peer_of;

/// The list's place in the node's folder.
pub(crate) fn path_in(folder: &Path) -> PathBuf {
    folder.join("peers.txt")
}

/// The kept addresses; none when there is no list yet. Lines that are none are left out: the list is no
/// more than a hint.
///
/// # Errors
///
/// When the file can't be read or is far too long.
pub(crate) fn load(path: &Path) -> Result<Vec<Multiaddr>, Error> {
    let failed = |error| Error::io(format!("reading the known peers in {}", path.display()), error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(PEERS_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > PEERS_FILE_BYTES_MAX {
        let what = format!("more than {PEERS_FILE_BYTES_MAX} bytes, so it is no list of ours; delete it");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    let addresses = text.lines().filter_map(|line| line.parse::<Multiaddr>().ok());
    let addresses = addresses.filter(|address| peer_of(address).is_some());
    Ok(addresses.take(PEERS_KEPT_MAX * ADDRESSES_PER_PEER_MAX).collect())
}

/// Keeps `addresses`.
///
/// # Errors
///
/// When the file can't be written; the old one is whole then.
pub(crate) fn save(path: &Path, addresses: &[Multiaddr]) -> Result<(), Error> {
    let text: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    replace(path, text.as_bytes())
        .map_err(|error| Error::io(format!("keeping the known peers in {}", path.display()), error))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The rename itself is safe once the folder is written; not every system lets a folder be opened.
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        folder.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::PeerId;

    fn place(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("kwaainet-kept-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        path_in(&folder)
    }

    #[test]
    fn what_is_kept_is_loaded_again() {
        let path = place("again");
        assert!(load(&path).unwrap().is_empty(), "nothing is kept yet");
        let address = |port| format!("/ip4/1.2.3.4/tcp/{port}/p2p/{}", PeerId::random()).parse().unwrap();
        let addresses: Vec<Multiaddr> = (1..5).map(address).collect();
        save(&path, &addresses).unwrap();
        assert_eq!(load(&path).unwrap(), addresses);
        save(&path, &addresses[..1]).unwrap();
        assert_eq!(load(&path).unwrap(), addresses[..1]);
    }

    #[test]
    fn lines_that_are_no_address_are_left_out() {
        let path = place("lines");
        let good = format!("/ip4/1.2.3.4/tcp/1/p2p/{}", PeerId::random());
        fs::write(&path, format!("nonsense\n/ip4/1.2.3.4/tcp/1\n{good}\n")).unwrap();
        assert_eq!(load(&path).unwrap(), [good.parse().unwrap()]);
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let path = place("limit");
        fs::write(&path, vec![b'\n'; PEERS_FILE_BYTES_MAX as usize]).unwrap();
        assert!(load(&path).unwrap().is_empty());
        fs::write(&path, vec![b'\n'; PEERS_FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("delete it"));
    }
}
