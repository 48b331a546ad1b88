//! A whole service in this process: store in a temporary folder, API on a loopback port, and worker and scheduler where a test needs them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use promptmill_api::keys::issue;
use promptmill_api::{ApiConfig, App};
use promptmill_domain::{SessionId, TenantCosts, TenantId};
use promptmill_egress::UrlPolicy;
use promptmill_pipeline::Treasury;
use promptmill_ports::{Role, Tenant};
use promptmill_provider::{ChatProvider, Demo};
use promptmill_runtime::{Engine, Presence, Providers, install_tls};
use promptmill_scheduler::{Scheduler, SchedulerConfig};
use promptmill_vault::Vault;
use promptmill_worker::{Worker, WorkerConfig};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything a test waits for takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a [`Service`] is made of.
pub(crate) struct Options {
    /// Sizes and rates.
    pub(crate) config: ApiConfig,
    /// Who answers; the demo by default.
    pub(crate) providers: Vec<Arc<dyn ChatProvider>>,
    /// Whether a worker and a scheduler run.
    pub(crate) working: bool,
    /// Calls at the same time.
    pub(crate) concurrency: usize,
    /// What tenants may spend.
    pub(crate) tenant_costs: TenantCosts,
}

impl Default for Options {
    /// Generous rates, the demo, nobody working.
    fn default() -> Self {
        let config = ApiConfig { requests_per_second: 10_000, request_burst: 10_000, ..ApiConfig::default() };
        Self {
            config,
            providers: vec![Arc::new(Demo::default())],
            working: false,
            concurrency: 16,
            tenant_costs: TenantCosts::default(),
        }
    }
}

impl Options {
    /// The same with worker and scheduler.
    pub(crate) fn working() -> Self {
        Self { working: true, ..Self::default() }
    }
}

/// A running service. Ends with the test.
pub(crate) struct Service {
    /// `http://127.0.0.1:PORT`.
    pub(crate) base: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// An owner's key of the tenant `default`.
    pub(crate) key: String,
    /// What it runs on.
    pub(crate) engine: Engine,
    /// The master key's holder.
    pub(crate) vault: Arc<Vault>,
    client: Client,
    folder: TempDir,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    roles: Option<(Worker, Scheduler)>,
}

impl Service {
    /// The API alone.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        Self::start_on(TempDir::new().unwrap(), options).await
    }

    /// On a folder that another service may have left ([`Service::stop`]).
    pub(crate) async fn start_on(folder: TempDir, options: Options) -> Self {
        install_tls();
        let providers = Arc::new(Providers::of(options.providers));
        let engine = open(folder.path(), &providers).await;
        let vault = Arc::new(Vault::open_or_create(folder.path()).unwrap());
        let policy = UrlPolicy::with_loopback();
        let roles = if options.working {
            let config = WorkerConfig {
                concurrency: options.concurrency,
                tenant_costs: options.tenant_costs,
                ..WorkerConfig::default()
            };
            let worker = Worker::start(engine.clone(), config).await.unwrap();
            let config = SchedulerConfig::serving(vault.clone(), policy.clone()).asking(policy.clone());
            Some((worker, Scheduler::with(engine.clone(), config)))
        } else {
            None
        };
        let (session, treasury) = match &roles {
            Some((worker, _)) => (worker.session(), worker.treasury()),
            None => {
                let session = SessionId::at(engine.clock.now_ms(), rand::random());
                let (store, clock) = (engine.store.clone(), engine.clock.clone());
                (session, Treasury::new(store, clock, move || session, TenantCosts::default()))
            }
        };
        let presence = Presence::shared(session);
        let app = App::new(engine.clone(), vault.clone(), options.config, policy, presence, treasury);
        let key = match promptmill_api::keys::bootstrap(&engine).await.unwrap() {
            Some(key) => key,
            None => make_key(&engine, &TenantId::default_tenant(), Role::Owner, &[]).await,
        };
        promptmill_api::recover(&app);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(promptmill_api::serve(listener, app, stop.clone()));
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let base = format!("http://{address}");
        Self { base, address, key, engine, vault, client, folder, stop, server, roles }
    }

    /// Tells it to stop, and does not wait until it has.
    pub(crate) fn leave(&self) {
        self.stop.cancel();
    }

    /// Stops cleanly and leaves the folder.
    pub(crate) async fn stop(self) -> TempDir {
        self.stop.cancel();
        self.server.await.unwrap().unwrap();
        if let Some((worker, scheduler)) = self.roles {
            worker.stop(&CancellationToken::new()).await;
            scheduler.stop().await;
        }
        self.folder
    }

    /// A client without a key.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A request with the owner's key.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_as(&self.key, method, path)
    }

    /// A request with another key.
    pub(crate) fn request_as(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).bearer_auth(key)
    }

    /// GET with the owner's key.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// POST with the owner's key.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    /// A new key of `tenant`, which is made when it is missing.
    pub(crate) async fn key_of(&self, tenant: &str, role: Role, scopes: &[&str]) -> String {
        let tenant: TenantId = tenant.parse().unwrap();
        self.engine.records.add_tenant(&Tenant { id: tenant.clone(), created_ms: 1 }).await.unwrap();
        make_key(&self.engine, &tenant, role, scopes).await
    }

    /// The service lives.
    #[track_caller]
    pub(crate) fn is_alive(&self) -> impl Future<Output = ()> + use<> {
        let request = self.client.get(format!("{}/livez", self.base));
        async move {
            let answer = send(request).await;
            assert_eq!((answer.status, &answer.json["status"]), (StatusCode::OK, &Value::from("ok")));
        }
    }
}

async fn make_key(engine: &Engine, tenant: &TenantId, role: Role, scopes: &[&str]) -> String {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let (records, now_ms) = (engine.records.as_ref(), engine.clock.now_ms());
    issue(records, now_ms, tenant, "test", role, scopes, None).await.unwrap().0
}

/// Opens the store; the lock of a service that just ended may be held for a moment by what still runs to its end.
async fn open(folder: &Path, providers: &Arc<Providers>) -> Engine {
    let opened = async || Engine::embedded(folder, providers.clone()).ok();
    wait_for("the folder is free", opened).await
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// The body where it is JSON, otherwise null.
    pub(crate) json: Value,
}

impl Answer {
    /// A header's text; empty when it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// It has that status; answers its body.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        &self.json
    }

    /// It is a problem with that status and code in the one shape; answers its body.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> &Value {
        assert_eq!((self.status.as_u16(), self.json["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert!(self.header("content-type").starts_with("application/problem+json"), "{self:?}");
        assert_eq!(self.json["type"], format!("/problems/{code}"));
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["request_id"], self.header("x-request-id"));
        for member in ["title", "detail", "instance"] {
            assert!(
                self.json[member].as_str().is_some_and(|text| !text.is_empty()),
                "{member}: {}",
                self.text
            );
        }
        &self.json
    }

    /// Pointers of its errors.
    pub(crate) fn pointers(&self) -> Vec<&str> {
        let errors = self.json["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().filter_map(|error| error["pointer"].as_str()).collect()
    }
}

/// Sends, and reads the answer.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    let json = serde_json::from_str(&text).unwrap_or_default();
    Answer { status, headers, text, json }
}

/// Waits until `look` finds something.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        let mut again = tokio::time::interval(Duration::from_millis(10));
        loop {
            again.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: did not happen"))
}
