//! The parts every role works with.

use std::path::Path;
use std::sync::Arc;

use promptmill_ports::{Clock, Limiter, MemoryHub, Queue, Records, Signals, Store, StoreError};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};

use crate::clock::SystemClock;
use crate::metrics::Metrics;
use crate::providers::Providers;

/// Store, hub, providers and clock. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    /// The truth about batches.
    pub store: Arc<dyn Store>,
    /// What a service keeps beside them.
    pub records: Arc<dyn Records>,
    /// Hints of ready chunks.
    pub queue: Arc<dyn Queue>,
    /// Permits.
    pub limiter: Arc<dyn Limiter>,
    /// Wake-ups.
    pub signals: Arc<dyn Signals>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Who answers.
    pub providers: Arc<Providers>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The parts could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store did not open.
    #[error("the store in {0} cannot be opened")]
    Store(String, #[source] StoreError),
}

impl Engine {
    /// Everything in this process: SQLite in the folder `data` (made when missing, locked while in use) and the in-memory hub.
    ///
    /// # Errors
    /// When another process uses the folder, or it cannot be read or written.
    pub fn embedded(data: &Path, providers: Arc<Providers>) -> Result<Self, EngineError> {
        let store = SqliteStore::open(data, SqliteOptions::default())
            .map_err(|error| EngineError::Store(data.display().to_string(), error))?;
        let store = Arc::new(store);
        Ok(Self::over(store.clone(), store, Arc::new(MemoryHub::new()), providers))
    }

    /// The parts over a given store and hub, with metrics of their own in which every call of the providers is counted.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "whoever keeps the providers would call them uncounted"
    )]
    pub fn over<H>(
        store: Arc<dyn Store>,
        records: Arc<dyn Records>,
        hub: Arc<H>,
        providers: Arc<Providers>,
    ) -> Self
    where
        H: Queue + Limiter + Signals + 'static,
    {
        let metrics = Arc::new(Metrics::new());
        Self {
            store,
            records,
            queue: hub.clone(),
            limiter: hub.clone(),
            signals: hub,
            clock: Arc::new(SystemClock),
            providers: Arc::new(providers.counted(&metrics)),
            metrics,
        }
    }
}
