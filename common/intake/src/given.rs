//! What a run of a schedule knows of itself, as variables of its rows.

use std::collections::BTreeMap;

use promptmill_prompt::Template;
use serde::Serialize;
use serde_json::value::RawValue;

/// The time a run was due, in the zone of its schedule (RFC 3339).
pub const SCHEDULED_AT: &str = "scheduled_at";

/// The run before: an object whose members are null where there was none.
pub const PREVIOUS_RUN: &str = "previous_run";

/// What became of a row in the run before, where rows come from that: an object whose members are null where there was none.
pub const PREVIOUS_OUTCOME: &str = "previous_outcome";

/// All of them.
pub const GIVEN: [&str; 3] = [SCHEDULED_AT, PREVIOUS_RUN, PREVIOUS_OUTCOME];

/// Variables that every row of a run has which does not bring them itself.
#[derive(Debug, Clone, Default)]
pub struct Given(Vec<(&'static str, Box<RawValue>)>);

impl Given {
    /// Whether the template has that variable: declared, or used in its messages where it declares none.
    pub fn is_asked_for(template: &Template, name: &str) -> bool {
        template.variables().iter().any(|variable| variable.name == name)
    }

    /// Adds a variable.
    pub fn push(&mut self, name: &'static str, value: &impl Serialize) {
        let raw = serde_json::value::to_raw_value(value).expect("a JSON value is written into memory");
        self.0.push((name, raw));
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first of these variables that a row brings itself.
    pub fn first_in(&self, json: &str) -> Option<&'static str> {
        if self.is_empty() {
            return None;
        }
        let own = serde_json::from_str::<BTreeMap<String, &RawValue>>(json).ok()?;
        self.0.iter().map(|(name, _)| *name).find(|name| own.contains_key(*name))
    }

    /// The variables of a row of an earlier run without those that it was given then.
    pub fn taken_from(json: &str) -> String {
        let Ok(mut own) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) else {
            return json.to_owned();
        };
        own.retain(|name, _| !GIVEN.contains(&name.as_str()));
        serde_json::to_string(&own).unwrap_or_else(|_| json.to_owned())
    }

    /// The variables of a row with those that it does not bring, as the text of a JSON object. What is no object stays as it is: whoever checks it tells.
    pub fn added_to(&self, json: &str) -> String {
        let Ok(own) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) else {
            return json.to_owned();
        };
        let mut all: BTreeMap<&str, &RawValue> =
            self.0.iter().map(|(name, value)| (*name, &**value)).collect();
        all.extend(own.iter().map(|(name, value)| (name.as_str(), *value)));
        serde_json::to_string(&all).unwrap_or_else(|_| json.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_keeps_what_it_brings_and_gets_what_it_does_not() {
        let mut given = Given::default();
        assert!(given.is_empty());
        given.push(SCHEDULED_AT, &json!("2026-11-29T03:00:00Z"));
        given.push(PREVIOUS_RUN, &json!({"batch": null}));
        let added = |row: &str| given.added_to(row);
        let both = r#"{"previous_run":{"batch":null},"scheduled_at":"2026-11-29T03:00:00Z"}"#;
        assert_eq!(added("{}"), both);
        let own = added(r#"{"n": 12345678901234567890, "scheduled_at": null}"#);
        let expected = r#"{"n":12345678901234567890,"previous_run":{"batch":null},"scheduled_at":null}"#;
        assert_eq!(own, expected);
        assert_eq!(added("[1]"), "[1]");
        let renewed =
            Given::taken_from(r#"{"n": 1.50, "scheduled_at": "", "previous_outcome": {"output": 1}}"#);
        assert_eq!(renewed, r#"{"n":1.50}"#);
        assert_eq!(given.first_in(r#"{"n":1,"previous_run":null}"#), Some(PREVIOUS_RUN));
        assert_eq!((given.first_in(&renewed), given.first_in("[]")), (None, None));
        // Nor is what this run does not give.
        assert_eq!(given.first_in(r#"{"previous_outcome":1}"#), None);
        assert_eq!(added(&renewed), format!(r#"{{"n":1.50,{}"#, &both[1..]));
    }
}
