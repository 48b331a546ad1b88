//! Reading the template format.

use promptmill_domain::{ModelSettings, Role};
use promptmill_prompt::{OutputSpec, Template, VariableKind};
use serde_json::json;

use crate::support::{lines, problems_of, template};

#[test]
fn a_template_needs_only_a_name_and_messages() {
    let source = r#"{"name": "a", "messages": [{"role": "user", "content": "Hi {{ b }} {{ a }} {{ b }}"}]}"#;
    let template = Template::parse(source).unwrap();
    assert_eq!((template.name(), template.source(), template.description()), ("a", source, None));
    assert_eq!((template.model(), template.max_repairs()), (None, 2));
    assert_eq!(template.settings(), &ModelSettings::default());
    assert!(
        matches!(template.output(), OutputSpec::Text { min_length: None, max_length: None, choices } if choices.is_empty())
    );
    let variables: Vec<_> =
        template.variables().iter().map(|v| (v.name.as_str(), v.kind, v.required)).collect();
    assert_eq!(variables, [("b", None, true), ("a", None, true)]);
}

#[test]
fn every_key_is_read() {
    let template = template(
        "{{ x }}",
        json!({
            "$schema": "x", "description": "d", "max_repairs": 0, "formats": false,
            "variables": {"x": {"type": "integer", "default": 3, "minimum": 1}, "y": {"required": false}},
            "model": {"name": "openrouter:a/b:free", "temperature": 0.5, "top_p": 1, "max_tokens": 10, "seed": -1,
                      "stop": ["END"], "extra": {"reasoning": {"effort": "low"}}},
            "output": {"format": "json", "schema": {"type": "object"}},
            "rules": [{"expression": "output.a", "message": "needs a", "verdict": "reject"}],
        }),
    );
    assert_eq!(template.description(), Some("d"));
    assert_eq!(template.model().unwrap().to_string(), "openrouter:a/b:free");
    let settings = template.settings();
    assert_eq!((settings.temperature, settings.max_tokens, settings.seed), (Some(0.5), Some(10), Some(-1)));
    assert_eq!(settings.extra["reasoning"]["effort"], "low");
    assert_eq!(
        (template.variables()[0].kind, template.variables()[0].required),
        (Some(VariableKind::Integer), false)
    );
    assert_eq!(template.max_repairs(), 0);
    let OutputSpec::Json { schema: Some(schema) } = template.output() else { panic!("json") };
    assert_eq!(schema.name, "t");
}

#[test]
fn all_problems_are_found_at_once_and_name_their_place() {
    let found = problems_of(&json!({
        "name": "Bad Name", "mesages": [], "max_repairs": 11, "formats": 1,
        "messages": [{"role": "robot", "content": "x"}, {"role": "user", "content": "line\n{{ oops"},
                     {"role": "system", "content": "{{ titel }} {{ a|uper }} {{ now() }}"}],
        "variables": {"title": {"type": "text"}, "a": {"default": 1, "required": true, "max_lenght": 3}, "for": {}},
        "model": {"name": "nocolon", "temperature": 3, "seed": 1.5, "stop": [""]},
        "output": {"format": "json", "enum": ["a"], "schema": {"type": "nope"}},
        "rules": [{"expression": "outptu.a", "message": "m"}, {"expression": "1 +", "message": ""},
                  {"expression": "variables.b", "message": "m", "verdict": "maybe"}],
    }));
    for expected in [
        "/name: must be 1 to 100",
        "/mesages: unknown key; did you mean `messages`? (allowed: $schema, name,",
        "/messages/0/role: must be one of: system, user, assistant",
        "/messages/1/content: line 2: ",
        "/messages/2/content: unknown filter `uper`; did you mean `upper`?",
        "/messages/2/content: unknown function `now`",
        "/messages/2/content: variable `titel` is not declared; did you mean `title`?",
        "/messages: the last message must be of the user or the assistant",
        "/variables/title/type: must be one of: string",
        "/variables/a/max_lenght: unknown key; did you mean `max_length`?",
        "/variables/a/required: a variable with a default is not required",
        "/variables/for: `for` means something else",
        "/model/name: ",
        "/model/temperature: must be a number from 0 to 2",
        "/model/seed: must be an integer",
        "/model/stop: must hold only strings",
        "/formats: must be true or false, not integer",
        "/output/enum: does not belong to the format `json`",
        "/output/schema/type: ",
        "/rules/0/expression: unknown name `outptu`",
        "/rules/1/message: must not be empty",
        "/rules/1/expression: ",
        "/rules/2/verdict: must be one of: repair, reject",
        "/rules/2/expression: variable `b` is not declared",
        "/max_repairs: must be an integer from 0 to 10",
    ] {
        assert!(found.lines().any(|line| line.starts_with(expected)), "missing: {expected}\nin:\n{found}");
    }
}

#[test]
fn keys_that_stand_twice_are_problems() {
    let text = r#"{"name":"a","name":"b","messages":[{"role":"user","role":"user","content":"x"}]}"#;
    let found = lines(&Template::parse(text).unwrap_err());
    assert_eq!(found, "/name: stands twice in its object\n/messages/0/role: stands twice in its object");
}

#[test]
fn what_is_no_template_at_all_is_one_problem() {
    for text in ["", "[]", "{", "null", "{\"name\": NaN}", "\u{feff}{}"] {
        assert_eq!(Template::parse(text).unwrap_err().len(), 1, "{text}");
    }
    let deep = format!("{{\"name\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    assert!(lines(&Template::parse(&deep).unwrap_err()).contains("recursion limit"));
    assert_eq!(lines(&Template::parse("{}").unwrap_err()), "/name: is required\n/messages: is required");
}

#[test]
fn a_default_and_every_choice_fit_their_variable() {
    let found = problems_of(&json!({
        "name": "a", "messages": [{"role": "user", "content": "{{ a }}"}],
        "variables": {"a": {"type": "string", "enum": ["x", 1], "default": "y"},
                      "b": {"type": "integer", "minimum": 5, "maximum": 4, "min_length": 1},
                      "c": {"type": "string", "pattern": "(a)\\1"}, "d": {"enum": []}},
    }));
    for expected in [
        "/variables/a/enum/1: must be string, not integer",
        "/variables/a/default: must be one of: \"x\"",
        "/variables/b/maximum: is below its minimum",
        "/variables/b/min_length: needs `type` to be `string`",
        "/variables/c/pattern: is not a regular expression",
        "/variables/d/enum: must have at least one element",
    ] {
        assert!(found.contains(expected), "missing: {expected}\nin:\n{found}");
    }
}

#[test]
fn templates_cannot_include_or_inherit() {
    for content in [
        "{% include '/etc/passwd' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
        "{% block a %}{% endblock %}",
    ] {
        let found = problems_of(&json!({"name": "a", "messages": [{"role": "user", "content": content}]}));
        assert!(found.contains("/messages/0/content: line 1: "), "{found}");
    }
    let found =
        problems_of(&json!({"name": "a", "messages": [{"role": "user", "content": "{{ debug() }}"}]}));
    assert!(found.contains("unknown function `debug`"), "{found}");
}

#[test]
fn what_a_source_assigns_may_be_called() {
    let t = template("{% set f = range %}{% for i in f(2) %}{{ i }}{% endfor %}", json!({}));
    assert!(t.variables().is_empty());
    assert_eq!(t.render(&t.check("{}").unwrap()).unwrap()[0].content, "01");
    let t = template(
        "{% macro b() %}<{{ caller() }}>{% endmacro %}{% call b() %}{{ x }}{% endcall %}",
        json!({}),
    );
    assert_eq!(t.variables().iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["x"]);
    assert_eq!(t.render(&t.check(r#"{"x": 1}"#).unwrap()).unwrap()[0].content, "<1>");
}

#[test]
fn sizes_are_bounded() {
    let content = "x".repeat(64 * 1024 + 1);
    let found = problems_of(&json!({"name": "a", "messages": [{"role": "user", "content": content}]}));
    assert!(found.contains("at most 65536 bytes"), "{found}");
    for (levels, words) in [(100, "at most 64 levels"), (5000, "at most 500 operators")] {
        let nested = format!("{{{{ {}1{} }}}}", "(".repeat(levels), ")".repeat(levels));
        let found = problems_of(&json!({"name": "a", "messages": [{"role": "user", "content": nested}]}));
        assert!(found.contains(words), "{found}");
    }
    assert!(Template::parse(&" ".repeat((1 << 20) + 1)).is_err());
    let template =
        template("x", json!({"name": "a".repeat(100), "output": {"format": "json", "schema": true}}));
    let OutputSpec::Json { schema: Some(schema) } = template.output() else { panic!("json") };
    assert_eq!(schema.name.len(), 64);
}

#[test]
fn the_schema_of_a_row_is_ready_for_a_form() {
    let template = template(
        "{{ b }}{{ a }}",
        json!({"variables": {
            "b": {"type": "string", "enum": ["x", "y"], "description": "which"},
            "a": {"type": "integer", "default": 2, "minimum": 0},
        }}),
    );
    insta::assert_json_snapshot!(template.variables_schema(), @r#"
    {
      "$schema": "https://json-schema.org/draft/2020-12/schema",
      "title": "t",
      "type": "object",
      "properties": {
        "b": {
          "type": "string",
          "description": "which",
          "enum": [
            "x",
            "y"
          ]
        },
        "a": {
          "type": "integer",
          "default": 2,
          "minimum": 0
        }
      },
      "required": [
        "b"
      ],
      "additionalProperties": false
    }
    "#);
}

#[test]
fn debug_output_holds_no_prompt() {
    let template = template("secret words", json!({}));
    assert!(!format!("{template:?}").contains("secret"));
    let roles: Vec<Role> =
        template.render(&template.check("{}").unwrap()).unwrap().iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::User]);
}

#[test]
fn a_template_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Template>();
    shared::<promptmill_prompt::Variables>();
    shared::<OutputSpec>();
}
