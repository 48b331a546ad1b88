//! `Rows`.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::*;
use promptmill_ports::*;

use crate::SqliteStore;

#[async_trait]
impl Rows for SqliteStore {
    async fn parts(&self, _tenant: &TenantId, _batch: BatchId) -> StoreResult<Vec<Part>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn block_ids(
        &self,
        _tenant: &TenantId,
        _batch: BatchId,
        _after: Option<(u32, u32)>,
        _limit: u32,
    ) -> StoreResult<Vec<BlockIds>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn block(&self, _tenant: &TenantId, _batch: BatchId, _part: u32, _seq: u32) -> StoreResult<Bytes> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }
}
