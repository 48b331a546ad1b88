//! Sealing and opening under the master keys.
//!
//! A sealed text is `pmv1.<key id>.<base64url of nonce and ciphertext>`: XChaCha20-Poly1305 with a random 24-byte nonce, so that any
//! number of texts may be sealed under one key. What the secret is for (its *context*) is authenticated with it: a sealed text that
//! was copied to another tenant's or another record's place does not open there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::TryRngCore as _;
use secrecy::{ExposeSecret as _, SecretSlice};

use crate::key_file;
use crate::keyring::{Keyring, MasterKey, MasterKeyId};

/// The only format there is; part of what is authenticated.
const FORMAT: &str = "pmv1";
const NONCE_BYTES: usize = 24;

/// What is wrong with master keys or a sealed text. Never says what the secret is.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The key file cannot be read or made.
    #[error("the master key file {} cannot be used", path.display())]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may read or change the key file.
    #[error("the master key file {} is open to other users; `chmod 600` it, and change the key if they may have read it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The master keys are not written as they must be; the words say where.
    #[error("the master keys are malformed: {0}")]
    InvalidKeys(String),
    /// No master keys were given where none can be made: every process of a fleet must have the same.
    #[error(
        "PROMPTMILL_MASTER_KEY is not set; every api and scheduler of a fleet needs the same one, for example k1:$(openssl rand -base64 32)"
    )]
    NotGiven,
    /// The system gave no random bytes.
    #[error("the system has no random bytes")]
    NoRandomness,
    /// The text was sealed under a key that the keyring does not have.
    #[error("the secret was sealed under the master key {0:?}, which is not in the keyring")]
    UnknownKey(String),
    /// The text is not sealed, was changed, or was sealed for another context.
    #[error("the sealed secret is damaged or belongs to another record")]
    NotOpened,
}

/// Seals secrets for storage and opens them again. Cheap to share behind an `Arc`; every method may be called from any thread.
pub struct Vault {
    keys: Keyring,
}

impl Vault {
    /// The vault of a data folder: reads its file `master.key`, or makes one with a new random key, readable by its owner only.
    ///
    /// The file has the form of [`Vault::from_keys`]. Two processes that do this at once end with the same key. Blocks.
    ///
    /// # Errors
    /// `Exposed` when others may read the file, `InvalidKeys` when it holds no keyring, `Unavailable` when the folder cannot be used.
    pub fn open_or_create(folder: &Path) -> Result<Self, VaultError> {
        let text = key_file::read_or_create(folder)?;
        Self::from_keys(text.expose_secret())
    }

    /// The vault of a keyring in text form: entries `<key id>:<base64 of 32 bytes>`, separated by commas or white space; the first is the
    /// primary, which seals, all others only open. A `#` begins a comment up to the end of its line.
    ///
    /// To change the key, put a new entry first and keep the old ones while anything sealed under them is left.
    ///
    /// # Errors
    /// `InvalidKeys`; its words never hold key material.
    pub fn from_keys(text: &str) -> Result<Self, VaultError> {
        Ok(Self { keys: Keyring::parse(text)? })
    }

    /// The vault of a process that shares its secrets with others: of the keyring in text form that it was given.
    ///
    /// # Errors
    /// `NotGiven` when it was given none; `InvalidKeys`, whose words never hold key material.
    pub fn shared(text: Option<&str>) -> Result<Self, VaultError> {
        text.map_or(Err(VaultError::NotGiven), Self::from_keys)
    }

    /// Seals `plain` for `context`, a text that names what the secret is for, for example `tenant|webhook|batch_...`.
    ///
    /// The same input gives another text each time. The length of `plain` shows; nothing else does.
    ///
    /// # Errors
    /// `NoRandomness`.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<String, VaultError> {
        let (id, key) = self.keys.primary();
        let mut sealed = vec![0; NONCE_BYTES];
        rand::rngs::OsRng.try_fill_bytes(&mut sealed).map_err(|_| VaultError::NoRandomness)?;
        let payload = Payload { msg: plain, aad: &authenticated(id, context) };
        let ciphertext = cipher(key)
            .encrypt(&nonce(&sealed)?, payload)
            .expect("only a text of more than 256 GiB cannot be encrypted");
        sealed.extend_from_slice(&ciphertext);
        Ok(format!("{FORMAT}.{id}.{}", URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Opens what was sealed for the same `context`.
    ///
    /// # Errors
    /// `UnknownKey` when its key is not in the keyring; `NotOpened` for everything else: damaged, changed, of another context.
    pub fn open(&self, context: &str, sealed: &str) -> Result<SecretSlice<u8>, VaultError> {
        let (id, bytes) = split(sealed).ok_or(VaultError::NotOpened)?;
        let key = self.keys.get(&id).ok_or_else(|| VaultError::UnknownKey(id.to_string()))?;
        let (nonce_bytes, ciphertext) = bytes.split_at_checked(NONCE_BYTES).ok_or(VaultError::NotOpened)?;
        let payload = Payload { msg: ciphertext, aad: &authenticated(&id, context) };
        let plain = cipher(key).decrypt(&nonce(nonce_bytes)?, payload).map_err(|_| VaultError::NotOpened)?;
        Ok(SecretSlice::from(plain))
    }

    /// Whether the key of this id is in the keyring.
    pub fn knows(&self, id: &str) -> bool {
        MasterKeyId::parse(id).is_some_and(|id| self.keys.get(&id).is_some())
    }

    /// Whether `sealed` names another key than the primary, so that sealing it anew would let an old key go.
    pub fn is_outdated(&self, sealed: &str) -> bool {
        split(sealed).is_some_and(|(id, _)| id != *self.keys.primary().0)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("keys", &self.keys).finish()
    }
}

/// The parts of a sealed text: the id of its key, and nonce with ciphertext.
fn split(sealed: &str) -> Option<(MasterKeyId, Vec<u8>)> {
    let (id, bytes) = sealed.strip_prefix(FORMAT)?.strip_prefix('.')?.split_once('.')?;
    Some((MasterKeyId::parse(id)?, URL_SAFE_NO_PAD.decode(bytes).ok()?))
}

/// What is authenticated beside the secret. No key id has a `|`, so different triples give different bytes.
fn authenticated(id: &MasterKeyId, context: &str) -> Vec<u8> {
    format!("{FORMAT}|{id}|{context}").into_bytes()
}

fn cipher(key: &MasterKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.expose_secret().into())
}

fn nonce(bytes: &[u8]) -> Result<XNonce, VaultError> {
    XNonce::try_from(bytes).map_err(|_| VaultError::NotOpened)
}
