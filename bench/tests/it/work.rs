//! The work that is measured is what the table says it is.

use promptmill_bench::work;
use serde_json::Value;

#[test]
fn every_row_is_200_bytes_of_json_and_no_two_are_alike() {
    for rows in [work::rows(3_000), work::rows_in_words(3_000)] {
        check_rows(&rows);
    }
}

fn check_rows(rows: &[u8]) {
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
    let properties = schema["properties"].as_object().unwrap();
    assert_eq!(properties.len(), 10);
    assert_eq!(schema["required"].as_array().unwrap().len(), 10);
    for answer in [work::answer(), work::answer_in_words(7)] {
        assert!(properties.keys().eq(answer.as_object().unwrap().keys()));
    }
}

#[test]
fn answers_in_words_are_as_long_as_the_answer_and_no_two_are_alike() {
    let mut answers: Vec<_> = (1..500).map(|seed| work::answer_in_words(seed).to_string()).collect();
    let length = work::answer().to_string().len();
    assert!(answers.iter().all(|answer| answer.len().abs_diff(length) <= 2), "{length}: {}", answers[0]);
    answers.sort_unstable();
    answers.dedup();
    assert_eq!(answers.len(), 499);
}
