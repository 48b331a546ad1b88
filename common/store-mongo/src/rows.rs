//! `Rows`: what was committed of a batch's rows.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use mongodb::bson::doc;
use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{BlockIds, Part, Rows, StoreError, StoreResult};

use crate::codec::{Fields, binary, corrupt, number_of};
use crate::collections::{ROW_IDS, ROWS};
use crate::commands::{Commands, Concern, Query};
use crate::parts::{self, CommittedPart};
use crate::unwritten::OwnRows;
use crate::uploads::row_key;
use crate::{MongoStore, batches};

#[async_trait]
impl Rows for MongoStore {
    async fn parts(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Vec<Part>> {
        let (parts, _) = committed(self.commands(), tenant, batch).await?;
        Ok(parts
            .into_iter()
            .map(|part| Part { part: part.part, digest: part.digest, rows: part.rows })
            .collect())
    }

    async fn block_ids(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: Option<(u32, u32)>,
        limit: u32,
    ) -> StoreResult<Vec<BlockIds>> {
        let mut found = Vec::new();
        let (parts, own) = committed(self.commands(), tenant, batch).await?;
        if let Some(own) = own {
            let is_wanted = after.is_none() && limit > 0;
            return Ok(is_wanted
                .then(|| BlockIds { part: 0, seq: 0, len: own.len, ids: own.ids })
                .into_iter()
                .collect());
        }
        for part in parts {
            let first = match after {
                Some((number, _)) if part.part < number => continue,
                Some((number, seq)) if part.part == number => seq.saturating_add(1),
                Some(_) | None => 0,
            };
            let room = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit));
            if room == 0 {
                break;
            }
            found.extend(ids_of(self.commands(), batch, &part, first, room).await?);
        }
        Ok(found)
    }

    async fn block(&self, tenant: &TenantId, batch: BatchId, part: u32, seq: u32) -> StoreResult<Bytes> {
        let (parts, own) = committed(self.commands(), tenant, batch).await?;
        if let Some(own) = own {
            return if (part, seq) == (0, 0) { Ok(own.bytes) } else { Err(StoreError::NotFound) };
        }
        let part =
            parts.iter().find(|one| one.part == part && seq < one.blocks).ok_or(StoreError::NotFound)?;
        let filter = doc! { "_id": binary(row_key(batch, part.upload, seq)) };
        let query = Query::of(filter).fields(doc! { "bytes": 1 });
        let found = self.commands().find_one(ROWS, query, Concern::Majority).await?;
        let mut found = found.ok_or(StoreError::NotFound)?;
        let bytes = found.get_binary_generic_mut("bytes").map_err(|_| corrupt("a block of rows"))?;
        Ok(std::mem::take(bytes).into())
    }
}

/// The parts of the batch, and the rows if they stand in its document.
async fn committed(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
) -> StoreResult<(Vec<CommittedPart>, Option<OwnRows>)> {
    let mut fields = OwnRows::fields();
    fields.insert("parts", 1);
    let mut found = batches::owned(commands, tenant, batch, fields, Concern::Majority).await?;
    Ok((parts::of(&found)?, OwnRows::of(&mut found)?))
}

/// Hashes of the blocks of a part from `first` on.
async fn ids_of(
    commands: &Commands,
    batch: BatchId,
    part: &CommittedPart,
    first: u32,
    room: u32,
) -> StoreResult<Vec<BlockIds>> {
    let behind = part.blocks.min(first.saturating_add(room));
    if first >= behind {
        return Ok(Vec::new());
    }
    let blocks = doc! { "_id": {
        "$gte": binary(row_key(batch, part.upload, first)), "$lt": binary(row_key(batch, part.upload, behind)),
    } };
    let lens = Query::of(blocks.clone()).fields(doc! { "_id": 1, "len": 1 }).sort(doc! { "_id": 1 });
    let lens = commands.find(ROWS, lens.covered_by("sizes"), Concern::Majority).await?;
    let mut ids = HashMap::new();
    for mut found in commands.find(ROW_IDS, Query::of(blocks), Concern::Majority).await? {
        let seq = number_of(Fields(&found).bytes("_id")?);
        let bytes = found.get_binary_generic_mut("ids").map_err(|_| corrupt("hashes of custom ids"))?;
        ids.insert(seq, Bytes::from(std::mem::take(bytes)));
    }
    lens.iter()
        .map(|found| {
            let seq = number_of(Fields(found).bytes("_id")?);
            let ids = ids.remove(&seq).unwrap_or_default();
            Ok(BlockIds { part: part.part, seq, len: Fields(found).small("len")?, ids })
        })
        .collect()
}
