//! `Transfer`: what an export reads and an import writes beyond the engine's steps.

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{BatchId, Event, GenerationId, Head, TenantId};
use promptmill_ports::{Beside, Claim, Generation, KeptClaim, PageLimit, StoreError, StoreResult, Transfer};

use crate::MongoStore;
use crate::claims::answer_of;
use crate::codec::{Fields, binary, conflict, corrupt, int, key};
use crate::collections::{BATCHES, CLAIMS, GENERATIONS, HEADS, META, TEMPLATES, TENANTS};
use crate::commands::{Commands, Concern, Query, Update};
use crate::heads::{Stored, with_histories};
use crate::{batches, generations, outbox};

/// The document in [`META`] of a store that is being filled.
const IMPORT: &str = "import";
/// The document in [`META`] that tells the epoch.
const EPOCH: &str = "epoch";
/// How often a head is read anew when others change it meanwhile.
const TRIES: u32 = 64;
/// Documents of a page that are read at a time.
const TOGETHER: u32 = 64;

#[async_trait]
impl Transfer for MongoStore {
    async fn beside(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Beside> {
        let fields = doc! { "idem_key": 1, "outbox": 1 };
        let found = batches::owned(self.commands(), tenant, batch, fields, Concern::Majority).await?;
        let idem_key = Fields(&found).maybe_text("idem_key")?.map(str::to_owned);
        let mut events = outbox::events(&found)?;
        events.sort_by_key(|(seq, _)| *seq);
        Ok(Beside { idem_key, events: events.into_iter().map(|(_, event)| event).collect() })
    }

    async fn heads(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: Option<u32>,
        limit: u32,
    ) -> StoreResult<Vec<Head>> {
        batches::check(self.commands(), tenant, batch).await?;
        let from = match after {
            None => 0,
            Some(u32::MAX) => return Ok(Vec::new()),
            Some(n) => n + 1,
        };
        let keys = doc! { "$gte": binary(key(batch, from)), "$lte": binary(key(batch, u32::MAX)) };
        let query = Query::of(doc! { "_id": keys }).fields(doc! { "body": 0 }).sort(doc! { "_id": 1 });
        let found = self.commands().find(HEADS, query.limit(limit), Concern::Majority).await?;
        let mut heads = Vec::with_capacity(found.len());
        for head in found {
            heads.extend(whole(self.commands(), head).await?);
        }
        Ok(heads)
    }

    async fn claims(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: PageLimit,
    ) -> StoreResult<Vec<KeptClaim>> {
        // Every key is text, which stands before any document; no key is empty.
        let ids = doc! {
            "$gt": { "tenant": tenant.as_str(), "key": after.unwrap_or_default() },
            "$lt": { "tenant": tenant.as_str(), "key": {} },
        };
        let query = Query::of(doc! { "_id": ids });
        read_page(self.commands(), CLAIMS, query, limit, claim_of, KeptClaim::size).await
    }

    async fn generations(
        &self,
        tenant: &TenantId,
        after: Option<GenerationId>,
        limit: PageLimit,
    ) -> StoreResult<Vec<Generation>> {
        let after = after.map_or_else(|| binary([]), |id| binary(*id.as_bytes()));
        // The order of binary values is that of their lengths first, and ids are of one length.
        let query = Query::of(doc! { "_id": { "$gt": after }, "tenant": tenant.as_str() });
        let (read, size) = (generations::from_document, Generation::size);
        read_page(self.commands(), GENERATIONS, query, limit, read, size).await
    }

    async fn stamp(&self, tenant: &TenantId, batch: BatchId, ver: u64, events: &[Event]) -> StoreResult<()> {
        let number = outbox::next_numbers(self.commands(), events.len().max(1)).await?;
        let entries: Vec<_> =
            events.iter().zip(number..).map(|(event, number)| outbox::entry(event, number)).collect();
        batches::change(self.commands(), tenant, batch, doc! { "_id": 1 }, |_| {
            let mut set = doc! { "ver": int(ver) };
            if entries.is_empty() {
                return Ok(Some(doc! { "$set": set, "$unset": { "outbox": "" } }));
            }
            set.insert("outbox", Bson::from(entries.clone()));
            Ok(Some(doc! { "$set": set }))
        })
        .await
        .map(|_| ())
    }

    async fn begin_import(&self) -> StoreResult<()> {
        for collection in [TENANTS, BATCHES, TEMPLATES, GENERATIONS] {
            let any = Query::of(Document::new()).fields(doc! { "_id": 1 });
            if self.commands().find_one(collection, any, Concern::Majority).await?.is_some() {
                return Err(conflict("the store is not empty"));
            }
        }
        match self.commands().insert_one(META, &doc! { "_id": IMPORT }).await? {
            true => Ok(()),
            false => Err(StoreError::unfinished_import()),
        }
    }

    async fn end_import(&self, epoch: u16) -> StoreResult<()> {
        let change = doc! { "$set": { "value": i64::from(epoch) } };
        self.commands().update(META, vec![Update::upsert(doc! { "_id": EPOCH }, change)]).await?;
        self.commands().delete(META, doc! { "_id": IMPORT }).await.map(|_| ())
    }
}

/// Which order of settling the store has: another one after an import.
pub(crate) async fn epoch(commands: &Commands) -> StoreResult<u16> {
    match commands.find_one(META, Query::of(doc! { "_id": EPOCH }), Concern::Majority).await? {
        None => Ok(0),
        Some(found) => u16::try_from(Fields(&found).uint("value")?).map_err(|_| corrupt("the epoch")),
    }
}

/// The head of a document with the histories that stand beside it; `None` when it is gone. Whoever changes the head meanwhile removes those it
/// does not name any more.
async fn whole(commands: &Commands, mut found: Document) -> StoreResult<Option<Head>> {
    for _ in 0..TRIES {
        let stored = Stored::of(&found)?;
        let (chunk, ver) = (stored.head.chunk, stored.head.ver);
        let corrupt = match with_histories(commands, stored).await {
            Err(error @ StoreError::Corrupt(_)) => error,
            result => return result.map(Some),
        };
        let again = Query::of(doc! { "_id": binary(key(chunk.batch, chunk.n)) }).fields(doc! { "body": 0 });
        let Some(now) = commands.find_one(HEADS, again, Concern::Majority).await? else {
            return Ok(None);
        };
        if Fields(&now).uint("ver")? == ver {
            return Err(corrupt);
        }
        found = now;
    }
    Err(StoreError::unavailable("a chunk is changed all the time"))
}

/// That the store is none that an import was to fill and did not.
pub(crate) async fn check_import(commands: &Commands) -> StoreResult<()> {
    match commands.find_one(META, Query::of(doc! { "_id": IMPORT }), Concern::Majority).await? {
        None => Ok(()),
        Some(_) => Err(StoreError::unfinished_import()),
    }
}

/// What a query finds in the order of keys, as far as `limit` allows.
async fn read_page<T>(
    commands: &Commands,
    collection: &str,
    query: Query,
    limit: PageLimit,
    read: impl Fn(&Document) -> StoreResult<T>,
    size: impl Fn(&T) -> usize,
) -> StoreResult<Vec<T>> {
    let query = query.sort(doc! { "_id": 1 }).limit(limit.items);
    let mut found = commands.stream(collection, query, Concern::Majority, TOGETHER).await?;
    let (mut records, mut bytes) = (Vec::new(), 0_usize);
    while let Some(document) = found.next().await? {
        let record = read(&Document::try_from(document).map_err(|_| corrupt(collection))?)?;
        bytes = bytes.saturating_add(size(&record));
        if !records.is_empty() && bytes > limit.bytes {
            break;
        }
        records.push(record);
    }
    Ok(records)
}

fn claim_of(found: &Document) -> StoreResult<KeptClaim> {
    let fields = Fields(found);
    let key = Fields(found.get_document("_id").map_err(|_| corrupt("the key of a claim"))?).text("key")?;
    let claim = Claim {
        tenant: fields.tenant("tenant")?,
        key: key.to_owned(),
        fingerprint: fields.id("fingerprint")?,
        plan: fields.id("plan")?,
        owner: fields.id("owner")?,
    };
    Ok(KeptClaim { claim, created_ms: fields.uint("created_ms")?, answer: answer_of(found)? })
}

#[cfg(test)]
mod tests {
    /// What an archive takes.
    const TAKEN: &[&str] = &[
        "api_keys",
        "batches",
        "claims",
        "deliveries",
        "endpoints",
        "generations",
        "heads",
        "outcomes",
        "row_ids",
        "row_sets",
        "rows",
        "schedules",
        "set_blocks",
        "set_uploads",
        "slices",
        "template_versions",
        "templates",
        "tenants",
        "ticks",
    ];
    /// What it does not: of the store alone, of processes, of uploads under way, an order that is made anew, sums that follow or begin anew, what lanes
    /// learn again, and replies that are there to save calls.
    const LEFT: &[&str] =
        &["budgets", "lanes", "meta", "replies", "sessions", "settled", "submitted", "uploads", "usage"];

    #[test]
    fn every_collection_is_one_that_an_archive_takes_or_that_it_leaves_for_a_reason() {
        let names =
            include_str!("collections.rs").lines().filter_map(|line| line.strip_prefix("pub(crate) const "));
        let mut names: Vec<_> = names.map(|line| line.split('"').nth(1).unwrap()).collect();
        names.sort_unstable();
        let mut known = [TAKEN, LEFT].concat();
        known.sort_unstable();
        assert_eq!(names, known);
    }
}
