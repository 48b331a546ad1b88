//! The arguments.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use promptmill_api::role::ApiArgs;
use promptmill_domain::{ModelRef, Money};
use promptmill_scheduler::role::SchedulerArgs;
use promptmill_settings::config_argument;
use promptmill_worker::role::WorkerArgs;

pub(crate) use crate::archive::{ExportArgs, ImportArgs};
use crate::client::ServerArgs;
pub(crate) use crate::client::args::{
    BatchCommand, RowsCommand, ScheduleCommand, TemplateCommand, WebhookCommand,
};
pub(crate) use crate::config::ConfigCommand;
pub(crate) use crate::doctor::DoctorArgs;
pub(crate) use crate::health::HealthArgs;
pub(crate) use crate::key::KeyCommand;
pub(crate) use crate::serve::ServeArgs;

/// Bulk LLM generation that a business can rely on.
#[derive(Debug, Parser)]
#[command(name = "promptmill", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to log to standard error, for example `info` or `warn,promptmill_worker=debug`.
    /// Default: `error`, and `info` for `serve`, `api`, `worker` and `scheduler`.
    #[arg(long, env = "PROMPTMILL_LOG", global = true, value_name = "FILTER", hide_env_values = true)]
    pub(crate) log: Option<String>,
    /// Log JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) log_json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Look once, and not every second.
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one batch from a file of rows to validated outcomes, without a server.
    Run(Box<RunArgs>),
    /// Serve the HTTP API and work on what is submitted: everything in this one process.
    Serve(ServeArgs),
    /// Serve the HTTP API of a fleet; work is done by `worker` and `scheduler` processes.
    Api(ApiArgs),
    /// Work on the batches of a fleet.
    Worker(WorkerArgs),
    /// Let the batches of a fleet run, end and tell of it; of several one leads.
    Scheduler(Box<SchedulerArgs>),
    /// Submit, watch and fetch batches of a server.
    #[command(subcommand)]
    Batch(BatchCommand),
    /// Show what an installation does at the moment: how its providers' limits are used, and the batches that are open.
    Top(TopArgs),
    /// Store rows once, to be run again and again.
    #[command(subcommand)]
    Rows(RowsCommand),
    /// Make batches that recur, and follow them.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Manage endpoints, receive webhooks on this machine, have deliveries tried again.
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Push templates to a server and pull them from it.
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Check, show and explain the settings of a process.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write an installation, or tenants of it, into one file: to move it, or to have a backup. It may go on working.
    Export(ExportArgs),
    /// Make an empty store what such a file holds, and check that it is.
    Import(ImportArgs),
    /// Look at servers, machine, settings and providers, and say what is wrong and what mends it.
    Doctor(DoctorArgs),
    /// Ask the process of this machine whether it lives: for health checks of containers.
    Health(HealthArgs),
    /// List the models of a provider with prices and context lengths.
    Models(ModelsArgs),
    /// Write a template, rows and a `.env` to start from.
    Init(InitArgs),
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// The whole command line.
pub(crate) fn command() -> clap::Command {
    Cli::command().arg(config_argument())
}

impl Command {
    /// Whether it runs until it is told to stop.
    pub(crate) const fn is_service(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Api(_) | Self::Worker(_) | Self::Scheduler(_))
    }
}

/// Exit codes: 0 all items succeeded, 1 could not work, 2 bad input, 3 some items failed, 4 stopped by the cost limit,
/// 5 stopped because the first items all failed for one cause outside the rows, 130 interrupted.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all items succeeded; 1 could not work; 2 bad input; 3 some items failed; 4 stopped by \
--max-cost; 5 stopped because the first items all failed for one cause outside the rows; 130 interrupted.\n\nState of the run \
is kept in OUT.promptmill/ (or --state); --resume goes on from there and calls nothing again that has an outcome."
)]
pub(crate) struct RunArgs {
    /// The template, a JSON file.
    pub(crate) template: PathBuf,
    /// The rows: a .jsonl or .csv file, or - for JSON lines on standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) rows: PathBuf,
    /// The model as PROVIDER:NAME; providers are openrouter, ollama, openai and demo. Default: the template's. May be repeated: each further one is asked when
    /// those before it do not do.
    #[arg(long = "model", value_name = "PROVIDER:NAME")]
    pub(crate) models: Vec<ModelRef>,
    /// Where the outcomes go: a .jsonl or .csv file, or - for JSON lines on standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// The most calls at the same time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: u32,
    /// Begin no call once this many US dollars are spent. Calls under way may end above it.
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost: Option<Money>,
    /// Run only the first N rows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "sample")]
    pub(crate) limit: Option<u32>,
    /// Run only N rows, chosen at random.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sample: Option<u32>,
    /// Seed of the choice of --sample.
    #[arg(long, value_name = "S", default_value_t = 0, requires = "sample")]
    pub(crate) seed: u64,
    /// Check template and rows, show the first prompt and an estimate of tokens, and call nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Check template and rows, tell how many calls, tokens and dollars they will take at least and at most, and call nothing.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) estimate: bool,
    /// Make one call for rows that ask the same.
    #[arg(long)]
    pub(crate) cache: bool,
    /// Add the row's variables to each outcome.
    #[arg(long)]
    pub(crate) include_input: bool,
    /// Go on with the run whose state is there.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Throw the state of an earlier run away and begin anew.
    #[arg(long, conflicts_with = "resume")]
    pub(crate) fresh: bool,
    /// Folder for the state of the run. Default: OUT.promptmill next to the output.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Go on even when the first items all fail for one cause outside the rows.
    #[arg(long)]
    pub(crate) no_guard: bool,
    /// Print neither progress nor summary.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// openrouter, ollama, openai or demo.
    pub(crate) provider: String,
    /// Only models whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Print JSON lines.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where to write; made when missing.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
}
