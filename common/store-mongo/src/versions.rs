//! The versions of a template behind which others came: written before the template says so, and never changed.
//!
//! Their keys begin with the template's `root`, which no other template ever has: a template that was deleted and made again under the same
//! id does not meet versions of its earlier life.

use mongodb::bson::{Document, doc};
use promptmill_ports::{StoreError, StoreResult, TemplateVersion};

use crate::codec::{Fields, binary, int, number_of, range};
use crate::collections::TEMPLATE_VERSIONS;
use crate::commands::{Commands, Concern, Query};

/// What the keys of a template's versions begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root(pub(crate) [u8; 16]);

impl Root {
    /// One that nobody has.
    pub(crate) fn fresh() -> Self {
        Self(rand::random())
    }

    fn key(self, version: u32) -> [u8; 20] {
        let mut key = [0; 20];
        key[..16].copy_from_slice(&self.0);
        key[16..].copy_from_slice(&version.to_be_bytes());
        key
    }
}

/// Keeps a version. Repeatable: whoever keeps it keeps the same.
pub(crate) async fn keep(commands: &Commands, root: Root, version: &TemplateVersion) -> StoreResult<()> {
    let document = doc! {
        "_id": binary(root.key(version.version)),
        "created_ms": int(version.created_ms),
        "source": &version.source,
    };
    commands.insert_one(TEMPLATE_VERSIONS, &document).await.map(|_| ())
}

/// One version.
///
/// # Errors
/// `NotFound` when it is not kept here.
pub(crate) async fn one(commands: &Commands, root: Root, version: u32) -> StoreResult<TemplateVersion> {
    let query = Query::of(doc! { "_id": binary(root.key(version)) });
    let found = commands.find_one(TEMPLATE_VERSIONS, query, Concern::Majority).await?;
    let found = found.ok_or(StoreError::NotFound)?;
    let fields = Fields(&found);
    let (source, created_ms) = (fields.text("source")?.to_owned(), fields.uint("created_ms")?);
    Ok(TemplateVersion { version, source, created_ms })
}

/// Versions below `below` and when each was made, newest first, at most `limit`.
pub(crate) async fn list(
    commands: &Commands,
    root: Root,
    below: u32,
    limit: u32,
) -> StoreResult<Vec<(u32, u64)>> {
    let keys = doc! { "$gte": binary(root.key(0)), "$lt": binary(root.key(below)) };
    let query = Query::of(doc! { "_id": keys }).fields(doc! { "created_ms": 1 }).sort(doc! { "_id": -1 });
    let found = commands.find(TEMPLATE_VERSIONS, query.limit(limit), Concern::Majority).await?;
    let read = |document: &Document| {
        let fields = Fields(document);
        Ok((number_of(fields.bytes("_id")?), fields.uint("created_ms")?))
    };
    found.iter().map(read).collect()
}

/// Removes all of them.
pub(crate) async fn remove(commands: &Commands, root: Root) -> StoreResult<()> {
    commands.delete(TEMPLATE_VERSIONS, doc! { "_id": range(&root.0, 20) }).await.map(|_| ())
}
