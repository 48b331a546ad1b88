//! Finding the JSON in what a model wrote.

use std::sync::LazyLock;

use promptmill_prompt::Template;

use crate::judged;

/// What a reply is held against: any JSON, an object of a certain form, any text, one of a few texts, a rule.
static TEMPLATES: LazyLock<[Template; 5]> = LazyLock::new(|| {
    [
        r#""output":{"format":"json"}"#,
        r#""output":{"format":"json","schema":{"type":"object","required":["a"],"properties":{"a":{}}}}"#,
        r#""output":{"format":"text","min_length":1,"max_length":200}"#,
        r#""output":{"format":"text","enum":["yes"," no\n"]}"#,
        r#""output":{"format":"json"},"rules":[{"expression":"output is mapping and output.a","message":"needs a"}]"#,
    ]
    .map(|members| {
        let text =
            format!(r#"{{"name":"fuzz","messages":[{{"role":"user","content":"x"}}],{members}}}"#);
        Template::parse(&text).expect("the templates of this target are valid")
    })
});

/// Every reply gets a verdict that is sound and always the same; what is taken out of it is JSON and stood in it.
///
/// # Panics
/// When that does not hold.
pub fn target(input: &[u8]) {
    let reply = String::from_utf8_lossy(input);
    for template in TEMPLATES.iter() {
        judged::check(template, &reply);
    }
}
