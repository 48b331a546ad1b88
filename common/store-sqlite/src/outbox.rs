//! `Outbox`.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::*;
use promptmill_ports::*;

use crate::SqliteStore;

#[async_trait]
impl Outbox for SqliteStore {
    async fn pending(&self, _limit: u32) -> StoreResult<Vec<Event>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn handed_on(&self, _events: &[EventId]) -> StoreResult<()> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }
}
