//! Finds the filters, tests and functions a Jinja source names, because the engine looks them up only when it runs.
//!
//! A tokeniser for names alone: it skips text, comments, raw blocks and strings, and trusts the engine to refuse
//! sources with a wrong syntax before it is asked.

use std::collections::{BTreeSet, HashSet};

/// Filters a template may use.
#[rustfmt::skip]
pub(crate) const FILTERS: &[&str] = &[
    "abs", "attr", "batch", "bool", "capitalize", "count", "d", "default", "dictsort", "first",
    "float", "format", "groupby", "indent", "int", "items", "join", "last", "length", "lines", "list",
    "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "select",
    "selectattr", "slice", "sort", "split", "string", "sum", "title", "tojson", "trim", "unique", "upper", "zip",
];

/// Tests (`is ...`) a template may use.
#[rustfmt::skip]
pub(crate) const TESTS: &[&str] = &[
    "boolean", "defined", "divisibleby", "endingwith", "eq", "equalto", "even", "false", "float", "ge",
    "greaterthan", "gt", "in", "int", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping",
    "ne", "none", "number", "odd", "sameas", "sequence", "startingwith", "string", "true", "undefined",
    "upper",
];

/// Functions a template may call.
pub(crate) const FUNCTIONS: &[&str] = &["dict", "range"];

/// Names that mean something else than a variable, so that none may be called so.
#[rustfmt::skip]
pub(crate) const RESERVED: &[&str] = &[
    "and", "caller", "call", "debug", "dict", "do", "elif", "else", "false", "False", "filter", "for", "if",
    "in", "is", "loop", "macro", "namespace", "none", "None", "not", "or", "range", "recursive", "self",
    "set", "super", "true", "True", "with",
];

/// The most operators, names and opening brackets of one tag. The engine calls itself for each of them, and where the stack ends, so
/// does the process: some thousands are enough.
const TAG_TOKENS: usize = 500;

/// The deepest nesting of brackets in one tag; a call takes the most of the stack.
const BRACKETS: usize = 64;

/// The most `elif` of one source, which the engine nests.
const BRANCHES: usize = 200;

/// The names a source uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names<'s> {
    /// Tokens of the longest tag, as [`TAG_TOKENS`] counts them.
    tokens: usize,
    /// The deepest nesting of brackets.
    brackets: usize,
    /// How many `elif` there are.
    branches: usize,
    /// After a `|`, or in a filter block.
    pub(crate) filters: BTreeSet<&'s str>,
    /// After `is` or `is not`.
    pub(crate) tests: BTreeSet<&'s str>,
    /// Called directly and not defined as a macro in the source.
    pub(crate) functions: BTreeSet<&'s str>,
}

impl<'s> Names<'s> {
    /// Of a template's source.
    pub(crate) fn of_source(source: &'s str) -> Self {
        let mut finder = Finder::default();
        let mut rest = source;
        while let Some(start) = rest.find('{') {
            let tag = &rest[start..];
            let (skip, block) = match tag.as_bytes().get(1) {
                Some(b'#') => {
                    rest = tag.split_once("#}").map_or("", |(_, after)| after);
                    continue;
                }
                Some(b'{') => (2, false),
                Some(b'%') => (2, true),
                _ => {
                    rest = &tag[1..];
                    continue;
                }
            };
            let (body, after) = split_tag(&tag[skip..], block);
            let word = body.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
            rest = if block && word == "raw" { after_raw(after) } else { after };
            finder.read(body, block);
        }
        finder.finish()
    }

    /// Of a bare expression.
    pub(crate) fn of_expression(expression: &'s str) -> Self {
        let mut finder = Finder::default();
        finder.read(expression, false);
        finder.finish()
    }

    /// Says what must not even be compiled.
    pub(crate) fn excess(&self) -> Option<String> {
        if self.tokens > TAG_TOKENS {
            return Some(format!("one tag or expression has at most {TAG_TOKENS} operators and names"));
        }
        if self.brackets > BRACKETS {
            return Some(format!("brackets in one tag are nested at most {BRACKETS} levels"));
        }
        (self.branches > BRANCHES).then(|| format!("a message has at most {BRANCHES} `elif`"))
    }

    /// Each name that is not known, as a sentence. Only calls of `undeclared` names are calls of functions: others
    /// were assigned in the source.
    pub(crate) fn unknown(mut self, undeclared: &HashSet<String>) -> Vec<String> {
        self.functions.retain(|name| undeclared.contains(*name));
        let mut unknown = Vec::new();
        for (kind, names, known) in [
            ("filter", &self.filters, FILTERS),
            ("test", &self.tests, TESTS),
            ("function", &self.functions, FUNCTIONS),
        ] {
            for name in names.iter().filter(|name| !known.contains(name)) {
                let hint = match crate::problem::nearest(name, known.iter().copied()) {
                    Some(meant) => format!("; did you mean `{meant}`?"),
                    None => String::new(),
                };
                unknown.push(format!("unknown {kind} `{}`{hint}", crate::problem::shorten(name, 60)));
            }
        }
        unknown
    }
}

/// Cuts the inside of a tag from what follows it; quotes and, in `{{ }}`, braces are respected.
fn split_tag(text: &str, block: bool) -> (&str, &str) {
    let bytes = text.as_bytes();
    let close: &[u8] = if block { b"%}" } else { b"}}" };
    let (mut at, mut braces) = (0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = skip_string(bytes, at, quote),
            _ if braces == 0 && bytes[at..].starts_with(close) => return (&text[..at], &text[at + 2..]),
            byte => {
                match byte {
                    b'{' => braces += 1,
                    b'}' => braces = braces.saturating_sub(1),
                    _ => {}
                }
                at += 1;
            }
        }
    }
    (text, "")
}

/// The position after the string that begins at `at`.
fn skip_string(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut at = at + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// What follows the end of a raw block.
fn after_raw(text: &str) -> &str {
    let mut rest = text;
    while let Some((_, tag)) = rest.split_once("{%") {
        let (body, after) = split_tag(tag, true);
        if body.trim_matches(['-', '+']).trim() == "endraw" {
            return after;
        }
        rest = tag;
    }
    ""
}

#[derive(Default)]
struct Finder<'s> {
    names: Names<'s>,
    macros: BTreeSet<&'s str>,
}

#[derive(Clone, Copy, PartialEq)]
enum Token<'s> {
    Ident(&'s str),
    Mark(u8),
    Literal,
}

impl Token<'_> {
    /// Whether the engine may go one level deeper for it: not for values, and not for what parts or ends a list of them.
    fn nests(self) -> bool {
        match self {
            Self::Ident(_) => true,
            Self::Mark(mark) => !matches!(mark, b',' | b':' | b')' | b']' | b'}'),
            Self::Literal => false,
        }
    }
}

impl<'s> Finder<'s> {
    fn read(&mut self, body: &'s str, block: bool) {
        let tokens = tokens(body);
        let counted = tokens.iter().filter(|token| token.nests()).count();
        self.names.tokens = self.names.tokens.max(counted);
        self.names.brackets = self.names.brackets.max(nesting(&tokens));
        if block {
            match tokens.as_slice() {
                [Token::Ident("elif"), ..] => self.names.branches += 1,
                [Token::Ident("macro"), Token::Ident(name), ..] => {
                    self.macros.insert(name);
                }
                [Token::Ident("filter"), Token::Ident(name), ..] => {
                    self.names.filters.insert(name);
                }
                _ => {}
            }
        }
        for (n, token) in tokens.iter().enumerate() {
            let Token::Ident(name) = token else { continue };
            let before = |k: usize| n.checked_sub(k).map(|i| tokens[i]);
            // After a dot `is` is an attribute and not the operator.
            let operator = |k: usize, word| {
                before(k) == Some(Token::Ident(word)) && before(k + 1) != Some(Token::Mark(b'.'))
            };
            if before(1) == Some(Token::Mark(b'|')) {
                self.names.filters.insert(name);
            } else if (operator(1, "is") && *name != "not") || (operator(1, "not") && operator(2, "is")) {
                self.names.tests.insert(name);
            } else if tokens.get(n + 1) == Some(&Token::Mark(b'('))
                && before(1) != Some(Token::Mark(b'.'))
                && !(block && n == 1 && before(1) == Some(Token::Ident("filter")))
                && (!RESERVED.contains(name)
                    || FUNCTIONS.contains(name)
                    || matches!(*name, "debug" | "namespace"))
            {
                self.names.functions.insert(name);
            }
        }
    }

    fn finish(mut self) -> Names<'s> {
        self.names.functions.retain(|name| !self.macros.contains(name));
        self.names
    }
}

/// How deep the brackets of a tag are nested.
fn nesting(tokens: &[Token<'_>]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for token in tokens {
        match token {
            Token::Mark(b'(' | b'[' | b'{') => depth += 1,
            Token::Mark(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The identifiers and marks of a tag's inside.
fn tokens(body: &str) -> Vec<Token<'_>> {
    let bytes = body.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at = skip_string(bytes, at, quote);
                tokens.push(Token::Literal);
            }
            byte if byte.is_ascii_alphanumeric() || byte == b'_' => {
                let len = bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
                let word = &body[at..at + len];
                tokens.push(if byte.is_ascii_digit() { Token::Literal } else { Token::Ident(word) });
                at += len;
            }
            byte => {
                // Whitespace control beside the delimiters is not part of the first or last token.
                if !byte.is_ascii_whitespace() && !(at == 0 && (byte == b'-' || byte == b'+')) {
                    tokens.push(Token::Mark(byte));
                }
                at += 1;
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, filters: &[&str], tests: &[&str], functions: &[&str]) {
        let names = Names::of_source(source);
        assert_eq!(names.filters.iter().copied().collect::<Vec<_>>(), filters, "filters of {source}");
        assert_eq!(names.tests.iter().copied().collect::<Vec<_>>(), tests, "tests of {source}");
        assert_eq!(names.functions.iter().copied().collect::<Vec<_>>(), functions, "functions of {source}");
    }

    #[test]
    fn filters_tests_and_functions_are_found() {
        check("{{ a|upper | join(', ')|d(1) }}", &["d", "join", "upper"], &[], &[]);
        check("{% if a is defined and b is not none %}{% endif %}", &[], &["defined", "none"], &[]);
        check("{% for i in range(3) %}{{ f(i) }}{{ x.items() }}{% endfor %}", &[], &[], &["f", "range"]);
        check("{% filter upper %}x{% endfilter %}{% if not (a) %}{% endif %}", &["upper"], &[], &[]);
        check("{% macro m(x) %}{{ x }}{% endmacro %}{{ m(1) }}{{ debug() }}", &[], &[], &["debug"]);
    }

    #[test]
    fn text_strings_comments_and_raw_blocks_hold_no_names() {
        check("a | b is c {x | y}", &[], &[], &[]);
        check("{{ 'a | b }} is x' }} | c", &[], &[], &[]);
        check(r#"{{ "q\" | b" }}"#, &[], &[], &[]);
        check("{# {{ a|b }} #}{%- raw -%}{{ a|b }}{% x %}{%- endraw -%}{{ z|lower }}", &["lower"], &[], &[]);
        check("{{ {'a': {'b': 1}}|length }}", &["length"], &[], &[]);
        check("{{ a.is.x }}{{- a|trim -}}", &["trim"], &[], &[]);
    }

    #[test]
    fn a_tag_that_would_nest_too_deep_is_told_before_it_is_compiled() {
        let excess = |source: &str| Names::of_source(source).excess().is_some();
        assert!(!excess(&format!("{{{{ [{}] }}}}{}", "'a', 1, ".repeat(2_000), "{{ a + 1 }}".repeat(2_000))));
        for one in
            ["+ 1", "-", "not ", "|upper", ".a", "[0]", "()", "range(", "is odd ", "[:]", "if 0 else 1 "]
        {
            assert!(excess(&format!("{{{{ 1 {} }}}}", one.repeat(502))), "{one}");
            assert!(Names::of_expression(&one.repeat(502)).excess().is_some(), "{one}");
        }
        for (open, close) in [("(", ")"), ("[", "]"), ("{1: ", "}"), ("range(", ")")] {
            let nested =
                |levels: usize| format!("{{{{ {}1{} }}}}", open.repeat(levels), close.repeat(levels));
            assert!(!excess(&nested(64)) && excess(&nested(65)), "{open}");
        }
        assert!(excess(&format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(201))));
        assert!(excess(&format!("{{{{ '}}}}' {} }}}}", "~ 1".repeat(502))));
    }

    #[test]
    fn unterminated_sources_end_the_scan() {
        for source in ["{{", "{{ 'a", "{% raw %}", "{#", "{{ a |", "{{ \"\\", "{"] {
            let _ = Names::of_source(source);
        }
    }
}
