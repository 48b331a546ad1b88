//! Bounds what is printed or written as JSON: the engine's fuel counts the bytes of a text only when it is whole.
//!
//! A list can hold another one twice, and that one a third: a few lines of a template then stand for more than memory holds. So what is
//! inside a value is counted first, without recursion and to a limit.

use minijinja::filters::{format, string, tojson};
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter};

/// The most values inside one that is written: more do not fit into a prompt, where each takes three bytes.
const VALUES: usize = 350_000;

/// The deepest nesting of a value that is written. A row has 64 levels; what a template puts around it are few.
const DEPTH: usize = 128;

/// Values counted for one unit of fuel.
const VALUES_PER_FUEL: usize = 4;

/// Bytes of JSON for one unit of fuel, as the engine counts what it writes itself.
const JSON_BYTES_PER_FUEL: usize = 4;

/// Has printing, `tojson` and `string` count what is inside a value before they write it.
pub(crate) fn guard(environment: &mut Environment<'static>) {
    environment.set_formatter(|out, state, value| {
        charge(state, value)?;
        escape_formatter(out, state, value)
    });
    environment.add_filter(
        "tojson",
        |state: &State<'_, '_>, value: &Value, indent: Option<Value>, more: Kwargs| {
            charge(state, value)?;
            let json = tojson(value, indent, more)?;
            let bytes = json.as_str().map_or(0, str::len);
            state.consume_fuel((bytes / JSON_BYTES_PER_FUEL) as u64)?;
            Ok::<_, Error>(json)
        },
    );
    environment.add_filter("string", |state: &State<'_, '_>, value: &Value| {
        charge(state, value)?;
        string(state, value)
    });
}

/// Has `format` refuse what the engine would panic at: a name or a conversion beyond ASCII is cut within a character.
pub(crate) fn guard_format(environment: &mut Environment<'static>) {
    environment.add_filter(
        "format",
        |state: &mut State<'_, '_>, text: &Value, values: Rest<ValueOrKwargs>| {
            if text.as_str().is_some_and(|text| !has_plain_conversions(text)) {
                let words = "a conversion of `format` is not plain ASCII";
                return Err(Error::new(ErrorKind::InvalidOperation, words));
            }
            format(state, text, values)
        },
    );
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

/// Pays for what is inside `value`.
fn charge(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if !is_container(value) {
        return Ok(());
    }
    let mut waiting = vec![(value.clone(), 1)];
    let mut count = 0;
    while let Some((container, depth)) = waiting.pop() {
        let values = container.try_iter()?;
        for key in values {
            count += 1;
            if count > VALUES || depth > DEPTH {
                return Err(Error::from(ErrorKind::OutOfFuel));
            }
            let inside = if container.kind() == ValueKind::Map { container.get_item(&key)? } else { key };
            if is_container(&inside) {
                waiting.push((inside, depth + 1));
            }
        }
    }
    state.consume_fuel((count / VALUES_PER_FUEL) as u64)
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}
