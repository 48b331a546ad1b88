//! One cell of a CSV, and what a spreadsheet must not take it for.

use std::borrow::Cow;
use std::fmt::Display;

use serde_json::value::RawValue;

/// How texts stand in cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CsvDialect {
    /// Exactly as they are, for programs.
    #[default]
    Raw,
    /// For people who open the file in a spreadsheet: a text that could be taken for a formula gets a leading `'`, and
    /// every text is quoted. Numbers stay numbers.
    Safe,
}

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    Empty,
    /// Digits of ours or of a JSON number; never guarded.
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
}

impl<'a> Cell<'a> {
    pub(super) fn number(number: impl Display) -> Self {
        Self::Number(number.to_string().into())
    }

    pub(super) fn text(text: &'a str) -> Self {
        Self::Text(text.into())
    }

    /// JSON as it is written.
    pub(super) fn json(json: &'a RawValue) -> Self {
        let text = json.get();
        if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            Self::Number(text.into())
        } else {
            Self::text(text)
        }
    }

    /// A member's value: a string without its quotes, null as nothing, anything else as JSON.
    pub(super) fn value(json: &'a RawValue) -> Self {
        match json.get().as_bytes().first() {
            Some(b'n') => Self::Empty,
            // Half a surrogate pair is no text; it stays as it is written.
            Some(b'"') => serde_json::from_str::<String>(json.get())
                .map_or_else(|_| Self::json(json), |text| Self::Text(text.into())),
            _ => Self::json(json),
        }
    }

    pub(super) fn bytes(&self, dialect: CsvDialect) -> Cow<'_, [u8]> {
        let text = match self {
            Self::Empty => "",
            Self::Number(text) | Self::Text(text) => text,
        };
        match (self, dialect) {
            (Self::Text(_), CsvDialect::Safe) if may_be_formula(text) => {
                format!("'{text}").into_bytes().into()
            }
            _ => text.as_bytes().into(),
        }
    }
}

/// Whether a spreadsheet may take `text` for a formula: at its beginning, or behind something inside that a careless
/// reader takes for the end of a cell. A plain number is none, whatever its sign.
fn may_be_formula(text: &str) -> bool {
    let begins =
        |c: char| matches!(c, '=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠');
    let ends_cell = |c: char| matches!(c, ',' | ';' | '\t' | '"' | '\'' | '\n' | '\r');
    let number = text.len() < 40 && text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    if number && text.parse::<f64>().is_ok() {
        return false;
    }
    let following = text.chars().zip(text.chars().skip(1));
    text.starts_with(begins) || following.into_iter().any(|(before, c)| ends_cell(before) && begins(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe(text: &str) -> String {
        String::from_utf8(Cell::text(text).bytes(CsvDialect::Safe).into_owned()).unwrap()
    }

    #[test]
    fn a_text_like_a_formula_is_guarded_in_the_safe_dialect_only() {
        for formula in [
            "=1+1",
            "+cmd|' /C calc'!A0",
            "-1+1",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            "\n=1",
            "＝1",
            "a,=1",
            "x\"=1",
            "a;@b",
            "a\n-b",
            "-",
            "=",
        ] {
            assert_eq!(safe(formula), format!("'{formula}"));
            assert_eq!(&*Cell::text(formula).bytes(CsvDialect::Raw), formula.as_bytes());
        }
        for plain in ["", "a", "a=b", "1-1", "-5", "+1.5e3", "a - b", "'quoted'", "e-mail", "1e999"] {
            assert_eq!(safe(plain), plain);
        }
    }

    #[test]
    fn numbers_stay_numbers() {
        let json = RawValue::from_string("-5.0e1".into()).unwrap();
        assert_eq!(&*Cell::value(&json).bytes(CsvDialect::Safe), b"-5.0e1");
        assert_eq!(&*Cell::number(-3).bytes(CsvDialect::Safe), b"-3");
    }

    #[test]
    fn a_value_is_text_nothing_or_json() {
        for (json, text) in [
            (r#""a\nb""#, "a\nb"),
            (r#""""#, ""),
            ("null", ""),
            ("true", "true"),
            ("[1, 2]", "[1, 2]"),
            ("30000000000000000000000000000001", "30000000000000000000000000000001"),
            (r#""\ud800""#, r#""\ud800""#),
        ] {
            let raw = RawValue::from_string(json.to_owned()).unwrap();
            assert_eq!(&*Cell::value(&raw).bytes(CsvDialect::Raw), text.as_bytes(), "{json}");
        }
    }
}
