//! The file that holds an identity.
//!
//! Bare, its bytes are the stored form of [`crate::identity`] and nothing else, so that KwaaiNet, Hivemind
//! and p2pd read it; with a passphrase they are sealed. A new file is its owner's alone from the first byte
//! and never takes the place of another; one that others could read is refused, with the command that mends
//! it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::disk::{self, Readers};
use crate::limits::KEY_FILE_BYTES_MAX;
use crate::{Error, Identity, Secret, sealed};

/// Reads an identity. `passphrase` is asked only if the file is sealed; `None` from it means that there is
/// none.
///
/// # Errors
/// [`Error::Exposed`] if others can read the file, [`Error::Sealed`] without a passphrase, and what
/// [`Identity::from_protobuf`] says.
pub fn load(path: &Path, passphrase: impl FnOnce() -> Option<Secret>) -> Result<Identity, Error> {
    decode(&read(path)?, passphrase).map_err(|error| match error {
        Error::Broken(what) => Error::Broken(format!("the key file {}: {what}", path.display())),
        other => other,
    })
}

/// Reads an identity from the bytes of a file; the reverse of [`encode`].
pub fn decode(bytes: &[u8], passphrase: impl FnOnce() -> Option<Secret>) -> Result<Identity, Error> {
    if !sealed::is_sealed(bytes) {
        return Identity::from_protobuf(bytes);
    }
    Identity::from_protobuf(&sealed::open(bytes, &passphrase().ok_or(Error::Sealed)?)?)
}

/// The bytes for a file: the stored form, sealed if there is a passphrase.
pub fn encode(identity: &Identity, passphrase: Option<&Secret>) -> Result<Secret, Error> {
    match passphrase {
        Some(passphrase) => sealed::seal(identity.to_protobuf(), passphrase).map(Zeroizing::new),
        None => Ok(identity.to_protobuf().clone()),
    }
}

/// Makes a file that is not there yet.
///
/// # Errors
/// [`Error::Exists`] if it is.
pub fn create(path: &Path, identity: &Identity, passphrase: Option<&Secret>) -> Result<(), Error> {
    disk::create(path, &encode(identity, passphrase)?, Readers::Owner)
}

/// Whether a file holds a sealed key.
pub fn is_sealed(path: &Path) -> Result<bool, Error> {
    Ok(sealed::is_sealed(&read(path)?))
}

fn read(path: &Path) -> Result<Secret, Error> {
    let failed = |error| Error::io(path, "read", error);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::Broken(format!("{} is no file, so it holds no key", path.display())));
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::Exposed { path: path.to_owned(), mode });
        }
    }
    // With its whole room from the start, so that no part of the secret is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX + 1));
    file.take(KEY_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > KEY_FILE_BYTES_MAX {
        return Err(Error::Broken(format!(
            "{} has more than {KEY_FILE_BYTES_MAX} bytes, so it is no key file",
            path.display()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::{RSA, folder};
    use std::fs;

    #[cfg(unix)]
    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_file_loads_again_and_is_never_overwritten() {
        let path = folder("a_new_file_loads").join("identity.key");
        let identity = Identity::generate();
        create(&path, &identity, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), identity.to_protobuf().as_slice());
        assert_eq!(load(&path, || panic!("not sealed")).unwrap().peer_id(), identity.peer_id());
        assert!(matches!(create(&path, &Identity::generate(), None), Err(Error::Exists(_))));
        assert_eq!(load(&path, || None).unwrap().peer_id(), identity.peer_id());
    }

    #[test]
    fn a_sealed_file_needs_its_passphrase() {
        let path = folder("a_sealed_file").join("identity.key");
        let identity = Identity::from_protobuf(RSA).unwrap();
        let passphrase = Zeroizing::new(b"open sesame".to_vec());
        create(&path, &identity, Some(&passphrase)).unwrap();
        assert!(is_sealed(&path).unwrap());
        assert!(matches!(load(&path, || None), Err(Error::Sealed)));
        let wrong = || Some(Zeroizing::new(b"simsalabim".to_vec()));
        assert!(matches!(load(&path, wrong), Err(Error::WrongPassphrase)));
        assert_eq!(load(&path, || Some(passphrase.clone())).unwrap().peer_id(), identity.peer_id());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let path = folder("a_file_that_others").join("identity.key");
        create(&path, &Identity::generate(), None).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o620, 0o644] {
            set_mode(&path, mode);
            let said = load(&path, || None).unwrap_err().to_string();
            assert!(said.contains(&format!("chmod 600 {}", path.display())), "{said}");
        }
        for mode in [0o600, 0o400, 0o700] {
            set_mode(&path, mode);
            load(&path, || None).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_key_file_is_refused_with_its_name() {
        let folder = folder("what_is_no_key_file");
        let path = folder.join("identity.key");
        assert!(matches!(load(&path, || None), Err(Error::Io { .. })));
        fs::write(&path, "hello").unwrap();
        set_mode(&path, 0o600);
        assert!(load(&path, || None).unwrap_err().to_string().contains("identity.key"));
        fs::write(&path, vec![8; KEY_FILE_BYTES_MAX + 1]).unwrap();
        assert!(load(&path, || None).unwrap_err().to_string().contains("more than"));
        fs::write(&path, vec![8; KEY_FILE_BYTES_MAX]).unwrap();
        assert!(load(&path, || None).unwrap_err().to_string().contains("no libp2p private key"));
        assert!(load(&folder, || None).unwrap_err().to_string().contains("is no file"));
    }
}
