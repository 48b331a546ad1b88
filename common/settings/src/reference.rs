//! The reference page: every setting with what the roles say of it.

use std::fmt::Write as _;

use clap::{Arg, Command};

use crate::known::{Kind, SETTINGS, Setting};

/// The table of all settings, in Markdown. `roles` are the commands that serve; what an argument of theirs says of itself is what stands in the table.
pub fn reference(roles: &[Command]) -> String {
    let mut page =
        String::from("| in the file | in the environment | of | default | |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let of: Vec<(&Command, &Arg)> = roles
            .iter()
            .filter_map(|role| Some((role, role.get_arguments().find(|arg| env_is(arg, setting.env))?)))
            .collect();
        let (whose, about) = match setting.about {
            Some((whose, about)) => (whose.to_owned(), about.to_owned()),
            None => {
                let names: Vec<_> = of.iter().map(|(role, _)| role.get_name()).collect();
                let help = of.first().and_then(|(_, arg)| arg.get_help());
                (names.join(", "), help.map(ToString::to_string).unwrap_or_default())
            }
        };
        let default = of.first().map(|(_, arg)| default_of(arg)).unwrap_or_default();
        // A String takes every write.
        let _ = writeln!(
            page,
            "| `{}`{} | `{}`{} | {whose} | {default} | {} |",
            setting.key,
            if setting.secret {
                format!(", `{}_file`", setting.key.rsplit('.').next().unwrap_or_default())
            } else {
                String::new()
            },
            setting.env,
            if setting.secret { ", `..._FILE`".to_owned() } else { String::new() },
            sentence(setting, &about),
        );
    }
    page
}

fn env_is(arg: &Arg, env: &str) -> bool {
    arg.get_env().is_some_and(|of| of == env)
}

fn default_of(arg: &Arg) -> String {
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    match values.as_slice() {
        [] if arg.is_required_set() => "required".to_owned(),
        [] => String::new(),
        values => format!("`{}`", values.join(",")),
    }
}

fn sentence(setting: &Setting, about: &str) -> String {
    let about = about.replace('|', "\\|");
    let about = about.trim_end_matches('.');
    match setting.kind {
        Kind::List => format!("{about}. A list in the file, separated by commas in the environment"),
        Kind::Shares => format!("{about}. A table in the file, `acme=3,other=2` in the environment"),
        Kind::Text | Kind::Number | Kind::Switch => about.to_owned(),
    }
}
