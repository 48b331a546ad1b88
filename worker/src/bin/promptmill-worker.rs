//! `promptmill-worker`: the worker role alone, the same as `promptmill worker`.

use std::process::ExitCode;

use promptmill_runtime::fleet::run_role;
use promptmill_worker::role;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = clap::Command::new("promptmill-worker")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The worker of a promptmill fleet.")
        .max_term_width(110);
    run_role(command, role::run)
}
