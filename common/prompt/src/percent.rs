//! `format` without what the engine panics at.

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};

/// The engine's `format`, but a name or a conversion beyond ASCII is an error: the engine would cut it within a character.
pub(crate) fn format(
    state: &mut State<'_, '_>,
    text: &Value,
    values: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    if text.as_str().is_some_and(|text| !has_plain_conversions(text)) {
        let words = "a conversion of `format` is not plain ASCII";
        return Err(Error::new(ErrorKind::InvalidOperation, words));
    }
    minijinja::filters::format(state, text, values)
}

/// Whether every `%` begins a conversion, with its name in brackets, that holds nothing beyond ASCII.
fn has_plain_conversions(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once('%') {
        let (name, options) = match behind.strip_prefix('(') {
            Some(named) => match named.split_once(')') {
                Some((name, options)) => (name, options),
                None => return false,
            },
            None => ("", behind),
        };
        let conversion = options.trim_start_matches(|c: char| "#0- +*.123456789hlL".contains(c));
        let mut letters = conversion.chars();
        if !name.is_ascii() || letters.next().is_some_and(|letter| !letter.is_ascii()) {
            return false;
        }
        rest = letters.as_str();
    }
    true
}
