//! Secrets at rest: what we must be able to read again is sealed under a master key, what we only check is kept as a hash.
//!
//! [`Vault`] seals and opens (webhook secrets); [`api_key`] makes, reads and compares the keys of callers, [`ResultsLink`] is the right to read one batch's results. Nothing here logs, and
//! no `Debug` or error shows a secret.

pub mod api_key;
mod key_file;
mod keyring;
mod results_link;
mod vault;

pub use results_link::ResultsLink;
pub use vault::{Vault, VaultError};
