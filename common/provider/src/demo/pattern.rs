//! Makes a text that matches a simple regular expression: literals, classes, groups, alternation and repetition.
//!
//! Look-around, back-references and flags are not understood; then there is no text, and the caller makes do without.

use std::iter::Peekable;
use std::str::Chars;

use super::draw::Draw;

const MAX_DEPTH: u32 = 24;
const MAX_CHARS: usize = 4096;
const DIGITS: &[(char, char)] = &[('0', '9')];
const WORD: &[(char, char)] = &[('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')];

/// A text that matches; `stretch` is how far an open repetition may go beyond its minimum.
pub(super) fn matching(pattern: &str, stretch: u32, draw: &mut Draw) -> Option<String> {
    let mut parser = Parser { chars: pattern.chars().peekable(), depth: 0 };
    let choice = parser.choice()?;
    if parser.chars.next().is_some() {
        return None;
    }
    let mut text = String::new();
    write_choice(&choice, stretch, draw, &mut text)?;
    Some(text)
}

type Sequence = Vec<(Node, u32, Option<u32>)>;

enum Node {
    Nothing,
    Ranges(Vec<(char, char)>),
    Choice(Vec<Sequence>),
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    depth: u32,
}

impl Parser<'_> {
    fn choice(&mut self) -> Option<Vec<Sequence>> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut alternatives = vec![Sequence::new()];
        while let Some(&c) = self.chars.peek() {
            match c {
                ')' => break,
                '|' => {
                    self.chars.next();
                    alternatives.push(Sequence::new());
                }
                _ => {
                    let node = self.node()?;
                    let (least, most) = self.repetition()?;
                    alternatives.last_mut()?.push((node, least, most));
                }
            }
        }
        self.depth -= 1;
        Some(alternatives)
    }

    fn node(&mut self) -> Option<Node> {
        Some(match self.chars.next()? {
            '^' | '$' => Node::Nothing,
            '.' => Node::Ranges(vec![('a', 'z'), ('0', '9')]),
            '[' => Node::Ranges(self.class()?),
            '(' => {
                if self.chars.next_if_eq(&'?').is_some() {
                    self.group_kind()?;
                }
                let choice = self.choice()?;
                self.chars.next_if_eq(&')')?;
                Node::Choice(choice)
            }
            '\\' => match self.chars.next()? {
                'b' | 'A' | 'z' | 'Z' => Node::Nothing,
                'B' | '1'..='9' | 'k' => return None,
                escape => Node::Ranges(self.escape(escape)?),
            },
            '*' | '+' | '?' | ')' => return None,
            literal => Node::Ranges(vec![(literal, literal)]),
        })
    }

    /// After `(?`: a group without capture or with a name.
    fn group_kind(&mut self) -> Option<()> {
        match self.chars.next()? {
            ':' => Some(()),
            'P' => {
                self.chars.next_if_eq(&'<')?;
                self.name()
            }
            '<' if !matches!(self.chars.peek(), Some('=' | '!')) => self.name(),
            _ => None,
        }
    }

    fn name(&mut self) -> Option<()> {
        self.chars.by_ref().find(|c| *c == '>').map(|_| ())
    }

    fn escape(&mut self, escape: char) -> Option<Vec<(char, char)>> {
        Some(match escape {
            'd' => DIGITS.to_vec(),
            'w' => WORD.to_vec(),
            's' => vec![(' ', ' ')],
            'D' | 'S' => vec![('a', 'z')],
            'W' => vec![('-', '-')],
            'n' => vec![('\n', '\n')],
            't' => vec![('\t', '\t')],
            'r' => vec![('\r', '\r')],
            'p' => {
                self.chars.next_if_eq(&'{')?;
                let name: String = self.chars.by_ref().take_while(|c| *c != '}').collect();
                match name.as_str() {
                    "L" | "Ll" | "Letter" | "Alphabetic" => vec![('a', 'z')],
                    "Lu" | "Uppercase" => vec![('A', 'Z')],
                    "N" | "Nd" => DIGITS.to_vec(),
                    _ => return None,
                }
            }
            'u' => {
                let hex: String = self.chars.by_ref().take(4).collect();
                let c = char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?;
                vec![(c, c)]
            }
            letter if letter.is_ascii_alphanumeric() => return None,
            literal => vec![(literal, literal)],
        })
    }

    fn class(&mut self) -> Option<Vec<(char, char)>> {
        let negated = self.chars.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        loop {
            let mut part = match self.chars.next()? {
                ']' if !ranges.is_empty() => break,
                '[' => return None,
                '\\' => {
                    let escape = self.chars.next()?;
                    self.escape(escape)?
                }
                c => vec![(c, c)],
            };
            if let [(low, high)] = part[..]
                && low == high
                && self.chars.peek() == Some(&'-')
            {
                self.chars.next();
                match self.chars.next()? {
                    ']' => {
                        ranges.extend([(low, low), ('-', '-')]);
                        break;
                    }
                    '\\' => {
                        let escape = self.chars.next()?;
                        let [(end, _)] = self.escape(escape)?[..] else {
                            return None;
                        };
                        part = vec![(low, end)];
                    }
                    end => part = vec![(low, end)],
                }
            }
            ranges.extend(part);
        }
        if negated {
            let free = |c: &char| !ranges.iter().any(|(low, high)| (low..=high).contains(&c));
            ranges =
                ('a'..='z').chain('0'..='9').chain(" -_.,:;#".chars()).filter(free).map(|c| (c, c)).collect();
        }
        (!ranges.is_empty() && ranges.iter().all(|(low, high)| low <= high)).then_some(ranges)
    }

    fn repetition(&mut self) -> Option<(u32, Option<u32>)> {
        let bounds = match self.chars.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.chars.next();
                let inner: String = self.chars.by_ref().take_while(|c| *c != '}').collect();
                let (least, most) = match inner.split_once(',') {
                    None => (inner.parse().ok()?, Some(inner.parse().ok()?)),
                    Some((least, "")) => (least.parse().ok()?, None),
                    Some((least, most)) => (least.parse().ok()?, Some(most.parse().ok()?)),
                };
                self.chars.next_if_eq(&'?');
                return Some((least, most));
            }
            _ => return Some((1, Some(1))),
        };
        self.chars.next();
        self.chars.next_if_eq(&'?');
        Some(bounds)
    }
}

fn write_choice(choice: &[Sequence], stretch: u32, draw: &mut Draw, text: &mut String) -> Option<()> {
    for (node, least, most) in draw.pick(choice)? {
        let most = most.unwrap_or(least.saturating_add(stretch)).min(least.saturating_add(stretch));
        let times = draw.between(i64::from(*least), i64::from(most));
        for _ in 0..times {
            match node {
                Node::Nothing => {}
                Node::Ranges(ranges) => text.push(char_in(ranges, draw)?),
                Node::Choice(inner) => write_choice(inner, stretch, draw, text)?,
            }
            if text.len() > MAX_CHARS {
                return None;
            }
        }
    }
    Some(())
}

fn char_in(ranges: &[(char, char)], draw: &mut Draw) -> Option<char> {
    let (low, high) = *draw.pick(ranges)?;
    // Half surrogates lie inside some ranges of characters; the lower end never is one.
    let code = draw.between(i64::from(u32::from(low)), i64::from(u32::from(high)));
    Some(u32::try_from(code).ok().and_then(char::from_u32).unwrap_or(low))
}
