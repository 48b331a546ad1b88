//! `promptmill-scheduler`: the scheduler role alone, the same as `promptmill scheduler`.

use std::process::ExitCode;

use clap::Parser;
use promptmill_scheduler::role::{SchedulerArgs, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The scheduler of a promptmill fleet.
#[derive(Debug, Parser)]
#[command(name = "promptmill-scheduler", version, about, max_term_width = 110)]
struct Command {
    #[command(flatten)]
    args: SchedulerArgs,
}

fn main() -> ExitCode {
    let Command { args } = Command::parse();
    promptmill_runtime::fleet::run_role(run(args))
}
