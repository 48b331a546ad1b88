//! The parts of a batch, as they stand in its document, and the lengths of their blocks.

use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{BatchId, UploadId};
use promptmill_ports::StoreResult;

use crate::codec::{Fields, binary, conflict, int};
use crate::collections::ROWS;
use crate::commands::{Commands, Concern, Query};
use crate::uploads::row_key;

/// The most parts of a batch: they stand in its document, which has a limit.
const MAX_PARTS: usize = 20_000;

/// A part of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommittedPart {
    /// 0-based number.
    pub(crate) part: u32,
    /// The upload that brought it.
    pub(crate) upload: UploadId,
    /// How many blocks of it.
    pub(crate) blocks: u32,
    /// Digest of the rows.
    pub(crate) digest: [u8; 32],
    /// How many rows.
    pub(crate) rows: u64,
}

impl CommittedPart {
    /// As it stands in its batch.
    pub(crate) fn document(&self) -> Document {
        doc! {
            "part": i64::from(self.part), "upload": binary(*self.upload.as_bytes()), "blocks": i64::from(self.blocks),
            "digest": binary(self.digest), "rows": int(self.rows),
        }
    }

    fn of(document: &Document) -> StoreResult<Self> {
        let fields = Fields(document);
        Ok(Self {
            part: fields.small("part")?,
            upload: UploadId::from_bytes(fields.id("upload")?),
            blocks: fields.small("blocks")?,
            digest: fields.id("digest")?,
            rows: fields.uint("rows")?,
        })
    }
}

/// The parts of a batch's document with the field `parts`, by number.
pub(crate) fn of(batch: &Document) -> StoreResult<Vec<CommittedPart>> {
    let mut parts = Vec::new();
    for document in Fields(batch).documents("parts")? {
        parts.push(CommittedPart::of(document)?);
    }
    parts.sort_by_key(|part| part.part);
    Ok(parts)
}

/// The upload that is no part any more when this becomes one.
pub(crate) fn replaced(batch: &Document, new: &CommittedPart) -> StoreResult<Option<UploadId>> {
    let parts = of(batch)?;
    let Some(old) = parts.iter().find(|part| part.part == new.part).map(|part| part.upload) else {
        return Ok(None);
    };
    let stays = old == new.upload || parts.iter().any(|part| part.part != new.part && part.upload == old);
    Ok((!stays).then_some(old))
}

/// The change that makes this a part of the batch; none when it is. What was the part before is given up, unless it is another one too.
pub(crate) fn with(batch: &Document, new: &CommittedPart) -> StoreResult<Option<Document>> {
    let given_up = replaced(batch, new)?;
    let mut parts = of(batch)?;
    let Some(old) = parts.iter_mut().find(|part| part.part == new.part) else {
        if parts.len() >= MAX_PARTS {
            return Err(conflict(format!("a batch has at most {MAX_PARTS} parts")));
        }
        return Ok(Some(doc! { "$push": { "parts": new.document() } }));
    };
    if old == new {
        return Ok(None);
    }
    old.clone_from(new);
    let documents: Vec<Bson> = parts.iter().map(|part| part.document().into()).collect();
    let mut change = doc! { "$set": { "parts": documents } };
    if let Some(given_up) = given_up {
        change.insert("$addToSet", doc! { "given_up": binary(*given_up.as_bytes()) });
    }
    Ok(Some(change))
}

/// The lengths of the first `blocks` blocks of an upload, those that are there, in order.
pub(crate) async fn lens(
    commands: &Commands,
    batch: BatchId,
    upload: UploadId,
    blocks: u32,
) -> StoreResult<Vec<u32>> {
    let (first, behind) = (row_key(batch, upload, 0), row_key(batch, upload, blocks));
    let query = Query::of(doc! { "_id": { "$gte": binary(first), "$lt": binary(behind) } })
        .fields(doc! { "_id": 1, "len": 1 })
        .sort(doc! { "_id": 1 })
        .covered_by("sizes");
    let found = commands.find(ROWS, query, Concern::Local).await?;
    found.iter().map(|found| Fields(found).small("len")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, upload: u8) -> CommittedPart {
        let upload = UploadId::from_bytes([upload; 16]);
        CommittedPart { part: number, upload, blocks: 2, digest: [3; 32], rows: 7 }
    }

    fn batch(parts: &[CommittedPart]) -> Document {
        let parts: Vec<Bson> = parts.iter().map(|part| part.document().into()).collect();
        doc! { "parts": parts }
    }

    #[test]
    fn what_a_part_was_is_given_up_unless_it_is_another_one_too() {
        let before = batch(&[part(1, 10), part(0, 11)]);
        assert_eq!(of(&before).unwrap(), [part(0, 11), part(1, 10)]);
        assert_eq!(with(&before, &part(1, 10)).unwrap(), None);
        assert!(with(&before, &part(2, 10)).unwrap().unwrap().contains_key("$push"));
        let replaced = with(&before, &part(1, 12)).unwrap().unwrap();
        let given_up = replaced.get_document("$addToSet").unwrap().get_binary_generic("given_up").unwrap();
        assert_eq!(given_up, &[10; 16]);
        assert_eq!(of(replaced.get_document("$set").unwrap()).unwrap(), [part(0, 11), part(1, 12)]);
        let shared = batch(&[part(0, 10), part(1, 10)]);
        assert_eq!(super::replaced(&shared, &part(1, 12)).unwrap(), None);
        assert_eq!(super::replaced(&before, &part(1, 12)).unwrap(), Some(part(0, 10).upload));
        let longer = CommittedPart { blocks: 3, ..part(1, 10) };
        assert_eq!(super::replaced(&before, &longer).unwrap(), None);
        assert!(with(&before, &longer).unwrap().is_some());
        assert!(!with(&shared, &part(1, 12)).unwrap().unwrap().contains_key("$addToSet"));
    }
}
