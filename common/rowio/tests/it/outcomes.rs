//! Outcomes out: the exact lines, the columns and the dialects.

use std::sync::Arc;

use promptmill_domain::outcome::Ending;
use promptmill_domain::{Attempt, Call, FailureKind, Flag, ItemCode, Money, Outcome, Output, Tokens, Totals};
use promptmill_prompt::Template;
use promptmill_rowio::{
    CsvColumns, CsvDialect, CsvOptions, OutcomeRecord, OutcomeWriter, ResultsEnd, WriteError,
};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::{open_template, parse};

fn template(output: &Value) -> Arc<Template> {
    parse(&json!({
        "name": "t",
        "messages": [{ "role": "user", "content": "{{ product }}" }],
        "variables": { "product": { "type": "string" }, "count": { "type": "integer", "required": false } },
        "output": output,
    }))
}

fn text_template() -> Arc<Template> {
    template(&json!({ "format": "text" }))
}

fn object_template() -> Arc<Template> {
    template(&json!({ "format": "json", "schema": {
        "type": "object",
        "properties": {
            "title": { "type": "string" },
            "score": { "type": ["number", "null"] },
            "tags": { "type": "array", "items": { "type": "string" } },
        },
        "required": ["title"],
        "additionalProperties": false,
    }}))
}

fn call(cost: Option<&str>) -> Call {
    Call {
        started_ms: 1,
        duration_ms: 2,
        status: Some(200),
        tokens: Tokens { prompt: 10, completion: 5 },
        cost: cost.map(|cost| cost.parse().unwrap()),
        ..Call::default()
    }
}

fn succeeded(output: Output) -> Outcome {
    Outcome {
        custom_id: Some("sku,1".into()),
        ending: Ending::Succeeded { output, repaired: true },
        attempts: vec![Attempt { calls: vec![call(Some("0.0001")), call(None)] }],
        cut: Totals::default(),
        flags: vec![Flag::Mended, Flag::UsageUnknown],
    }
}

fn failed() -> Outcome {
    Outcome {
        custom_id: None,
        ending: Ending::Failed { kind: FailureKind::RateLimited, message: "slow down".into() },
        attempts: vec![Attempt { calls: vec![call(None)] }, Attempt { calls: vec![call(None)] }],
        cut: Totals::default(),
        flags: Vec::new(),
    }
}

fn json_output(text: &str) -> Output {
    Output::Json(RawValue::from_string(text.to_owned()).unwrap())
}

fn text_output(text: &str) -> Output {
    Output::Text(text.to_owned())
}

#[track_caller]
fn jsonl(records: &[OutcomeRecord<'_>]) -> String {
    let mut writer = OutcomeWriter::jsonl(Vec::new());
    for record in records {
        writer.write(record).unwrap();
    }
    String::from_utf8(writer.finish().unwrap()).unwrap()
}

#[track_caller]
fn csv(records: &[OutcomeRecord<'_>], columns: CsvColumns, options: CsvOptions) -> String {
    let mut writer = OutcomeWriter::csv(Vec::new(), columns, options).unwrap();
    for record in records {
        writer.write(record).unwrap();
    }
    String::from_utf8(writer.finish().unwrap()).unwrap()
}

#[test]
fn a_line_has_every_member_in_its_order() {
    let ok = succeeded(json_output("{\n  \"title\": \"a\\nb\",\n  \"score\": 1E5\n}"));
    let text = succeeded(text_output("two\nlines"));
    let failed = failed();
    let records = [
        OutcomeRecord::settled(0, &ok),
        OutcomeRecord::settled(1, &text)
            .with_input("{\"product\":\"Lamp\",\n\"n\": 12345678901234567890123}"),
        OutcomeRecord::settled(2, &failed),
        OutcomeRecord::closed(3, Some("sku-4"), ItemCode::Cancelled),
        OutcomeRecord::closed(4, None, ItemCode::Expired),
    ];
    let expected = [
        r#"{"index":0,"custom_id":"sku,1","outcome":"succeeded","output":{"title":"a\nb","score":1E5},"error":null,"attempts":1,"calls":2,"tokens":{"prompt":20,"completion":10},"cost":"0.0001","flags":["mended","usage_unknown"]}"#,
        r#"{"index":1,"custom_id":"sku,1","outcome":"succeeded","output":"two\nlines","error":null,"attempts":1,"calls":2,"tokens":{"prompt":20,"completion":10},"cost":"0.0001","flags":["mended","usage_unknown"],"input":{"product":"Lamp","n":12345678901234567890123}}"#,
        r#"{"index":2,"custom_id":null,"outcome":"failed","output":null,"error":{"kind":"rate_limited","message":"slow down"},"attempts":2,"calls":2,"tokens":{"prompt":20,"completion":10},"cost":null,"flags":[]}"#,
        r#"{"index":3,"custom_id":"sku-4","outcome":"cancelled","output":null,"error":null,"attempts":0,"calls":0,"tokens":{"prompt":0,"completion":0},"cost":null,"flags":[]}"#,
        r#"{"index":4,"custom_id":null,"outcome":"expired","output":null,"error":null,"attempts":0,"calls":0,"tokens":{"prompt":0,"completion":0},"cost":null,"flags":[]}"#,
    ];
    assert_eq!(jsonl(&records).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_object_output_is_spread_over_columns() {
    let full = succeeded(json_output(r#"{"tags":["x", "y"],"title":"=1+1","score":-2.50}"#));
    let sparse = succeeded(json_output(r#"{"title":"","score":null}"#));
    let failed = failed();
    let records = [
        OutcomeRecord::settled(0, &full),
        OutcomeRecord::settled(1, &sparse).with_input(r#"{"product":"Lamp \"XL\"","count":3}"#),
        OutcomeRecord::settled(2, &failed),
        OutcomeRecord::closed(3, None, ItemCode::Cancelled),
    ];
    let columns = CsvColumns::of(&object_template(), true);
    let expected = concat!(
        "index,custom_id,outcome,output.title,output.score,output.tags,error_kind,error_message,attempts,calls,",
        "prompt_tokens,completion_tokens,cost,flags,input.product,input.count\n",
        "0,\"sku,1\",succeeded,=1+1,-2.50,\"[\"\"x\"\", \"\"y\"\"]\",,,1,2,20,10,0.0001,mended usage_unknown,,\n",
        "1,\"sku,1\",succeeded,,,,,,1,2,20,10,0.0001,mended usage_unknown,\"Lamp \"\"XL\"\"\",3\n",
        "2,,failed,,,,rate_limited,slow down,2,2,20,10,,,,\n",
        "3,,cancelled,,,,,,0,0,0,0,,,,\n",
    );
    assert_eq!(csv(&records, columns, CsvOptions::default()), expected);
}

#[test]
fn the_safe_dialect_guards_texts_and_leaves_numbers() {
    let full = succeeded(json_output(r#"{"title":"=HYPERLINK(\"x\")","score":-2.5}"#));
    let options = CsvOptions { dialect: CsvDialect::Safe, byte_order_mark: true };
    let written =
        csv(&[OutcomeRecord::settled(0, &full)], CsvColumns::of(&object_template(), false), options);
    assert!(written.starts_with("\u{feff}\"index\","), "{written}");
    let row = written.lines().nth(1).unwrap();
    let expected = "0,\"sku,1\",\"succeeded\",\"'=HYPERLINK(\"\"x\"\")\",-2.5,\"\",\"\",\"\",1,2,20,10,0.0001,\
                    \"mended usage_unknown\"";
    assert_eq!(row, expected);
}

#[test]
fn members_the_schema_lets_through_are_not_lost() {
    let open =
        template(&json!({ "format": "json", "schema": { "type": "object", "properties": { "a": {} } } }));
    let outcome = succeeded(json_output(r#"{"b":"x","a":1,"c":[2]}"#));
    let written =
        csv(&[OutcomeRecord::settled(0, &outcome)], CsvColumns::of(&open, false), CsvOptions::default());
    let mut reader = csv::Reader::from_reader(written.as_bytes());
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let row = reader.records().next().unwrap().unwrap();
    assert_eq!(
        (&header[3..5], &row[3], &row[4]),
        (&["output.a".to_owned(), "output_other".to_owned()][..], "1", r#"{"b":"x","c":[2]}"#)
    );
}

#[test]
fn variables_an_open_template_does_not_name_stand_in_one_column() {
    let outcome = succeeded(text_output("x"));
    let record = OutcomeRecord::settled(0, &outcome).with_input(r#"{"text":"t","more":[1]}"#);
    let written = csv(&[record], CsvColumns::of(&open_template(), true), CsvOptions::default());
    assert!(written.lines().next().unwrap().ends_with(",flags,input.text,input_other"), "{written}");
    assert!(written.trim_end().ends_with(r#",t,"{""more"":[1]}""#), "{written}");
}

#[test]
fn an_output_of_another_shape_is_refused_and_leaves_no_half_row() {
    let columns = CsvColumns::of(&object_template(), false);
    let mut writer = OutcomeWriter::csv(Vec::new(), columns, CsvOptions::default()).unwrap();
    for bad in [json_output("[1]"), json_output(r#"{"unknown":1}"#), text_output("x")] {
        let outcome = succeeded(bad);
        let error = writer.write(&OutcomeRecord::settled(9, &outcome)).unwrap_err();
        assert!(matches!(error, WriteError::Corrupt { index: 9 }));
    }
    let good = succeeded(json_output(r#"{"title":"t"}"#));
    writer.write(&OutcomeRecord::settled(1, &good)).unwrap();
    let written = String::from_utf8(writer.finish().unwrap()).unwrap();
    assert_eq!(written.lines().count(), 2);
    let corrupt = OutcomeRecord::settled(1, &good).with_input("{");
    assert!(matches!(
        OutcomeWriter::jsonl(Vec::new()).write(&corrupt),
        Err(WriteError::Corrupt { index: 1 })
    ));
}

#[test]
fn a_failing_target_is_an_error() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("full"))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let record = OutcomeRecord::closed(0, None, ItemCode::Expired);
    let mut lines = OutcomeWriter::jsonl(Full);
    assert!(lines.write(&record).is_ok());
    assert!(lines.flush().is_err());
    let columns = CsvColumns::of(&text_template(), false);
    let mut table = OutcomeWriter::csv(Full, columns, CsvOptions::default()).unwrap();
    assert!(table.write(&record).is_ok());
    assert!(table.finish().is_err());
}

#[test]
fn costs_are_decimal_and_never_rounded() {
    let mut outcome = succeeded(text_output("x"));
    outcome.attempts[0].calls[0].cost = Some(Money::from_pico(1));
    let line = jsonl(&[OutcomeRecord::settled(0, &outcome)]);
    assert!(line.contains(r#""cost":"0.000000000001""#), "{line}");
}

proptest! {
    #[test]
    fn a_text_survives_the_raw_csv(text in ".{0,60}", id in proptest::option::of(".{1,20}"), message in "(.|\r|\n){0,20}") {
        let mut ok = succeeded(text_output(&text));
        ok.custom_id.clone_from(&id);
        let mut bad = failed();
        bad.ending = Ending::Failed { kind: FailureKind::Internal, message: message.clone() };
        let records = [OutcomeRecord::settled(0, &ok), OutcomeRecord::settled(1, &bad)];
        let written = csv(&records, CsvColumns::of(&text_template(), false), CsvOptions::default());
        let rows: Vec<_> = csv::Reader::from_reader(written.as_bytes()).into_records().map(Result::unwrap).collect();
        prop_assert_eq!(&rows[0][3], text);
        prop_assert_eq!(&rows[0][1], id.unwrap_or_default());
        prop_assert_eq!(&rows[1][5], message);
    }

    #[test]
    fn properties_survive_the_raw_csv(title in ".{0,40}", score: i64, tags in proptest::collection::vec(".{0,10}", 0..4)) {
        let value = json!({ "score": score, "title": title, "tags": tags });
        let outcome = succeeded(json_output(&value.to_string()));
        let columns = CsvColumns::of(&object_template(), false);
        let written = csv(&[OutcomeRecord::settled(0, &outcome)], columns, CsvOptions::default());
        let row = csv::Reader::from_reader(written.as_bytes()).into_records().next().unwrap().unwrap();
        prop_assert_eq!(&row[3], title);
        prop_assert_eq!(row[4].parse::<i64>().unwrap(), score);
        prop_assert_eq!(serde_json::from_str::<Vec<String>>(&row[5]).unwrap(), tags);
    }

    #[test]
    fn a_line_reads_back_as_its_values(text in ".{0,60}", number: f64) {
        prop_assume!(number.is_finite());
        let value = json!({ "t": text, "n": number });
        let outcome = succeeded(json_output(&serde_json::to_string_pretty(&value).unwrap()));
        let written = jsonl(&[OutcomeRecord::settled(5, &outcome)]);
        prop_assert_eq!(written.matches('\n').count(), 1);
        let read: Value = serde_json::from_str(&written).unwrap();
        prop_assert_eq!(&read["output"], &value);
    }
}

#[test]
fn a_cursor_stands_last_and_a_closing_line_tells_that_all_came() {
    let outcome = succeeded(Output::Text("a".into()));
    let mut writer = OutcomeWriter::jsonl(Vec::new());
    let record = OutcomeRecord::of(7, ItemCode::Succeeded, Some(&outcome), Some("another"));
    writer.write(&record.clone().with_cursor("c1")).unwrap();
    writer.write(&record.at(9)).unwrap();
    writer.write(&OutcomeRecord::of(8, ItemCode::Cancelled, None, Some("row's"))).unwrap();
    let end = ResultsEnd { count: 3, state: "running", complete: false, cursor: Some("c1") };
    writer.write_end(end).unwrap();
    writer.write_end(ResultsEnd { complete: true, cursor: None, ..end }).unwrap();
    let text = String::from_utf8(writer.finish().unwrap()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with(r#"{"index":7,"custom_id":"sku,1","#)
            && lines[0].ends_with(r#","cursor":"c1"}"#)
    );
    assert!(lines[1].starts_with(r#"{"index":9,"#) && !lines[1].contains("cursor"));
    assert!(lines[2].starts_with(r#"{"index":8,"custom_id":"row's","outcome":"cancelled","#), "{}", lines[2]);
    assert_eq!(lines[3], r#"{"_end":true,"count":3,"state":"running","complete":false,"cursor":"c1"}"#);
    assert_eq!(lines[4], r#"{"_end":true,"count":3,"state":"running","complete":true,"cursor":null}"#);
}

#[test]
fn a_csv_has_no_closing_line_and_no_cells_for_messages() {
    let outcome = succeeded(Output::Text("a".into()));
    let template = crate::support::strings(&["text"]);
    let columns = CsvColumns::of(&template, true);
    let mut writer = OutcomeWriter::csv(Vec::new(), columns, CsvOptions::default()).unwrap();
    let messages = r#"[{"role":"user","content":"Hi"}]"#;
    writer.write(&OutcomeRecord::settled(0, &outcome).with_input(messages).with_cursor("c")).unwrap();
    writer.write_end(ResultsEnd { count: 1, state: "completed", complete: true, cursor: None }).unwrap();
    let text = String::from_utf8(writer.finish().unwrap()).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.lines().next().unwrap().ends_with(",input.text") && text.trim_end().ends_with(','),
        "{text}"
    );
}
