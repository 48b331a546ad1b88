//! The scheduler as a process of its own, over the servers of a fleet. Of several one leads, and the others stand by.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use promptmill_domain::TenantId;
use promptmill_domain::ids::InvalidId;
use promptmill_egress::UrlPolicy;
use promptmill_mail::{MailError, Mailer};
use promptmill_runtime::fleet::{Fleet, FleetArgs, RoleError, RunningBatchesArgs, address_of, listen};
use promptmill_runtime::{Monitor, Presence, Settings, shutdown_signals};
use promptmill_vault::Vault;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::config::{SchedulerConfig, Standing};
use crate::lead::ROLE;
use crate::scheduler::Scheduler;

/// What a scheduler process needs to know.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The master key that encrypts webhook secrets is taken from PROMPTMILL_MASTER_KEY, the same as the api's."
)]
pub struct SchedulerArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    admission: AdmissionArgs,
    /// Subnets that are not public and may receive webhooks all the same, over plain HTTP too, for example 10.0.0.0/8.
    #[arg(long, value_name = "CIDR", env = "PROMPTMILL_WEBHOOK_SUBNETS", value_delimiter = ',')]
    webhook_subnets: Vec<IpNet>,
    /// Subnets that are not public and may be asked for rows of schedules all the same, over plain HTTP too, for example 10.0.0.0/8.
    #[arg(long, value_name = "CIDR", env = "PROMPTMILL_SOURCE_SUBNETS", value_delimiter = ',')]
    source_subnets: Vec<IpNet>,
    #[command(flatten)]
    public: PublicUrlArgs,
    #[command(flatten)]
    mail: MailArgs,
    /// Milliseconds between looks for work and deliveries that no signal told of.
    #[arg(
        long,
        value_name = "MS",
        env = "PROMPTMILL_POLL_MS",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..=3_600_000)
    )]
    poll_ms: u64,
}

/// Where the api is found.
#[derive(Debug, Clone, Args)]
pub struct PublicUrlArgs {
    /// Where the api is found from outside, for links to results in events, for example `https://promptmill.example`. Without it events have none; of `serve` on a
    /// loopback address it is that address.
    #[arg(long, value_name = "URL", env = "PROMPTMILL_PUBLIC_URL", value_parser = public_url)]
    pub public_url: Option<String>,
}

/// How people are written to.
#[derive(Debug, Clone, Args)]
pub struct MailArgs {
    /// Whom mail is from, an address or `Promptmill <promptmill@example.com>`. Mail is sent where PROMPTMILL_MAIL_URL names a server.
    #[arg(long, value_name = "ADDRESS", env = "PROMPTMILL_MAIL_FROM")]
    pub mail_from: Option<String>,
}

impl MailArgs {
    /// What sends mail, where there is a server for it.
    ///
    /// # Errors
    /// When the server or the sender cannot be used.
    pub fn mailer(&self, settings: &Settings) -> Result<Option<Mailer>, MailError> {
        let url = settings.get("PROMPTMILL_MAIL_URL");
        url.map(|url| Mailer::new(&url, self.mail_from.as_deref().unwrap_or_default())).transpose()
    }
}

/// An http or https URL without query and fragment; without the slash at its end.
fn public_url(text: &str) -> Result<String, String> {
    let wrong = || "must be an http or https URL without query and fragment".to_owned();
    let url = Url::parse(text).map_err(|_| wrong())?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if is_plain { Ok(url.as_str().trim_end_matches('/').to_owned()) } else { Err(wrong()) }
}

/// How tenants share a lane, and how much of each runs.
#[derive(Debug, Clone, Args)]
pub struct AdmissionArgs {
    /// Tenants that get more than the others of a lane that is full, each so many times the share of one that is not named.
    #[arg(
        long,
        value_name = "TENANT=N",
        env = "PROMPTMILL_WEIGHTS",
        value_delimiter = ',',
        value_parser = weight
    )]
    weights: Vec<(TenantId, u32)>,
    /// How much of each tenant runs.
    #[command(flatten)]
    pub running: RunningBatchesArgs,
}

impl AdmissionArgs {
    /// The configuration `config` with these.
    pub fn applied_to(self, config: SchedulerConfig) -> SchedulerConfig {
        SchedulerConfig {
            weights: self.weights.into_iter().collect(),
            running_batches: usize::try_from(self.running.running_batches).ok(),
            ..config
        }
    }
}

fn weight(text: &str) -> Result<(TenantId, u32), String> {
    let (tenant, weight) = text.split_once('=').ok_or("must be TENANT=N")?;
    let tenant = tenant.parse().map_err(|error: InvalidId| error.to_string())?;
    let weight = weight.parse().ok().filter(|weight| (1..=1_000).contains(weight));
    Ok((tenant, weight.ok_or("a weight is 1 to 1000")?))
}

/// Schedules until the process is told to stop.
///
/// # Errors
/// When it could not begin: an address, a server or the configuration cannot be used.
pub async fn run(args: SchedulerArgs, settings: Settings) -> Result<(), RoleError> {
    let (clean, _) =
        shutdown_signals().map_err(|error| RoleError::new("signals cannot be handled", error))?;
    let vault = Vault::shared(settings.get("PROMPTMILL_MASTER_KEY").as_deref())
        .map_err(|error| RoleError::new("the master key cannot be used", error))?;
    let mailer = args.mail.mailer(&settings).map_err(|error| RoleError::new("mail cannot be sent", error))?;
    let listener = listen(args.fleet.metrics_listen, "--metrics-listen").await?;
    let address = address_of(&listener)?;
    let fleet = Fleet::connect(&args.fleet, &settings).await?;
    let presence = Presence::begin(&fleet.engine, ROLE)
        .await
        .map_err(|error| RoleError::new("the session cannot be opened", error))?;
    let serving = SchedulerConfig::serving(Arc::new(vault), UrlPolicy::with_subnets(args.webhook_subnets));
    let config = SchedulerConfig {
        poll: Duration::from_millis(args.poll_ms),
        standing: Standing::OneOfSeveral(presence.clone()),
        ..serving.telling(args.public.public_url, mailer).asking(UrlPolicy::with_subnets(args.source_subnets))
    };
    let scheduler = Scheduler::with(fleet.engine.clone(), args.admission.applied_to(config));
    let stop = CancellationToken::new();
    let ready = {
        let (presence, stop) = (presence.clone(), stop.clone());
        move || presence.is_fresh() && !stop.is_cancelled()
    };
    let monitor = Monitor::new(fleet.engine.clone(), ready).with_store();
    let metrics = tokio::spawn(monitor.serve(listener, stop.clone()));
    eprintln!("promptmill {} scheduler, metrics http://{address}/metrics", env!("CARGO_PKG_VERSION"));

    clean.cancelled().await;
    stop.cancel();
    scheduler.stop().await;
    let _ = metrics.await;
    // The next in line leads as soon as this session is gone.
    presence.end().await;
    fleet.leave().await;
    Ok(())
}
