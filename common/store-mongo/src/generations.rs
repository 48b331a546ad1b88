//! `Generations`: immediate generations, from the request to the outcome.
//!
//! A generation is one document, and each put is one write of it that matches only while it has no outcome. While it runs it has a field
//! `open`, so that those that run are found by an index of their own.

use async_trait::async_trait;
use bytes::Bytes;
use mongodb::bson::{Document, doc};
use promptmill_domain::{GenerationId, SessionId, TenantId};
use promptmill_ports::{Generation, Generations, StoreError, StoreResult};

use crate::MongoStore;
use crate::codec::{Fields, binary, int};
use crate::collections::GENERATIONS;
use crate::commands::{Concern, Query, Update};
use crate::forget;

/// How often a put is made anew when another put of the same generation came between.
const TRIES: usize = 8;

#[async_trait]
impl Generations for MongoStore {
    async fn put_generation(&self, generation: &Generation) -> StoreResult<()> {
        let id = binary(*generation.id.as_bytes());
        let unfinished = doc! {
            "_id": id.clone(), "tenant": generation.tenant.as_str(), "outcome": { "$exists": false },
        };
        for _ in 0..TRIES {
            let put = Update::upsert(unfinished.clone(), change(generation));
            if self.commands().update(GENERATIONS, vec![put]).await?.duplicates.is_empty() {
                self.kept_bytes().put(&generation.tenant, generation.size());
                return Ok(());
            }
            // It has its outcome, or is another tenant's, or was made by another put at the same moment.
            let query = Query::of(doc! { "_id": id.clone() }).fields(doc! { "tenant": 1, "open": 1 });
            let Some(there) = self.commands().find_one(GENERATIONS, query, Concern::Majority).await? else {
                continue;
            };
            let fields = Fields(&there);
            if fields.tenant("tenant")? != generation.tenant {
                return Err(StoreError::NotFound);
            }
            if !fields.flag("open") {
                return Ok(());
            }
        }
        Err(StoreError::unavailable("the generation is put by others all the time"))
    }

    async fn generation(&self, tenant: &TenantId, id: GenerationId) -> StoreResult<Generation> {
        let query = Query::of(doc! { "_id": binary(*id.as_bytes()), "tenant": tenant.as_str() });
        let found = self.commands().find_one(GENERATIONS, query, Concern::Majority).await?;
        from_document(&found.ok_or(StoreError::NotFound)?)
    }

    async fn orphaned(&self, living: &[SessionId], limit: u32) -> StoreResult<Vec<Generation>> {
        let living: Vec<_> = living.iter().map(|session| binary(*session.as_bytes())).collect();
        let orphaned = doc! { "open": true, "owner": { "$nin": living } };
        let query = Query::of(orphaned).sort(doc! { "created_ms": 1, "_id": 1 }).limit(limit);
        let found = self.commands().find(GENERATIONS, query, Concern::Majority).await?;
        found.iter().map(from_document).collect()
    }

    async fn adopt(&self, id: GenerationId, from: SessionId, owner: SessionId) -> StoreResult<bool> {
        let of = |session: SessionId| {
            doc! { "_id": binary(*id.as_bytes()), "open": true, "owner": binary(*session.as_bytes()) }
        };
        let change = doc! { "$set": { "owner": binary(*owner.as_bytes()) } };
        if self.commands().update(GENERATIONS, vec![Update::one(of(from), change)]).await?.n == 1 {
            return Ok(true);
        }
        // The answer to our own write may have been lost.
        let mine = Query::of(of(owner)).fields(doc! { "_id": 1 });
        Ok(self.commands().find_one(GENERATIONS, mine, Concern::Majority).await?.is_some())
    }

    async fn forget_generations(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        let finished = doc! { "outcome": { "$exists": true } };
        let forgotten = forget::forget(self.commands(), GENERATIONS, finished, before_ms, limit).await?;
        self.kept_bytes().removed_of_all();
        Ok(forgotten)
    }
}

/// Every field but those that tell which generation it is.
fn change(generation: &Generation) -> Document {
    let Generation { request, outcome, created_ms, owner, .. } = generation;
    let mut set = doc! {
        "owner": binary(*owner.as_bytes()),
        "created_ms": int(*created_ms),
        "request": binary(request.to_vec()),
        "bytes": int(generation.size() as u64),
    };
    match outcome {
        Some(outcome) => {
            set.insert("outcome", binary(outcome.to_vec()));
            doc! { "$set": set, "$unset": { "open": "" } }
        }
        None => {
            set.insert("open", true);
            doc! { "$set": set }
        }
    }
}

/// Of its document.
pub(crate) fn from_document(document: &Document) -> StoreResult<Generation> {
    let fields = Fields(document);
    let outcome = if fields.has("outcome") { Some(fields.bytes("outcome")?) } else { None };
    Ok(Generation {
        id: GenerationId::from_bytes(fields.id("_id")?),
        tenant: fields.tenant("tenant")?,
        request: Bytes::copy_from_slice(fields.bytes("request")?),
        outcome: outcome.map(Bytes::copy_from_slice),
        created_ms: fields.uint("created_ms")?,
        owner: SessionId::from_bytes(fields.id("owner")?),
    })
}
