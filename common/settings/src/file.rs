//! The TOML file, with the line of everything that is wrong with it.

use toml::de::{DeTable, DeValue};

use crate::known::{Kind, SETTINGS, Setting};

/// A setting as the file says it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) setting: &'static Setting,
    pub(crate) line: usize,
    pub(crate) says: Says,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// This, as it would stand in the environment.
    Text(String),
    /// That it stands in the file of this name.
    InFile(String),
}

/// What is wrong in a line. Never holds a value: it may be a secret.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// What the file says, and everything that is wrong with it.
pub(crate) fn read(text: &str) -> (Vec<Entry>, Vec<Wrong>) {
    let mut reading = Reading { text, entries: Vec::new(), wrong: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => reading.table("", table.get_ref()),
        Err(error) => {
            let line = error.span().map_or(1, |span| reading.line_at(span.start));
            // The error's own text would show the line itself.
            reading.wrong.push(Wrong { line, what: error.message().replace('\n', " ") });
        }
    }
    (reading.entries, reading.wrong)
}

struct Reading<'a> {
    text: &'a str,
    entries: Vec<Entry>,
    wrong: Vec<Wrong>,
}

impl Reading<'_> {
    fn line_at(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn table(&mut self, path: &str, table: &DeTable<'_>) {
        // In the order of the file, which is the one people mend it in.
        let mut members: Vec<_> = table.iter().collect();
        members.sort_by_key(|(key, _)| key.span().start);
        for (name, value) in members {
            let key = match path {
                "" => name.get_ref().to_string(),
                path => format!("{path}.{}", name.get_ref()),
            };
            let line = self.line_at(name.span().start);
            self.member(&key, line, value.get_ref());
        }
    }

    fn member(&mut self, key: &str, line: usize, value: &DeValue<'_>) {
        let (setting, is_file) = match (Setting::of_key(key), Setting::of_file_key(key)) {
            (Some(setting), _) => (setting, false),
            (None, Some(setting)) => (setting, true),
            (None, None) => {
                let is_table = SETTINGS.iter().any(|setting| is_in(setting.key, key));
                return match value {
                    DeValue::Table(table) if is_table => self.table(key, table),
                    _ if is_table => {
                        self.wrong.push(Wrong { line, what: format!("{key} must be a table: [{key}]") })
                    }
                    _ => self.wrong.push(Wrong { line, what: unknown(key) }),
                };
            }
        };
        let kind = if is_file { Kind::Text } else { setting.kind };
        let Some(text) = text_of(kind, value) else {
            self.wrong.push(Wrong { line, what: format!("{key} {}", kind.expected()) });
            return;
        };
        if let Some(other) = self.entries.iter().find(|entry| entry.setting == setting) {
            let what = format!(
                "{key} says again what line {} says in another way; leave one of them out",
                other.line
            );
            self.wrong.push(Wrong { line, what });
            return;
        }
        // Nothing of a list is as if it were not said.
        if text.is_empty() && matches!(kind, Kind::List | Kind::Shares) {
            return;
        }
        let says = if is_file { Says::InFile(text) } else { Says::Text(text) };
        self.entries.push(Entry { setting, line, says });
    }
}

fn is_in(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

fn text_of(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    let number = |value: &DeValue<'_>| match value {
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok(),
        _ => None,
    };
    match (kind, value) {
        (Kind::Text, DeValue::String(text)) => Some(text.to_string()),
        (Kind::Number, value) => Some(number(value)?.to_string()),
        (Kind::Switch, DeValue::Boolean(so)) => Some(so.to_string()),
        (Kind::List, DeValue::Array(items)) => {
            let texts: Option<Vec<_>> =
                items.iter().map(|item| text_of(Kind::Text, item.get_ref())).collect();
            Some(texts?.join(","))
        }
        (Kind::Shares, DeValue::Table(table)) => {
            let share = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                Some(format!("{}={}", name.get_ref() as &std::borrow::Cow<'_, str>, number(value.get_ref())?))
            };
            let shares: Option<Vec<_>> = table.iter().map(share).collect();
            Some(shares?.join(","))
        }
        _ => None,
    }
}

/// What there is instead of an unknown key, if something is spelled alike.
fn unknown(key: &str) -> String {
    let tables = SETTINGS.iter().filter_map(|setting| Some(setting.key.rsplit_once('.')?.0));
    let near = SETTINGS.iter().map(|setting| setting.key).chain(tables);
    let near = near.map(|known| (strsim::jaro_winkler(key, known), known));
    let nearest = near.max_by(|(one, _), (other, _)| one.total_cmp(other));
    match nearest {
        Some((alike, known)) if alike > 0.85 => format!("there is no setting {key}; is {known} meant?"),
        _ => format!("there is no setting {key}"),
    }
}
