//! `Claims`.

use async_trait::async_trait;
use promptmill_domain::TenantId;
use promptmill_ports::{Claim, Claimed, Claims, StoreResult, StoredAnswer};

use crate::SqliteStore;

fn not_built<T>() -> StoreResult<T> {
    Err(promptmill_ports::StoreError::unavailable("not built yet"))
}

#[async_trait]
impl Claims for SqliteStore {
    async fn claim(&self, _claim: &Claim, _now_ms: u64) -> StoreResult<Claimed> {
        not_built()
    }

    async fn take_over(
        &self,
        _tenant: &TenantId,
        _key: &str,
        _from: [u8; 16],
        _owner: [u8; 16],
    ) -> StoreResult<bool> {
        not_built()
    }

    async fn answer(&self, _tenant: &TenantId, _key: &str, _answer: &StoredAnswer) -> StoreResult<()> {
        not_built()
    }

    async fn release(&self, _tenant: &TenantId, _key: &str, _owner: [u8; 16]) -> StoreResult<()> {
        not_built()
    }

    async fn forget_claims(&self, _before_ms: u64, _limit: u32) -> StoreResult<u32> {
        not_built()
    }
}
