//! `promptmill config`: what is wrong with the settings, what they are, and what there is to set.

use clap::{Subcommand, ValueEnum};
use promptmill_runtime::{ProviderError, ProviderSettings, Providers, Settings};
use promptmill_settings::{reference, shown, strange_variables, unset};
use promptmill_vault::{Vault, api_key};

use crate::args::command;
use crate::exit::{Exit, Failure};

/// The commands that serve, and so have settings.
const ROLES: [&str; 4] = ["serve", "api", "worker", "scheduler"];

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with the settings, each with its line, or that nothing is. Nobody is asked.
    Check {
        /// Say also what these still need.
        #[arg(value_enum)]
        roles: Vec<RoleName>,
    },
    /// Print what is in force as a file of settings, with where each comes from. Secrets are hidden.
    Show,
    /// Print a table of all settings.
    Reference,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleName {
    Serve,
    Api,
    Worker,
    Scheduler,
}

impl RoleName {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Scheduler => "scheduler",
        }
    }
}

pub(crate) fn config(command: ConfigCommand, settings: &Settings) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check { roles } => check(&roles, settings),
        ConfigCommand::Show => {
            print!("{}", shown(settings, &roles_of(&ROLES)));
            Ok(Exit::Success)
        }
        ConfigCommand::Reference => {
            print!("{}", reference(&roles_of(&ROLES)));
            Ok(Exit::Success)
        }
    }
}

fn roles_of(names: &[&str]) -> Vec<clap::Command> {
    let all = command();
    names.iter().filter_map(|name| all.find_subcommand(name).cloned()).collect()
}

/// What a start would say of the settings is said already; this says the rest.
fn check(roles: &[RoleName], settings: &Settings) -> Result<Exit, Failure> {
    let mut wrong: Vec<String> =
        strange_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()));
    match ProviderSettings::from_env(|name| settings.get(name)).and_then(Providers::new) {
        Ok(_) => {}
        Err(ProviderError::Config { variable, source }) => {
            wrong.push(Failure::work(format!("{} is wrong", settings.place(variable)), source).to_string());
        }
        Err(error) => wrong.push(Failure::work("the providers cannot be set up", error).to_string()),
    }
    if let Some(keys) = settings.get("PROMPTMILL_MASTER_KEY")
        && let Err(error) = Vault::from_keys(&keys)
    {
        let place = settings.place("PROMPTMILL_MASTER_KEY");
        wrong.push(Failure::work(format!("{place} cannot be used"), error).to_string());
    }
    if let Some(key) = settings.get("PROMPTMILL_BOOTSTRAP_KEY")
        && let Err(error) = api_key::parse(&key)
    {
        let place = settings.place("PROMPTMILL_BOOTSTRAP_KEY");
        wrong.push(Failure::work(format!("{place} cannot be used"), error).to_string());
    }
    let mut needs: Vec<String> = Vec::new();
    for role in roles {
        let role_needs =
            roles_of(&[role.as_str()]).iter().flat_map(|command| unset(settings, command)).collect();
        needs.extend::<Vec<String>>(role_needs);
        let is_of_fleet = matches!(role, RoleName::Api | RoleName::Scheduler);
        if is_of_fleet && settings.get("PROMPTMILL_MASTER_KEY").is_none() {
            needs.push(format!("{} needs master_key (PROMPTMILL_MASTER_KEY)", role.as_str()));
        }
    }
    wrong.extend(needs);
    if !wrong.is_empty() {
        return Err(Failure::input(wrong.join("\nerror: ")));
    }
    match settings.config() {
        Some(file) => eprintln!("{} and the environment are right", file.display()),
        None => eprintln!("the environment is right; there is no file of settings"),
    }
    Ok(Exit::Success)
}
