//! What the handlers of batches share within one process: who may change parts while, who uploads, and what providers said.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, PoisonError};

use promptmill_domain::{BatchId, TenantId};
use tokio::sync::{
    Mutex, MutexGuard, OwnedSemaphorePermit, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore,
};

use super::preflight::PreflightCache;
use crate::problem::{Problem, ProblemId};
use promptmill_runtime::places::{Place, Places};

/// Locks for all batches; two that share one wait for each other now and then.
const LOCKS: usize = 256;

/// Uploads at the same time. Each holds a blocking thread for as long as its client sends, and others need some too.
const UPLOADS: usize = 128;

/// Uploads of one tenant at the same time, so that nobody keeps the others from sending.
const UPLOADS_OF_A_TENANT: usize = 32;

/// KiB of blocks that are on their way to the store, of all uploads together: rows may be large, and uploads many.
const BLOCKS_KIB: usize = 64 * 1024;

/// One per process.
pub(crate) struct Shared {
    parts: [RwLock<()>; LOCKS],
    limits: [Mutex<()>; LOCKS],
    quotas: [RwLock<()>; LOCKS],
    /// Rows that are about to be added to those of the day.
    submitting: std::sync::Mutex<HashMap<TenantId, u64>>,
    blocks: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    uploads_by_tenant: Places<TenantId>,
    /// What providers said about models.
    pub(crate) preflights: PreflightCache,
}

/// Leave to upload, until it is dropped.
pub(crate) struct Leave {
    _share: Place<TenantId>,
    _place: OwnedSemaphorePermit,
}

/// Leave to add rows to those of the day, until it is dropped.
pub(crate) struct LeaveToSubmit<'a> {
    shared: &'a Shared,
    tenant: TenantId,
    rows: u64,
    others: u64,
    _turn: Turn<'a>,
}

#[expect(dead_code, reason = "locks are held and not looked at")]
enum Turn<'a> {
    BesideOthers(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

impl LeaveToSubmit<'_> {
    /// Rows that others were about to add when it was given.
    pub(crate) const fn others(&self) -> u64 {
        self.others
    }
}

impl Drop for LeaveToSubmit<'_> {
    fn drop(&mut self) {
        let mut submitting = self.shared.submitting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rows) = submitting.get_mut(&self.tenant) {
            *rows = rows.saturating_sub(self.rows);
            if *rows == 0 {
                submitting.remove(&self.tenant);
            }
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| RwLock::default()),
            limits: std::array::from_fn(|_| Mutex::default()),
            quotas: std::array::from_fn(|_| RwLock::default()),
            submitting: std::sync::Mutex::default(),
            blocks: Arc::new(Semaphore::new(BLOCKS_KIB)),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            uploads_by_tenant: Places::new(UPLOADS_OF_A_TENANT),
            preflights: PreflightCache::default(),
        }
    }
}

impl Shared {
    /// Held while a part is committed: nobody checks or freezes the parts of the batch meanwhile.
    pub(crate) async fn parts_may_change(&self, batch: BatchId) -> RwLockReadGuard<'_, ()> {
        self.parts[slot(batch)].read().await
    }

    /// Held while the parts are checked and frozen, which may take long: nobody else changes them meanwhile.
    pub(crate) async fn alone(&self, batch: BatchId) -> RwLockWriteGuard<'_, ()> {
        self.parts[slot(batch)].write().await
    }

    /// Held while the limits are read and replaced: nobody else replaces them meanwhile.
    pub(crate) async fn limits_alone(&self, batch: BatchId) -> MutexGuard<'_, ()> {
        self.limits[slot(batch)].lock().await
    }

    /// Notes rows that are about to be added to the tenant's rows of the day, beside those of others. To be held from before the day's rows are read
    /// until these are added: whatever was to be added before is then in what is read, or among [`LeaveToSubmit::others`].
    pub(crate) async fn submit_beside_others(&self, tenant: &TenantId, rows: u64) -> LeaveToSubmit<'_> {
        let turn = Turn::BesideOthers(self.quotas[self.quota(tenant)].read().await);
        self.submitting(tenant, rows, turn)
    }

    /// The same when nobody else is about to add any.
    pub(crate) async fn submit_alone(&self, tenant: &TenantId, rows: u64) -> LeaveToSubmit<'_> {
        let turn = Turn::Alone(self.quotas[self.quota(tenant)].write().await);
        self.submitting(tenant, rows, turn)
    }

    fn quota(&self, tenant: &TenantId) -> usize {
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        hasher.finish() as usize % LOCKS
    }

    fn submitting<'a>(&'a self, tenant: &TenantId, rows: u64, turn: Turn<'a>) -> LeaveToSubmit<'a> {
        let mut submitting = self.submitting.lock().unwrap_or_else(PoisonError::into_inner);
        let all = submitting.entry(tenant.clone()).or_default();
        let others = *all;
        *all = all.saturating_add(rows);
        drop(submitting);
        LeaveToSubmit { shared: self, tenant: tenant.clone(), rows, others, _turn: turn }
    }

    /// Room for a block of so many bytes among those on their way to the store.
    pub(crate) async fn room_for_block(&self, bytes: usize) -> OwnedSemaphorePermit {
        let kib = bytes.div_ceil(1024).clamp(1, BLOCKS_KIB) as u32;
        self.blocks.clone().acquire_many_owned(kib).await.expect("this semaphore is never closed")
    }

    /// Leave to upload.
    ///
    /// # Errors
    /// `too_many_requests` when too many of the tenant do, `unavailable` when too many of all do.
    pub(crate) fn upload(&self, tenant: &TenantId) -> Result<Leave, Problem> {
        let share = self.uploads_by_tenant.enter(tenant.clone()).ok_or_else(|| {
            let detail = format!("a tenant sends at most {UPLOADS_OF_A_TENANT} parts at the same time");
            Problem::new(ProblemId::TooManyRequests).detail(detail).retry_after(2)
        })?;
        let place = self.uploads.clone().try_acquire_owned().map_err(|_| {
            Problem::new(ProblemId::Unavailable).detail("too many uploads at the same time").retry_after(2)
        })?;
        Ok(Leave { _share: share, _place: place })
    }
}

fn slot(batch: BatchId) -> usize {
    // The last bytes of an id are random.
    usize::from(batch.as_bytes()[15]) % LOCKS
}
