//! `promptmill-api`: the api role alone, the same as `promptmill api`.

use std::process::ExitCode;

use clap::Parser;
use promptmill_api::role::{ApiArgs, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The api of a promptmill fleet.
#[derive(Debug, Parser)]
#[command(name = "promptmill-api", version, about, max_term_width = 110)]
struct Command {
    #[command(flatten)]
    args: ApiArgs,
}

fn main() -> ExitCode {
    let Command { args } = Command::parse();
    promptmill_runtime::fleet::run_role(run(args))
}
