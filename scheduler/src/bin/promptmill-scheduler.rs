//! `promptmill-scheduler`: the scheduler role alone, the same as `promptmill scheduler`.

use std::process::ExitCode;

use promptmill_runtime::fleet::run_role;
use promptmill_scheduler::role;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = clap::Command::new("promptmill-scheduler")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The scheduler of a promptmill fleet.")
        .max_term_width(110);
    run_role(command, role::run)
}
