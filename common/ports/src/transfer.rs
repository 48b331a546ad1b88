//! The transfer port: what an export reads and an import writes beyond what the engine and the service ask of a store.
//!
//! An import makes a batch again by the engine's own steps, so what a store keeps is never written but by the steps that its promises
//! are tested with. This port adds what those steps cannot say.

use async_trait::async_trait;
use promptmill_domain::{BatchId, Event, GenerationId, Head, TenantId};

use crate::reading::PageLimit;
use crate::records::{Claim, Generation, StoredAnswer};
use crate::{Records, Store, StoreResult};

/// A request with an idempotency key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptClaim {
    /// The request, and who began it.
    pub claim: Claim,
    /// When it was begun.
    pub created_ms: u64,
    /// Its answer, where it has one.
    pub answer: Option<StoredAnswer>,
}

impl KeptClaim {
    /// Bytes of its answer, which a page goes by.
    pub fn size(&self) -> usize {
        self.answer.as_ref().map_or(0, |answer| answer.body.len())
    }
}

/// What stands beside a batch and is no part of [`Batch`](promptmill_domain::Batch).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Beside {
    /// The key its client created it with.
    pub idem_key: Option<String>,
    /// Its events that were not handed on, oldest first.
    pub events: Vec<Event>,
}

/// What an installation's move needs of a store. The reads change nothing, and may be made while the installation works.
#[async_trait]
pub trait Transfer: Send + Sync {
    /// What stands beside a batch.
    async fn beside(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Beside>;

    /// Heads of a batch by number, those behind `after`, at most `limit`, each with the whole histories of its parked items. A head that a store
    /// does not keep yet because its chunk waits may be left out; each is as it was at some moment of the call.
    async fn heads(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: Option<u32>,
        limit: u32,
    ) -> StoreResult<Vec<Head>>;

    /// Requests with an idempotency key in the order of those keys' bytes, those behind `after`, as far as `limit` allows.
    async fn claims(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: PageLimit,
    ) -> StoreResult<Vec<KeptClaim>>;

    /// Generations by id, those behind `after`, as far as `limit` allows.
    async fn generations(
        &self,
        tenant: &TenantId,
        after: Option<GenerationId>,
        limit: PageLimit,
    ) -> StoreResult<Vec<Generation>>;

    /// Gives a batch the version it had, and makes `events` all that is not handed on of it. Atomic and repeatable.
    async fn stamp(&self, tenant: &TenantId, batch: BatchId, ver: u64, events: &[Event]) -> StoreResult<()>;

    /// Marks an empty store as one that is being filled: until [`end_import`](Self::end_import) no other process can open it.
    ///
    /// # Errors
    /// `Conflict` when the store holds something, or another import was begun.
    async fn begin_import(&self) -> StoreResult<()>;

    /// Takes the mark away: everything is there. From the next opening of the store on its order of settling is of this epoch. Repeatable.
    async fn end_import(&self, epoch: u16) -> StoreResult<()>;
}

/// Everything that an installation keeps.
pub trait Installation: Store + Records + Transfer {}

impl<T: Store + Records + Transfer> Installation for T {}
