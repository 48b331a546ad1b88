//! `Schedules` and `Ticks`: what recurs, one document each, with the fields that are looked for beside the record itself.

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use promptmill_domain::{Schedule, ScheduleId, TenantId, Tick};
use promptmill_ports::{Schedules, StoreError, StoreResult, TickKey, Ticks};

use crate::MongoStore;
use crate::codec::{Fields, binary, corrupt, from_json, int, number, range, to_json};
use crate::collections::{SCHEDULES, TICKS};
use crate::commands::{Commands, Concern, Query, Update, encode, fresh_mark};

/// Bytes of a tick's key.
const TICK_KEY: usize = 24;

/// The key of a tick: its schedule's bytes and its time, so that the order of keys is that of times.
fn tick_key(schedule: ScheduleId, at_ms: u64) -> [u8; TICK_KEY] {
    let mut key = [0; TICK_KEY];
    key[..16].copy_from_slice(schedule.as_bytes());
    key[16..].copy_from_slice(&at_ms.to_be_bytes());
    key
}

fn of(tenant: &TenantId, id: ScheduleId) -> Document {
    doc! { "_id": binary(*id.as_bytes()), "tenant": tenant.as_str() }
}

/// Replaces a record whose version is the one before. Answers whether it did, also where the answer to it was lost.
pub(crate) async fn change(
    commands: &Commands,
    collection: &str,
    this: Document,
    ver: u64,
    mut fields: Document,
) -> StoreResult<bool> {
    let mark = fresh_mark();
    fields.extend(doc! { "ver": int(ver), "mark": mark.clone() });
    let mut before = this.clone();
    before.insert("ver", int(ver) - 1);
    if commands.update(collection, vec![Update::this(before, doc! { "$set": fields })]).await?.n == 1 {
        return Ok(true);
    }
    let query = Query::of(this).fields(doc! { "mark": 1 });
    let found = commands.find_one(collection, query, Concern::Majority).await?;
    Ok(found.is_some_and(|found| found.get("mark") == Some(&mark)))
}

/// Keeps a new record. Answers whether it did, also where the answer to it was lost.
pub(crate) async fn make(
    commands: &Commands,
    collection: &str,
    this: Document,
    fields: Document,
) -> StoreResult<bool> {
    let mark = fresh_mark();
    let mut document = this.clone();
    document.extend(fields);
    document.extend(doc! { "ver": 1_i64, "mark": mark.clone() });
    if commands.insert_one(collection, &document).await? {
        return Ok(true);
    }
    let query = Query::of(this).fields(doc! { "mark": 1 });
    let found = commands.find_one(collection, query, Concern::Majority).await?;
    Ok(found.is_some_and(|found| found.get("mark") == Some(&mark)))
}

#[async_trait]
impl Schedules for MongoStore {
    async fn put_schedule(&self, schedule: &Schedule) -> StoreResult<bool> {
        let this = of(&schedule.tenant, schedule.id);
        let json = to_json(schedule);
        let bytes = json.len();
        let look_ms = schedule.look_ms().map(int);
        let fields = doc! { "look_ms": look_ms, "bytes": int(bytes as u64), "schedule": json };
        let is_kept = match schedule.ver {
            0 | 1 => make(self.commands(), SCHEDULES, this, fields).await?,
            ver => change(self.commands(), SCHEDULES, this, ver, fields).await?,
        };
        if is_kept {
            self.kept_bytes().put(&schedule.tenant, bytes);
        }
        Ok(is_kept)
    }

    async fn schedule(&self, tenant: &TenantId, id: ScheduleId) -> StoreResult<Schedule> {
        let found = self.commands().find_one(SCHEDULES, Query::of(of(tenant, id)), Concern::Majority).await?;
        schedule_of(&found.ok_or(StoreError::NotFound)?)
    }

    async fn schedules(
        &self,
        tenant: &TenantId,
        after: Option<ScheduleId>,
        limit: u32,
    ) -> StoreResult<Vec<Schedule>> {
        let mut which = doc! { "tenant": tenant.as_str() };
        if let Some(after) = after {
            which.insert("_id", doc! { "$gt": binary(*after.as_bytes()) });
        }
        let query = Query::of(which).sort(doc! { "_id": 1 }).limit(limit);
        let found = self.commands().find(SCHEDULES, query, Concern::Majority).await?;
        found.iter().map(schedule_of).collect()
    }

    async fn schedule_count(&self, tenant: &TenantId) -> StoreResult<u64> {
        let count = vec![doc! { "$match": { "tenant": tenant.as_str() } }, doc! { "$count": "schedules" }];
        let found = self.commands().aggregate(SCHEDULES, count, Concern::Majority).await?;
        let count = found.first().and_then(|found| found.get("schedules"));
        count.map_or(Ok(0), |count| number(count).ok_or_else(|| corrupt("a count")))
    }

    async fn delete_schedule(&self, tenant: &TenantId, id: ScheduleId) -> StoreResult<bool> {
        let commands = self.commands();
        let was_there = commands.delete(SCHEDULES, of(tenant, id)).await? == 1;
        // Also those that are left of a deletion that was cut off: they have the tenant's name on them.
        let ticks = doc! { "_id": range(id.as_bytes(), TICK_KEY), "tenant": tenant.as_str() };
        commands.delete(TICKS, ticks).await?;
        self.kept_bytes().removed(tenant);
        Ok(was_there)
    }

    async fn schedules_due(&self, now_ms: u64, limit: u32) -> StoreResult<Vec<Schedule>> {
        // What has no such time is no number, and not less than any.
        let due = doc! { "look_ms": { "$gte": 0_i64, "$lte": int(now_ms) } };
        let query = Query::of(due).sort(doc! { "look_ms": 1 }).limit(limit);
        let found = self.commands().find(SCHEDULES, query, Concern::Majority).await?;
        Ok(readable(&found, schedule_of, "a schedule"))
    }
}

#[async_trait]
impl Ticks for MongoStore {
    async fn add_ticks(&self, ticks: &[Tick]) -> StoreResult<()> {
        if ticks.is_empty() {
            return Ok(());
        }
        let documents = ticks.iter().map(|tick| {
            let mut document = this_tick(tick);
            document.extend(tick_fields(tick));
            document.insert("ver", int(tick.ver));
            // A tick that is not open has no such field, so the index of open ones is small.
            if tick.state.is_open() {
                document.insert("open", true);
            }
            encode(&document)
        });
        let documents = documents.collect::<StoreResult<Vec<_>>>()?;
        self.commands().insert(TICKS, documents).await.map(|_| ())
    }

    async fn put_tick(&self, tick: &Tick) -> StoreResult<bool> {
        let commands = self.commands();
        let mark = fresh_mark();
        let mut fields = tick_fields(tick);
        fields.extend(doc! { "ver": int(tick.ver), "mark": mark.clone() });
        let this = this_tick(tick);
        let mut before = this.clone();
        before.insert("ver", int(tick.ver) - 1);
        let mut change = doc! { "$set": fields };
        if tick.state.is_open() {
            change.get_document_mut("$set").map_err(|_| corrupt("a change"))?.insert("open", true);
        } else {
            change.insert("$unset", doc! { "open": "" });
        }
        if commands.update(TICKS, vec![Update::this(before, change)]).await?.n == 1 {
            return Ok(true);
        }
        let query = Query::of(this).fields(doc! { "mark": 1 });
        let found = commands.find_one(TICKS, query, Concern::Majority).await?;
        Ok(found.is_some_and(|found| found.get("mark") == Some(&mark)))
    }

    async fn tick(&self, tenant: &TenantId, schedule: ScheduleId, at_ms: u64) -> StoreResult<Tick> {
        let this = doc! { "_id": binary(tick_key(schedule, at_ms)), "tenant": tenant.as_str() };
        let found = self.commands().find_one(TICKS, Query::of(this), Concern::Majority).await?;
        tick_of(&found.ok_or(StoreError::NotFound)?)
    }

    async fn ticks(
        &self,
        tenant: &TenantId,
        schedule: ScheduleId,
        before_ms: Option<u64>,
        limit: u32,
    ) -> StoreResult<Vec<Tick>> {
        let below = match before_ms {
            Some(before_ms) => doc! { "$lt": binary(tick_key(schedule, before_ms)) },
            None => doc! { "$lte": binary(tick_key(schedule, u64::MAX)) },
        };
        let mut keys = doc! { "$gte": binary(tick_key(schedule, 0)) };
        keys.extend(below);
        let which = doc! { "_id": keys, "tenant": tenant.as_str() };
        let query = Query::of(which).sort(doc! { "_id": -1 }).limit(limit);
        let found = self.commands().find(TICKS, query, Concern::Majority).await?;
        found.iter().map(tick_of).collect()
    }

    async fn open_ticks(&self, after: Option<TickKey>, limit: u32) -> StoreResult<Vec<Tick>> {
        let mut open = doc! { "open": true };
        if let Some((schedule, at_ms)) = after {
            open.insert("_id", doc! { "$gt": binary(tick_key(schedule, at_ms)) });
        }
        let query = Query::of(open).sort(doc! { "_id": 1 }).limit(limit);
        let found = self.commands().find(TICKS, query, Concern::Majority).await?;
        Ok(readable(&found, tick_of, "a tick"))
    }

    async fn forget_ticks(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        let over = doc! { "at_ms": { "$lt": int(before_ms) }, "open": { "$exists": false } };
        let query = Query::of(over).fields(doc! { "_id": 1 }).sort(doc! { "at_ms": 1 }).limit(limit);
        let found = self.commands().find(TICKS, query, Concern::Majority).await?;
        let ids = found.iter().map(|tick| Ok(binary(Fields(tick).bytes("_id")?)));
        let ids = ids.collect::<StoreResult<Vec<_>>>()?;
        if ids.is_empty() {
            return Ok(0);
        }
        let removed = self.commands().delete(TICKS, doc! { "_id": { "$in": ids } }).await?;
        Ok(u32::try_from(removed).unwrap_or(u32::MAX))
    }
}

fn this_tick(tick: &Tick) -> Document {
    doc! { "_id": binary(tick_key(tick.schedule, tick.at_ms)), "tenant": tick.tenant.as_str() }
}

fn tick_fields(tick: &Tick) -> Document {
    doc! { "at_ms": int(tick.at_ms), "tick": to_json(tick) }
}

fn schedule_of(document: &Document) -> StoreResult<Schedule> {
    from_json(Fields(document).text("schedule")?, "a schedule")
}

fn tick_of(document: &Document) -> StoreResult<Tick> {
    from_json(Fields(document).text("tick")?, "a tick")
}

/// Those of the documents that can be read: the others must not wait for one that is damaged.
fn readable<T>(found: &[Document], read: fn(&Document) -> StoreResult<T>, what: &str) -> Vec<T> {
    let all = found.iter().filter_map(|document| {
        let record = read(document);
        if record.is_err() {
            tracing::error!("{what} is damaged and left out");
        }
        record.ok()
    });
    all.collect()
}
