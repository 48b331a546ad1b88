//! `Retention`.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::*;
use promptmill_ports::*;

use crate::SqliteStore;

#[async_trait]
impl Retention for SqliteStore {
    async fn drop_stale_uploads(&self, _before_ms: u64) -> StoreResult<u32> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn outlived(
        &self,
        _now_ms: u64,
        _default_ms: u64,
        _drafts_before_ms: u64,
        _limit: u32,
    ) -> StoreResult<Vec<(TenantId, BatchId)>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn has_room(&self) -> StoreResult<bool> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }
}
