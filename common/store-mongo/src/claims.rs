//! `Claims`: requests that must happen once however often they are sent, and the answers that are repeated.
//!
//! A claim is one document under tenant and key, so the `_id` index alone makes one of those who claim at once the first. Its `mark` names the
//! call that made its runner the runner; a call whose answer was lost knows its own work by it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use promptmill_domain::TenantId;
use promptmill_ports::{Claim, Claimed, Claims, StoreError, StoreResult, StoredAnswer};

use crate::MongoStore;
use crate::codec::{Fields, binary, from_json, int, to_json};
use crate::collections::CLAIMS;
use crate::commands::{Concern, Query, Update, encode, fresh_mark};
use crate::forget;

/// How often a claim is made anew when the one that stood in its way was gone before it could be read.
const TRIES: usize = 8;

#[async_trait]
impl Claims for MongoStore {
    async fn claim(&self, claim: &Claim, now_ms: u64) -> StoreResult<Claimed> {
        let mark = fresh_mark();
        let document = doc! {
            "_id": id(&claim.tenant, &claim.key),
            "tenant": claim.tenant.as_str(),
            "created_ms": int(now_ms),
            "fingerprint": binary(claim.fingerprint),
            "plan": binary(claim.plan),
            "owner": binary(claim.owner),
            "mark": mark.clone(),
            "bytes": bytes(&claim.key, &[]),
        };
        for _ in 0..TRIES {
            if self.insert_claim(&document).await? {
                self.kept_bytes().add(&claim.tenant, claim.key.len());
                return Ok(Claimed::Run);
            }
            let query = Query::of(doc! { "_id": id(&claim.tenant, &claim.key) });
            // Released or forgotten between the two steps, it is free again.
            let Some(earlier) = self.commands().find_one(CLAIMS, query, Concern::Majority).await? else {
                continue;
            };
            if earlier.get("mark") == Some(&mark) {
                return Ok(Claimed::Run);
            }
            return answer_to(&earlier, claim);
        }
        Err(StoreError::unavailable("the claim is made and released all the time"))
    }

    async fn take_over(
        &self,
        tenant: &TenantId,
        key: &str,
        from: [u8; 16],
        owner: [u8; 16],
    ) -> StoreResult<bool> {
        let mark = fresh_mark();
        let change = doc! { "$set": { "owner": binary(owner), "mark": mark.clone() } };
        let update = Update::one(unanswered(tenant, key, from), change);
        if self.commands().update(CLAIMS, vec![update]).await?.n == 1 {
            return Ok(true);
        }
        let mine = Query::of(doc! { "_id": id(tenant, key), "mark": mark }).fields(doc! { "_id": 1 });
        Ok(self.commands().find_one(CLAIMS, mine, Concern::Majority).await?.is_some())
    }

    async fn answer(&self, tenant: &TenantId, key: &str, answer: &StoredAnswer) -> StoreResult<()> {
        let open = doc! { "_id": id(tenant, key), "status": { "$exists": false } };
        let change = doc! { "$set": {
            "status": i32::from(answer.status),
            "headers": to_json(&answer.headers),
            "body": binary(answer.body.to_vec()),
            "bytes": bytes(key, &answer.body),
        } };
        if self.update_claim(Update::one(open, change), answer.body.len()).await? {
            self.kept_bytes().add(tenant, answer.body.len());
            return Ok(());
        }
        let known = Query::of(doc! { "_id": id(tenant, key) }).fields(doc! { "_id": 1 });
        match self.commands().find_one(CLAIMS, known, Concern::Majority).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::NotFound),
        }
    }

    async fn release(&self, tenant: &TenantId, key: &str, owner: [u8; 16]) -> StoreResult<()> {
        let mut theirs = unanswered(tenant, key, owner);
        let query = Query::of(theirs.clone()).fields(doc! { "mark": 1 });
        let Some(mut found) = self.commands().find_one(CLAIMS, query, Concern::Local).await? else {
            return Ok(());
        };
        // Without its mark a repeated delete could take the next claim of the same owner.
        theirs.insert("mark", found.remove("mark"));
        self.commands().delete(CLAIMS, theirs).await?;
        self.kept_bytes().removed(tenant);
        Ok(())
    }

    async fn forget_claims(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        let forgotten = forget::forget(self.commands(), CLAIMS, Document::new(), before_ms, limit).await?;
        self.kept_bytes().removed_of_all();
        Ok(forgotten)
    }
}

/// Claims are made and answered one by one, and written with others that come at the same time. A document and an update of one are each a step by
/// themselves, so a crash leaves nothing between them that one alone would not.
impl MongoStore {
    /// Inserts a claim; answers whether it is new.
    async fn insert_claim(&self, document: &Document) -> StoreResult<bool> {
        let (document, store) = (encode(document)?, self.clone());
        let bytes = document.as_bytes().len();
        let insert = move |documents: Arc<[RawDocumentBuf]>| {
            let store = store.clone();
            async move {
                let there = store.commands().insert(CLAIMS, documents.to_vec()).await?.duplicates;
                Ok((0..documents.len()).map(|at| Ok(!there.contains(&at))).collect())
            }
        };
        self.together().claims.call(document, bytes, insert).await
    }

    /// Updates a claim, with an answer of so many bytes; answers whether it surely did.
    async fn update_claim(&self, update: Update, bytes: usize) -> StoreResult<bool> {
        let store = self.clone();
        let write = move |updates: Arc<[Update]>| {
            let store = store.clone();
            async move {
                let matched = store.commands().update(CLAIMS, updates.to_vec()).await?.n;
                let all = matched == updates.len() as u64;
                Ok(updates.iter().map(|_| Ok(all)).collect())
            }
        };
        self.together().answers.call(update, bytes, write).await
    }
}

fn id(tenant: &TenantId, key: &str) -> Document {
    doc! { "tenant": tenant.as_str(), "key": key }
}

/// The claim while `owner` runs it.
fn unanswered(tenant: &TenantId, key: &str, owner: [u8; 16]) -> Document {
    doc! { "_id": id(tenant, key), "owner": binary(owner), "status": { "$exists": false } }
}

/// What a claim counts for in its tenant's quota.
fn bytes(key: &str, body: &[u8]) -> i64 {
    int((key.len() + body.len()) as u64)
}

/// What whoever claims now is told of an earlier claim.
fn answer_to(earlier: &Document, claim: &Claim) -> StoreResult<Claimed> {
    let fields = Fields(earlier);
    if fields.id("fingerprint")? != claim.fingerprint {
        return Ok(Claimed::Mismatch);
    }
    Ok(match answer_of(earlier)? {
        Some(answer) => Claimed::Done(answer),
        None => Claimed::Begun { owner: fields.id("owner")?, plan: fields.id("plan")? },
    })
}

/// The answer of a claim that has one.
pub(crate) fn answer_of(claim: &Document) -> StoreResult<Option<StoredAnswer>> {
    let fields = Fields(claim);
    if !fields.has("status") {
        return Ok(None);
    }
    let status = u16::try_from(fields.small("status")?)
        .map_err(|_| StoreError::Corrupt("the status of a stored answer".to_owned()))?;
    let headers = from_json(fields.text("headers")?, "the headers of a stored answer")?;
    let body = Bytes::copy_from_slice(fields.bytes("body")?);
    Ok(Some(StoredAnswer { status, headers, body }))
}
