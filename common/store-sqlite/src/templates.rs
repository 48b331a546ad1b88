//! `Templates`.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::*;
use promptmill_ports::*;

use crate::SqliteStore;

#[async_trait]
impl Templates for SqliteStore {
    async fn add_template(
        &self,
        _tenant: &TenantId,
        _id: TemplateId,
        _name: &str,
        _source: &str,
        _now_ms: u64,
    ) -> StoreResult<StoredTemplate> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn add_version(
        &self,
        _tenant: &TenantId,
        _id: TemplateId,
        _after: u32,
        _source: &str,
        _now_ms: u64,
    ) -> StoreResult<StoredTemplate> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn template(&self, _tenant: &TenantId, _key: &TemplateKey) -> StoreResult<StoredTemplate> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn version(
        &self,
        _tenant: &TenantId,
        _id: TemplateId,
        _version: Option<u32>,
    ) -> StoreResult<TemplateVersion> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn templates(
        &self,
        _tenant: &TenantId,
        _after: Option<&str>,
        _limit: u32,
    ) -> StoreResult<Vec<StoredTemplate>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn versions(
        &self,
        _tenant: &TenantId,
        _id: TemplateId,
        _below: Option<u32>,
        _limit: u32,
    ) -> StoreResult<Vec<(u32, u64)>> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }

    async fn delete_template(&self, _tenant: &TenantId, _id: TemplateId, _latest: u32) -> StoreResult<()> {
        Err(promptmill_ports::StoreError::unavailable("not built yet"))
    }
}
