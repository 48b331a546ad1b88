//! `promptmill serve`: api, worker and scheduler in one process over the embedded store.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use promptmill_api::{ApiConfig, ApiConfigArgs, App};
use promptmill_egress::UrlPolicy;
use promptmill_runtime::fleet::{TenantCostArgs, address_of, listen};
use promptmill_runtime::{
    Engine, LaneKeeper, Monitor, Presence, ProviderSettings, Providers, Settings, shutdown_signals,
};
use promptmill_scheduler::role::{AdmissionArgs, MailArgs, PublicUrlArgs};
use promptmill_scheduler::{Scheduler, SchedulerConfig};
use promptmill_vault::Vault;
use promptmill_worker::{Worker, WorkerConfig};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};

/// How long a clean stop waits for answers and calls that are under way.
const STOP_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(
    after_help = "The first start makes a tenant and prints its API key once. Providers are configured as for `run`, by OPENROUTER_API_KEY, \
OLLAMA_HOST, OPENAI_BASE_URL and the like (promptmill init writes a .env that lists them)."
)]
pub(crate) struct ServeArgs {
    /// The folder of the store; made when missing.
    #[arg(long, value_name = "DIR", env = "PROMPTMILL_DATA", default_value = "promptmill-data")]
    pub(crate) data: PathBuf,
    /// Where the API listens. On a loopback address webhooks may go to loopback addresses too.
    #[arg(long, value_name = "ADDR", env = "PROMPTMILL_LISTEN", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Where Prometheus finds /metrics.
    #[arg(long, value_name = "ADDR", env = "PROMPTMILL_METRICS_LISTEN", default_value = "127.0.0.1:9464")]
    pub(crate) metrics_listen: SocketAddr,
    /// The most provider calls of batches at the same time; when all are in use, batches that make few get up to 16 more (none below 16, a sixteenth above 256).
    #[arg(
        long,
        value_name = "N",
        env = "PROMPTMILL_CONCURRENCY",
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub(crate) concurrency: u32,
    #[command(flatten)]
    pub(crate) api: ApiConfigArgs,
    #[command(flatten)]
    pub(crate) admission: AdmissionArgs,
    #[command(flatten)]
    pub(crate) costs: TenantCostArgs,
    /// Subnets that are not public and may receive webhooks all the same, over plain HTTP too, for example 10.0.0.0/8.
    #[arg(long, value_name = "CIDR", env = "PROMPTMILL_WEBHOOK_SUBNETS", value_delimiter = ',')]
    pub(crate) webhook_subnets: Vec<IpNet>,
    /// Subnets that are not public and may be asked for rows of schedules all the same, over plain HTTP too, for example 10.0.0.0/8.
    #[arg(long, value_name = "CIDR", env = "PROMPTMILL_SOURCE_SUBNETS", value_delimiter = ',')]
    pub(crate) source_subnets: Vec<IpNet>,
    #[command(flatten)]
    pub(crate) public: PublicUrlArgs,
    #[command(flatten)]
    pub(crate) mail: MailArgs,
}

pub(crate) async fn serve(args: ServeArgs, settings: &Settings) -> Result<Exit, Failure> {
    let (clean, now) =
        shutdown_signals().map_err(|error| Failure::work("signals cannot be handled", error))?;
    let providers = ProviderSettings::from_env(|name| settings.get(name))
        .and_then(Providers::new)
        .map_err(|error| Failure::work("the providers cannot be set up", error))?;
    let mailer = args.mail.mailer(settings).map_err(|error| Failure::work("mail cannot be sent", error))?;
    let listener = listen(args.listen, "--listen").await?;
    let metrics_listener = listen(args.metrics_listen, "--metrics-listen").await?;
    let addresses = (address_of(&listener)?, address_of(&metrics_listener)?);
    let engine = Engine::embedded(&args.data, Arc::new(providers))
        .map_err(|error| Failure::work("the server cannot start", error))?;
    let vault = open_vault(&args, settings)?;
    let policy = url_policy(&args, &args.webhook_subnets);
    let sources = url_policy(&args, &args.source_subnets);
    let vault = Arc::new(vault);
    if let Some(key) = settings.get("PROMPTMILL_BOOTSTRAP_KEY") {
        let kept = promptmill_api::keys::adopt(&engine, &key).await;
        kept.map_err(|error| Failure::work("the first key cannot be kept", error))?;
    }
    let first_key = promptmill_api::keys::bootstrap(&engine)
        .await
        .map_err(|error| Failure::work("the first key cannot be made", error))?;

    let config = WorkerConfig {
        concurrency: args.concurrency as usize,
        stop_within: STOP_WITHIN,
        label: "serve".to_owned(),
        tenant_costs: args.costs.costs(),
        ..WorkerConfig::default()
    };
    let lanes = LaneKeeper::start(&engine)
        .await
        .map_err(|error| Failure::work("what is kept of lanes cannot be read", error))?;
    let mut worker = Worker::start(engine.clone(), config)
        .await
        .map_err(|error| Failure::work("work cannot begin", error))?;
    let on_loopback = args.listen.ip().is_loopback().then(|| format!("http://{}", addresses.0));
    let public_url = args.public.public_url.clone().or(on_loopback);
    let config = SchedulerConfig::serving(vault.clone(), policy.clone());
    let config = config.telling(public_url, mailer).asking(sources.clone());
    let scheduler = Scheduler::with(engine.clone(), args.admission.clone().applied_to(config));
    let running_batches = args.admission.running.running_batches;
    let config = ApiConfig { running_batches, sources, ..args.api.config() };
    let app = App::new(
        engine.clone(),
        vault,
        config,
        policy,
        Presence::shared(worker.session()),
        worker.treasury(),
    );
    promptmill_api::recover(&app);
    let stop = CancellationToken::new();
    let monitor = Monitor::new(engine, worker.readiness()).with_store();
    let metrics = tokio::spawn(monitor.serve(metrics_listener, stop.clone()));
    let api = tokio::spawn(promptmill_api::serve(listener, app, stop.clone()));
    greet(&args, addresses, first_key.as_deref());

    let broken = tokio::select! {
        () = clean.cancelled() => false,
        () = worker.ended() => true,
    };
    // New requests are refused first, so that nothing is accepted that nobody here will begin.
    stop.cancel();
    let served = async {
        let _ = api.await;
        let _ = metrics.await;
    };
    tokio::select! {
        _ = tokio::time::timeout(STOP_WITHIN, served) => {}
        () = now.cancelled() => {}
    }
    worker.stop(&now).await;
    scheduler.stop().await;
    lanes.stop().await;
    if broken {
        return Err(Failure::Work("the worker stopped by itself; the log tells why".to_owned(), None));
    }
    Ok(Exit::Success)
}

/// The keys of `PROMPTMILL_MASTER_KEY`, or those in the data folder, made when missing.
fn open_vault(args: &ServeArgs, settings: &Settings) -> Result<Vault, Failure> {
    match settings.get("PROMPTMILL_MASTER_KEY") {
        Some(keys) => Vault::from_keys(&keys)
            .map_err(|error| Failure::work("PROMPTMILL_MASTER_KEY cannot be used", error)),
        None => Vault::open_or_create(&args.data).map_err(|error| {
            Failure::work(format!("the master key in {} cannot be used", args.data.display()), error)
        }),
    }
}

/// What may be called in these subnets, and on the same machine by a server that nobody else can reach.
fn url_policy(args: &ServeArgs, subnets: &[IpNet]) -> UrlPolicy {
    let mut subnets = subnets.to_vec();
    if args.listen.ip().is_loopback() {
        subnets.extend(UrlPolicy::with_loopback().allowed_subnets);
    }
    UrlPolicy::with_subnets(subnets)
}

fn greet(args: &ServeArgs, (api, metrics): (SocketAddr, SocketAddr), first_key: Option<&str>) {
    eprintln!(
        "promptmill {} serves http://{api} (try it: http://{api}/docs), metrics http://{metrics}/metrics, data in {}",
        env!("CARGO_PKG_VERSION"),
        args.data.display(),
    );
    if args.listen.ip().is_loopback() {
        eprintln!(
            "Webhooks may go to loopback addresses, and rows come from them, because the server listens on one itself."
        );
    }
    if let Some(key) = first_key {
        eprintln!("First start: this is the API key of the tenant \"default\". It is shown this once.");
        println!("{key}");
    }
}
