//! `Deliveries`.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::*;
use promptmill_ports::*;

use crate::SqliteStore;

#[async_trait]
impl Deliveries for SqliteStore {
    async fn add_deliveries(&self, _deliveries: &[Delivery]) -> StoreResult<()> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn take_due(&self, _now_ms: u64, _until_ms: u64, _limit: u32) -> StoreResult<Vec<Delivery>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn record_attempt(
        &self,
        _id: DeliveryId,
        _attempt: &DeliveryAttempt,
        _state: DeliveryState,
        _due_ms: u64,
    ) -> StoreResult<()> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn deliveries(
        &self,
        _tenant: &TenantId,
        _batch: BatchId,
        _limit: u32,
    ) -> StoreResult<Vec<Delivery>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn next_due(&self) -> StoreResult<Option<u64>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn forget_deliveries(&self, _before_ms: u64, _limit: u32) -> StoreResult<u32> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }
}
