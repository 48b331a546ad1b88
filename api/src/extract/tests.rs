use super::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    #[serde(default)]
    #[expect(dead_code, reason = "only read")]
    count: Option<u32>,
    #[serde(default)]
    inner: Option<Box<Sample>>,
    #[serde(default)]
    list: Vec<Sample>,
    #[serde(default)]
    raw: Option<Box<serde_json::value::RawValue>>,
    #[serde(default)]
    #[expect(dead_code, reason = "only read")]
    kind: Option<Kind>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    One,
    Two,
}

#[track_caller]
fn refused(text: &str) -> (ProblemId, String, String) {
    let problem = strict::check(text).and_then(|()| value_of::<Sample>(text).map(drop)).unwrap_err();
    let error = problem.first_error().expect("it names a place").clone();
    (problem.id(), error.pointer.unwrap_or_default(), error.detail)
}

#[test]
fn what_the_grammar_allows_and_we_do_not_is_invalid_json() {
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let cases = [
        ("{\"a\":1,\"a\":2}", "/a"),
        ("{\"list\":[{},{\"b/c\":{\"d\":1,\"d\":1}}]}", "/list/1/b~1c/d"),
        (deep.as_str(), ""),
        ("{\"a\":NaN}", ""),
        ("{\"a\":1e400}", ""),
        ("{\"a\":\"\\ud800\"}", ""),
        ("{\"a\":1} x", ""),
        ("\u{feff}{}", ""),
        ("", ""),
        ("{\"a\":\"\n\"}", ""),
    ];
    for (text, pointer) in cases {
        let (id, place, _) = refused(text);
        assert_eq!((id, place.as_str()), (ProblemId::InvalidJson, pointer), "{text}");
    }
    let fits = format!("{}1{}", "[".repeat(64), "]".repeat(64));
    assert!(strict::check(&fits).is_ok());
}

#[test]
fn what_does_not_fit_is_named_by_pointer_and_never_repeated() {
    let cases = [
        (
            r#"{"list":[{},{"count":"SECRET, expected SECRET"}]}"#,
            "/list/1/count",
            "invalid type: string, expected u32",
        ),
        (r#"{"inner":{"count":-7}}"#, "/inner/count", "invalid value: integer, expected u32"),
        (r#"{"kind":"SECRET"}"#, "/kind", "not one of those allowed, expected `one` or `two`"),
        (r#"{"kind":"x`, expected SECRET!"}"#, "/kind", "not one of those allowed, expected `one` or `two`"),
        (r#"{"SECRET thing":1}"#, "/SECRET thing", "unknown member"),
        (r#"[]"#, "", "invalid type: sequence, expected an object"),
        (r#"{"inner":{"list":[[]]}}"#, "/inner/list/0", "invalid type: sequence, expected an object"),
        (r#"7"#, "", "invalid type: integer, expected an object"),
    ];
    for (text, pointer, words) in cases {
        let (id, place, detail) = refused(text);
        assert_eq!((id, place.as_str(), detail.as_str()), (ProblemId::Invalid, pointer, words), "{text}");
    }
    let (_, place, detail) = refused(r#"{"inner":{"cuont":1}}"#);
    assert_eq!(place, "/inner/cuont");
    assert!(detail.starts_with("unknown member `cuont`, expected one of `count`"), "{detail}");
}

#[test]
fn raw_values_keep_their_text() {
    let sample: Sample = value_of(r#"{"raw": {"n": 1E5, "x":[ ]}, "inner":null}"#).unwrap();
    assert_eq!(sample.raw.unwrap().get(), r#"{"n": 1E5, "x":[ ]}"#);
    assert!(sample.inner.is_none() && sample.list.is_empty());
}

#[test]
fn a_query_says_what_it_says() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        limit: Option<u32>,
        end: Option<bool>,
        name: Option<String>,
        #[serde(default)]
        label: Vec<String>,
    }
    async fn read(query: &str) -> Result<Asked, Problem> {
        let (app, _folder) = crate::state::alone();
        let request = axum::http::Request::builder().uri(format!("/x?{query}")).body(()).unwrap();
        Query::from_request_parts(&mut request.into_parts().0, &app).await.map(|Query(asked)| asked)
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let asked = |limit, name: Option<&str>, label: &[&str]| Asked {
        limit,
        end: None,
        name: name.map(str::to_owned),
        label: label.iter().map(|label| (*label).to_owned()).collect(),
    };
    for (query, expected) in [
        ("", asked(None, None, &[])),
        ("limit=2&&", asked(Some(2), None, &[])),
        ("name=", asked(None, Some(""), &[])),
        ("name=a%26b&label=x&label=y", asked(None, Some("a&b"), &["x", "y"])),
        ("label=", asked(None, None, &[""])),
    ] {
        assert_eq!(runtime.block_on(read(query)).unwrap(), expected, "{query}");
    }
    for bad in ["limit=", "limit", "end=", "end=yes", "limit=1&limit=2", "colour=1", "limit=-1"] {
        assert_eq!(runtime.block_on(read(bad)).unwrap_err().id(), ProblemId::BadRequest, "{bad}");
    }
}
