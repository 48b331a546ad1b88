//! What every handler works with.

use std::sync::{Arc, OnceLock};

use promptmill_domain::{BatchId, SessionId, TenantId};
use promptmill_egress::{ClientError, GuardedClient, UrlPolicy};
use promptmill_pipeline::Treasury;
use promptmill_ports::StoreResult;
use promptmill_runtime::{Engine, Presence};
use promptmill_vault::Vault;
use tokio_util::sync::CancellationToken;

use crate::auth::KeyCache;
use crate::batches;
use crate::config::ApiConfig;
use crate::ends::Ends;
use crate::events::Snapshot;
use crate::generations::Generator;
use crate::health::Readiness;
use crate::idempotency::Running;
use crate::limits::Limits;
use crate::progress::ProgressCache;
use crate::results::Turns;
use crate::shares::Shares;
use crate::slots::Slots;
use crate::templates::TemplateCache;
use crate::told::{Listener, Listeners};
use promptmill_runtime::places::Places;

/// The service's state. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    engine: Engine,
    vault: Arc<Vault>,
    config: ApiConfig,
    url_policy: UrlPolicy,
    /// Made when a receiver is called for the first time.
    receivers: OnceLock<GuardedClient>,
    /// Endpoints that are tried at the moment.
    pings: Places<TenantId>,
    comparing: Places<TenantId>,
    /// Made when a server is asked for rows for the first time.
    sources: OnceLock<GuardedClient>,
    sampling: Places<TenantId>,
    presence: Presence,
    leaving: CancellationToken,
    stopping: CancellationToken,
    keys: KeyCache,
    limits: Limits,
    running: Running,
    templates: TemplateCache,
    progress: ProgressCache,
    ends: Ends,
    listeners: Listeners,
    snapshots: Slots<Arc<Snapshot>>,
    generator: Generator,
    treasury: Arc<Treasury>,
    batches: batches::Shared,
    body_room: Shares,
    turns: Arc<Turns>,
    readings: Places<TenantId>,
    streams: Places<TenantId>,
    readiness: Readiness,
}

/// Endpoints that are tried at the same time, of one tenant and of all.
const PINGS_OF_TENANT: usize = 2;
const PINGS: usize = 16;

/// Runs of schedules that are compared at the same time, of one tenant and of all. Each holds up to about 10 MiB.
const COMPARING_OF_TENANT: usize = 2;
const COMPARING: usize = 8;

/// Servers that are asked for the first rows of a schedule at the same time, for one tenant and for all.
const SAMPLING_OF_TENANT: usize = 2;
const SAMPLING: usize = 16;

impl App {
    /// The service over an engine, present under a session of the process. `url_policy` says which receivers of webhooks may be named.
    pub fn new(
        engine: Engine,
        vault: Arc<Vault>,
        config: ApiConfig,
        url_policy: UrlPolicy,
        presence: Presence,
        treasury: Arc<Treasury>,
    ) -> Self {
        let generator = Generator::new(&engine, config.generations);
        Self(Arc::new(Inner {
            engine,
            vault,
            presence,
            leaving: CancellationToken::new(),
            stopping: CancellationToken::new(),
            keys: KeyCache::default(),
            limits: Limits::new(&config),
            running: Running::default(),
            templates: TemplateCache::default(),
            progress: ProgressCache::default(),
            ends: Ends::default(),
            listeners: Listeners::default(),
            snapshots: Slots::with_most(config.streams),
            generator,
            treasury,
            batches: batches::Shared::default(),
            body_room: Shares::new(config.body_bytes / 1024),
            turns: Arc::default(),
            readings: Places::within(config.readings_per_tenant, config.readings),
            streams: Places::within(config.streams_per_tenant, config.streams),
            url_policy,
            receivers: OnceLock::new(),
            pings: Places::within(PINGS_OF_TENANT, PINGS),
            comparing: Places::within(COMPARING_OF_TENANT, COMPARING),
            sources: OnceLock::new(),
            sampling: Places::within(SAMPLING_OF_TENANT, SAMPLING),
            readiness: Readiness::default(),
            config,
        }))
    }

    /// Store, hub, providers and clock.
    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Now, in Unix milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.engine.clock.now_ms()
    }

    /// Seals the secrets of webhooks.
    pub(crate) fn vault(&self) -> &Arc<Vault> {
        &self.0.vault
    }

    /// Sizes and rates.
    pub(crate) fn config(&self) -> &ApiConfig {
        &self.0.config
    }

    /// Which receivers of webhooks may be named.
    pub(crate) fn url_policy(&self) -> &UrlPolicy {
        &self.0.url_policy
    }

    /// Calls receivers of webhooks.
    ///
    /// # Errors
    /// When this process can call nobody.
    pub(crate) fn receivers(&self) -> Result<&GuardedClient, ClientError> {
        if let Some(client) = self.0.receivers.get() {
            return Ok(client);
        }
        let client = GuardedClient::new(self.0.url_policy.clone())?;
        Ok(self.0.receivers.get_or_init(|| client))
    }

    /// Asks servers for rows.
    ///
    /// # Errors
    /// When this process can ask nobody.
    pub(crate) fn sources(&self) -> Result<&GuardedClient, ClientError> {
        if let Some(client) = self.0.sources.get() {
            return Ok(client);
        }
        let client = GuardedClient::new(self.0.config.sources.clone())?;
        Ok(self.0.sources.get_or_init(|| client))
    }

    /// Places for servers that are asked for the first rows of a schedule.
    pub(crate) fn sampling(&self) -> &Places<TenantId> {
        &self.0.sampling
    }

    /// Places for runs of schedules that are compared.
    pub(crate) fn comparing(&self) -> &Places<TenantId> {
        &self.0.comparing
    }

    /// Places for endpoints that are tried.
    pub(crate) fn pings(&self) -> &Places<TenantId> {
        &self.0.pings
    }

    /// What the handlers of batches share.
    pub(crate) fn batches(&self) -> &batches::Shared {
        &self.0.batches
    }

    /// Memory for the bodies of requests, in KiB.
    pub(crate) fn treasury(&self) -> &Arc<Treasury> {
        &self.0.treasury
    }

    pub(crate) fn body_room(&self) -> &Shares {
        &self.0.body_room
    }

    /// Whose turn it is among those who read results.
    pub(crate) fn turns(&self) -> &Arc<Turns> {
        &self.0.turns
    }

    /// Who reads results.
    pub(crate) fn readings(&self) -> &Places<TenantId> {
        &self.0.readings
    }

    /// Who reads events.
    pub(crate) fn streams(&self) -> &Places<TenantId> {
        &self.0.streams
    }

    /// The session of this process: what it begins is kept under it, so that what a dead one left is told from what is being done.
    pub(crate) fn session(&self) -> SessionId {
        self.0.presence.session()
    }

    /// Whether the session is that of a process which lives, here or elsewhere.
    pub(crate) async fn is_living(&self, session: SessionId) -> StoreResult<bool> {
        if session == self.session() {
            return Ok(true);
        }
        Ok(self.0.engine.store.sessions().await?.iter().any(|of| of.session == session))
    }

    /// Cancelled when the service is to stop: it still serves for a while, and whoever chooses between services should choose another one.
    pub(crate) fn leaving(&self) -> &CancellationToken {
        &self.0.leaving
    }

    /// Cancelled when the service stops; long answers end then.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// Keys that were looked up.
    pub(crate) fn keys(&self) -> &KeyCache {
        &self.0.keys
    }

    /// Who called how often.
    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Requests with an idempotency key that run here.
    pub(crate) fn running(&self) -> &Running {
        &self.0.running
    }

    /// Template versions that were parsed.
    pub(crate) fn templates(&self) -> &TemplateCache {
        &self.0.templates
    }

    /// The last look at the store.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    /// Runs immediate generations.
    pub(crate) fn generator(&self) -> &Generator {
        &self.0.generator
    }

    /// Who waits for batches to be final.
    pub(crate) fn ends(&self) -> &Ends {
        &self.0.ends
    }

    /// Begins to listen for changes of a batch.
    pub(crate) fn listen(&self, batch: BatchId) -> Listener {
        self.0.listeners.listen(self, batch)
    }

    /// The newest snapshots of batches that are watched.
    pub(crate) fn snapshots(&self) -> &Slots<Arc<Snapshot>> {
        &self.0.snapshots
    }

    /// Counts of batches.
    pub(crate) fn progress(&self) -> &ProgressCache {
        &self.0.progress
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("App")
    }
}

/// A service without providers over a new folder, for unit tests.
#[cfg(test)]
pub(crate) fn alone() -> (App, tempfile::TempDir) {
    let folder = tempfile::TempDir::new().unwrap();
    let engine = Engine::embedded(folder.path(), Arc::new(promptmill_runtime::Providers::of([]))).unwrap();
    let vault = Arc::new(Vault::open_or_create(folder.path()).unwrap());
    let presence = Presence::shared(SessionId::from_bytes([1; 16]));
    let session = presence.session();
    let costs = promptmill_domain::TenantCosts::default();
    let treasury = Treasury::new(engine.store.clone(), engine.clock.clone(), move || session, costs);
    (App::new(engine, vault, ApiConfig::default(), UrlPolicy::default(), presence, treasury), folder)
}
