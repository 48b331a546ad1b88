//! `Retention`: what was kept long enough, and whether there is room for more.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{Retention, StoreError, StoreResult};

use crate::MongoStore;
use crate::batches::Phase;
use crate::codec::{Fields, binary, int};
use crate::collections::{BATCHES, HEADS};
use crate::commands::{Commands, Concern, Query};
use crate::heads::READY;
use crate::{delete, sessions, uploads};

/// Below this much free space the store takes no more.
const LOW_WATER_BYTES: u64 = 256 * 1024 * 1024;
/// How long an answer about the disk is good.
const DISK_KEPT: Duration = Duration::from_millis(500);
/// Blocks dropped in one call.
const BLOCKS: u32 = 1_000;
/// Heads looked at for those of batches that are no more.
const STRAYS: u32 = 1_000;
/// How long it is remembered who died.
const DEAD_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

#[async_trait]
impl Retention for MongoStore {
    async fn drop_stale_uploads(&self, before_ms: u64) -> StoreResult<u32> {
        uploads::drop_stale(self.commands(), before_ms, BLOCKS).await
    }

    async fn outlived(
        &self,
        now_ms: u64,
        default_ms: u64,
        drafts_before_ms: u64,
        limit: u32,
    ) -> StoreResult<Vec<(TenantId, BatchId)>> {
        let commands = self.commands();
        sessions::forget_dead(commands, now_ms.saturating_sub(DEAD_MS)).await?;
        clear_away_strays(commands).await?;
        let mut outlived = Vec::new();
        for query in over(now_ms, now_ms.saturating_sub(default_ms)) {
            let room = limit.saturating_sub(u32::try_from(outlived.len()).unwrap_or(limit));
            outlived.extend(named(commands, query.limit(room)).await?);
        }
        let room = limit.saturating_sub(u32::try_from(outlived.len()).unwrap_or(limit));
        let drafts = doc! { "phase": delete::unfinished(), "touched_ms": { "$lt": int(drafts_before_ms) } };
        for (tenant, batch) in named(commands, Query::of(drafts).limit(room)).await? {
            if delete::mark_draft(commands, &tenant, batch, drafts_before_ms).await? {
                outlived.push((tenant, batch));
            }
        }
        Ok(outlived)
    }

    async fn has_room(&self) -> StoreResult<bool> {
        let commands = self.commands();
        let room = match self.disk().lately() {
            Some(room) => room,
            None => {
                let room = disk_has_room(commands).await;
                self.disk().note(room.as_ref().ok().copied());
                room?
            }
        };
        // The next write that succeeds says otherwise; a live session makes one every second.
        if room && commands.last_write_failed() {
            return Err(StoreError::unavailable("the last write was not acknowledged"));
        }
        Ok(room)
    }
}

/// Heads that were admitted in the moment in which their small batch was sealed, ended and deleted: they are ready, and nobody hints them.
async fn clear_away_strays(commands: &Commands) -> StoreResult<()> {
    let ready = Query::of(doc! { "state": READY }).fields(doc! { "tenant": 1 }).limit(STRAYS);
    let mut tenants = HashMap::new();
    for head in commands.find(HEADS, ready, Concern::Local).await? {
        let batch = Fields(&head).bytes("_id")?.first_chunk().copied().unwrap_or_default();
        tenants.insert(BatchId::from_bytes(batch), Fields(&head).tenant("tenant")?);
    }
    let ids: Vec<_> = tenants.keys().map(|batch| binary(*batch.as_bytes())).collect();
    let there = Query::of(doc! { "_id": { "$in": ids } }).fields(doc! { "_id": 1 });
    for batch in commands.find(BATCHES, there, Concern::Local).await? {
        tenants.remove(&BatchId::from_bytes(Fields(&batch).id("_id")?));
    }
    for (batch, tenant) in tenants {
        delete::clear_away(commands, &tenant, batch).await?;
    }
    Ok(())
}

async fn disk_has_room(commands: &Commands) -> StoreResult<bool> {
    let stats = commands.run(doc! { "dbStats": 1, "scale": 1 }).await?;
    // A server that keeps its data in memory says nothing of a disk.
    Ok(match (Fields(&stats).uint("fsTotalSize"), Fields(&stats).uint("fsUsedSize")) {
        (Ok(total), Ok(used)) => total.saturating_sub(used) >= LOW_WATER_BYTES,
        _ => true,
    })
}

/// Whether the server's disk had room when it was asked last: it does not fill up within a moment.
#[derive(Debug, Default)]
pub(crate) struct Disk(Mutex<Option<(Instant, bool)>>);

impl Disk {
    /// `None` for the one who is to ask: the others go by the last answer until there is another.
    fn lately(&self) -> Option<bool> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, room) = last.as_mut()?;
        if at.elapsed() < DISK_KEPT {
            return Some(*room);
        }
        *at = Instant::now();
        None
    }

    /// The answer; without one everybody asks.
    fn note(&self, room: Option<bool>) {
        let room = room.map(|room| (Instant::now(), room));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = room;
    }
}

/// Those whose deletion was begun and left lying, those whose own retention is over, and those for which the default is.
fn over(now_ms: u64, default_before_ms: u64) -> [Query; 3] {
    let last = Phase::Final.number();
    [
        Query::of(doc! { "phase": Phase::Deleting.number() }),
        Query::of(doc! { "kept_until_ms": { "$lte": int(now_ms) }, "phase": last }).sort(doc! { "kept_until_ms": 1 }),
        Query::of(doc! {
            "finished_ms": { "$lte": int(default_before_ms) }, "kept_until_ms": { "$exists": false }, "phase": last,
        })
        .sort(doc! { "finished_ms": 1 }),
    ]
}

async fn named(commands: &Commands, query: Query) -> StoreResult<Vec<(TenantId, BatchId)>> {
    let found = commands.find(BATCHES, query.fields(doc! { "tenant": 1 }), Concern::Majority).await?;
    let named = |found: &Document| {
        Ok((Fields(found).tenant("tenant")?, BatchId::from_bytes(Fields(found).id("_id")?)))
    };
    found.iter().map(named).collect()
}
