//! `promptmill-api`: the api role alone, the same as `promptmill api`.

use std::process::ExitCode;

use promptmill_api::role;
use promptmill_runtime::fleet::run_role;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = clap::Command::new("promptmill-api")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The api of a promptmill fleet.")
        .max_term_width(110);
    run_role(command, role::run)
}
