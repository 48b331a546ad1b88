//! The worker as a process of its own, one of any number, over the servers of a fleet.

use std::time::Duration;

use clap::Args;
use promptmill_runtime::fleet::{Fleet, FleetArgs, RoleError, TenantCostArgs, address_of, listen};
use promptmill_runtime::{LaneKeeper, Monitor, Settings, presence, shutdown_signals};
use tokio_util::sync::CancellationToken;

use crate::worker::{Worker, WorkerConfig};

/// [`WorkerConfig::recording`] over MongoDB, which makes each write durable on a majority of its members: three groups of 256.
const RECORDING: usize = 768;

/// What a worker process needs to know.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Providers are configured as for `promptmill run`. SIGTERM begins nothing more, waits for the calls under way as long as \
--stop-within says, and hands back the rest; a second one does not wait."
)]
pub struct WorkerArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// The most provider calls of this process at the same time; when all are in use, batches that make few get up to 16 more (none below 16, a sixteenth above 256).
    #[arg(
        long,
        value_name = "N",
        env = "PROMPTMILL_CONCURRENCY",
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    concurrency: u32,
    /// Seconds that a stop waits for the calls under way.
    #[arg(long, value_name = "SECONDS", env = "PROMPTMILL_STOP_WITHIN", default_value_t = 30)]
    stop_within: u32,
    #[command(flatten)]
    costs: TenantCostArgs,
}

/// Works until the process is told to stop.
///
/// # Errors
/// When it could not begin, or the worker ended by itself: its session was declared dead, or one of its loops broke.
pub async fn run(args: WorkerArgs, settings: Settings) -> Result<(), RoleError> {
    let (clean, now) =
        shutdown_signals().map_err(|error| RoleError::new("signals cannot be handled", error))?;
    let listener = listen(args.fleet.metrics_listen, "--metrics-listen").await?;
    let address = address_of(&listener)?;
    let fleet = Fleet::connect(&args.fleet, &settings).await?;
    let config = WorkerConfig {
        concurrency: args.concurrency as usize,
        recording: RECORDING,
        stop_within: Duration::from_secs(args.stop_within.into()),
        label: presence::label("worker"),
        tenant_costs: args.costs.costs(),
        ..WorkerConfig::default()
    };
    let lanes = LaneKeeper::start(&fleet.engine)
        .await
        .map_err(|error| RoleError::new("what is kept of lanes cannot be read", error))?;
    let mut worker = Worker::start(fleet.engine.clone(), config)
        .await
        .map_err(|error| RoleError::new("work cannot begin", error))?;
    let stop = CancellationToken::new();
    let monitor = Monitor::new(fleet.engine.clone(), worker.readiness());
    let metrics = tokio::spawn(monitor.serve(listener, stop.clone()));
    eprintln!("promptmill {} worker, metrics http://{address}/metrics", env!("CARGO_PKG_VERSION"));

    let broken = tokio::select! {
        () = clean.cancelled() => false,
        () = worker.ended() => true,
    };
    worker.stop(&now).await;
    lanes.stop().await;
    stop.cancel();
    let _ = metrics.await;
    fleet.leave().await;
    if broken {
        return Err(RoleError::plain("the worker stopped by itself; the log tells why"));
    }
    Ok(())
}
