//! Where the settings of a process come from: its arguments, then its environment, then one TOML file, then the defaults.
//!
//! What an argument of a role means, its default and its limits are said once, by the role (clap); [`SETTINGS`] says what it is called in the
//! file and in the environment. Everything that is told of settings comes of these two: errors with the line, what is in force and where it
//! comes from, and the reference page.

mod command;
mod file;
mod known;
mod reference;
mod sources;
mod told;

pub use command::{config_argument, config_of};
pub use known::{Kind, SETTINGS, Setting};
pub use reference::reference;
pub use sources::{Origin, Settings, SettingsError, Value};
pub use told::{shown, strange_variables, unset};
