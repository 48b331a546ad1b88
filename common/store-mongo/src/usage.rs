//! What a tenant has used: rows submitted by day, and the bytes of what it has stored.
//!
//! The sums are kept beside what they count and not in the same step, since that would take a transaction: a process that dies between the two
//! leaves a sum that is off by what it had just written. Nothing but a quota rests on them. What many small steps add is gathered, and
//! written with the beats of the process ([`Unwritten`]). An addition leaves a mark among the last ones, so that one whose answer was lost is not made twice.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::TenantId;
use promptmill_ports::{StoreResult, Usage};
use tokio::sync::RwLock;

use crate::MongoStore;
use crate::codec::{Fields, int};
use crate::collections::{SUBMITTED, USAGE};
use crate::commands::{Commands, Concern, Query, Update, fresh_mark};
use crate::kept_usage::Sums;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Marks of additions that are remembered: more than there are at the same time.
const MARKS: i32 = 64;

/// Additions that are not in the database yet.
#[derive(Debug, Default)]
pub(crate) struct Unwritten {
    gathered: Mutex<Additions>,
    /// Those that could not be written, or perhaps were: they are written again as they are. Held while some are written, so that whoever reads
    /// the sums meanwhile counts none twice.
    tried: RwLock<Option<(Bson, Additions)>>,
}

#[derive(Debug, Default)]
struct Additions {
    bytes: HashMap<TenantId, i64>,
    /// By day.
    rows: HashMap<(TenantId, u64), i64>,
}

impl Additions {
    fn of(&self, tenant: &TenantId, day: u64) -> Sums {
        let bytes = self.bytes.get(tenant).copied().unwrap_or(0);
        Sums { rows: self.rows.get(&(tenant.clone(), day)).copied().unwrap_or(0), bytes }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.rows.is_empty()
    }
}

impl Unwritten {
    fn gathered(&self) -> MutexGuard<'_, Additions> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the tenant has used, its records left out: those are summed by `record_bytes`. What others added in the last moment may be missing.
pub(crate) async fn of(commands: &Commands, tenant: &TenantId, now_ms: u64) -> StoreResult<Usage> {
    let (day, kept) = (now_ms / DAY_MS, commands.kept_usage());
    let sums = match kept.fresh(tenant, day, Instant::now()) {
        Some(sums) => sums,
        None => {
            let begun = Instant::now();
            let unwritten = commands.unwritten_usage();
            let tried = unwritten.tried.read().await;
            let tried = tried.as_ref().map_or(Sums::default(), |(_, tried)| tried.of(tenant, day));
            let gathered = unwritten.gathered().of(tenant, day);
            let sums = read(commands, tenant, day).await?.plus(tried).plus(gathered);
            kept.keep(tenant, day, sums, begun);
            sums
        }
    };
    // A sum that is off may fall below nothing.
    let sum = |sum: i64| u64::try_from(sum).unwrap_or(0);
    Ok(Usage { rows: sum(sums.rows), bytes: sum(sums.bytes), record_bytes: 0 })
}

async fn read(commands: &Commands, tenant: &TenantId, day: u64) -> StoreResult<Sums> {
    let (stored, submitted) = tokio::join!(
        commands.find_one(USAGE, Query::of(doc! { "_id": tenant.as_str() }), Concern::Majority),
        commands.find_one(SUBMITTED, Query::of(doc! { "_id": day_of(tenant, day) }), Concern::Majority),
    );
    let sum = |found: Option<&Document>, name| match found.and_then(|found| found.get(name)) {
        Some(Bson::Int64(sum)) => *sum,
        Some(Bson::Int32(sum)) => i64::from(*sum),
        _ => 0,
    };
    Ok(Sums { rows: sum(submitted?.as_ref(), "rows"), bytes: sum(stored?.as_ref(), "bytes") })
}

/// Counts bytes of rows and outcomes that were stored (or, below zero, removed).
pub(crate) async fn add(commands: &Commands, tenant: &TenantId, bytes: i64) -> StoreResult<()> {
    commands.kept_usage().add_bytes(tenant, bytes);
    write_bytes(commands, &HashMap::from([(tenant.clone(), bytes)]), &fresh_mark()).await
}

/// Notes what the tenant's records took when they were summed last.
pub(crate) async fn note_records(commands: &Commands, tenant: &TenantId, bytes: u64) -> StoreResult<()> {
    let sum = doc! { "$set": { "records": int(bytes) } };
    commands.update(USAGE, vec![Update::upsert(doc! { "_id": tenant.as_str() }, sum)]).await.map(|_| ())
}

/// What was noted of the tenant's records.
pub(crate) async fn noted_records(commands: &Commands, tenant: &TenantId) -> StoreResult<Option<u64>> {
    let query = Query::of(doc! { "_id": tenant.as_str() }).fields(doc! { "records": 1 });
    let found = commands.find_one(USAGE, query, Concern::Majority).await?;
    found.map_or(Ok(None), |found| Fields(&found).maybe_uint("records"))
}

/// Counts rows that were submitted now.
pub(crate) async fn add_rows(
    commands: &Commands,
    tenant: &TenantId,
    rows: u32,
    now_ms: u64,
) -> StoreResult<()> {
    let day = now_ms / DAY_MS;
    commands.kept_usage().add_rows(tenant, day, rows.into());
    write_rows(commands, &HashMap::from([((tenant.clone(), day), i64::from(rows))]), &fresh_mark()).await
}

/// Counts bytes that were stored for several tenants and rows that each submitted now, in the database with the next beat.
pub(crate) fn gather(
    commands: &Commands,
    bytes: &HashMap<&TenantId, i64>,
    rows: &HashMap<(&TenantId, u64), u32>,
) {
    let kept = commands.kept_usage();
    let mut sums = commands.unwritten_usage().gathered();
    for (tenant, bytes) in bytes {
        kept.add_bytes(tenant, *bytes);
        *sums.bytes.entry((*tenant).clone()).or_default() += bytes;
    }
    for ((tenant, now_ms), rows) in rows {
        let (day, rows) = (now_ms / DAY_MS, i64::from(*rows));
        kept.add_rows(tenant, day, rows);
        *sums.rows.entry(((*tenant).clone(), day)).or_default() += rows;
    }
}

/// Writes what was gathered beside whoever beats, who must not wait for it.
pub(crate) fn write_beside(store: &MongoStore) {
    let store = store.clone();
    tokio::spawn(async move {
        if let Err(error) = write(store.commands()).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "usage is not counted yet");
        }
    });
}

/// Writes what was gathered. What cannot be written stays for the next time.
pub(crate) async fn write(commands: &Commands) -> StoreResult<()> {
    let unwritten = commands.unwritten_usage();
    let mut tried = unwritten.tried.write().await;
    // What failed before, and then what came since.
    for _ in 0..2 {
        let (mark, additions) = match tried.take() {
            Some(tried) => tried,
            None => (fresh_mark(), std::mem::take(&mut *unwritten.gathered())),
        };
        if additions.is_empty() {
            return Ok(());
        }
        // Not lost with whoever writes them.
        let (mark, additions) = tried.insert((mark, additions));
        let (bytes, rows) = tokio::join!(
            write_bytes(commands, &additions.bytes, mark),
            write_rows(commands, &additions.rows, mark),
        );
        bytes.and(rows)?;
        *tried = None;
    }
    Ok(())
}

async fn write_bytes(commands: &Commands, bytes: &HashMap<TenantId, i64>, mark: &Bson) -> StoreResult<()> {
    let sum = |(tenant, bytes): (&TenantId, &i64)| {
        (*bytes != 0).then(|| (doc! { "_id": tenant.as_str() }, doc! { "bytes": *bytes }))
    };
    increase_all(commands, USAGE, bytes.iter().filter_map(sum).collect(), mark).await
}

async fn write_rows(
    commands: &Commands,
    rows: &HashMap<(TenantId, u64), i64>,
    mark: &Bson,
) -> StoreResult<()> {
    let sum = |((tenant, day), rows): (&(TenantId, u64), &i64)| {
        (*rows != 0).then(|| (doc! { "_id": day_of(tenant, *day) }, doc! { "rows": *rows }))
    };
    increase_all(commands, SUBMITTED, rows.iter().filter_map(sum).collect(), mark).await
}

/// Increases each of the sums, which are different ones, unless that was done under this mark.
async fn increase_all(
    commands: &Commands,
    collection: &str,
    sums: Vec<(Document, Document)>,
    mark: &Bson,
) -> StoreResult<()> {
    if sums.is_empty() {
        return Ok(());
    }
    let changes = sums.into_iter().map(|(mut filter, by)| {
        filter.insert("marks", doc! { "$ne": mark.clone() });
        let marks = doc! { "$each": [mark.clone()], "$slice": -MARKS };
        (filter, doc! { "$inc": by, "$push": { "marks": marks } })
    });
    let changes: Vec<_> = changes.collect();
    let upserts = changes.iter().map(|(filter, change)| Update::upsert(filter.clone(), change.clone()));
    let there = commands.update(collection, upserts.collect()).await?.duplicates;
    // Two made the sum at once, or the addition is made.
    let again: Vec<_> = there.into_iter().filter_map(|at| changes.get(at).cloned()).collect();
    if !again.is_empty() {
        let again = again.into_iter().map(|(filter, change)| Update::one(filter, change));
        commands.update(collection, again.collect()).await?;
    }
    Ok(())
}

fn day_of(tenant: &TenantId, day: u64) -> Document {
    doc! { "tenant": tenant.as_str(), "day": int(day) }
}
