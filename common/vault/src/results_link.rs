//! The right to read the results of one batch for a while, as a text that stands in a URL.

use promptmill_domain::{BatchId, TenantId};
use secrecy::ExposeSecret as _;

use crate::vault::{Vault, VaultError};

/// What it is sealed for; nothing else is.
const CONTEXT: &str = "results-link";

/// Whoever has its text may read the results of the batch until then, and do nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultsLink {
    /// Whose batch.
    pub tenant: TenantId,
    /// Which batch.
    pub batch: BatchId,
    /// Until when, Unix milliseconds.
    pub until_ms: u64,
}

impl ResultsLink {
    /// Its text: letters, digits, `.`, `-` and `_`, sealed under the primary key, so that nobody else can make or change one.
    ///
    /// # Errors
    /// `NoRandomness`.
    pub fn text(&self, vault: &Vault) -> Result<String, VaultError> {
        let Self { tenant, batch, until_ms } = self;
        vault.seal(CONTEXT, format!("{until_ms}|{batch}|{tenant}").as_bytes())
    }

    /// The link of a text, if it is one that was made under a key of `vault`, whether or not its time is over.
    pub fn parse(vault: &Vault, text: &str) -> Option<Self> {
        let opened = vault.open(CONTEXT, text).ok()?;
        let mut parts = std::str::from_utf8(opened.expose_secret()).ok()?.splitn(3, '|');
        let until_ms = parts.next()?.parse().ok()?;
        let batch = parts.next()?.parse().ok()?;
        Some(Self { tenant: parts.next()?.parse().ok()?, batch, until_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_opens_under_its_key_alone_and_as_it_was_made() {
        let vault_of = |digit: &str| Vault::from_keys(&format!("k1:{}=", digit.repeat(43))).unwrap();
        let vault = vault_of("A");
        let link = ResultsLink {
            tenant: "acme-1".parse().unwrap(),
            batch: BatchId::at(1_790_000_000_000, [7; 10]),
            until_ms: 1_790_000_000_001,
        };
        let text = link.text(&vault).unwrap();
        assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)), "{text}");
        assert_eq!(ResultsLink::parse(&vault, &text), Some(link));
        assert_eq!(ResultsLink::parse(&vault_of("E"), &text), None);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(ResultsLink::parse(&vault, std::str::from_utf8(&changed).unwrap()), None);
        }
        for other in ["", "x", &vault.seal("other", b"1|2|3").unwrap(), &"a".repeat(100_000)] {
            assert_eq!(ResultsLink::parse(&vault, other), None);
        }
    }
}
