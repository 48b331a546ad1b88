//! The values of one process, each with where it comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Command;

use crate::file::{self, Says, Wrong};
use crate::known::{SETTINGS, Setting};

/// The file that is read where none is named, if it is there.
const USUAL_FILE: &str = "promptmill.toml";

/// Names the file.
const CONFIG_ENV: &str = "PROMPTMILL_CONFIG";

/// Larger ones are something else than what they are said to be.
const MOST_CONFIG_BYTES: u64 = 1024 * 1024;
const MOST_SECRET_BYTES: u64 = 64 * 1024;

/// What was said about the settings of a process, by its environment and its file. What its arguments say is clap's.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    config: Option<PathBuf>,
    /// By the variable of the environment.
    values: BTreeMap<&'static str, Value>,
}

/// A value as text, as it would stand in the environment.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    text: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The variable of the environment.
    Environment,
    /// The file that the variable with `_FILE` names.
    FileOfEnvironment(PathBuf),
    /// A line of the file of settings.
    Config {
        /// Which.
        line: usize,
        /// The file that the line names, for a secret.
        file: Option<PathBuf>,
    },
}

/// What is wrong, in one sentence that says where. Holds no value of a secret.
#[derive(Debug)]
pub(crate) struct Complaint {
    /// In the file of settings.
    line: Option<usize>,
    sentence: String,
}

/// Everything that is wrong with the settings of a process, a sentence a line: what is wrong in the file first, in its order.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|complaint| complaint.sentence.as_str()).collect::<Vec<_>>().join("\n"))]
pub struct SettingsError(Vec<Complaint>);

impl Complaint {
    pub(crate) fn new(line: Option<usize>, sentence: String) -> Self {
        Self { line, sentence }
    }
}

impl Origin {
    pub(crate) const fn line(&self) -> Option<usize> {
        match self {
            Self::Environment | Self::FileOfEnvironment(_) => None,
            Self::Config { line, .. } => Some(*line),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Value {
    /// The value. Shown to nobody where its setting is a secret.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Settings {
    /// Reads the file `config`, or the one that `PROMPTMILL_CONFIG` names, or `promptmill.toml` of the current folder where it is, and what
    /// `environment` says. What is empty in the environment counts as not set; what stands there counts more than the file.
    ///
    /// # Errors
    /// All that is wrong: a file that cannot be read or is no TOML, unknown keys, values that neither their setting nor its argument in `command`
    /// or a command below it takes, what is said twice in two ways, secrets whose file cannot be read.
    pub fn load(
        config: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
        command: &Command,
    ) -> Result<Self, SettingsError> {
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let named = config.map(Path::to_owned).or_else(|| environment(CONFIG_ENV).map(PathBuf::from));
        let usual = || Some(PathBuf::from(USUAL_FILE)).filter(|usual| usual.exists());
        let mut complaints = Vec::new();
        let mut settings = Self { config: named.or_else(usual), values: BTreeMap::new() };
        let config = settings.config.clone();
        let unread =
            config.as_deref().map(|path| settings.read_config(path, &mut complaints)).unwrap_or_default();
        for setting in SETTINGS {
            settings.read_environment(setting, &environment, &mut complaints);
        }
        for (setting, line, why) in unread {
            // What the environment says goes before it.
            if settings.value(setting.env).is_none() {
                let config = settings.config().unwrap_or(Path::new("")).display();
                let sentence = format!("{config}:{line}: the file of {}_file {why}", setting.key);
                complaints.push(Complaint::new(Some(line), sentence));
            }
        }
        settings.contradictions(&mut complaints);
        complaints.extend(settings.untaken(command));
        if complaints.is_empty() {
            return Ok(settings);
        }
        complaints.sort_by_key(|complaint| complaint.line.unwrap_or(usize::MAX));
        Err(SettingsError(complaints))
    }

    /// Answers the secrets whose files cannot be read, each with its line and why.
    fn read_config(
        &mut self,
        path: &Path,
        complaints: &mut Vec<Complaint>,
    ) -> Vec<(&'static Setting, usize, String)> {
        let text = match bounded(path, MOST_CONFIG_BYTES) {
            Ok(text) => text,
            Err(why) => {
                complaints.push(Complaint::new(None, format!("the settings file {} {why}", path.display())));
                return Vec::new();
            }
        };
        let mut unread = Vec::new();
        let at = |line: usize| format!("{}:{line}", path.display());
        let (entries, wrong) = file::read(&text);
        for Wrong { line, what } in wrong {
            complaints.push(Complaint::new(Some(line), format!("{}: {what}", at(line))));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for entry in entries {
            let (text, file) = match entry.says {
                Says::Text(text) => (Ok(text), None),
                Says::InFile(name) => {
                    let file = folder.join(name);
                    (bounded(&file, MOST_SECRET_BYTES).and_then(|text| secret_of(&text)), Some(file))
                }
            };
            match text {
                Ok(text) => {
                    let origin = Origin::Config { line: entry.line, file };
                    self.values.insert(entry.setting.env, Value { text, origin });
                }
                // The name is not repeated: whoever confuses it with the secret wrote that there.
                Err(why) => unread.push((entry.setting, entry.line, why)),
            }
        }
        unread
    }

    fn read_environment(
        &mut self,
        setting: &'static Setting,
        environment: &impl Fn(&str) -> Option<String>,
        complaints: &mut Vec<Complaint>,
    ) {
        let itself = environment(setting.env);
        let file = Some(setting.env_file())
            .filter(|_| setting.secret)
            .and_then(|name| Some((environment(&name)?, name)));
        let value = match (itself, file) {
            (Some(_), Some((_, name))) => {
                let sentence = format!("{} and {name} are both set; leave one of them out", setting.env);
                complaints.push(Complaint::new(None, sentence));
                return;
            }
            (Some(text), None) => Value { text, origin: Origin::Environment },
            (None, Some((file, name))) => {
                let file = PathBuf::from(file);
                match bounded(&file, MOST_SECRET_BYTES).and_then(|text| secret_of(&text)) {
                    Ok(text) => Value { text, origin: Origin::FileOfEnvironment(file) },
                    Err(why) => {
                        complaints.push(Complaint::new(None, format!("{name}: the file {why}")));
                        return;
                    }
                }
            }
            (None, None) => return,
        };
        self.values.insert(setting.env, value);
    }

    /// What cannot hold at the same time.
    fn contradictions(&self, complaints: &mut Vec<Complaint>) {
        let [listen, metrics] =
            ["PROMPTMILL_LISTEN", "PROMPTMILL_METRICS_LISTEN"].map(|env| self.values.get(env));
        if let (Some(listen), Some(metrics)) = (listen, metrics)
            && listen.text == metrics.text
            && !listen.text.ends_with(":0")
        {
            let place = self.place("PROMPTMILL_METRICS_LISTEN");
            let sentence =
                format!("{place} must be another address than listen, which is {} too", listen.text);
            complaints.push(Complaint::new(metrics.origin.line(), sentence));
        }
    }

    /// The file of settings that was read.
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// What was said of the setting with this variable, which must be one.
    pub fn get(&self, env: &str) -> Option<String> {
        debug_assert!(Setting::of_env(env).is_some(), "{env} is no setting");
        self.value(env).map(|value| value.text.clone())
    }

    /// The same with where it comes from.
    pub fn value(&self, env: &str) -> Option<&Value> {
        self.values.get(env)
    }

    /// Whether the setting is a switch that is on: anything but `0` and `false`.
    pub fn is_on(&self, env: &str) -> bool {
        self.get(env).is_some_and(|value| !matches!(value.as_str(), "0" | "false"))
    }

    /// Where a setting is said, for a comment.
    pub(crate) fn source(&self, setting: &Setting, origin: &Origin) -> String {
        match origin {
            Origin::Environment => setting.env.to_owned(),
            Origin::FileOfEnvironment(file) => format!("{}: {}", setting.env_file(), file.display()),
            Origin::Config { line, file } => {
                let config = self.config.as_deref().unwrap_or(Path::new("")).display();
                let file = file.as_ref().map(|file| format!(": {}", file.display())).unwrap_or_default();
                format!("{config}:{line}{file}")
            }
        }
    }

    /// Where the setting with this variable is said, as the beginning of a sentence about it.
    pub fn place(&self, env: &str) -> String {
        let key = Setting::of_env(env).map_or(env, |setting| setting.key);
        match self.value(env).map(|value| &value.origin) {
            None | Some(Origin::Environment) => format!("{env}:"),
            Some(Origin::FileOfEnvironment(file)) => format!("{env}_FILE: what is in {}", file.display()),
            Some(Origin::Config { line, file }) => {
                let config = self.config.as_deref().unwrap_or(Path::new("")).display();
                match file {
                    None => format!("{config}:{line}: {key}"),
                    Some(file) => format!("{config}:{line}: what is in {}", file.display()),
                }
            }
        }
    }
}

/// A file of text of at most so many bytes; else why not, to be read behind its name.
fn bounded(path: &Path, most: u64) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(most + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > most {
        return Err(format!("is larger than {most} bytes"));
    }
    String::from_utf8(text).map_err(|_| "is not UTF-8".to_owned())
}

/// The secret in a file: its text without the line's end.
fn secret_of(text: &str) -> Result<String, String> {
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() { Err("is empty".to_owned()) } else { Ok(secret.to_owned()) }
}
