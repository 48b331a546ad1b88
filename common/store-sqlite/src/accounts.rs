//! `Accounts`.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::*;
use promptmill_ports::*;

use crate::SqliteStore;

#[async_trait]
impl Accounts for SqliteStore {
    async fn add_tenant(&self, _tenant: &Tenant) -> StoreResult<bool> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn tenants(&self) -> StoreResult<Vec<Tenant>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn add_key(&self, _key: &ApiKey) -> StoreResult<()> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn key(&self, _id: KeyId) -> StoreResult<Option<ApiKey>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn keys(&self, _tenant: &TenantId) -> StoreResult<Vec<ApiKey>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn revoke_key(&self, _tenant: &TenantId, _id: KeyId, _now_ms: u64) -> StoreResult<()> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn keys_used(&self, _used: &[(KeyId, u64)]) -> StoreResult<()> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }
}
