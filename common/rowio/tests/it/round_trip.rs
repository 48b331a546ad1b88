//! What was read, stored and read again is the same.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use promptmill_prompt::Variables;
use promptmill_rowio::{
    BlockBuilder, ReadRow, RowContent, RowFormat, RowLimits, RowReader, RowRun, RowsDigest, StoredRow,
    decode_block,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{open_template, read, strings};

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        proptest::num::f64::NORMAL
            .prop_filter("rows hold no integers above 64 bits", |n| n.abs() < 1e18)
            .prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(".{0,8}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn stored(bytes: &[u8], format: RowFormat, template: &Arc<promptmill_prompt::Template>) -> Vec<StoredRow> {
    read(bytes, format, template).good().iter().map(promptmill_rowio::CheckedRow::to_stored).collect()
}

fn digest(rows: &[StoredRow]) -> [u8; 32] {
    let mut digest = RowsDigest::new();
    rows.iter().for_each(|row| digest.push(row));
    digest.finish()
}

proptest! {
    #[test]
    fn rows_of_any_json_survive_blocks_and_being_read_again(values in proptest::collection::vec(json(), 0..10)) {
        let template = open_template();
        // `null` counts as absent, and the template needs its variable.
        let lines: Vec<String> = values.iter().enumerate()
            .map(|(n, value)| json!({ "custom_id": format!("row {n}"), "text": [value] }).to_string()).collect();
        let rows = stored(lines.join("\n").as_bytes(), RowFormat::Ndjson, &template);
        prop_assert_eq!(rows.len(), values.len());
        let mut builder = BlockBuilder::with_rows(3);
        let mut blocks: Vec<_> = rows.iter().filter_map(|row| builder.push(row)).collect();
        blocks.extend(builder.finish());
        let decoded: Vec<StoredRow> = blocks.iter().flat_map(|block| decode_block(&block.bytes).unwrap()).collect();
        prop_assert_eq!(&decoded, &rows);
        for (row, value) in decoded.iter().zip(&values) {
            let kept: Value = serde_json::from_str(row.content.as_json()).unwrap();
            prop_assert_eq!(&kept["text"][0], value);
            prop_assert_eq!(Variables::from_json(row.content.as_json()).unwrap().to_json(), row.content.as_json());
        }
        // What is stored is canonical: handed in again, it is the same row, with the same digest.
        let again: Vec<String> = decoded.iter().map(|row| {
            format!("{{\"variables\":{},\"custom_id\":{}}}", row.content.as_json(), json!(row.custom_id))
        }).collect();
        let again = stored(again.join("\r\n\r\n").as_bytes(), RowFormat::Ndjson, &template);
        prop_assert_eq!(digest(&again), digest(&rows));
    }

    #[test]
    fn texts_survive_csv(cells in proptest::collection::vec(("[^\u{0}]{0,30}", ".{0,30}"), 0..8)) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["a", "b"]).unwrap();
        for (a, b) in &cells {
            writer.write_record([a, b]).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        let rows = stored(&bytes, RowFormat::Csv, &strings(&["a", "b"]));
        prop_assert_eq!(rows.len(), cells.len());
        for (row, (a, b)) in rows.iter().zip(&cells) {
            let kept: Value = serde_json::from_str(row.content.as_json()).unwrap();
            prop_assert_eq!(kept, json!({ "a": a, "b": b }));
        }
    }
}

#[test]
fn rows_that_travel_in_a_run_are_stored_as_each_by_itself() {
    let template = open_template();
    let mut lines = vec![];
    for n in 0..3 {
        lines.push(json!({ "text": format!("ä{n}\n") }).to_string());
        lines.push(json!({ "custom_id": format!("ü{n}"), "text": "x" }).to_string());
        lines.push(json!({ "messages": [{"role": "user", "content": "é\n"}] }).to_string());
        lines.push(
            json!({ "custom_id": format!("m{n}"), "messages": [{"role": "user", "content": "z"}] })
                .to_string(),
        );
    }
    let checked = read(lines.join("\n").as_bytes(), RowFormat::Ndjson, &template).good();
    let mut run = RowRun::default();
    assert!(run.is_empty());
    checked.iter().for_each(|row| run.push(row));
    assert_eq!(run.len(), 12);
    let owned = |row: StoredRow<&str>| StoredRow {
        custom_id: row.custom_id.map(str::to_owned),
        content: match row.content {
            RowContent::Variables(json) => RowContent::Variables(json.to_owned()),
            RowContent::Messages(json) => RowContent::Messages(json.to_owned()),
        },
    };
    let stored: Vec<StoredRow> = checked.iter().map(promptmill_rowio::CheckedRow::to_stored).collect();
    assert_eq!(run.rows().map(owned).collect::<Vec<_>>(), stored);
    let bytes =
        stored.iter().map(|row| row.content.as_json().len() + row.custom_id.as_ref().map_or(0, String::len));
    assert_eq!(run.bytes(), bytes.sum::<usize>());
}

#[test]
fn the_digest_tells_changed_rows_and_not_changed_writing() {
    let template = open_template();
    let of = |text: &str, format| digest(&stored(text.as_bytes(), format, &template));
    let base = of("{\"text\":\"a\"}\n{\"text\":\"b\",\"n\":\"1\"}\n", RowFormat::Ndjson);
    assert_eq!(
        of("{\"variables\":{\"text\":\"\\u0061\"}}\r\n\n{\"n\":\"1\", \"text\":\"b\"}", RowFormat::Ndjson),
        base
    );
    assert_ne!(of("{\"text\":\"b\",\"n\":\"1\"}\n{\"text\":\"a\"}\n", RowFormat::Ndjson), base);
    assert_ne!(of("{\"text\":\"a\"}\n{\"text\":\"b\",\"n\":1}\n", RowFormat::Ndjson), base);
    let (csv, ndjson) = ("text,n\na,1\n", "{\"text\":\"a\",\"n\":\"1\"}");
    assert_eq!(of(csv, RowFormat::Csv), of(ndjson, RowFormat::Ndjson));
}

#[test]
fn the_example_rows_fit_their_templates_and_render() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates");
    let mut files = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(template) = std::fs::read_to_string(folder.join("template.json")) else {
            continue;
        };
        let template = Arc::new(promptmill_prompt::Template::parse(&template).unwrap());
        for name in ["rows.jsonl", "rows.csv"] {
            let Ok(rows) = File::open(folder.join(name)) else {
                continue;
            };
            let format = RowFormat::from_path(Path::new(name)).unwrap();
            let reader =
                RowReader::new(rows, format, Arc::clone(&template), RowLimits::default()).rendering();
            for row in reader {
                match row.unwrap() {
                    ReadRow::Row(row) => assert!(row.rendered.is_some()),
                    ReadRow::Bad(problems) => panic!("{}: {problems}", folder.display()),
                }
            }
            files += 1;
        }
    }
    assert!(files >= 3, "{files}");
}
