//! The doubles as a process of their own, which outlives whatever a test kills.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use promptmill_doubles::{Config, Doubles, FaultPlan, Latency, Preset};

/// A load generator should measure its client, not this program's allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Fault-making doubles of OpenRouter, Ollama and OpenAI-compatible servers.
///
/// Base URLs: /openrouter/api/v1, /ollama, /openai/v1. GET /_ledger tells what was seen, POST /_reset forgets it,
/// PUT /_plan replaces the faults.
#[derive(Debug, Parser)]
#[command(name = "promptmill-doubles")]
struct Args {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Faults: none, standard, storm, unknown_model or refused_key.
    #[arg(long, default_value = "none")]
    preset: Preset,
    /// JSON file with a plan, in place of a preset.
    #[arg(long, conflicts_with = "preset")]
    plan: Option<PathBuf>,
    /// Decides every reply, latency and fault together with what is asked.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Milliseconds before the first byte, one number or a range such as 5..20.
    #[arg(long, default_value = "0")]
    latency_ms: Latency,
    /// Milliseconds a hanging call is held before its connection is reset.
    #[arg(long, default_value_t = 5_000)]
    hang_ms: u64,
    /// Milliseconds a slow call waits on top of the latency.
    #[arg(long, default_value_t = 250)]
    slow_ms: u64,
    /// Milliseconds before each piece of a dripping reply.
    #[arg(long, default_value_t = 50)]
    drip_ms: u64,
    /// Milliseconds after a 429 in which a call counts as already on its way.
    #[arg(long, default_value_t = 50)]
    early_grace_ms: u64,
    /// A key OpenRouter accepts (repeatable); without one it accepts any.
    #[arg(long = "openrouter-key", value_name = "KEY")]
    openrouter_keys: Vec<String>,
    /// A key the OpenAI-compatible server accepts (repeatable); without one it asks for none.
    #[arg(long = "openai-key", value_name = "KEY")]
    openai_keys: Vec<String>,
    /// A model that exists (repeatable); without one every name does.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Print `listening on ADDR` as the first line.
    #[arg(long)]
    print_addr: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let plan = match &args.plan {
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{} is not a plan", path.display()))?
        }
        None => FaultPlan::from(args.preset),
    };
    let doubles = Doubles::start(Config {
        listen: args.listen,
        seed: args.seed,
        plan,
        latency: args.latency_ms,
        slow_first_byte: Duration::from_millis(args.slow_ms),
        hang: Duration::from_millis(args.hang_ms),
        drip: Duration::from_millis(args.drip_ms),
        openrouter_keys: args.openrouter_keys,
        openai_keys: args.openai_keys,
        models: args.models,
        early_grace: Duration::from_millis(args.early_grace_ms),
    })
    .with_context(|| format!("cannot listen on {}", args.listen))?;
    if args.print_addr {
        println!("listening on {}", doubles.addr());
        std::io::stdout().flush().context("cannot write to standard output")?;
    }
    loop {
        // The doubles serve from their own thread; the process ends by a signal.
        std::thread::park();
    }
}
