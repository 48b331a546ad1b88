//! What a template's values hold is paid for as well: every render ends, in a bounded time.
//!
//! Each of these would not end, or end the stack, if the engine did not count inside of values (docs/adr/0003).

use serde_json::json;

use crate::support::template;

#[track_caller]
fn outcome(content: &str, row: &str) -> Result<String, String> {
    let template = template(content, json!({}));
    let row = template.check(row).unwrap();
    template.render(&row).map(|mut messages| messages.remove(0).content).map_err(|error| error.to_string())
}

#[track_caller]
fn ends(content: &str) {
    let error = outcome(content, "{}").expect_err(content);
    assert!(error.contains("takes more work"), "{content}: {error}");
}

/// `start`, then each of the two lines so many times.
fn grown(start: &str, line: &str, times: usize) -> String {
    format!("{start}{}", line.repeat(times))
}

#[test]
fn lists_that_are_added_to_themselves_are_paid_item_by_item() {
    let doubled = grown("{% set a = [1] %}", "{% set a = a + a %}", 60);
    for end in [
        "{{ a|length }}",
        "{{ a }}",
        "{{ a ~ 'x' }}",
        "{{ a|join }}",
        "{{ a|tojson }}",
        "{{ a|sum }}",
        "{{ a[-1] }}",
        "{{ a[::-1]|first }}",
        "{{ 2 in a }}",
        "{{ a|sort }}",
        "{{ a|batch(2) }}",
        "{{ a|map('string') }}",
        "{% for x in a %}{% endfor %}",
    ] {
        ends(&format!("{doubled}{end}"));
    }
    ends(&grown("{% set a = [1] %}", "{% set a = [a, a]|sum(start=[]) %}", 60));
    ends(
        "{% macro m(a, n) %}{% if n %}{{ m(a + a, n - 1) }}{% else %}{{ a|list }}{% endif %}{% endmacro %}{{ m([1], 40) }}",
    );
    ends(&format!("{}{{{{ a|list }}}}", grown("{% set a = [1] %}", "{% set a = (a + a)[:] %}", 60)));
}

#[test]
fn values_that_hold_others_twice_are_paid_wherever_they_are_compared_or_written() {
    let nested = grown("{% set b = [1] %}", "{% set b = [b, b] %}", 30)
        + &grown("{% set c = [1] %}", "{% set c = [c, c] %}", 30);
    for end in [
        "{{ b == c }}",
        "{{ b < c }}",
        "{{ b in [c] }}",
        "{{ {b: 1} }}",
        "{{ [b, c]|unique }}",
        "{{ [b, c]|sort }}",
        "{{ ([b, c] * 1000)|sort|length }}",
        "{{ [b, c]|max }}",
        "{{ [{'k': b}, {'k': c}]|groupby('k') }}",
        "{{ b ~ 'x' }}",
        "{{ b|string }}",
        "{{ [b]|join }}",
        "{{ b|upper }}",
        "{{ '%s'|format(b) }}",
        "{{ (b, 1) == (c, 1) }}",
        "{{ ((b, 1) ~ 'x')|length }}",
        "{{ [b]|select('eq', c)|list }}",
        "{% for x in [b, c] %}{{ loop.changed(x) }}{% endfor %}",
    ] {
        ends(&format!("{nested}{end}"));
    }
    let maps = grown("{% set b = {} %}", "{% set b = {1: b, 2: b} %}", 30)
        + &grown("{% set c = {} %}", "{% set c = {1: c, 2: c} %}", 30);
    for end in ["{{ b == c }}", "{{ b ~ 'x' }}", "{{ {b: 1} }}", "{{ b|items|list == c|items|list }}"] {
        ends(&format!("{maps}{end}"));
    }
    let zips = grown("{% set a = [1] %}", "{% set a = a|zip(a) %}", 60);
    for end in ["{{ a|length }}", "{{ a }}", "{{ a|tojson }}", "{{ a == a }}", "{{ a|list }}"] {
        ends(&format!("{zips}{end}"));
    }
}

#[test]
fn one_long_text_in_many_places_is_paid_in_each() {
    let texts = "{% set s = 'a' * 300000 %}{% set t = s ~ 'b' %}{% set s = s ~ 'c' %}";
    for end in [
        "{% for i in range(100000) %}{{ s == t }}{% endfor %}",
        "{% for i in range(100000) %}{{ s < t }}{% endfor %}",
        "{% for i in range(100000) %}{{ s[-1] }}{% endfor %}",
        "{% for i in range(100000) %}{{ s[1:2] }}{% endfor %}",
        "{% for i in range(100000) %}{{ {s: 1}[t] is defined }}{% endfor %}",
        "{% for i in range(100000) %}{{ s is lower }}{% endfor %}",
        "{{ ([s, t] * 10000)|sort|length }}",
        "{{ ([s, t] * 10000)|unique|length }}",
        "{{ ([{'k': s}] * 10000)|groupby('k')|length }}",
        "{{ ([s] * 10000)|join|length }}",
        "{{ ([s] * 10000)|string|length }}",
        "{{ s|trim(t) }}",
        "{{ ([1] * 100000)|tojson(indent=100000) }}",
    ] {
        ends(&format!("{texts}{end}"));
    }
}

#[test]
fn lists_that_are_only_told_of_are_not_walked_while_they_are_compiled() {
    ends("{{ [1] * 50000000 == [1] * 50000000 }}");
    ends("{{ 2 in [1] * 50000000 }}");
    assert_eq!(outcome("{{ 2 in [1] * 5 }} {{ [1] * 500 == [1] * 500 }}", "{}").unwrap(), "False True");
}

#[test]
fn values_nested_beyond_any_stack_are_refused_where_they_are_walked_and_dropped_where_not() {
    let level = format!("{{% set b = {}b{} %}}", "[".repeat(60), "]".repeat(60));
    let deep = grown("{% set b = 1 %}", &level, 450);
    assert_eq!(outcome(&format!("{deep}x"), "{}").unwrap(), "x");
    ends(&format!("{deep}{{{{ b ~ 'x' }}}}"));
    ends(&format!("{deep}{{{{ b == [b] }}}}"));
    ends(&format!("{deep}{{{{ {{b: 1}} }}}}"));
    ends(&format!("{}{{{{ a|list }}}}", grown("{% set a = [1] %}", "{% set a = a[:] %}", 3_000)));
}

#[test]
fn messages_share_what_a_prompt_may_cost() {
    // Each costs about a fifth of what there is.
    let work = "{% for i in range(20000) %}{% set x = i + i %}{% endfor %}x";
    let render = |messages: usize| {
        let messages = vec![json!({"role": "user", "content": work}); messages];
        let template = template("", json!({"messages": messages}));
        template.render(&template.check("{}").unwrap()).map_err(|error| error.to_string())
    };
    assert_eq!(render(3).unwrap().len(), 3);
    let error = render(40).unwrap_err();
    assert!(error.contains("takes more work"), "{error}");
}

#[test]
fn what_fits_is_rendered_as_before() {
    let row = json!({"a": (0..5_000).collect::<Vec<_>>()}).to_string();
    assert_eq!(outcome("{{ (a + a)|length }} {{ (a + a)[7000] }}", &row).unwrap(), "10000 2000");
    assert_eq!(outcome("{{ a|reverse|sort == a }} {{ 4999 in a }}", &row).unwrap(), "True True");
    assert_eq!(outcome("{{ ['b', 'A', 'a', 'B']|sort|join }}", "{}").unwrap(), "AabB");
    assert_eq!(outcome("{{ [3, 1, 2]|sort(reverse=true) }}", "{}").unwrap(), "[3, 2, 1]");
    assert_eq!(outcome("{{ {[1, [2]]: 'x'}[[1, [2]]] }} {{ [[1], [1]]|unique }}", "{}").unwrap(), "x [[1]]");
}
