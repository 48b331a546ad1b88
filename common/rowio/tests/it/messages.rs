//! Rows that bring their own messages: when a row is one, what is checked, and what is stored.

use std::sync::Arc;

use promptmill_domain::{Message, Role};
use promptmill_prompt::Template;
use promptmill_rowio::{
    BlockBuilder, CheckedContent, ReadError, ReadRow, RowContent, RowFormat, RowKinds, RowLimits, RowReader,
    decode_range, id_hash,
};

use crate::support::{open_template, read, strings, template};

const HELLO: &str = r#"[{"role":"user","content":"Hi"}]"#;

fn read_as(kinds: RowKinds, rows: &str, template: &Arc<Template>) -> Vec<ReadRow> {
    let reader = RowReader::new(rows.as_bytes(), RowFormat::Ndjson, template.clone(), RowLimits::default());
    reader.accepting(kinds).map(Result::unwrap).collect()
}

/// Each row in a line: `messages` or `variables`, or its problems as pointer and reason.
fn told(rows: Vec<ReadRow>) -> Vec<String> {
    let tell = |row| match row {
        ReadRow::Row(row) => {
            let kind = match row.content {
                CheckedContent::Messages(_) => "messages",
                CheckedContent::Variables(_) => "variables",
            };
            format!("{}{kind}", row.custom_id.map(|id| format!("{id} ")).unwrap_or_default())
        }
        ReadRow::Bad(bad) => {
            let told: Vec<String> = bad
                .problems
                .iter()
                .map(|problem| format!("{}: {}", problem.pointer, problem.reason))
                .collect();
            told.join("; ")
        }
    };
    rows.into_iter().map(tell).collect()
}

fn judging_only() -> Arc<Template> {
    Arc::new(Template::parse(&Template::for_messages(None).unwrap()).unwrap())
}

#[test]
fn a_row_of_messages_is_told_from_one_of_variables() {
    let rows = [
        format!(r#"{{"messages":{HELLO}}}"#),
        format!(r#"{{"custom_id":"a","messages":{HELLO}}}"#),
        format!(r#"{{"m\u0065ssages":{HELLO},"custom_id":null}}"#),
        r#"{"text":"t"}"#.to_owned(),
        // Another key, or a value that is no array: then `messages` is a variable like others.
        format!(r#"{{"text":"t","messages":{HELLO}}}"#),
        r#"{"text":"t","messages":"m"}"#.to_owned(),
    ]
    .join("\n");
    let expected = ["messages", "a messages", "messages", "variables", "variables", "variables"];
    assert_eq!(told(read_as(RowKinds::Either, &rows, &open_template())), expected);
    // What nobody asked for is taken as either.
    let told_of = told(read(rows.as_bytes(), RowFormat::Ndjson, &open_template()).rows);
    assert_eq!(told_of, expected);
}

#[test]
fn a_template_takes_messages_for_its_variable() {
    let row = r#"{"messages":"m"}"#;
    assert_eq!(told(read_as(RowKinds::Either, row, &strings(&["messages"]))), ["variables"]);
    let row = format!(r#"{{"messages":{HELLO}}}"#);
    assert_eq!(
        told(read_as(RowKinds::Either, &row, &strings(&["messages"]))),
        ["/messages: must be string, not array"]
    );
}

#[test]
fn rows_of_variables_alone_know_no_messages() {
    let row = format!(r#"{{"messages":{HELLO}}}"#);
    let problems = told(read_as(RowKinds::Variables, &row, &template()));
    assert!(problems[0].contains("/messages: unknown variable"), "{problems:?}");
}

#[test]
fn a_batch_without_a_template_takes_messages_alone() {
    let template = judging_only();
    let rows = [
        format!(r#"{{"custom_id":"a","messages":{HELLO}}}"#),
        "{}".to_owned(),
        r#"{"text":"t"}"#.to_owned(),
        r#"{"variables":{}}"#.to_owned(),
        r#"{"messages":"Hi"}"#.to_owned(),
        format!(r#"{{"messages":{HELLO},"model":"m"}}"#),
        format!(r#"{{"messages":{HELLO},"messages":{HELLO}}}"#),
        format!(r#"{{"custom_id":"a","messages":{HELLO}}}"#),
    ]
    .join("\n");
    let told = told(read_as(RowKinds::Messages, &rows, &template));
    let without = r#": this batch has no template, so a row must bring "messages""#;
    assert_eq!(told[..4], ["a messages", without, without, without]);
    assert_eq!(told[4], "/messages: must be an array of messages");
    assert!(told[5].starts_with("/model: unknown key"), "{told:?}");
    assert_eq!(told[6..], ["/messages: stands twice in the row", "/custom_id: lines 1 and 8 have the same"]);
    let mut csv = RowReader::new(&b"messages\nHi\n"[..], RowFormat::Csv, template, RowLimits::default())
        .accepting(RowKinds::Messages);
    let error = csv.next_row().unwrap_err();
    assert!(matches!(error, ReadError::Header(_)) && error.to_string().contains("JSON Lines"), "{error}");
}

#[test]
fn what_is_wrong_with_messages_is_told_with_its_place_and_never_with_its_words() {
    let row = r#"{"custom_id":"a","messages":[{"role":"user","content":"secret \ud83d"},{"role":"human","content":["secret"]}]}"#;
    let problems = told(read_as(RowKinds::Either, row, &open_template())).remove(0);
    assert!(problems.contains("/messages/0/content: holds half of a surrogate pair"), "{problems}");
    assert!(problems.contains("/messages/1/content: must be a string"), "{problems}");
    assert!(
        problems.contains("/messages/1/role: must be one of") && !problems.contains("secret"),
        "{problems}"
    );
    let ReadRow::Bad(bad) = read_as(RowKinds::Either, row, &open_template()).remove(0) else {
        panic!("it is bad")
    };
    assert_eq!(bad.problems[0].field, "messages/0/content");
}

#[test]
fn pointers_lead_to_the_place_in_the_row_as_it_was_written() {
    let rows = [
        r#"{"product":7}"#,
        r#"{"variables":{"product":7}}"#,
        r#"{"custom_id":7,"variables":{"product":"a","count":"x"}}"#,
        r#"{"variables":{"product":"a","a/b~c":1}}"#,
    ]
    .join("\n");
    let bad = read_as(RowKinds::Either, &rows, &template());
    let pointers: Vec<Vec<String>> = bad
        .into_iter()
        .map(|row| match row {
            ReadRow::Bad(bad) => bad.problems.into_iter().map(|problem| problem.pointer).collect(),
            ReadRow::Row(row) => panic!("line {} is good", row.line),
        })
        .collect();
    assert_eq!(
        pointers,
        [
            vec!["/product"],
            vec!["/variables/product"],
            vec!["/custom_id", "/variables/count"],
            vec!["/variables/a~1b~0c"]
        ]
    );
    let csv = read(b"product,count\na,x\n", RowFormat::Csv, &template()).only_bad();
    assert_eq!((csv[0].pointer.as_str(), csv[0].field.as_str()), ("/count", "count"));
}

#[test]
fn messages_are_rendered_as_they_are_and_survive_their_block() {
    let row = r#"{"custom_id":"a","messages":[{"content":"{{ text }}\n","role":"system"},{"role":"user","content":"é"}]}"#;
    let reader = RowReader::new(row.as_bytes(), RowFormat::Ndjson, open_template(), RowLimits::default());
    let Some(Ok(ReadRow::Row(row))) = reader.rendering().next() else { panic!("it is good") };
    let said = [("system", "{{ text }}\n"), ("user", "é")];
    let expected = said.map(|(role, content)| Message {
        role: if role == "system" { Role::System } else { Role::User },
        content: content.to_owned(),
    });
    assert_eq!(row.rendered.as_deref(), Some(&expected[..]));
    let stored = row.to_stored();
    let mut builder = BlockBuilder::new();
    assert!(builder.push(&stored).is_none());
    let block = builder.finish().unwrap();
    assert_eq!(block.ids, id_hash("a"));
    let read = decode_range(&block.bytes, 0, 1).unwrap();
    assert_eq!(read, [stored]);
    let RowContent::Messages(json) = &read[0].content else { panic!("it brought messages") };
    assert_eq!(RowContent::read_messages(json).unwrap(), expected);
    assert!(RowContent::read_messages("{}").is_err());
}
