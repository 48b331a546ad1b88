//! `promptmill-worker`: the worker role alone, the same as `promptmill worker`.

use std::process::ExitCode;

use clap::Parser;
use promptmill_worker::role::{WorkerArgs, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The worker of a promptmill fleet.
#[derive(Debug, Parser)]
#[command(name = "promptmill-worker", version, about, max_term_width = 110)]
struct Command {
    #[command(flatten)]
    args: WorkerArgs,
}

fn main() -> ExitCode {
    let Command { args } = Command::parse();
    promptmill_runtime::fleet::run_role(run(args))
}
