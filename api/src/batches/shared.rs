//! What the handlers of batches share within one process: who may change parts while, who uploads, and what providers said.

use std::sync::Arc;

use promptmill_domain::BatchId;
use tokio::sync::{OwnedSemaphorePermit, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore};

use super::preflight::PreflightCache;
use crate::problem::{Problem, ProblemId};

/// Locks for all batches; two that share one wait for each other now and then.
const LOCKS: usize = 256;

/// Uploads at the same time. Each holds a blocking thread for as long as its client sends, and others need some too.
const UPLOADS: usize = 128;

/// One per process.
pub(crate) struct Shared {
    locks: [RwLock<()>; LOCKS],
    uploads: Arc<Semaphore>,
    /// What providers said about models.
    pub(crate) preflights: PreflightCache,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            locks: std::array::from_fn(|_| RwLock::default()),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            preflights: PreflightCache::default(),
        }
    }
}

impl Shared {
    /// Held while a part is committed: nobody checks or freezes the parts of the batch meanwhile.
    pub(crate) async fn parts_may_change(&self, batch: BatchId) -> RwLockReadGuard<'_, ()> {
        self.lock(batch).read().await
    }

    /// Held while the parts are checked and frozen, or the limits are read and replaced: nobody else changes them meanwhile.
    pub(crate) async fn alone(&self, batch: BatchId) -> RwLockWriteGuard<'_, ()> {
        self.lock(batch).write().await
    }

    /// Leave to upload.
    ///
    /// # Errors
    /// `unavailable` when too many do.
    pub(crate) fn upload(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.uploads.clone().try_acquire_owned().map_err(|_| {
            Problem::new(ProblemId::Unavailable).detail("too many uploads at the same time").retry_after(2)
        })
    }

    fn lock(&self, batch: BatchId) -> &RwLock<()> {
        // The last bytes of an id are random.
        let slot = usize::from(batch.as_bytes()[15]) % LOCKS;
        &self.locks[slot]
    }
}
