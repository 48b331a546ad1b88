//! API keys: `pmk_<32 hex digits of the key's id>_<43 base62 digits of secret><6 base62 digits of CRC-32>`.
//!
//! The prefix is for secret scanners, the id for looking the key up, the checksum for refusing a mistyped key without a lookup. Only
//! the SHA-256 of the secret is stored: 256 random bits cannot be guessed, so a slow password hash would cost every request and gain
//! nothing.

use promptmill_domain::KeyId;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "pmk_";
const ID_DIGITS: usize = 32;
/// The digits that 256 bits need: 62^43 is a little more than 2^256.
const SECRET_DIGITS: usize = 43;
/// The digits that 32 bits need.
const CHECK_DIGITS: usize = 6;
const HINT_DIGITS: usize = 4;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Length of every API key, in bytes.
pub const KEY_LEN: usize = PREFIX.len() + ID_DIGITS + 1 + SECRET_DIGITS + CHECK_DIGITS;

/// A key that was just made.
#[derive(Debug)]
pub struct Issued {
    /// The whole key, to be shown once and kept nowhere.
    pub text: SecretString,
    /// SHA-256 of its secret, to be stored.
    pub hash: [u8; 32],
    /// Its last characters, by which its holder can tell it from others.
    pub hint: String,
}

/// A text that is not an API key. Does not hold the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key, or mistyped")]
pub struct InvalidKey;

/// Makes the key of that id. `random` must come from a cryptographic source.
pub fn issue(id: KeyId, random: [u8; 32]) -> Issued {
    let id = u128::from_be_bytes(*id.as_bytes());
    let mut text = format!("{PREFIX}{id:032x}_");
    let secret = base62::<SECRET_DIGITS>(random);
    text.push_str(&secret);
    let check = base62::<CHECK_DIGITS>(crc32fast::hash(text.as_bytes()).to_be_bytes());
    text.push_str(&check);
    Issued { hint: hint(&text).to_owned(), hash: hash(&secret), text: text.into() }
}

/// The last characters of a key, by which its holder can tell it from others.
pub fn hint(key: &str) -> &str {
    key.get(key.len().saturating_sub(HINT_DIGITS)..).unwrap_or_default()
}

/// Reads a key: its id, and the SHA-256 of its secret for [`verify`].
///
/// # Errors
/// [`InvalidKey`] when the form or the checksum is wrong; no lookup is needed to know that.
pub fn parse(text: &str) -> Result<(KeyId, [u8; 32]), InvalidKey> {
    if text.len() != KEY_LEN || !text.is_ascii() {
        return Err(InvalidKey);
    }
    let (checked, check) = text.split_at(KEY_LEN - CHECK_DIGITS);
    if base62::<CHECK_DIGITS>(crc32fast::hash(checked.as_bytes()).to_be_bytes()) != check {
        return Err(InvalidKey);
    }
    let (id, secret) =
        checked.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(InvalidKey)?;
    if secret.len() != SECRET_DIGITS || !secret.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        return Err(InvalidKey);
    }
    let id = format!("key_{id}").parse().map_err(|_| InvalidKey)?;
    Ok((id, hash(secret)))
}

/// Whether two hashes are equal, in a time that does not tell where they differ.
pub fn verify(stored: &[u8; 32], presented: &[u8; 32]) -> bool {
    stored.ct_eq(presented).into()
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The number that the bytes are, highest first, in exactly `N` digits; `N` must be enough for it.
fn base62<const N: usize>(number: impl AsMut<[u8]>) -> String {
    let mut number = number;
    let mut digits = [0; N];
    for digit in digits.iter_mut().rev() {
        // One long division by 62; what is left over is the digit.
        let mut rest = 0_u16;
        for byte in number.as_mut() {
            let value = (rest << 8) | u16::from(*byte);
            *byte = u8::try_from(value / 62).expect("the rest is below 62, so the quotient is below 256");
            rest = value % 62;
        }
        *digit = DIGITS[usize::from(rest)];
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}
