//! The work that is measured is what the table says it is.

use promptmill_bench::work;
use serde_json::Value;

#[test]
fn every_row_is_200_bytes_of_json_and_no_two_are_alike() {
    let rows = work::rows(3_000);
    assert_eq!(rows.len(), 3_000 * 200);
    let lines: Vec<&[u8]> = rows.chunks(200).collect();
    for (n, line) in lines.iter().enumerate() {
        let row: Value = serde_json::from_slice(line).unwrap();
        assert_eq!(row["custom_id"], format!("row-{n:08}"));
        assert_eq!(row["variables"]["n"], n);
        assert_eq!(line.last(), Some(&b'\n'));
        assert!(!line[..199].contains(&b'\n'));
    }
    let mut notes: Vec<_> = lines.iter().map(|line| &line[60..]).collect();
    notes.sort_unstable();
    notes.dedup();
    assert!(notes.len() > 2_990, "{} different texts", notes.len());
}

#[test]
fn the_answer_has_the_ten_properties_of_the_schema() {
    let template = work::template();
    let schema = &template["output"]["schema"];
    let (properties, answer) = (schema["properties"].as_object().unwrap(), work::answer());
    assert_eq!(properties.len(), 10);
    assert_eq!(schema["required"].as_array().unwrap().len(), 10);
    assert!(properties.keys().eq(answer.as_object().unwrap().keys()));
}
