//! Rendering prompts.

use promptmill_prompt::RENDERED_BYTES;
use serde_json::json;

use crate::support::template;

#[track_caller]
fn rendered(content: &str, row: &str) -> String {
    let template = template(content, json!({}));
    let row = template.check(row).unwrap();
    template.render(&row).unwrap().remove(0).content
}

#[track_caller]
fn fails(content: &str, row: &str) -> String {
    let template = template(content, json!({}));
    let row = template.check(row).unwrap();
    template.render(&row).unwrap_err().to_string()
}

#[test]
fn values_are_printed_and_never_read_as_template_text() {
    assert_eq!(rendered("<{{ a }}>", r#"{"a": "{{ b }}{% for %}<b>&\"'"}"#), "<{{ b }}{% for %}<b>&\"'>");
    assert_eq!(rendered("{{ a }}", r#"{"a": [1, "x", {"k": 1.5}]}"#), "[1, 'x', {'k': 1.5}]");
    assert_eq!(rendered("{{ a|tojson }}", r#"{"a": [1, "x", {"k": 1.5}]}"#), r#"[1, "x", {"k": 1.5}]"#);
    assert_eq!(rendered("{{ a|tojson }}", r#"{"a": "<&'"}"#).len(), r#""<&'""#.len() + 3 * 5);
    assert_eq!(rendered("plain {text}\n", "{}"), "plain {text}\n");
    assert_eq!(rendered("{{ a }}\n", r#"{"a": "x"}"#), "x\n");
    assert_eq!(
        rendered("{% for x in a %}{{ loop.index }}{{ x }} {% endfor %}", r#"{"a": ["p", "q"]}"#),
        "1p 2q "
    );
    assert_eq!(rendered("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(a) }}", r#"{"a": 1}"#), "[1]");
    assert_eq!(rendered("{{ a.b.c }}", r#"{"a": {"b": {"c": 1}}}"#), "1");
}

#[test]
fn an_absent_optional_variable_can_be_asked_about_but_not_printed() {
    let variables = json!({"variables": {"notes": {"type": "string", "required": false}}});
    for (content, expected) in [
        ("{% if notes %}N{% else %}-{% endif %}", "-"),
        ("{% if notes is defined %}N{% else %}-{% endif %}", "-"),
        ("{{ notes | default('none given') }}", "none given"),
    ] {
        let template = template(content, variables.clone());
        let row = template.check("{}").unwrap();
        assert_eq!(template.render(&row).unwrap()[0].content, expected);
    }
    let template = template("a\n{{ notes }}", variables);
    let error = template.render(&template.check("{}").unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "/messages/0/content: line 2: a value that is not there is used");
}

#[test]
fn undefined_attributes_fail() {
    assert!(fails("{{ a.nope }}", r#"{"a": {}}"#).contains("not there"));
    assert!(fails("{{ a.nope.x }}", r#"{"a": {}}"#).contains("not there"));
}

#[test]
fn hostile_templates_end_quickly() {
    for content in [
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ [0] * 500000000 }}",
        "{{ range(1000000000)|list }}",
        "{{ 10 ** 100000 }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ 'a\nb'|indent(1000000000) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ] {
        let message = fails(content, "{}");
        assert!(message.starts_with("/messages/0/content: line "), "{message}");
    }
}

/// `levels` lists, each holding the one before it twice.
fn doubling(levels: usize, last: &str) -> String {
    let sets: String = (0..levels).map(|n| format!("{{% set a{} = [a{n}, a{n}] %}}", n + 1)).collect();
    format!("{{% set a0 = [1] %}}{sets}{{{{ a{levels}{last} }}}}")
}

#[test]
fn a_list_that_holds_others_twice_is_counted_before_it_is_written() {
    for last in ["", "|tojson", "|string", "|tojson(indent=2)"] {
        assert!(fails(&doubling(40, last), "{}").contains("more work"), "{last}");
    }
    assert_eq!(rendered(&doubling(2, ""), "{}"), "[[[1], [1]], [[1], [1]]]");
    let deep: String = (0..200).map(|n| format!("{{% set a{} = [a{n}] %}}", n + 1)).collect();
    assert!(fails(&format!("{{% set a0 = [1] %}}{deep}{{{{ a200 }}}}"), "{}").contains("more work"));
}

#[test]
fn a_format_beyond_ascii_is_refused_where_the_engine_would_cut_a_character() {
    for format in ["%(é00d", "%(é)s", "%é", "%5é"] {
        let row = json!({"a": format}).to_string();
        assert!(fails("{{ a|format(1) }}", &row).contains("plain ASCII"), "{format}");
    }
    assert_eq!(rendered("{{ '100%% é %s %5.1f'|format(a, 2) }}", r#"{"a": "ü"}"#), "100% é ü   2.0");
    assert_eq!(rendered("{{ '%(a)s é'|format(a='ü') }}", "{}"), "ü é");
}

#[test]
fn what_nests_values_without_a_bound_is_not_there() {
    for content in ["{% set n = namespace() %}", "{{ [1]|chain([2]) }}"] {
        let source = json!({"name": "t", "messages": [{"role": "user", "content": content}]}).to_string();
        let problems = promptmill_prompt::Template::parse(&source).unwrap_err();
        assert!(problems[0].message.starts_with("unknown "), "{}", problems[0]);
    }
    fails("{{ [[1]]|map('chain', [2])|list }}", "{}");
}

#[test]
fn a_prompt_is_bounded_over_all_messages() {
    let text = "x".repeat(700_000);
    let row = json!({"a": text}).to_string();
    assert_eq!(rendered("{{ a }}", &row).len(), 700_000);
    assert!(fails("{{ a }}{{ a }}", &row).contains(&RENDERED_BYTES.to_string()));
    let two = json!({"messages": [{"role": "system", "content": "{{ a }}"}, {"role": "user", "content": "{{ a }}"}]});
    let template = template("", two);
    let error = template.render(&template.check(&row).unwrap()).unwrap_err();
    assert_eq!(error.pointer, "/messages/1/content");
}

#[test]
fn errors_never_repeat_values_of_the_row() {
    for content in [
        "{{ a + 1 }}",
        "{{ a|int }}",
        "{{ a.b.c }}",
        "{{ a|round }}",
        "{{ [1]|map(a)|list }}",
        "{{ a.hunter() }}",
        "{{ -a }}",
    ] {
        let template = template(
            content,
            json!({"variables": {"a": {"type": "string"}}, "messages": [{"role": "user", "content": content}]}),
        );
        let row = template.check(r#"{"a": "hunter2"}"#).unwrap();
        let error = template.render(&row).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = fails("{{ 9 ** a }}", r#"{"a": 424242}"#);
    assert!(!error.contains("424242"), "{error}");
}
