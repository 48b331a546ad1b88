//! `promptmill`: the command line. This file is wiring: arguments in, exit code out.

mod archive;
mod args;
mod client;
mod config;
mod doctor;
mod env;
mod exit;
mod health;
mod init;
mod key;
mod models;
mod progress;
mod run;
mod serve;

use clap::FromArgMatches as _;
use promptmill_runtime::fleet::{RoleError, print_help_if_asked, run_to_its_end, settings_of};
use promptmill_runtime::{LogFormat, Settings};

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let settings = env::load_dotenv().and_then(|()| {
        settings_of(&args::command())
            .map_err(|error| Failure::input(error.to_string().replace('\n', "\nerror: ")))
    });
    let settings = settings.unwrap_or_else(|failure| {
        print_help_if_asked(&args::command());
        failed(&failure);
        std::process::exit(failure.exit() as i32);
    });
    let matches = settings.onto(args::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let usual = if cli.command.is_service() { "info" } else { "error" };
    promptmill_runtime::raise_file_limit();
    promptmill_runtime::init_telemetry(
        cli.log.as_deref().unwrap_or(usual),
        if cli.log_json || settings.is_on("PROMPTMILL_LOG_JSON") { LogFormat::Json } else { LogFormat::Text },
    );
    match dispatch(cli.command, settings) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failed(&failure);
            failure.exit().into()
        }
    }
}

fn failed(failure: &Failure) {
    eprintln!("error: {failure}");
}

fn dispatch(command: Command, settings: Settings) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => block_on(run::run(*args, &settings))?,
        Command::Serve(args) => block_on(serve::serve(args, &settings))?,
        Command::Api(args) => role(promptmill_api::role::run(args, settings)),
        Command::Worker(args) => role(promptmill_worker::role::run(args, settings)),
        Command::Scheduler(args) => role(promptmill_scheduler::role::run(*args, settings)),
        Command::Batch(command) => block_on(client::batch(command))?,
        Command::Top(args) => block_on(client::top(&args.server, args.once))?,
        Command::Rows(command) => block_on(client::rows(command))?,
        Command::Schedule(command) => block_on(client::schedule(command))?,
        Command::Webhook(command) => block_on(client::webhook(command))?,
        Command::Template(command) => block_on(client::template(command))?,
        Command::Key(command) => block_on(key::key(command, &settings))?,
        Command::Config(command) => config::config(command, &settings),
        Command::Export(args) => block_on(archive::export_all(args, &settings))?,
        Command::Import(args) => block_on(archive::import_all(args, &settings))?,
        Command::Doctor(args) => block_on(doctor::doctor(args, &settings))?,
        Command::Health(args) => block_on(health::health(args))?,
        Command::Models(args) => block_on(models::list(args, &settings))?,
        Command::Init(args) => init::init(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut args::command(), "promptmill", &mut std::io::stdout());
            Ok(Exit::Success)
        }
    }
}

fn role(role: impl Future<Output = Result<(), RoleError>>) -> Result<Exit, Failure> {
    run_to_its_end(role)?;
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
