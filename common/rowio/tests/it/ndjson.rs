//! NDJSON rows: forms, line ends, ids and problems with their places.

use std::sync::Arc;

use promptmill_rowio::{ReadError, ReadRow, RowFormat, RowLimits, RowReader};

use crate::support::{open_template, parse, read, read_within, strings, template};

const FORMAT: RowFormat = RowFormat::Ndjson;

#[test]
fn a_row_is_an_object_of_variables_or_an_envelope() {
    let rows = concat!(
        "{\"product\":\"a\"}\n",
        "{\"custom_id\":\"x\",\"product\":\"b\",\"count\":2}\n",
        "{\"custom_id\":\"y\",\"variables\":{\"product\":\"c\",\"tone\":\"warm\"}}\n",
        "{\"variables\":{\"product\":\"d\",\"tags\":[1]}}\n",
        "{\"custom_id\":null,\"product\":\"e\"}\n",
    );
    let expected = [
        r#"1: {"product":"a","count":1,"tags":[],"tone":"plain"}"#,
        r#"2: x {"product":"b","count":2,"tags":[],"tone":"plain"}"#,
        r#"3: y {"product":"c","count":1,"tags":[],"tone":"warm"}"#,
        r#"4: {"product":"d","count":1,"tags":[1],"tone":"plain"}"#,
        r#"5: {"product":"e","count":1,"tags":[],"tone":"plain"}"#,
    ];
    assert_eq!(read(rows.as_bytes(), FORMAT, &template()).told(), expected);
}

#[test]
fn a_template_takes_the_reserved_names_for_its_variables() {
    let row = br#"{"custom_id":"x","variables":"v"}"#;
    let taken = strings(&["custom_id", "variables"]);
    assert_eq!(read(row, FORMAT, &taken).told(), [r#"1: {"custom_id":"x","variables":"v"}"#]);
    let enveloped = br#"{"custom_id":"id","variables":{"custom_id":"x"}}"#;
    assert_eq!(read(enveloped, FORMAT, &strings(&["custom_id"])).told(), [r#"1: id {"custom_id":"x"}"#]);
    // A row of an open template may use `variables` beside other names.
    let open = read(br#"{"text":"t","variables":{"a":1}}"#, FORMAT, &open_template()).told();
    assert_eq!(open, [r#"1: {"text":"t","variables":{"a":1}}"#]);
}

#[test]
fn line_ends_blank_lines_and_a_byte_order_mark_do_not_matter() {
    let rows = "\u{feff}{\"product\":\"a\"}\r\n\r\n   \n {\"product\":\"b\"} \n{\"product\":\"c\u{2028}d\"}";
    let lines: Vec<u64> =
        read(rows.as_bytes(), FORMAT, &template()).good().iter().map(|row| row.line).collect();
    assert_eq!(lines, [1, 4, 5]);
    for empty in ["", "\n", "\u{feff}", "\r\n\r\n"] {
        assert!(read(empty.as_bytes(), FORMAT, &template()).good().is_empty());
    }
}

#[test]
fn every_problem_of_a_row_is_told_and_reading_goes_on() {
    let rows = concat!(
        "{\"prodcut\":\"a\",\"count\":\"two\",\"tone\":\"loud\",\"custom_id\":7}\n",
        "{\"product\":\"a\"}\n",
    );
    let mut read = read(rows.as_bytes(), FORMAT, &template()).rows;
    assert!(matches!(&read[1], ReadRow::Row(row) if row.line == 2));
    let ReadRow::Bad(bad) = read.remove(0) else { panic!("the first row is bad") };
    let mut fields: Vec<&str> = bad.problems.iter().map(|problem| problem.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!((bad.line, fields), (1, vec!["count", "custom_id", "prodcut", "product", "tone"]));
}

#[test]
fn what_is_not_json_is_told_with_its_column() {
    let cases = [
        ("{\"product\": NaN}", "column 13"),
        ("{\"product\":\"a\"} x", "column 17"),
        ("{\"product\":\"a\"", "must stand on one line"),
        ("{", "must stand on one line"),
        ("{'product':1}", "column 2"),
        ("[{\"product\":\"a\"}]", "one per line"),
        ("\"product\"", "a row is a JSON object"),
        ("{\"product\":\"\\ud800\"}", "column"),
        ("{\"product\":\"a\",\"product\":\"b\"}", "twice"),
        ("{\"variables\":{\"product\":\"a\",\"count\": 1e400}}", "at column 42"),
    ];
    for (row, expected) in cases {
        let told = read(row.as_bytes(), FORMAT, &template()).told();
        assert!(told[0].starts_with("line 1: ") && told[0].contains(expected), "{row}: {told:?}");
        assert!(!told[0].contains("at line"), "the row's own line would be told twice: {told:?}");
    }
}

#[test]
fn a_custom_id_stands_once_in_a_batch() {
    let rows = concat!(
        "{\"custom_id\":\"a\",\"product\":\"1\"}\n\n",
        "{\"custom_id\":\"b\",\"product\":\"2\"}\n",
        "{\"custom_id\":\"a\",\"variables\":{\"product\":\"3\"}}\n",
        "{\"custom_id\":\"\",\"product\":\"4\"}\n",
    );
    let told = read(rows.as_bytes(), FORMAT, &template()).told();
    assert_eq!(told[2], "line 4: custom_id: lines 1 and 4 have the same");
    assert_eq!(told[3], "line 5: custom_id: must not be empty");
}

#[test]
fn a_reader_that_keeps_few_ids_tells_doubles_among_those_only() {
    let rows = ["a", "b", "c", "a", "c"]
        .map(|id| format!("{{\"custom_id\":\"{id}\",\"product\":\"1\"}}\n"))
        .concat();
    let reader = RowReader::new(rows.as_bytes(), FORMAT, template(), RowLimits::default()).keeping_ids(2);
    let bad: Vec<u64> = reader
        .filter_map(|row| match row.unwrap() {
            ReadRow::Bad(problems) => Some(problems.line),
            ReadRow::Row(_) => None,
        })
        .collect();
    assert_eq!(bad, [4]);
}

#[test]
fn the_limit_of_rows_counts_bad_ones() {
    let rows = b"{}\nx\n{\"product\":\"a\"}\n";
    let limits = RowLimits { rows: 2, ..RowLimits::default() };
    let read = read_within(rows, FORMAT, &template(), limits);
    assert_eq!(read.rows.len(), 2);
    assert!(matches!(read.error, Some(ReadError::TooManyRows { limit: 2 })));
    let exact = RowLimits { rows: 3, ..RowLimits::default() };
    assert!(read_within(rows, FORMAT, &template(), exact).error.is_none());
}

#[test]
fn rendering_finds_what_checking_cannot() {
    let failing = parse(&serde_json::json!({
        "name": "t",
        "messages": [{ "role": "user", "content": "{{ a.b.c }}" }],
        "variables": { "a": { "type": "object" } },
    }));
    let rows = b"{\"a\":{\"b\":{\"c\":\"secret\"}}}\n{\"a\":{\"d\":\"secret\"}}\n";
    let reader = |template| RowReader::new(&rows[..], FORMAT, template, RowLimits::default());
    assert_eq!(reader(Arc::clone(&failing)).filter(|row| matches!(row, Ok(ReadRow::Row(_)))).count(), 2);
    let rendered: Vec<ReadRow> = reader(failing).rendering().map(Result::unwrap).collect();
    let ReadRow::Row(first) = &rendered[0] else { panic!("the first row renders") };
    assert_eq!(first.rendered.as_ref().unwrap()[0].content, "secret");
    let ReadRow::Bad(second) = &rendered[1] else { panic!("the second row does not render") };
    assert!(!second.to_string().contains("secret"), "{second}");
}
