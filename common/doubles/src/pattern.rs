//! Writes a text that matches a regular expression, for the plain part of the language that schemas use.
//!
//! Knows literals, classes, groups, alternatives and repetition; anchors are satisfied by construction. What needs
//! more (look-around, back references, Unicode classes) yields nothing.

use std::iter::Peekable;
use std::str::Chars;

use crate::dice::Dice;

const DEEPEST_GROUP: u32 = 32;
/// Nested repetitions multiply.
const LONGEST_TEXT: usize = 16_384;
const MOST_REPEATS: u32 = 16_384;

/// A text that matches `pattern`; open repetitions are lengthened by `extra`.
pub(crate) fn matching(pattern: &str, extra: u32, dice: &mut Dice) -> Option<String> {
    let mut writer = Writer { rest: pattern.chars().peekable(), extra, dice, depth: 0 };
    let text = writer.alternatives()?;
    writer.rest.next().is_none().then_some(text)
}

struct Writer<'a> {
    rest: Peekable<Chars<'a>>,
    extra: u32,
    dice: &'a mut Dice,
    depth: u32,
}

impl Writer<'_> {
    /// Every branch is read, the first is kept.
    fn alternatives(&mut self) -> Option<String> {
        let first = self.sequence()?;
        while self.rest.next_if_eq(&'|').is_some() {
            self.sequence()?;
        }
        Some(first)
    }

    fn sequence(&mut self) -> Option<String> {
        let mut text = String::new();
        while let Some(c) = self.rest.peek().copied() {
            if c == '|' || c == ')' {
                break;
            }
            self.rest.next();
            if c == '^' || c == '$' {
                continue;
            }
            let atom = self.atom(c)?;
            let (low, high) = self.repetition()?;
            let longest = high.unwrap_or(u32::MAX).max(low).min(MOST_REPEATS);
            let wanted = low.max(1).saturating_add(self.extra).min(longest);
            for _ in 0..wanted {
                if text.len() > LONGEST_TEXT {
                    return None;
                }
                match &atom {
                    Atom::Text(part) => text.push_str(part),
                    Atom::OneOf(chars) => {
                        let at = usize::try_from(self.dice.below(chars.len() as u64)).ok()?;
                        text.push(*chars.get(at)?);
                    }
                }
            }
        }
        Some(text)
    }

    fn atom(&mut self, c: char) -> Option<Atom> {
        match c {
            '(' => {
                if self.rest.next_if_eq(&'?').is_some() {
                    self.rest.next_if_eq(&':')?;
                }
                self.depth += 1;
                if self.depth > DEEPEST_GROUP {
                    return None;
                }
                let text = self.alternatives()?;
                self.depth -= 1;
                self.rest.next_if_eq(&')')?;
                Some(Atom::Text(text))
            }
            '[' => self.class(),
            '.' => Some(Atom::OneOf(('a'..='z').collect())),
            '\\' => {
                let escaped = self.rest.next()?;
                if escaped == 'b' {
                    // A word's edge: most patterns stand on one there by themselves.
                    return Some(Atom::Text(String::new()));
                }
                escape(escaped).map(Atom::OneOf)
            }
            '*' | '+' | '?' => None,
            literal => Some(Atom::Text(literal.to_string())),
        }
    }

    fn class(&mut self) -> Option<Atom> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut chars = Vec::new();
        loop {
            let start = match self.rest.next()? {
                ']' => break,
                '\\' => {
                    let set = escape(self.rest.next()?)?;
                    if set.len() > 1 {
                        chars.extend(set);
                        continue;
                    }
                    *set.first()?
                }
                c => c,
            };
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.peek().is_some_and(|c| *c != ']') {
                self.rest.next();
                let end = match self.rest.next()? {
                    '\\' => *escape(self.rest.next()?)?.first()?,
                    c => c,
                };
                // A range as wide as all of Unicode would cost a million characters and teach nothing.
                chars.extend((start..=end).take(512));
            } else {
                chars.push(start);
            }
        }
        if negated {
            let printable = (' '..='~').filter(|c| !chars.contains(c)).collect::<Vec<_>>();
            let letters = printable.iter().copied().filter(char::is_ascii_alphanumeric).collect::<Vec<_>>();
            chars = if letters.is_empty() { printable } else { letters };
        }
        (!chars.is_empty()).then_some(Atom::OneOf(chars))
    }

    fn repetition(&mut self) -> Option<(u32, Option<u32>)> {
        let bounds = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.rest.next();
                let inside: String = std::iter::from_fn(|| self.rest.next_if(|c| *c != '}')).collect();
                let bounds = match inside.split_once(',') {
                    Some((low, "")) => (low.parse().ok()?, None),
                    Some((low, high)) => (low.parse().ok()?, Some(high.parse().ok()?)),
                    None => (inside.parse().ok()?, Some(inside.parse().ok()?)),
                };
                self.rest.peek()?;
                bounds
            }
            _ => return Some((1, Some(1))),
        };
        self.rest.next();
        self.rest.next_if_eq(&'?');
        Some(bounds)
    }
}

enum Atom {
    Text(String),
    OneOf(Vec<char>),
}

fn escape(c: char) -> Option<Vec<char>> {
    match c {
        'd' => Some(('0'..='9').collect()),
        'w' => Some(('a'..='z').chain('0'..='9').collect()),
        's' => Some(vec![' ']),
        'D' | 'S' => Some(('a'..='z').collect()),
        'W' => Some(vec!['-', ' ']),
        't' => Some(vec!['\t']),
        'n' => Some(vec!['\n']),
        'r' => Some(vec!['\r']),
        c if c.is_ascii_alphanumeric() => None,
        literal => Some(vec![literal]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(pattern: &str) -> Option<String> {
        matching(pattern, 0, &mut Dice::new(5))
    }

    #[test]
    fn the_plain_part_of_the_language_is_written() {
        assert_eq!(write("^abc$").as_deref(), Some("abc"));
        assert_eq!(write("^(red|green)$").as_deref(), Some("red"));
        assert_eq!(write(r"^(?:a\.b){2}c?$").as_deref(), Some("a.ba.bc"));
        let code = write(r"^[A-Z]{2}-\d{4}$").unwrap();
        assert_eq!(code.len(), 7);
        assert!(
            code[..2].bytes().all(|b| b.is_ascii_uppercase())
                && code[3..].bytes().all(|b| b.is_ascii_digit())
        );
        assert!(write("^[^0-9]+$").unwrap().bytes().all(|b| !b.is_ascii_digit()));
        assert!(write("[a-z_-]").is_some_and(|text| text.len() == 1));
    }

    #[test]
    fn open_repetition_grows_when_asked() {
        let long = matching("^[a-z]{2,10}$", 5, &mut Dice::new(5)).unwrap();
        assert_eq!(long.len(), 7);
        assert_eq!(matching("^[a-z]{2,10}$", 50, &mut Dice::new(5)).unwrap().len(), 10);
    }

    #[test]
    fn what_needs_more_yields_nothing() {
        for pattern in ["(?=a)b", r"(a)\1", r"\p{L}", "*", "a{", "[", "a)", "[]"] {
            assert_eq!(write(pattern), None, "{pattern}");
        }
    }
}
