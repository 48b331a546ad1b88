//! Settings and clap: what the file says is the default of the argument, so that argument and environment go before it.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, Command, value_parser};

use crate::known::Setting;
use crate::sources::{Complaint, Origin, Settings};

/// `--config FILE`, of every command.
pub fn config_argument() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .global(true)
        .value_parser(value_parser!(PathBuf))
        .help("The file of settings (TOML). Default: PROMPTMILL_CONFIG, or promptmill.toml of the current folder if it is there.")
}

/// The file that the arguments name, before anything else of them can be read.
pub fn config_of(arguments: impl IntoIterator<Item = OsString>) -> Option<PathBuf> {
    let mut arguments = arguments.into_iter().take_while(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(named) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(PathBuf::from(named));
        }
    }
    None
}

impl Settings {
    /// The command whose arguments take what was said here where neither they nor the environment say something.
    pub fn onto(&self, command: Command) -> Command {
        let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        let command = command.mut_args(|arg| self.default_of(arg));
        names.into_iter().fold(command, |command, name| command.mut_subcommand(name, |sub| self.onto(sub)))
    }

    fn default_of(&self, arg: Arg) -> Arg {
        let Some(env) = env_of(&arg) else { return arg };
        let Some(value) = self.value(&env) else {
            // A variable that is set to nothing is not set.
            let is_empty =
                Setting::of_env(&env).is_some() && std::env::var_os(&env).is_some_and(|text| text.is_empty());
            return if is_empty { arg.env(None::<&'static str>) } else { arg };
        };
        if value.origin == Origin::Environment {
            return arg;
        }
        let arg = arg.env(None::<&'static str>).required(false);
        match arg.get_value_delimiter() {
            Some(delimiter) => {
                let values: Vec<_> = value.text().split(delimiter).map(str::to_owned).collect();
                arg.default_values(values)
            }
            None => arg.default_value(value.text().to_owned()).hide_default_value(is_secret(&env)),
        }
    }

    /// The values that their arguments in `command` or a command below it do not take.
    pub(crate) fn untaken(&self, command: &Command) -> Vec<Complaint> {
        let mut complaints = BTreeMap::new();
        self.untaken_into(command, &mut complaints);
        complaints.into_values().collect()
    }

    fn untaken_into(&self, command: &Command, complaints: &mut BTreeMap<String, Complaint>) {
        for arg in command.get_arguments() {
            let Some(env) = env_of(arg) else { continue };
            let Some((value, setting)) = self.value(&env).zip(Setting::of_env(&env)) else { continue };
            if let Err(why) = taken_by(arg, value.text(), setting.secret) {
                let complaint = Complaint::new(value.origin.line(), format!("{} {why}", self.place(&env)));
                complaints.entry(env).or_insert(complaint);
            }
        }
        for sub in command.get_subcommands() {
            self.untaken_into(sub, complaints);
        }
    }
}

pub(crate) fn env_of(arg: &Arg) -> Option<String> {
    Some(arg.get_env()?.to_str()?.to_owned())
}

fn is_secret(env: &str) -> bool {
    Setting::of_env(env).is_some_and(|setting| setting.secret)
}

/// Whether the argument takes the value; else why not, to be read behind its name.
fn taken_by(arg: &Arg, value: &str, is_secret: bool) -> Result<(), String> {
    let Some(long) = arg.get_long() else { return Ok(()) };
    let alone = arg.clone().env(None::<&'static str>).required(false).global(false);
    let command = Command::new("check").no_binary_name(true).disable_help_flag(true).arg(alone);
    let Err(error) = command.try_get_matches_from([format!("--{long}={value}")]) else { return Ok(()) };
    Err(match error.source() {
        // What a parser says may repeat what it was given.
        Some(why) if !is_secret => format!("cannot be {value:?}: {why}"),
        _ => "is not what it has to be".to_owned(),
    })
}
