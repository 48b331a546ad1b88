//! The file `master.key` of a data folder: made once, never replaced, refused when others may read it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::TryRngCore as _;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use crate::keyring::KEY_BYTES;
use crate::vault::VaultError;

const NAME: &str = "master.key";
/// More than any sensible keyring.
const MAX_BYTES: u64 = 64 * 1024;

/// The text of the key file, which is made where there is none.
pub(crate) fn read_or_create(folder: &Path) -> Result<SecretString, VaultError> {
    let path = folder.join(NAME);
    let unavailable = |source| VaultError::Unavailable { path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(folder, &path, &new_keyring()?).map_err(unavailable)?;
            File::open(&path)
        }
        opened => opened,
    };
    let file = file.map_err(unavailable)?;
    if is_exposed(&file).map_err(unavailable)? {
        return Err(VaultError::Exposed { path });
    }
    // Of its full size from the start: a string that grows leaves copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(4 * 1024));
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unavailable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(VaultError::InvalidKeys(format!("the file is longer than {MAX_BYTES} bytes")));
    }
    Ok(SecretString::from(text.as_str()))
}

/// A keyring of one random key under a random id, as text.
fn new_keyring() -> Result<Zeroizing<String>, VaultError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let mut id = [0; 4];
    let mut random = rand::rngs::OsRng;
    random.try_fill_bytes(&mut *key).map_err(|_| VaultError::NoRandomness)?;
    random.try_fill_bytes(&mut id).map_err(|_| VaultError::NoRandomness)?;
    let key = Zeroizing::new(STANDARD.encode(&key[..]));
    Ok(Zeroizing::new(format!(
        "# The master key of this folder. Without it the secrets that are stored here cannot be read again: keep a copy elsewhere.\n\
         k{:08x}:{}\n",
        u32::from_be_bytes(id),
        *key
    )))
}

/// Puts the file in place whole and durable, unless another process was first: then that one's stays.
fn create(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    // Readable by its owner only from the moment it exists.
    let mut file = tempfile::Builder::new().prefix(".master.key.").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(folder)?.sync_all(),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

#[cfg(unix)]
fn is_exposed(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(file.metadata()?.mode() & 0o077 != 0)
}

/// Where there are no modes, the folder's access list is all there is.
#[cfg(not(unix))]
fn is_exposed(_file: &File) -> io::Result<bool> {
    Ok(false)
}
