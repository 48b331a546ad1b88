//! A fingerprint of all rows of a batch, so that a run that is taken up again can tell whether its rows changed.

use sha2::{Digest, Sha256};

use crate::stored::{RowContent, StoredRow};

/// A streaming SHA-256 over rows: their order, their `custom_id`s and their checked variables or messages.
///
/// Two inputs have the same digest exactly when they give the same stored rows, whatever their format, line ends or
/// blank lines. Every part is hashed behind its length, so no two sequences of rows share their bytes.
#[derive(Clone, Default)]
pub struct RowsDigest {
    hash: Sha256,
    rows: u64,
}

impl RowsDigest {
    /// The digest of no rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next row.
    pub fn push<T: AsRef<str>>(&mut self, row: &StoredRow<T>) {
        let messages = matches!(row.content, RowContent::Messages(_));
        self.hash.update([u8::from(row.custom_id.is_some()) | u8::from(messages) << 1]);
        if let Some(id) = row.custom_id() {
            self.part(id);
        }
        self.part(row.content.as_json());
        self.rows += 1;
    }

    /// How many rows were added.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// The digest.
    pub fn finish(self) -> [u8; 32] {
        self.hash.finalize().into()
    }

    fn part(&mut self, text: &str) {
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(rows: &[(Option<&str>, &str)]) -> [u8; 32] {
        let mut digest = RowsDigest::new();
        for (id, variables) in rows {
            digest.push(&StoredRow::of_variables(id.map(str::to_owned), *variables));
        }
        assert_eq!(digest.rows(), rows.len() as u64);
        digest.finish()
    }

    #[test]
    fn the_digest_is_stable_and_tells_every_difference() {
        // The first bytes of SHA-256 over nothing (FIPS 180-4).
        assert_eq!(digest(&[])[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        let one = [(None, "{}")];
        assert_eq!(digest(&one), digest(&one));
        let cases: [&[(Option<&str>, &str)]; 8] = [
            &[],
            &[(None, "{}")],
            &[(None, "{}"), (None, "{}")],
            &[(Some("{}"), "")],
            &[(Some("a"), "{}")],
            &[(None, "{\"a\":1}"), (None, "{\"a\":2}")],
            &[(None, "{\"a\":2}"), (None, "{\"a\":1}")],
            &[(Some(""), "{}")],
        ];
        let digests: std::collections::HashSet<_> = cases.iter().map(|rows| digest(rows)).collect();
        assert_eq!(digests.len(), cases.len());
        let mut messages = RowsDigest::new();
        messages.push(&StoredRow { custom_id: None, content: RowContent::Messages("{}") });
        assert!(!digests.contains(&messages.finish()));
    }
}
