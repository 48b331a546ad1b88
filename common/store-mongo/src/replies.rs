//! `Replies`: the reply cache, one document each.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use mongodb::bson::{Bson, cstr, doc};
use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{Outlived, Replies, ReplyKey, StoreResult};

use crate::MongoStore;
use crate::batches::{are_there, those_there};
use crate::codec::{Fields, binary, int, range, raw_binary, raw_document};
use crate::collections::REPLIES;
use crate::commands::{Concern, Query};
use crate::{delete, usage};

/// Replies that are removed in one step.
const PER_STEP: u32 = 1_000;

/// Bytes of the key of a reply that goes with a batch.
pub(crate) const KEY_OF_BATCH: usize = 48;

/// The batch, so that all of its replies are one range, and the digest; those of a tenant are the digest alone.
fn id(key: &ReplyKey) -> Vec<u8> {
    let batch = key.batch.as_ref().map_or(&[][..], |batch| batch.as_bytes());
    [batch, &key.digest].concat()
}

#[async_trait]
impl Replies for MongoStore {
    async fn replies(&self, keys: &[ReplyKey]) -> StoreResult<Vec<Option<Bytes>>> {
        let commands = self.commands();
        let ids: Vec<_> = keys.iter().map(|key| binary(id(key))).collect();
        // What was kept a moment ago and is lost with a primary costs a call, no more.
        let query = Query::of(doc! { "_id": { "$in": ids } });
        let found = commands.find(REPLIES, query, Concern::Local).await?;
        let mut kept = HashMap::with_capacity(found.len());
        for document in &found {
            let fields = Fields(document);
            kept.insert(fields.bytes("_id")?, (fields.text("tenant")?, fields.bytes("body")?));
        }
        let of = |key: &ReplyKey| {
            let (tenant, body) = kept.get(id(key).as_slice())?;
            (*tenant == key.tenant.as_str()).then(|| Bytes::copy_from_slice(body))
        };
        Ok(keys.iter().map(of).collect())
    }

    async fn keep_replies(&self, replies: Vec<(ReplyKey, Bytes)>, now_ms: u64) -> StoreResult<()> {
        let commands = self.commands();
        let batches = replies.iter().filter_map(|(key, _)| key.batch);
        let there = those_there(commands, batches, doc! { "_id": 1, "tenant": 1 }).await?;
        let whose = there.iter().map(|batch| {
            let fields = Fields(batch);
            Ok((BatchId::from_bytes(fields.id("_id")?), fields.tenant("tenant")?))
        });
        let whose = whose.collect::<StoreResult<HashMap<_, _>>>()?;
        let is_there = |key: &ReplyKey| key.batch.is_none_or(|batch| whose.get(&batch) == Some(&key.tenant));
        let those: Vec<_> = replies.iter().filter(|(key, _)| is_there(key)).collect();
        if those.is_empty() {
            return Ok(());
        }
        let document = |(key, body): &&(ReplyKey, Bytes)| {
            raw_document(&[
                (cstr!("_id"), raw_binary(&id(key))),
                (cstr!("tenant"), key.tenant.as_str().into()),
                (cstr!("created_ms"), int(now_ms).into()),
                (cstr!("size"), int(body.len() as u64).into()),
                (cstr!("body"), raw_binary(body)),
            ])
        };
        let written = commands.insert(REPLIES, those.iter().map(document).collect()).await?;
        let mut bytes: HashMap<&TenantId, i64> = HashMap::new();
        for (at, (key, body)) in those.iter().enumerate() {
            if !written.duplicates.contains(&at) {
                *bytes.entry(&key.tenant).or_default() += int(body.len() as u64);
            }
        }
        usage::gather(commands, &bytes, &HashMap::new());
        // A batch whose deletion was over before its replies came takes them along now.
        let batches: HashSet<_> =
            those.iter().filter_map(|(key, _)| Some((key.batch?, &key.tenant))).collect();
        let there = are_there(commands, batches.iter().map(|(batch, _)| *batch)).await?;
        for (batch, tenant) in batches {
            if !there.contains(&batch) {
                delete::clear_away(commands, tenant, batch).await?;
            }
        }
        Ok(())
    }

    async fn forget_replies(&self, which: &Outlived) -> StoreResult<u32> {
        let commands = self.commands();
        let (filter, oldest) = match which {
            Outlived::Before(before_ms) => {
                (doc! { "created_ms": { "$lt": int(*before_ms) } }, doc! { "created_ms": 1, "_id": 1 })
            }
            Outlived::OfTenant(tenant) => {
                (doc! { "tenant": tenant.as_str() }, doc! { "created_ms": 1, "_id": 1 })
            }
            Outlived::OfBatch(tenant, batch) => {
                let ids = range(batch.as_bytes(), KEY_OF_BATCH);
                (doc! { "_id": ids, "tenant": tenant.as_str() }, doc! { "_id": 1 })
            }
        };
        let query = Query::of(filter).fields(doc! { "_id": 1, "tenant": 1, "size": 1 });
        let found = commands.find(REPLIES, query.sort(oldest).limit(PER_STEP), Concern::Local).await?;
        if found.is_empty() {
            return Ok(0);
        }
        let ids: Vec<Bson> = found.iter().filter_map(|reply| reply.get("_id").cloned()).collect();
        let removed = commands.delete(REPLIES, doc! { "_id": { "$in": ids } }).await?;
        let mut bytes: HashMap<TenantId, u64> = HashMap::new();
        for reply in &found {
            let fields = Fields(reply);
            *bytes.entry(fields.tenant("tenant")?).or_default() += fields.uint("size")?;
        }
        for (tenant, bytes) in bytes {
            // Of what others removed at the same time, each of us takes off its part.
            let part = u128::from(bytes) * u128::from(removed) / found.len() as u128;
            usage::add(commands, &tenant, -int(u64::try_from(part).unwrap_or(bytes))).await?;
        }
        Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
    }
}
