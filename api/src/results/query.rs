//! What a client may ask of results, and in which form it gets them.

use promptmill_domain::{FailureKind, ItemFilter, OutcomeName};
use promptmill_rowio::CsvDialect;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::coding::weight;
use crate::outcome_view::{OutcomeNames, ReasonNames};
use crate::shapes::CursorText;

/// The longest a client may wait for something to settle.
pub(super) const MAX_WAIT_S: u32 = 60;

/// In which order outcomes come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// By index: what has an outcome now, then the end.
    #[default]
    Index,
    /// As they settled; every line has a cursor to go on from.
    Settled,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// One JSON object a line.
    Jsonl,
    /// A table.
    Csv,
}

/// How texts stand in the cells of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Dialect {
    /// As they are, for programs.
    #[default]
    Raw,
    /// For spreadsheets: what could be taken for a formula is guarded.
    Safe,
}

impl From<Dialect> for CsvDialect {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Raw => Self::Raw,
            Dialect::Safe => Self::Safe,
        }
    }
}

/// The query of `GET /v1/batches/{id}/results`.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ResultsQuery {
    /// In which order outcomes come.
    #[param(inline)]
    pub(super) order: Order,
    /// A cursor of an earlier answer in the same order: what is behind it.
    #[param(value_type = Option<CursorText>, inline)]
    pub(super) after: Option<String>,
    /// With `order=settled`: when nothing has settled behind the cursor, wait up to so many seconds for it.
    #[param(maximum = 60)]
    pub(super) wait: u32,
    /// Only items with this outcome. Repeatable.
    #[param(value_type = Vec<OutcomeNames>, inline)]
    pub(super) outcome: Vec<OutcomeName>,
    /// Only items that failed for this reason. Repeatable.
    #[param(value_type = Vec<ReasonNames>, inline)]
    pub(super) reason: Vec<FailureKind>,
    /// Of a retry: the first batch's items, each with the outcome of the last batch that ran it.
    pub(super) merged: bool,
    /// The form; it wins over the header Accept.
    #[param(inline)]
    pub(super) format: Option<Format>,
    /// With CSV: how texts stand in cells.
    #[param(inline)]
    pub(super) dialect: Option<Dialect>,
    /// End after so many outcomes.
    #[param(minimum = 1, maximum = 18446744073709551615_u64)]
    pub(super) limit: Option<u64>,
    /// With JSON Lines: close with a line `{"_end":true,...}`, by which a truncated answer is told from a whole one.
    pub(super) end: bool,
}

impl ResultsQuery {
    /// Which items are asked for.
    pub(super) fn filter(&self) -> ItemFilter {
        ItemFilter {
            outcomes: self.outcome.iter().copied().collect(),
            reasons: self.reason.iter().copied().collect(),
        }
    }

    /// What the parameters say against each other, by parameter.
    pub(super) fn contradictions(&self, format: Format) -> Vec<(&'static str, &'static str)> {
        let settled = self.order == Order::Settled;
        let rules = [
            (self.wait > MAX_WAIT_S, "wait", "at most 60 seconds"),
            (self.wait > 0 && !settled, "wait", "only with order=settled"),
            (self.limit == Some(0), "limit", "at least 1"),
            (self.merged && settled, "merged", "only with order=index"),
            (settled && format == Format::Csv, "format", "order=settled is given as JSON Lines only"),
            (self.end && format == Format::Csv, "end", "only JSON Lines can have a closing line"),
            (self.dialect.is_some() && format == Format::Jsonl, "dialect", "only with format=csv"),
        ];
        rules.into_iter().filter(|(broken, ..)| *broken).map(|(_, name, words)| (name, words)).collect()
    }
}

impl Format {
    /// The media type of answers.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Jsonl => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }

    /// The end of a file's name.
    pub(super) const fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
        }
    }

    /// The form that the values of `Accept` like best; JSON Lines among equals and where there is none. `None` when neither form is
    /// acceptable.
    pub(super) fn choose<'a>(accept: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut ranges = accept.into_iter().flat_map(|value| value.split(',')).map(str::trim);
        let mut ranges: Vec<&str> = ranges.by_ref().filter(|range| !range.is_empty()).collect();
        if ranges.is_empty() {
            ranges.push("*/*");
        }
        let jsonl =
            liking(&ranges, &["application/x-ndjson", "application/jsonl", "application/x-jsonlines"]);
        let csv = liking(&ranges, &["text/csv"]);
        match (jsonl, csv) {
            (0, 0) => None,
            (jsonl, csv) if jsonl >= csv => Some(Self::Jsonl),
            _ => Some(Self::Csv),
        }
    }
}

/// The weight, in thousandths, that media ranges give to a type with these names: that of the most specific range.
fn liking(ranges: &[&str], names: &[&str]) -> u16 {
    let mut found = (0, 0);
    for range in ranges {
        let mut pieces = range.split(';').map(str::trim);
        let media = pieces.next().unwrap_or_default().to_ascii_lowercase();
        let group = names.iter().any(|name| {
            let (kind, _) = name.split_once('/').unwrap_or_default();
            media.strip_suffix("/*") == Some(kind)
        });
        let specific = match media.as_str() {
            "*/*" => 1,
            _ if group => 2,
            media if names.contains(&media) => 3,
            _ => continue,
        };
        let weight = pieces.find_map(weight).unwrap_or(1000);
        if specific > found.0 {
            found = (specific, weight);
        }
    }
    found.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_the_client_likes_best_and_json_lines_among_equals() {
        let choose = |header: &str| Format::choose([header]);
        assert_eq!(Format::choose([]), Some(Format::Jsonl));
        assert_eq!(choose("*/*"), Some(Format::Jsonl));
        assert_eq!(choose("text/csv"), Some(Format::Csv));
        assert_eq!(choose("text/*;q=0.5, application/jsonl;q=0.4"), Some(Format::Csv));
        assert_eq!(choose("application/x-ndjson, text/csv"), Some(Format::Jsonl));
        assert_eq!(choose("text/csv, */*;q=0.1"), Some(Format::Csv));
        assert_eq!(choose("*/*, application/x-ndjson;q=0.1"), Some(Format::Csv));
        assert_eq!(choose("Application/JSONL"), Some(Format::Jsonl));
        assert_eq!(choose("application/json"), None);
        assert_eq!(choose("image/png, text/html"), None);
        assert_eq!(choose("text/csv;q=0"), None);
    }

    #[test]
    fn parameters_that_do_not_go_together_are_named() {
        let query = ResultsQuery {
            order: Order::Settled,
            merged: true,
            wait: 61,
            limit: Some(0),
            end: true,
            ..ResultsQuery::default()
        };
        let named: Vec<&str> = query.contradictions(Format::Csv).into_iter().map(|(name, _)| name).collect();
        assert_eq!(named, ["wait", "limit", "merged", "format", "end"]);
        let query = ResultsQuery { wait: 1, dialect: Some(Dialect::Safe), ..ResultsQuery::default() };
        let named: Vec<&str> =
            query.contradictions(Format::Jsonl).into_iter().map(|(name, _)| name).collect();
        assert_eq!(named, ["wait", "dialect"]);
        assert_eq!(ResultsQuery::default().contradictions(Format::Csv), []);
    }
}
