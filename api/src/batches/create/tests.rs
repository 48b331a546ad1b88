use super::*;

#[test]
fn a_row_over_several_lines_becomes_one_line() {
    let rows = ["{\n  \"a\": \"x\\ny\"\r\n}", "{}"];
    let rows = rows.map(|row| RawValue::from_string(row.to_owned()).unwrap());
    assert_eq!(lines(&rows), b"{   \"a\": \"x\\ny\"  }\n{}\n");
}
