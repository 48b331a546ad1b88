//! The form of a cron pattern, field by field.
//!
//! It is checked before croner reads it, which passes over what it does not expect (`15W3`, `L,LW`, `JAN1`, a name in the field of the
//! hours) and takes a list without a number for a field that never matches. And its errors do not say which field they mean.

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};

use crate::rule::RuleError;

/// The longest pattern.
pub const MAX_PATTERN_BYTES: usize = 100;

const NICKNAMES: &[&str] = &["@YEARLY", "@ANNUALLY", "@MONTHLY", "@WEEKLY", "@DAILY", "@HOURLY"];

struct Field {
    name: &'static str,
    names: &'static [&'static str],
    /// What it may hold.
    form: &'static str,
}

const FIELDS: [Field; 6] = [
    Field {
        name: "second",
        names: &[],
        form: "numbers 0 to 59 as `5`, `0,30`, `10-20`, `*/15` or `10-50/5`",
    },
    Field {
        name: "minute",
        names: &[],
        form: "numbers 0 to 59 as `5`, `0,30`, `10-20`, `*/15` or `10-50/5`",
    },
    Field { name: "hour", names: &[], form: "numbers 0 to 23 as `5`, `6,18`, `8-17`, `*/4` or `8-17/2`" },
    Field {
        name: DAY_OF_MONTH,
        names: &[],
        form: "numbers 1 to 31 as `5`, `1,15`, `1-7` or `*/2`, `L` for the last day, `15W` or `LW` for working days",
    },
    Field {
        name: "month",
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
        form: "numbers 1 to 12 or names as `5`, `JAN,JUL`, `6-9` or `*/3`",
    },
    Field {
        name: DAY_OF_WEEK,
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
        form: "numbers 0 to 7 or names as `5`, `SAT,SUN` or `MON-FRI`, `5L` for the last Friday, `MON#2` for the second Monday of the month",
    },
];

const DAY_OF_MONTH: &str = "day of the month";
const DAY_OF_WEEK: &str = "day of the week";

pub(crate) fn read(text: &str) -> Result<Cron, RuleError> {
    if text.len() > MAX_PATTERN_BYTES {
        let length = text.len();
        return Err(refused(format!(
            "a pattern has at most {MAX_PATTERN_BYTES} bytes, and this one has {length}"
        )));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t') {
        return Err(refused("a pattern is one line of ASCII, as `0 9 * * MON-FRI`"));
    }
    let text = text.trim().to_ascii_uppercase();
    check(&text)?;
    parse(&text).map_err(|error| refused(error.to_string()))
}

fn check(text: &str) -> Result<(), RuleError> {
    if text.starts_with('@') {
        if NICKNAMES.contains(&text) {
            return Ok(());
        }
        let known = NICKNAMES.join(", ").to_ascii_lowercase();
        return Err(refused(format!(
            "`{text}` is not known; there are {known}, and patterns of five fields"
        )));
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let wanted =
        "minute, hour, day of the month, month and day of the week, or six with the second before them";
    match fields.len() {
        5 | 6 => {}
        7 => return Err(refused(format!("a pattern has no field for the year; give five, {wanted}"))),
        count => {
            return Err(refused(format!("a pattern has five fields, {wanted}, and this one has {count}")));
        }
    }
    let first = FIELDS.len() - fields.len();
    for (text, at) in fields.into_iter().zip(first..) {
        let Field { name, form, .. } = FIELDS[at];
        if !FIELDS[at].has_form(text) || !FIELDS[at].is_read_at(at, text) {
            return Err(refused(format!("the {name} `{text}` is not understood; give {form}")));
        }
    }
    Ok(())
}

impl Field {
    fn has_form(&self, text: &str) -> bool {
        if text == "?" && (self.name == DAY_OF_MONTH || self.name == DAY_OF_WEEK) {
            return true;
        }
        let list = text.strip_prefix('+').filter(|_| self.name == DAY_OF_WEEK).unwrap_or(text);
        let has = |wanted| list.split(',').any(|member| member == wanted);
        // croner leaves the last day out where the last working day is named as well.
        let is_torn = has("L") && has("LW");
        !is_torn && list.split(',').all(|member| self.is_special(member) || self.is_plain(member))
    }

    /// `L`, `LW` and `15W`; `5L`.
    fn is_special(&self, member: &str) -> bool {
        match self.name {
            DAY_OF_MONTH => {
                member == "L" || member == "LW" || member.strip_suffix('W').is_some_and(is_number)
            }
            DAY_OF_WEEK => member.strip_suffix('L').is_some_and(|day| self.is_value(day)),
            _ => false,
        }
    }

    /// `*`, a value or a range, each with a step and, for days of the week, which one of the month it is.
    fn is_plain(&self, member: &str) -> bool {
        let (member, nth) = apart(member, '#');
        let (range, step) = apart(member, '/');
        let (from, to) = apart(range, '-');
        let is_nth = |nth: &str| self.name == DAY_OF_WEEK && matches!(nth, "1" | "2" | "3" | "4" | "5" | "L");
        let is_range = range == "*" || self.is_value(from) && to.is_none_or(|to| self.is_value(to));
        is_range && step.is_none_or(is_number) && nth.is_none_or(is_nth)
    }

    fn is_value(&self, text: &str) -> bool {
        is_number(text) || self.names.contains(&text)
    }

    /// Whether croner takes it in this place.
    fn is_read_at(&self, at: usize, text: &str) -> bool {
        let mut fields = ["*"; FIELDS.len()];
        fields[at] = text;
        parse(&fields.join(" ")).is_ok()
    }
}

fn parse(text: &str) -> Result<Cron, CronError> {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build().parse(text)
}

fn apart(text: &str, by: char) -> (&str, Option<&str>) {
    text.split_once(by).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn refused(why: impl Into<String>) -> RuleError {
    RuleError::Pattern(why.into())
}
