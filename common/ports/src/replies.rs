//! The reply cache: replies that were accepted, for requests that are the same.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::{BatchId, TenantId};

use crate::StoreResult;

/// What a reply is kept under. Equal keys are equal requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReplyKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// The batch it goes with; `None` where it serves every batch of the tenant.
    pub batch: Option<BatchId>,
    /// A digest of the request, of the tenant and of the batch.
    pub digest: [u8; 32],
}

/// Which replies are forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlived {
    /// Those of every tenant that were kept before this moment.
    Before(u64),
    /// All that go with the batch.
    OfBatch(TenantId, BatchId),
    /// All of the tenant, those of its batches too.
    OfTenant(TenantId),
}

/// Replies that are kept to be given again.
#[async_trait]
pub trait Replies: Send + Sync {
    /// What is kept under each of the keys, in their order.
    async fn replies(&self, keys: &[ReplyKey]) -> StoreResult<Vec<Option<Bytes>>>;

    /// Keeps replies, opaque to the store; what is kept under a key stays as it is, and what belongs to a batch that the tenant does not have is left out. They
    /// count among the bytes the tenant has stored ([`Read::usage`](crate::Read::usage)), and go with their batch's deletion. Repeatable; after an
    /// unknown result any part of them may be kept.
    async fn keep_replies(&self, replies: Vec<(ReplyKey, Bytes)>, now_ms: u64) -> StoreResult<()>;

    /// Removes up to about 1,000 of these replies, the oldest first. Answers how many it found; none when all are gone. Several may do so at once.
    async fn forget_replies(&self, which: &Outlived) -> StoreResult<u32>;
}
