//! `promptmill run`: one batch from a file of rows to validated outcomes, in one process.
//!
//! The story is told in [`run`]; each step is a file. The same worker and scheduler as in a fleet do the work, over SQLite in the
//! state folder.

mod dry_run;
mod intake;
mod output;
mod preflight;
mod state;
mod summary;
mod target;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::fallback::check_models;
use promptmill_domain::{
    BatchEvent, BatchId, BatchLimits, BatchSpec, BatchState, CacheScope, FailureKind, Fallback,
    FallbackModel, FallbackOn, LaneId, ModelRef, PauseReason, TenantId,
};
use promptmill_ports::{Progress, flow};
use promptmill_prompt::Template;
use promptmill_runtime::{Engine, LaneKeeper, ProviderSettings, Providers, Settings, shutdown_signals};
use promptmill_scheduler::Scheduler;
use promptmill_worker::{Worker, WorkerConfig};
use tokio::time::Instant;

use crate::args::RunArgs;
use crate::exit::{Exit, Failure};
use crate::progress::View;
use state::{Found, StateDir};
use target::Target;
use watch::Ended;

/// A template file larger than this is refused unread.
const MAX_TEMPLATE_BYTES: u64 = 4 * 1024 * 1024;

pub(crate) async fn run(args: RunArgs, settings: &Settings) -> Result<Exit, Failure> {
    let template = Arc::new(load_template(&args.template)?);
    let rows = intake::Source::new(&args.rows)?;
    if args.dry_run {
        return dry_run::dry_run(&args, &template, rows).await;
    }
    let model = choose_model(&args, &template)?;
    if args.estimate {
        return dry_run::estimate(&args, &template, rows, &model, settings).await;
    }
    let target = Target::parse(&args.out)?;
    let state = StateDir::choose(&args, &target)?;
    let providers = Arc::new(providers(settings)?);
    check_models(&args.models)
        .map_err(|(at, wrong)| Failure::input(format!("--model {}: {wrong}", at + 1)))?;
    let further = args.models.get(1..).unwrap_or_default();
    // A chain goes on where its first model is away.
    let provider = preflight::check(&providers, &model, !args.no_guard && further.is_empty()).await?;
    let mut fallback = Fallback::default();
    for model in further {
        let provider = preflight::check(&providers, model, false).await?;
        let lane = LaneId::new(provider.name(), provider.credential_name());
        fallback.models.push(FallbackModel { model: model.clone(), lane });
        fallback.on = FallbackOn::ALL.to_vec();
    }
    let engine = state.open(&args, &providers)?;
    let (clean, now) =
        shutdown_signals().map_err(|error| Failure::work("signals cannot be handled", error))?;

    let tenant = TenantId::default_tenant();
    let lane = LaneId::new(provider.name(), provider.credential_name());
    let spec = BatchSpec::new(template.source().to_owned(), model.clone(), lane.clone());
    let cache = args.cache.then_some(CacheScope::Batch);
    let spec = BatchSpec { fallback, cache, ..spec };
    let limits = BatchLimits { max_cost: args.max_cost, guard: !args.no_guard, ..BatchLimits::default() };
    let batch = match state.look(&engine, &tenant, args.resume).await? {
        Found::Nothing => tokio::select! {
            taken = intake::take(&engine, &tenant, spec, limits, rows, &args, &template) => taken?,
            () = clean.cancelled() => return Ok(interrupted(&args)),
        },
        Found::Earlier(earlier) => {
            let digest = intake::digest(rows, &args, &template).await?;
            state::must_be_same(&engine, &tenant, &earlier, &spec, digest).await?;
            earlier.id
        }
    };
    go_on(&engine, &tenant, batch, &lane, limits).await?;

    let scene =
        Scene { engine: &engine, tenant: &tenant, batch, args: &args, template: &template, target: &target };
    let before = scene.progress().await?.counts.settled();
    let started = Instant::now();
    let config = WorkerConfig {
        concurrency: args.concurrency as usize,
        stop_within: Duration::from_secs(30),
        label: "run".to_owned(),
        ..WorkerConfig::default()
    };
    let lanes = LaneKeeper::start(&engine)
        .await
        .map_err(|error| Failure::work("what is kept of lanes cannot be read", error))?;
    let mut worker = Worker::start(engine.clone(), config)
        .await
        .map_err(|error| Failure::work("work cannot begin", error))?;
    let scheduler = Scheduler::start(engine.clone());
    let view = View::new(args.quiet);
    let ended = watch::until_ended(&engine, &tenant, batch, &mut worker, &view, &clean).await;
    if matches!(ended, Ok(Ended::Interrupted)) {
        view.say("stopping: waiting for calls under way (Ctrl-C again to give them up)");
    }
    worker.stop(&now).await;
    scheduler.stop().await;
    lanes.stop().await;
    view.finish();
    scene.finish(ended?, started.elapsed(), before).await
}

fn providers(settings: &Settings) -> Result<Providers, Failure> {
    ProviderSettings::from_env(|name| settings.get(name))
        .and_then(Providers::new)
        .map_err(|error| Failure::work("the providers cannot be set up", error))
}

/// Submits a batch that is not yet, and lets one that stands still go on.
async fn go_on(
    engine: &Engine,
    tenant: &TenantId,
    batch: BatchId,
    lane: &LaneId,
    limits: BatchLimits,
) -> Result<(), Failure> {
    let stuck = |error| Failure::work("the batch cannot be started", error);
    let stored = engine.store.batch(tenant, batch).await.map_err(stuck)?;
    match stored.state {
        BatchState::Draft | BatchState::Submitting => {
            flow::submit(engine.store.as_ref(), tenant, batch, lane, engine.clock.now_ms())
                .await
                .map_err(stuck)?;
        }
        BatchState::Paused { .. } => {
            engine.store.set_limits(tenant, batch, limits).await.map_err(stuck)?;
            engine
                .store
                .steer(tenant, batch, BatchEvent::Resume, engine.clock.now_ms())
                .await
                .map_err(stuck)?;
        }
        BatchState::Queued | BatchState::Running => {
            engine.store.set_limits(tenant, batch, limits).await.map_err(stuck)?;
        }
        BatchState::Cancelling
        | BatchState::Expiring
        | BatchState::Completed
        | BatchState::Cancelled
        | BatchState::Expired => {}
    }
    Ok(())
}

/// The run, once it is clear what runs.
struct Scene<'a> {
    engine: &'a Engine,
    tenant: &'a TenantId,
    batch: BatchId,
    args: &'a RunArgs,
    template: &'a Template,
    target: &'a Target,
}

impl Scene<'_> {
    async fn progress(&self) -> Result<Progress, Failure> {
        let progress = self.engine.store.progress(self.tenant, self.batch).await;
        progress.map_err(|error| Failure::work("the counts cannot be read", error))
    }

    /// Writes the results, tells what came of it, and chooses the exit code. `before` is how many items had their outcome when this
    /// run of `took` began.
    async fn finish(&self, ended: Ended, took: Duration, before: u64) -> Result<Exit, Failure> {
        let counts = self.progress().await?.counts;
        if ended == Ended::Interrupted {
            summary::print(self.args, &counts, took, before, None);
            return Ok(interrupted(self.args));
        }
        output::write(
            self.engine,
            self.tenant,
            self.batch,
            self.template,
            self.target,
            self.args.include_input,
        )
        .await?;
        summary::print(self.args, &counts, took, before, Some(self.target));
        match ended {
            Ended::Completed if counts.all_failed() == 0 => Ok(Exit::Success),
            Ended::Completed => Ok(Exit::SomeFailed),
            Ended::Paused(PauseReason::TenantBudget { period, name }) => {
                eprintln!(
                    "stopped: the limit of the {} {name} is spent; go on with --resume after it",
                    period.as_str()
                );
                Ok(Exit::Budget)
            }
            Ended::Paused(PauseReason::Budget) => {
                let spent = counts.totals.cost;
                eprintln!(
                    "stopped: ${spent} are spent, the limit is reached; go on with --resume and a higher --max-cost"
                );
                Ok(Exit::Budget)
            }
            Ended::Paused(PauseReason::Suspect { kind, message }) => {
                let what = if matches!(kind, FailureKind::CredentialRefused | FailureKind::PaymentRequired) {
                    eprintln!("stopped: the provider takes no calls: {}: {message}", kind.as_str());
                    "go on with --resume"
                } else {
                    eprintln!("stopped: the first items all failed alike: {}: {message}", kind.as_str());
                    "begin anew with --fresh"
                };
                eprintln!("mend the cause and {what}, or go on all the same with --resume --no-guard");
                Ok(Exit::Suspect)
            }
            Ended::Paused(PauseReason::Requested) | Ended::Interrupted => Ok(interrupted(self.args)),
        }
    }
}

fn interrupted(args: &RunArgs) -> Exit {
    if !args.quiet {
        eprintln!("interrupted; the same command with --resume goes on from here");
    }
    Exit::Interrupted
}

fn load_template(path: &Path) -> Result<Template, Failure> {
    let shown = path.display();
    let size = std::fs::metadata(path)
        .map_err(|error| Failure::input(format!("the template {shown} cannot be read: {error}")))?
        .len();
    if size > MAX_TEMPLATE_BYTES {
        return Err(Failure::input(format!(
            "the template {shown} has {size} bytes; at most {MAX_TEMPLATE_BYTES} are read"
        )));
    }
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::input(format!("the template {shown} cannot be read: {error}")))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::input(format!("the template {shown} is not UTF-8 text")))?;
    Template::parse(&text).map_err(|problems| {
        let mut message = format!("the template {shown} has {} problem(s):", problems.len());
        for problem in problems.iter().take(100) {
            message.push_str("\n  ");
            message.push_str(&problem.to_string());
        }
        Failure::Input(message)
    })
}

fn choose_model(args: &RunArgs, template: &Template) -> Result<ModelRef, Failure> {
    args.models.first().cloned().or_else(|| template.model().cloned()).ok_or_else(|| {
        Failure::input("no model: give --model PROVIDER:NAME (for example --model demo:any) or put model.name into the template")
    })
}
