//! `Generations`.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::*;
use promptmill_ports::*;

use crate::SqliteStore;

#[async_trait]
impl Generations for SqliteStore {
    async fn put_generation(&self, _generation: &Generation) -> StoreResult<()> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn generation(&self, _tenant: &TenantId, _id: GenerationId) -> StoreResult<Generation> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn unfinished(&self, _before_ms: u64, _limit: u32) -> StoreResult<Vec<Generation>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn forget_generations(&self, _before_ms: u64, _limit: u32) -> StoreResult<u32> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }
}
