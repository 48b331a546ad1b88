//! `promptmill-bench`: the tables of measures, and the two programs the engine is held against. This file is wiring.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use promptmill_bench::measures::{Lab, Part, Sizes, fleet, limits, schedules, webhooks};
use promptmill_bench::programs::Programs;
use promptmill_bench::table::Table;
use promptmill_bench::{bare, build, fake, measures, procfs};

/// Both sides of every comparison allocate alike: the engine has the same allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures `promptmill serve` against the machine's limit, and a fleet against `promptmill serve`.
#[derive(Debug, Parser)]
#[command(name = "promptmill-bench", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the table of all measures with target, failure limit, figure and verdict.
    Table(TableArgs),
    /// Print the same of a fleet: an api, a worker and a scheduler over a real MongoDB and a real Redis, which are started for it.
    Fleet(FleetArgs),
    /// Print how fully a provider's limit is used, and how rarely it is run against.
    Limits(LimitsArgs),
    /// Print how soon and how many events reach their receivers.
    Webhooks(WebhooksArgs),
    /// Print how soon batches begin that are all due at the same moment.
    Schedules(SchedulesArgs),
    /// The chat server of the measures, on one thread; prints `listening on ADDR`.
    Fake(FakeArgs),
    /// The plainest loop of calls to a running `fake`, on one thread; prints one JSON object.
    Bare(BareArgs),
}

#[derive(Debug, Args)]
struct TableArgs {
    /// Only these parts (repeatable).
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
struct FleetArgs {
    /// Only these parts (repeatable).
    #[arg(long, value_name = "PART")]
    only: Vec<fleet::Part>,
    /// Threads of the async runtime of each process of ours; as many as there are cores unless told.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
struct LimitsArgs {
    /// Only these parts (repeatable).
    #[arg(long, value_name = "PART")]
    only: Vec<limits::Part>,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
struct WebhooksArgs {
    /// Only these parts (repeatable).
    #[arg(long, value_name = "PART")]
    only: Vec<webhooks::Part>,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
struct SchedulesArgs {
    /// Only these parts (repeatable).
    #[arg(long, value_name = "PART")]
    only: Vec<schedules::Part>,
    #[command(flatten)]
    how: HowArgs,
}

/// How all tables are made.
#[derive(Debug, Args)]
struct HowArgs {
    /// Tiny numbers, one run: shows that everything works and says nothing about speed.
    #[arg(long)]
    quick: bool,
    /// Interleaved runs of each measure, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    runs: u8,
    /// The binary `promptmill` to measure. Without it cargo builds the one of this workspace in the profile this program was built in.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the data folders of the measured engines and of MongoDB are made and removed; the disk under it is part of what is measured.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct FakeArgs {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Milliseconds from a call to its reply.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    latency_ms: u64,
    /// How many different replies are given in turn.
    #[arg(long, default_value_t = 1, value_name = "N")]
    replies: u32,
    /// End when standard input does, so that nothing is left behind by whoever started it.
    #[arg(long)]
    until_stdin_ends: bool,
}

#[derive(Debug, Args)]
struct BareArgs {
    /// What makes the calls.
    #[arg(long, value_enum, default_value_t = bare::Kind::Reqwest)]
    client: bare::Kind,
    /// Where `fake` listens, as http://HOST:PORT.
    #[arg(long)]
    server: String,
    /// Calls to measure; as many as are in flight come before them, unmeasured, to open the connections.
    #[arg(long, default_value_t = 100_000)]
    items: u64,
    /// Calls in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
}

fn main() -> ExitCode {
    // Fails when there is one already, which is then as good. Nothing here speaks TLS, but the client is built with it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match Cli::parse().command {
        Command::Table(args) => table(args),
        Command::Fleet(args) => fleet_table(args),
        Command::Limits(args) => limits_table(args),
        Command::Webhooks(args) => webhooks_table(args),
        Command::Schedules(args) => schedules_table(args),
        Command::Fake(args) => fake::run(&fake::Config {
            listen: args.listen,
            latency: Duration::from_millis(args.latency_ms),
            replies: args.replies,
            until_stdin_ends: args.until_stdin_ends,
        }),
        Command::Bare(args) => bare::run(args.client, &args.server, args.items, args.concurrency),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The table of the embedded engine.
fn table(args: TableArgs) -> anyhow::Result<ExitCode> {
    let TableArgs { only, how } = args;
    let sizes = if how.quick { Sizes::quick() } else { Sizes::full(how.runs) };
    let measure = async |lab: &Lab, table: &mut Table| {
        for part in Part::chosen(&only) {
            measures::run(part, lab, table).await?;
        }
        anyhow::Ok(())
    };
    tabulate(how, sizes.runs, sizes, measure)
}

/// The table of a fleet.
fn fleet_table(args: FleetArgs) -> anyhow::Result<ExitCode> {
    let FleetArgs { only, threads, how } = args;
    let sizes = if how.quick { fleet::Sizes::quick(threads) } else { fleet::Sizes::full(how.runs, threads) };
    let measure = async |lab: &Lab<fleet::Sizes>, table: &mut Table| {
        for part in fleet::Part::chosen(&only) {
            fleet::run(part, lab, table).await?;
        }
        anyhow::Ok(())
    };
    tabulate(how, sizes.runs, sizes, measure)
}

/// The table of limits.
fn limits_table(args: LimitsArgs) -> anyhow::Result<ExitCode> {
    let LimitsArgs { only, how } = args;
    let sizes = if how.quick { limits::Sizes::quick() } else { limits::Sizes::full(3) };
    let measure = async |lab: &Lab<limits::Sizes>, table: &mut Table| {
        for part in limits::Part::chosen(&only) {
            limits::run(part, lab, table).await?;
        }
        anyhow::Ok(())
    };
    tabulate(how, 1, sizes, measure)
}

/// The table of webhooks.
fn webhooks_table(args: WebhooksArgs) -> anyhow::Result<ExitCode> {
    let WebhooksArgs { only, how } = args;
    let sizes = if how.quick { webhooks::Sizes::quick() } else { webhooks::Sizes::full(how.runs) };
    let measure = async |lab: &Lab<webhooks::Sizes>, table: &mut Table| {
        for part in webhooks::Part::chosen(&only) {
            webhooks::run(part, lab, table).await?;
        }
        anyhow::Ok(())
    };
    tabulate(how, sizes.runs, sizes, measure)
}

/// The table of schedules.
fn schedules_table(args: SchedulesArgs) -> anyhow::Result<ExitCode> {
    let SchedulesArgs { only, how } = args;
    let sizes = if how.quick { schedules::Sizes::quick() } else { schedules::Sizes::full(how.runs) };
    let measure = async |lab: &Lab<schedules::Sizes>, table: &mut Table| {
        for part in schedules::Part::chosen(&only) {
            schedules::run(part, lab, table).await?;
        }
        anyhow::Ok(())
    };
    tabulate(how, sizes.runs, sizes, measure)
}

/// Takes all measures and prints their table. The exit code is 1 when a measure is beyond its failure limit, except after `--quick`.
fn tabulate<S>(
    how: HowArgs,
    runs: u8,
    sizes: S,
    measure: impl AsyncFnOnce(&Lab<S>, &mut Table) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let (binary, profile) = match how.binary {
        Some(binary) => (binary.canonicalize()?, "given by --binary".to_owned()),
        None => build::engine()?,
    };
    eprintln!("engine: {} ({profile})", binary.display());
    let lab = Lab { binary, programs: Programs::of_this_process()?, folder: how.dir, sizes };
    let before = procfs::load_average()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut table = Table::default();
    runtime.block_on(measure(&lab, &mut table))?;
    let cores = std::thread::available_parallelism()?;
    println!(
        "load average {before} at the start, {} at the end; {cores} cores; engine: {profile}",
        procfs::load_average()?
    );
    println!(
        "median of {} (least to most)\n",
        if runs == 1 { "1 run".to_owned() } else { format!("{runs} runs") }
    );
    print!("{table}");
    if how.quick {
        println!("\nThis was a quick run: it shows that everything works, its figures say nothing.");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if table.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
