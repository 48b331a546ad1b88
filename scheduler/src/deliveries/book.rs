//! The tenants' endpoints as they are, or were a moment ago.
//!
//! Many events of a tenant need them one after the other. What was read is used again only for half the time within which a store promises that every process knows
//! of a change, so nothing is missed that a fresh look would have found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use promptmill_domain::{Endpoint, EndpointId, TenantId};
use promptmill_ports::{Delivery, Records, StoreError, StoreResult};
use tokio::time::Instant;

/// Tenants that are remembered; what is outdated goes when there are more.
const REMEMBERED: usize = 1_000;

pub(super) struct Book {
    records: Arc<dyn Records>,
    kept_for: Duration,
    known: Mutex<HashMap<TenantId, Page>>,
}

/// The endpoints of one tenant, and when they were asked for.
type Page = (Instant, Arc<[Endpoint]>);

impl Book {
    pub(super) fn new(records: Arc<dyn Records>) -> Self {
        let kept_for = records.tells_within() / 2;
        Self { records, kept_for, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TenantId, Page>> {
        // Whole pages are put in and taken out.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of the tenant.
    pub(super) async fn endpoints(&self, tenant: &TenantId) -> StoreResult<Arc<[Endpoint]>> {
        if let Some((at, endpoints)) = self.known().get(tenant)
            && at.elapsed() < self.kept_for
        {
            return Ok(endpoints.clone());
        }
        let asked_at = Instant::now();
        let endpoints: Arc<[Endpoint]> = self.records.endpoints(tenant).await?.into();
        if !self.kept_for.is_zero() {
            let mut known = self.known();
            if known.len() >= REMEMBERED {
                known.retain(|_, (at, _)| at.elapsed() < self.kept_for);
            }
            known.insert(tenant.clone(), (asked_at, endpoints.clone()));
        }
        Ok(endpoints)
    }

    /// One of the tenant.
    pub(super) async fn endpoint(&self, tenant: &TenantId, id: EndpointId) -> StoreResult<Endpoint> {
        if self.kept_for.is_zero() {
            return self.records.endpoint(tenant, id).await;
        }
        match self.endpoints(tenant).await {
            Ok(endpoints) => {
                endpoints.iter().find(|endpoint| endpoint.id == id).cloned().ok_or(StoreError::NotFound)
            }
            Err(error @ StoreError::Unavailable(_)) => Err(error),
            // Another one of the tenant's may be damaged.
            Err(_) => self.records.endpoint(tenant, id).await,
        }
    }

    /// Deliveries with the most requests a second that their endpoints want. Where that cannot be read they go as they come: they are taken already, and must not
    /// wait for one that is damaged.
    pub(super) async fn with_rates(&self, deliveries: Vec<Delivery>) -> Vec<(Delivery, Option<u32>)> {
        let mut rates: HashMap<EndpointId, Option<u32>> = HashMap::new();
        for delivery in &deliveries {
            if let Some(id) = delivery.endpoint
                && !rates.contains_key(&id)
            {
                rates.insert(id, None);
                if let Ok(endpoints) = self.endpoints(&delivery.tenant).await {
                    rates.extend(endpoints.iter().map(|endpoint| (endpoint.id, endpoint.max_per_second)));
                }
            }
        }
        let with_rate = |delivery: Delivery| {
            let rate = delivery.endpoint.and_then(|id| rates.get(&id).copied().flatten());
            (delivery, rate)
        };
        deliveries.into_iter().map(with_rate).collect()
    }

    /// Those of the tenant were changed by us.
    pub(super) fn forget(&self, tenant: &TenantId) {
        self.known().remove(tenant);
    }
}
