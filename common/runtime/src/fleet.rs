//! A role as a process of its own: over MongoDB and Redis, with its way in and its way out.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use clap::error::ErrorKind;
use promptmill_domain::ids::InvalidId;
use promptmill_domain::money::InvalidMoney;
use promptmill_domain::{Money, Period, TenantCosts, TenantId};
use promptmill_hub_redis::{ConnectError, RedisHub, RedisHubOptions};
use promptmill_ports::StoreError;
use promptmill_settings::{Settings, SettingsError, config_argument, config_of};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use secrecy::SecretString;
use tokio::net::TcpListener;

use crate::engine::Engine;
use crate::files::raise_file_limit;
use crate::providers::{ProviderSettings, Providers};
use crate::telemetry::{LogFormat, init_telemetry};

/// Where a fleet's servers are, and where this process tells of itself.
#[derive(Debug, Clone, Args)]
pub struct FleetArgs {
    /// MongoDB, a replica set: mongodb://USER:PASSWORD@HOST:PORT,HOST:PORT/?replicaSet=NAME
    #[arg(
        long,
        value_name = "URL",
        env = "PROMPTMILL_MONGO_URL",
        hide_env_values = true,
        value_parser = secret
    )]
    pub mongo_url: SecretString,
    /// The database of the fleet.
    #[arg(long, value_name = "NAME", env = "PROMPTMILL_MONGO_DATABASE", default_value = "promptmill")]
    pub mongo_database: String,
    /// Redis: redis://HOST:PORT, rediss:// for TLS, redis+sentinel://HOST:PORT,HOST:PORT/MASTER, redis+cluster://HOST:PORT,HOST:PORT
    #[arg(
        long,
        value_name = "URL",
        env = "PROMPTMILL_REDIS_URL",
        hide_env_values = true,
        value_parser = secret
    )]
    pub redis_url: SecretString,
    /// What every key and channel in Redis begins with; fleets that share a server need different ones.
    #[arg(long, value_name = "NAME", env = "PROMPTMILL_REDIS_PREFIX", default_value = "promptmill")]
    pub redis_prefix: String,
    /// Where Prometheus finds /metrics, and whoever watches the process /livez and /readyz.
    #[arg(long, value_name = "ADDR", env = "PROMPTMILL_METRICS_LISTEN", default_value = "127.0.0.1:9464")]
    pub metrics_listen: SocketAddr,
}

/// How many batches of a tenant run. In a fleet the schedulers go by it, and the api tells it at `/v1/limits`.
#[derive(Debug, Clone, Copy, Args)]
pub struct RunningBatchesArgs {
    /// Batches of one tenant that run at the same time; further ones stay queued.
    #[arg(
        long,
        value_name = "N",
        env = "PROMPTMILL_RUNNING_BATCHES",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub running_batches: u32,
}

/// What tenants may spend. In a fleet the workers go by it, and the api, which tells it at `/v1/limits`.
#[derive(Debug, Clone, Args)]
pub struct TenantCostArgs {
    /// US dollars that a tenant may spend on a day (UTC), by its name or * for every other one, for example acme=50,*=5. At the limit its batches stand still
    /// until the next day.
    #[arg(
        long,
        value_name = "TENANT=USD",
        env = "PROMPTMILL_MAX_COST_PER_DAY",
        value_delimiter = ',',
        value_parser = tenant_cost
    )]
    max_cost_per_day: Vec<TenantCost>,
    /// US dollars that a tenant may spend in a month (UTC), written as those of a day.
    #[arg(
        long,
        value_name = "TENANT=USD",
        env = "PROMPTMILL_MAX_COST_PER_MONTH",
        value_delimiter = ',',
        value_parser = tenant_cost
    )]
    max_cost_per_month: Vec<TenantCost>,
}

/// A tenant, or every other one, and its limit.
type TenantCost = (Option<TenantId>, Money);

impl TenantCostArgs {
    /// The limits.
    pub fn costs(&self) -> TenantCosts {
        let mut costs = TenantCosts::default();
        for (period, most) in
            [(Period::Day, &self.max_cost_per_day), (Period::Month, &self.max_cost_per_month)]
        {
            for (tenant, most) in most {
                costs.set(tenant.clone(), period, *most);
            }
        }
        costs
    }
}

fn tenant_cost(text: &str) -> Result<TenantCost, String> {
    let (tenant, most) = text.split_once('=').ok_or("must be TENANT=USD, or *=USD for all others")?;
    let tenant = match tenant.trim() {
        "*" => None,
        name => Some(name.parse().map_err(|error: InvalidId| error.to_string())?),
    };
    Ok((tenant, most.trim().parse().map_err(|error: InvalidMoney| error.to_string())?))
}

fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(text.into())
}

/// Why a role could not do its work, in one sentence.
#[derive(Debug)]
pub struct RoleError {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl RoleError {
    /// Of what failed, and why.
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }

    /// Of what failed, where that is all there is to say.
    pub fn plain(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// What failed, and why.
    pub fn into_parts(self) -> (String, Option<Box<dyn Error + Send + Sync>>) {
        (self.what, self.source)
    }
}

impl std::fmt::Display for RoleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for RoleError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

/// The parts of a process of the fleet.
pub struct Fleet {
    /// What every role works with.
    pub engine: Engine,
    hub: Arc<RedisHub>,
}

impl Fleet {
    /// Connects to MongoDB and Redis; the providers are those of `settings`.
    ///
    /// # Errors
    /// When a server cannot be used or a setting of a provider is wrong. No error holds a URL.
    pub async fn connect(args: &FleetArgs, settings: &Settings) -> Result<Self, RoleError> {
        let providers = ProviderSettings::from_env(|name| settings.get(name))
            .and_then(Providers::new)
            .map_err(|error| RoleError::new("the providers cannot be set up", error))?;
        let store = connect_store(&args.mongo_url, &args.mongo_database);
        let options = RedisHubOptions { url: args.redis_url.clone(), prefix: args.redis_prefix.clone() };
        let (store, hub) = tokio::join!(store, RedisHub::connect(&options));
        let hub = Arc::new(hub.map_err(no_hub)?);
        let store = store?;
        let engine = Engine::over(store.clone(), store, hub.clone(), Arc::new(providers));
        Ok(Self { engine, hub })
    }

    /// Gives back what this process holds in Redis; for the end of it.
    pub async fn leave(&self) {
        self.hub.leave().await;
    }
}

/// Where the fleet's store is, as the settings say: its URL and database.
pub fn store_of(settings: &Settings) -> Option<(SecretString, String)> {
    let database = settings.get("PROMPTMILL_MONGO_DATABASE").unwrap_or_else(|| "promptmill".to_owned());
    Some((settings.get("PROMPTMILL_MONGO_URL")?.into(), database))
}

/// The fleet's store, by itself.
///
/// # Errors
/// When it cannot be used. No error holds the URL.
pub async fn connect_store(url: &SecretString, database: &str) -> Result<Arc<MongoStore>, RoleError> {
    let store = MongoStore::connect(&MongoOptions::new(url.clone(), database)).await;
    store.map(Arc::new).map_err(|error| RoleError::new("the MongoDB store cannot be used", no_store(error)))
}

/// The fleet's store, to be read as it is.
///
/// # Errors
/// When there is none, or it cannot be used. No error holds the URL.
pub async fn connect_store_to_read(url: &SecretString, database: &str) -> Result<Arc<MongoStore>, RoleError> {
    let store = MongoStore::connect_to_read(&MongoOptions::new(url.clone(), database)).await;
    store.map(Arc::new).map_err(|error| RoleError::new("the MongoDB store cannot be read", no_store(error)))
}

fn no_hub(error: ConnectError) -> RoleError {
    RoleError::new("the Redis hub cannot be used", error)
}

/// The sentence of a conflict is made for this place; the others name their cause.
fn no_store(error: StoreError) -> Box<dyn Error + Send + Sync> {
    match error {
        StoreError::Conflict(sentence) => sentence.into(),
        error => error.into(),
    }
}

/// Listens where `option` says.
///
/// # Errors
/// When the address cannot be had.
pub async fn listen(address: SocketAddr, option: &str) -> Result<TcpListener, RoleError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| RoleError::new(format!("{option}: {address} cannot be listened on"), error))
}

/// Where a listener listens.
///
/// # Errors
/// When the system does not know, which it does.
pub fn address_of(listener: &TcpListener) -> Result<SocketAddr, RoleError> {
    listener.local_addr().map_err(|error| RoleError::new("the address listened on is unknown", error))
}

/// The whole of a role's own binary: arguments and settings, logs, a runtime, the role, and one sentence with exit code 1 when it could not work, 2 when its
/// settings are wrong. `command` is what the binary says of itself.
pub fn run_role<A, F>(command: clap::Command, role: impl FnOnce(A, Settings) -> F) -> ExitCode
where
    A: Args,
    F: Future<Output = Result<(), RoleError>>,
{
    let command = A::augment_args(command).arg(config_argument());
    let settings = match settings_of(&command) {
        Ok(settings) => settings,
        Err(error) => {
            print_help_if_asked(&command);
            eprintln!("error: {}", error.to_string().replace('\n', "\nerror: "));
            return ExitCode::from(2);
        }
    };
    let matches = settings.onto(command).get_matches();
    let args = A::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let format = if settings.is_on("PROMPTMILL_LOG_JSON") { LogFormat::Json } else { LogFormat::Text };
    raise_file_limit();
    init_telemetry(settings.get("PROMPTMILL_LOG").as_deref().unwrap_or("info"), format);
    match run_to_its_end(role(args, settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprint!("error: {failed}");
            let mut cause = failed.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

/// Runs a role, after which the process ends.
///
/// # Errors
/// The role's, or that there is no runtime.
pub fn run_to_its_end(role: impl Future<Output = Result<(), RoleError>>) -> Result<(), RoleError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| RoleError::new("the runtime cannot be started", error))?;
    let ended = runtime.block_on(role);
    // All that matters is over. Torn down in any order, a task that still reads something finds the driver of MongoDB without its own
    // tasks, which makes it panic.
    std::mem::forget(runtime);
    ended
}

/// Prints help or version and ends the process, where its arguments ask for them: whoever does gets them, whatever the settings are.
pub fn print_help_if_asked(command: &clap::Command) {
    if let Err(error) = command.clone().try_get_matches()
        && matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
    {
        error.exit();
    }
}

/// The settings of this process, which has the arguments and the environment of the system.
///
/// # Errors
/// What is wrong with them, as far as the arguments of `command` say what they may be.
pub fn settings_of(command: &clap::Command) -> Result<Settings, SettingsError> {
    let config = config_of(std::env::args_os());
    Settings::load(config.as_deref(), |name| std::env::var(name).ok(), command)
}
