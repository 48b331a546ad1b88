//! The api as a process of its own, one of any number, over the servers of a fleet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use promptmill_egress::UrlPolicy;
use promptmill_pipeline::Treasury;
use promptmill_runtime::fleet::{
    Fleet, FleetArgs, RoleError, RunningBatchesArgs, TenantCostArgs, address_of, listen,
};
use promptmill_runtime::{LaneKeeper, Monitor, Presence, Settings, shutdown_signals};
use promptmill_vault::Vault;
use tokio_util::sync::CancellationToken;

use crate::config::{ApiConfig, ApiConfigArgs};
use crate::state::App;
use crate::{generations, keys, serve};

/// How long a clean stop waits for answers that are under way.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// What an api process needs to know.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The master key that encrypts webhook secrets is taken from PROMPTMILL_MASTER_KEY; providers are configured as for `promptmill run`. \
The first API key is made by `promptmill key create NAME --role owner --fleet`."
)]
pub struct ApiArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Where the API listens.
    #[arg(long, value_name = "ADDR", env = "PROMPTMILL_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten)]
    api: ApiConfigArgs,
    /// Seconds that a process told to stop still serves while its /readyz says that it leaves, so that a load balancer which asks for that sends
    /// it nothing any more.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "PROMPTMILL_LEAVE_AFTER",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=600)
    )]
    leave_after: u32,
    #[command(flatten)]
    running: RunningBatchesArgs,
    #[command(flatten)]
    costs: TenantCostArgs,
    /// Subnets that are not public and may receive webhooks all the same, over plain HTTP too, for example 10.0.0.0/8.
    #[arg(long, value_name = "CIDR", env = "PROMPTMILL_WEBHOOK_SUBNETS", value_delimiter = ',')]
    webhook_subnets: Vec<IpNet>,
    /// Subnets that are not public and may be asked for rows of schedules all the same, over plain HTTP too, for example 10.0.0.0/8.
    #[arg(long, value_name = "CIDR", env = "PROMPTMILL_SOURCE_SUBNETS", value_delimiter = ',')]
    source_subnets: Vec<IpNet>,
}

/// Serves the API until the process is told to stop.
///
/// # Errors
/// When it could not begin: an address, a server or the configuration cannot be used.
pub async fn run(args: ApiArgs, settings: Settings) -> Result<(), RoleError> {
    let (clean, now) =
        shutdown_signals().map_err(|error| RoleError::new("signals cannot be handled", error))?;
    let vault = Vault::shared(settings.get("PROMPTMILL_MASTER_KEY").as_deref())
        .map_err(|error| RoleError::new("the master key cannot be used", error))?;
    let listener = listen(args.listen, "--listen").await?;
    let metrics_listener = listen(args.fleet.metrics_listen, "--metrics-listen").await?;
    let addresses = (address_of(&listener)?, address_of(&metrics_listener)?);
    let fleet = Fleet::connect(&args.fleet, &settings).await?;
    let engine = &fleet.engine;
    if let Some(key) = settings.get("PROMPTMILL_BOOTSTRAP_KEY") {
        let kept = keys::adopt(engine, &key).await;
        kept.map_err(|error| RoleError::new("the first key cannot be kept", error))?;
    }
    let lanes = LaneKeeper::start(engine)
        .await
        .map_err(|error| RoleError::new("what is kept of lanes cannot be read", error))?;
    let presence = Presence::begin(engine, "api")
        .await
        .map_err(|error| RoleError::new("the session cannot be opened", error))?;
    let config = ApiConfig {
        running_batches: args.running.running_batches,
        leave_after: Duration::from_secs(args.leave_after.into()),
        sources: UrlPolicy::with_subnets(args.source_subnets),
        ..args.api.config()
    };
    let stop_within = config.leave_after + STOP_WITHIN;
    let policy = UrlPolicy::with_subnets(args.webhook_subnets);
    let session = {
        let presence = presence.clone();
        move || presence.session()
    };
    let treasury = Treasury::new(engine.store.clone(), engine.clock.clone(), session, args.costs.costs());
    let keeping = tokio::spawn({
        let treasury = treasury.clone();
        async move { treasury.run().await }
    });
    let app = App::new(engine.clone(), Arc::new(vault), config, policy, presence.clone(), treasury.clone());
    generations::recover(&app);
    let stop = CancellationToken::new();
    let ready = {
        let (presence, stop) = (presence.clone(), stop.clone());
        move || presence.is_fresh() && !stop.is_cancelled()
    };
    let monitor = Monitor::new(engine.clone(), ready).with_store();
    // It tells of the process as long as that serves.
    let over = CancellationToken::new();
    let metrics = tokio::spawn(monitor.serve(metrics_listener, over.clone()));
    let api = tokio::spawn(serve(listener, app, stop.clone()));
    let (api_address, metrics_address) = addresses;
    eprintln!(
        "promptmill {} api http://{api_address}, metrics http://{metrics_address}/metrics",
        env!("CARGO_PKG_VERSION")
    );

    clean.cancelled().await;
    stop.cancel();
    tokio::select! {
        _ = tokio::time::timeout(stop_within, api) => {}
        () = now.cancelled() => {}
    }
    over.cancel();
    let _ = metrics.await;
    keeping.abort();
    let _ = keeping.await;
    treasury.close().await;
    lanes.stop().await;
    presence.end().await;
    fleet.leave().await;
    Ok(())
}
