//! `promptmill`: the command line. This file is wiring: arguments in, exit code out.

mod args;
mod client;
mod env;
mod exit;
mod init;
mod key;
mod models;
mod progress;
mod run;
mod serve;

use clap::{CommandFactory, Parser};
use promptmill_runtime::LogFormat;
use promptmill_runtime::fleet::RoleError;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let env = env::load_dotenv();
    let cli = Cli::parse();
    let usual = if cli.command.is_service() { "info" } else { "error" };
    promptmill_runtime::raise_file_limit();
    promptmill_runtime::init_telemetry(
        cli.log.as_deref().unwrap_or(usual),
        if cli.log_json { LogFormat::Json } else { LogFormat::Text },
    );
    let result = env.and_then(|()| dispatch(cli.command));
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit().into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => block_on(run::run(*args))?,
        Command::Serve(args) => block_on(serve::serve(args))?,
        Command::Api(args) => role(promptmill_api::role::run(args)),
        Command::Worker(args) => role(promptmill_worker::role::run(args)),
        Command::Scheduler(args) => role(promptmill_scheduler::role::run(*args)),
        Command::Batch(command) => block_on(client::batch(command))?,
        Command::Template(command) => block_on(client::template(command))?,
        Command::Key(command) => block_on(key::key(command))?,
        Command::Models(args) => block_on(models::list(args))?,
        Command::Init(args) => init::init(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "promptmill", &mut std::io::stdout());
            Ok(Exit::Success)
        }
    }
}

fn role(role: impl Future<Output = Result<(), RoleError>>) -> Result<Exit, Failure> {
    block_on(role)??;
    Ok(Exit::Success)
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::work("the runtime cannot be started", error))?;
    let result = runtime.block_on(work);
    // A read of standard input that never ends must not keep the process.
    runtime.shutdown_background();
    Ok(result)
}
