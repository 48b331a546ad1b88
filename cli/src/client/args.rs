//! The arguments of the commands that talk to a server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use promptmill_domain::{
    BatchId, DeliveryId, EndpointId, FailureKind, ModelRef, Money, OutcomeName, ScheduleId,
};
use serde::de::DeserializeOwned;

use serde_json::Value;

use super::ServerArgs;
use crate::exit::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Receive webhooks on this machine, and print and check each.
    Listen(ListenArgs),
    /// Try deliveries again, each under the same webhook-id.
    Replay(ReplayArgs),
    /// Make an endpoint, which is told of all batches of the tenant from now on.
    Add(AddArgs),
    /// List the endpoints.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Send an endpoint a signed `ping`, and tell what came of it.
    Test {
        /// The endpoint's id.
        id: EndpointId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Give an endpoint a new signing secret; the one before holds for a while.
    Rotate {
        /// The endpoint's id.
        id: EndpointId,
        /// How long the one before holds, seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
        grace: u64,
        /// Whether a key pair (Ed25519, `v1a`) is made beside it; as it was unless told.
        #[arg(long, value_name = "true|false")]
        ed25519: Option<bool>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete an endpoint.
    Remove {
        /// The endpoint's id.
        id: EndpointId,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Where events are posted.
    #[arg(value_name = "RECEIVER")]
    pub(crate) receiver: String,
    /// An event it is told of, for example batch.completed. May be repeated. Default: all of them.
    #[arg(long = "event", value_name = "TYPE")]
    pub(crate) events: Vec<String>,
    /// What people call it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// The secret its events are signed with, whsec_...; one is made and printed when it is left out.
    #[arg(long, value_name = "SECRET", env = "PROMPTMILL_WEBHOOK_SECRET", hide_env_values = true)]
    pub(crate) secret: Option<String>,
    /// Sign with a key pair too (Ed25519, `v1a`), whose public half is printed.
    #[arg(long)]
    pub(crate) ed25519: bool,
    /// Who is written to when it is switched off and nobody asked for it.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) email: Option<String>,
    /// A header of its requests beside the usual: `Authorization` or a name that begins with `X-`. May be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// The most requests to it in a second.
    #[arg(long, value_name = "N")]
    pub(crate) max_per_second: Option<u32>,
    /// Send the results of a batch with the event that tells its end, where they are small.
    #[arg(long)]
    pub(crate) results: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
    pub(crate) listen: SocketAddr,
    /// The secret events are signed with, whsec_..., or the public half of their key pair, whpk_...; what is not signed with it is answered 400.
    #[arg(long, value_name = "SECRET", env = "PROMPTMILL_WEBHOOK_SECRET", hide_env_values = true)]
    pub(crate) secret: Option<String>,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The delivery, whatever became of it.
    #[arg(required_unless_present = "since", conflicts_with = "since")]
    pub(crate) delivery: Option<DeliveryId>,
    /// All that were given up since then, as 2026-12-31T23:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BatchCommand {
    /// Submit rows of a file with a template.
    Submit(Box<SubmitArgs>),
    /// List batches, newest first.
    List {
        /// Only those in this state: draft, queued, running, paused, completed, cancelled, expired...
        #[arg(long)]
        state: Option<String>,
        /// Only those of this name.
        #[arg(long)]
        name: Option<String>,
        /// Only those with this label. May be repeated.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show a batch.
    Show {
        /// The batch's id.
        id: BatchId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Watch a batch until it ends or stands still. Exit codes as for `run`.
    Watch {
        /// The batch's id.
        id: BatchId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Fetch the outcomes.
    Results(ResultsArgs),
    /// Run what failed again, as a new batch.
    Retry(RetryArgs),
    /// Begin nothing more until it is resumed.
    Pause {
        /// The batch's id.
        id: BatchId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Go on.
    Resume {
        /// The batch's id.
        id: BatchId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// End it early: what is open becomes `cancelled`.
    Cancel {
        /// The batch's id.
        id: BatchId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a finished batch or a draft, with rows and outcomes.
    Delete {
        /// The batch's id.
        id: BatchId,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// What a batch is, but for its rows.
#[derive(Debug, Args)]
pub(crate) struct BatchArgs {
    /// A template file (.json), or the name of a stored template, also as NAME@VERSION or NAME@LABEL. Without one every row must bring messages.
    pub(crate) template: Option<String>,
    /// The model as PROVIDER:NAME. Default: the template's. May be repeated: each further one is asked when those before it do not do.
    #[arg(long = "model", value_name = "PROVIDER:NAME")]
    pub(crate) models: Vec<ModelRef>,
    /// What people call the batch.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A label for lists to filter by. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// A JSON object of your own, given back with the batch and its events.
    #[arg(long, value_name = "JSON")]
    pub(crate) metadata: Option<String>,
    /// Larger is served earlier, -100 to 100.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) priority: Option<i16>,
    /// The most calls of this batch at the same time.
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrency: Option<u32>,
    /// Begin no call once this many US dollars are spent.
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost: Option<Money>,
    /// A part of its items in per cent of which it tells its webhook and endpoints, 1 to 99. May be repeated.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    pub(crate) progress_at: Vec<u8>,
    /// How long the batch is kept after its end, seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) retention: Option<u64>,
    /// Which raw replies are kept: none, failed or all.
    #[arg(long, value_name = "WHICH")]
    pub(crate) store_replies: Option<String>,
    /// Give a reply again to rows that ask the same: those of this batch, or of every batch of the tenant that says so: batch or tenant.
    #[arg(long, value_name = "SCOPE")]
    pub(crate) cache: Option<String>,
    /// Where events are posted.
    #[arg(long, value_name = "URL")]
    pub(crate) webhook_url: Option<String>,
    /// The secret events are signed with, whsec_...; one is made and printed when it is left out.
    #[arg(
        long,
        value_name = "SECRET",
        env = "PROMPTMILL_WEBHOOK_SECRET",
        hide_env_values = true,
        requires = "webhook_url"
    )]
    pub(crate) webhook_secret: Option<String>,
    /// Send the results with the event that tells its end, where they are small.
    #[arg(long, requires = "webhook_url")]
    pub(crate) webhook_results: bool,
    /// Go on even when the first items all fail for one cause outside the rows.
    #[arg(long)]
    pub(crate) no_guard: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) batch: BatchArgs,
    /// The rows: a .jsonl or .csv file, also with .gz or .zst behind; - for JSON lines on standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) rows: PathBuf,
    /// When what is open expires, as 2026-12-31T23:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) deadline: Option<String>,
    /// Watch it until it ends.
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RowsCommand {
    /// Send rows of a file as the newest version of a row set, which is made where there is none.
    Push {
        /// The row set's name.
        name: String,
        /// A .jsonl or .csv file, also with .gz or .zst behind; - for JSON lines on standard input.
        file: PathBuf,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List row sets, each with its newest version.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show the versions of a row set.
    Show {
        /// The row set's name.
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a row set, or one of its older versions.
    Delete {
        /// The row set's name.
        name: String,
        /// The version; all of it unless told.
        #[arg(long, value_name = "N")]
        version: Option<u32>,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Make a schedule: a batch that recurs.
    Create(Box<ScheduleArgs>),
    /// List schedules, oldest first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show a schedule.
    Show {
        /// The schedule's id.
        id: ScheduleId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Begin nothing more of it until it is resumed.
    Pause {
        /// The schedule's id.
        id: ScheduleId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Go on with the next tick.
    Resume {
        /// The schedule's id.
        id: ScheduleId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Run it now, beside its ticks.
    Run {
        /// The schedule's id.
        id: ScheduleId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List what became of its ticks, newest first.
    History {
        /// The schedule's id.
        id: ScheduleId,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Compare a run with the one before: rows that are new, gone, or came to something else.
    Diff {
        /// The schedule's id.
        id: ScheduleId,
        /// The time of the run's tick, as `history` tells it; the newest run that is over unless told.
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        /// List so many at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List its ticks to come, in its time zone.
    Next {
        /// The schedule's id.
        id: ScheduleId,
        /// How many.
        #[arg(long, default_value_t = 10)]
        count: usize,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete it with its history. Its batches stay.
    Delete {
        /// The schedule's id.
        id: ScheduleId,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    #[command(flatten)]
    pub(crate) batch: BatchArgs,
    /// The rows of each run: a .jsonl file of up to 8 MiB.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["row_set", "rows_url"], conflicts_with_all = ["row_set", "rows_url"])]
    pub(crate) rows: Option<PathBuf>,
    /// A row set to take them from instead: the newest version at each tick, or NAME@VERSION.
    #[arg(long, value_name = "NAME", conflicts_with = "rows_url")]
    pub(crate) row_set: Option<String>,
    /// A server that is asked for them at each tick instead: JSON Lines or CSV.
    #[arg(long, value_name = "URL")]
    pub(crate) rows_url: Option<String>,
    /// How its rows are written, ndjson or csv, where neither its Content-Type nor the end of the URL says it.
    #[arg(long, value_name = "FORMAT", requires = "rows_url")]
    pub(crate) rows_format: Option<String>,
    /// A header of the request: `Authorization` or a name that begins with `X-`. May be repeated.
    #[arg(long = "rows-header", value_name = "NAME: VALUE", requires = "rows_url")]
    pub(crate) rows_headers: Vec<String>,
    /// Take the rows of the run before that came to one of these, once there is one: succeeded, failed, cancelled, expired.
    #[arg(long, value_name = "OUTCOME,...", value_delimiter = ',', value_parser = word::<OutcomeName>)]
    pub(crate) previous_run: Vec<OutcomeName>,
    /// When it is due: a cron pattern of five fields, or six with the second first, for example '0 3 * * *'.
    #[arg(long, value_name = "PATTERN", required_unless_present = "every", conflicts_with = "every")]
    pub(crate) cron: Option<String>,
    /// The time zone of the pattern, for example Europe/Berlin. Default: UTC.
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub(crate) timezone: Option<String>,
    /// Seconds from one tick to the next, instead of a pattern.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) every: Option<u64>,
    /// No tick lies before it, as 2026-12-31T23:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) start: Option<String>,
    /// No tick lies after it.
    #[arg(long, value_name = "TIME")]
    pub(crate) end: Option<String>,
    /// Begin runs up to so many seconds after their ticks, always by the same.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) jitter: Option<u64>,
    /// What a tick does while an earlier run goes on: skip, allow or replace.
    #[arg(long, value_name = "WHAT")]
    pub(crate) concurrency: Option<String>,
    /// What becomes of ticks that nobody looked at in time: run_once, run_each or skip.
    #[arg(long, value_name = "WHAT")]
    pub(crate) misfire: Option<String>,
    /// How many of them run, with run_each.
    #[arg(long, value_name = "N")]
    pub(crate) misfire_runs: Option<u32>,
    /// Seconds that a tick may be late and is in time still.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace: Option<u64>,
    /// How often rows that failed in a run are run again after it.
    #[arg(long, value_name = "N")]
    pub(crate) retry: Option<u32>,
    /// How long after it, seconds.
    #[arg(long, value_name = "SECONDS", requires = "retry")]
    pub(crate) retry_after: Option<u64>,
    /// What all runs that begin in a month (UTC) may cost together, US dollars.
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost_per_month: Option<Money>,
    /// Seconds from the begin of a run until what is open of it expires.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) completion_window: Option<u64>,
    /// Begin paused.
    #[arg(long)]
    pub(crate) paused: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// The batch's id.
    pub(crate) id: BatchId,
    /// A .jsonl or .csv file, or - for standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) out: PathBuf,
    /// Only these: succeeded, failed, cancelled or expired. May be repeated.
    #[arg(long = "outcome", value_parser = word::<OutcomeName>)]
    pub(crate) outcomes: Vec<OutcomeName>,
    /// Only what failed for this reason. May be repeated.
    #[arg(long = "reason", value_parser = word::<FailureKind>)]
    pub(crate) reasons: Vec<FailureKind>,
    /// Of a retry: the outcomes of the original, replaced where they were retried.
    #[arg(long)]
    pub(crate) merged: bool,
    /// JSON lines in the order in which they settle, until the batch ends.
    #[arg(long, conflicts_with = "merged")]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// The batch's id; it must be final.
    pub(crate) id: BatchId,
    /// Which outcomes are run again; default failed, expired and cancelled. May be repeated.
    #[arg(long = "outcome", value_parser = word::<OutcomeName>)]
    pub(crate) outcomes: Vec<OutcomeName>,
    /// Only what failed for this reason. May be repeated.
    #[arg(long = "reason", value_parser = word::<FailureKind>)]
    pub(crate) reasons: Vec<FailureKind>,
    /// Another model.
    #[arg(long, value_name = "PROVIDER:NAME")]
    pub(crate) model: Option<ModelRef>,
    /// Another version of the template.
    #[arg(long, value_name = "N")]
    pub(crate) template_version: Option<u32>,
    /// Watch it until it ends.
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Store a template file, as a new template or as the next version of the one of its name.
    Push {
        /// The template, a JSON file.
        file: PathBuf,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Fetch a template.
    Pull {
        /// Its name or id, also as NAME@VERSION or NAME@LABEL.
        template: String,
        /// Where it goes; - for standard output.
        #[arg(long, value_name = "FILE", default_value = "-")]
        out: PathBuf,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List the stored templates.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Put a label on a version of a template, or move it there: NAME@LABEL is that version from then on.
    Label {
        /// The template's name or id.
        template: String,
        /// The label, for example production.
        label: String,
        /// The version. Default: the newest.
        #[arg(long, value_name = "N", conflicts_with = "remove")]
        version: Option<u32>,
        /// Take the label away.
        #[arg(long)]
        remove: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List the labels of a template.
    Labels {
        /// Its name or id.
        template: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a template with all its versions and labels. Batches keep the text they began with.
    Delete {
        /// Its name or id.
        template: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write a label as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A word of the API, read as its JSON.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// Headers by their names, of `NAME: VALUE` each, as `option` names them. What a wrong one holds is not told: it may be a credential.
pub(crate) fn headers(option: &str, given: &[String]) -> Result<Value, Failure> {
    let mut headers = serde_json::Map::new();
    for header in given {
        let split = header.split_once(':');
        let (name, value) = split.ok_or_else(|| Failure::input(format!("{option} must be NAME: VALUE")))?;
        headers.insert(name.trim().to_owned(), value.trim().into());
    }
    Ok(Value::Object(headers))
}

/// Labels as the API takes them; the last one of a key counts.
pub(crate) fn labels(labels: &[(String, String)]) -> BTreeMap<&str, &str> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}
