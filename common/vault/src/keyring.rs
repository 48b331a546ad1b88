//! Master keys by id, one of them the primary.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use secrecy::SecretBox;
use secrecy::zeroize::Zeroizing;

use crate::vault::VaultError;

/// 32 bytes that seal.
pub(crate) type MasterKey = SecretBox<[u8; KEY_BYTES]>;

/// Bytes of a master key.
pub(crate) const KEY_BYTES: usize = 32;

/// What a master key is called; not secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MasterKeyId(String);

impl MasterKeyId {
    /// 1 to 32 of `a-z`, `0-9`, `-`, `_`: nothing that has a meaning in a keyring or a sealed text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        ((1..=32).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// At least one key.
pub(crate) struct Keyring {
    primary: (MasterKeyId, MasterKey),
    others: BTreeMap<MasterKeyId, MasterKey>,
}

impl Keyring {
    /// Reads the text form that [`Vault::from_keys`](crate::Vault::from_keys) describes.
    pub(crate) fn parse(text: &str) -> Result<Self, VaultError> {
        let without_comment = |line| str::split(line, '#').next().unwrap_or_default();
        let separates = |c: char| c == ',' || c.is_whitespace();
        let entries = text.lines().flat_map(|line| without_comment(line).split(separates));
        let mut keys = entries.filter(|entry| !entry.is_empty()).enumerate().map(entry);
        let primary = keys.next().ok_or_else(|| VaultError::InvalidKeys("there is no key".to_owned()))??;
        let mut others = BTreeMap::new();
        for key in keys {
            let (id, key) = key?;
            if id == primary.0 || others.contains_key(&id) {
                return Err(VaultError::InvalidKeys(format!("there are two keys called {:?}", id.0)));
            }
            others.insert(id, key);
        }
        Ok(Self { primary, others })
    }

    /// The key that seals.
    pub(crate) fn primary(&self) -> (&MasterKeyId, &MasterKey) {
        (&self.primary.0, &self.primary.1)
    }

    /// The key of that id.
    pub(crate) fn get(&self, id: &MasterKeyId) -> Option<&MasterKey> {
        if *id == self.primary.0 { Some(&self.primary.1) } else { self.others.get(id) }
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entry(&self.primary.0.0).entries(self.others.keys().map(|id| &id.0)).finish()
    }
}

/// One entry of the text form. Messages tell which entry, never what it holds: a misplaced separator must not show a key.
fn entry((position, text): (usize, &str)) -> Result<(MasterKeyId, MasterKey), VaultError> {
    let wrong = |what: &str| VaultError::InvalidKeys(format!("entry {} {what}", position + 1));
    let (id, key) =
        text.split_once(':').ok_or_else(|| wrong("is not of the form <key id>:<base64 of 32 bytes>"))?;
    let id = MasterKeyId::parse(id)
        .ok_or_else(|| wrong("has a key id that is not 1 to 32 of a-z, 0-9, - and _"))?;
    let bytes = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|alphabet| alphabet.decode(key).ok().map(Zeroizing::new))
        .ok_or_else(|| wrong("holds a key that is not base64"))?;
    if bytes.len() != KEY_BYTES {
        return Err(wrong("holds a key that is not of 32 bytes"));
    }
    let mut key = Box::new([0; KEY_BYTES]);
    key.copy_from_slice(&bytes);
    Ok((id, MasterKey::new(key)))
}
