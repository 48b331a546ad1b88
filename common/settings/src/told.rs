//! What is told of the settings of a process: what is in force, what is missing, what looks like a setting and is none.

use std::fmt::Write as _;

use clap::{Arg, Command};

use crate::command::env_of;
use crate::known::{Kind, SETTINGS, Setting};
use crate::sources::Settings;

/// Variables of ours that are no settings: where the file is, and what clients need.
const OTHERS: [&str; 5] = [
    "PROMPTMILL_CONFIG",
    "PROMPTMILL_URL",
    "PROMPTMILL_API_KEY",
    "PROMPTMILL_WEBHOOK_SECRET",
    // Of docker-compose.yml.
    "PROMPTMILL_VERSION",
];

/// What is in force, as a file of settings, each with where it comes from; defaults are those of the first of `roles` that has one. Secrets are
/// hidden.
pub fn shown(settings: &Settings, roles: &[Command]) -> String {
    let mut text = String::new();
    let mut table = "";
    for setting in SETTINGS {
        let (of, name) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        if of != table {
            // A String takes every write.
            let _ = writeln!(text, "\n[{of}]");
            table = of;
        }
        let default = || {
            let arg = roles.iter().find_map(|role| argument(role, setting.env))?;
            let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_str()).collect();
            Some(values.into_iter().collect::<Option<Vec<_>>>()?.join(",")).filter(|value| !value.is_empty())
        };
        let _ = match (settings.value(setting.env), default()) {
            (Some(value), _) => {
                let written = if setting.secret {
                    "\"(hidden)\"".to_owned()
                } else {
                    toml_of(setting.kind, value.text())
                };
                writeln!(text, "{name} = {written}  # {}", settings.source(setting, &value.origin))
            }
            (None, Some(default)) => {
                writeln!(text, "{name} = {}  # default", toml_of(setting.kind, &default))
            }
            (None, None) => writeln!(text, "# {name} is not set"),
        };
    }
    text
}

/// What a role needs and nobody said, in a sentence each.
pub fn unset(settings: &Settings, role: &Command) -> Vec<String> {
    let is_needed = |setting: &&Setting| {
        argument(role, setting.env).is_some_and(Arg::is_required_set) && settings.value(setting.env).is_none()
    };
    let missing = SETTINGS.iter().filter(is_needed);
    missing.map(|setting| format!("{} needs {} ({})", role.get_name(), setting.key, setting.env)).collect()
}

/// Of the names of the environment those that look like ours and mean nothing, in a sentence each.
pub fn strange_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let known = |name: &str| {
        let of_file = |name: &str| Setting::of_env(name).is_some_and(|setting| setting.secret);
        OTHERS.contains(&name)
            || Setting::of_env(name).is_some()
            || name.strip_suffix("_FILE").is_some_and(of_file)
    };
    let mut strange: Vec<_> =
        names.into_iter().filter(|name| name.starts_with("PROMPTMILL_") && !known(name)).collect();
    strange.sort_unstable();
    let near = |name: &str| {
        let alike = SETTINGS.iter().map(|setting| (strsim::jaro_winkler(name, setting.env), setting.env));
        alike.max_by(|(one, _), (other, _)| one.total_cmp(other)).filter(|(alike, _)| *alike > 0.95)
    };
    let sentence = |name: String| match near(&name) {
        Some((_, env)) => format!("there is no variable {name}; is {env} meant?"),
        None => format!("there is no variable {name}"),
    };
    strange.into_iter().map(sentence).collect()
}

fn argument<'a>(role: &'a Command, env: &str) -> Option<&'a Arg> {
    role.get_arguments().find(|arg| env_of(arg).is_some_and(|of| of == env))
}

fn toml_of(kind: Kind, text: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
    match kind {
        Kind::Text => quoted(text),
        Kind::Number => text.to_owned(),
        Kind::Switch => (!matches!(text, "0" | "false")).to_string(),
        Kind::List => format!("[{}]", items().map(quoted).collect::<Vec<_>>().join(", ")),
        Kind::Shares => {
            let shares = items().map(|item| item.replacen('=', " = ", 1));
            format!("{{ {} }}", shares.collect::<Vec<_>>().join(", "))
        }
    }
}
