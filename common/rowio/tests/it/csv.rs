//! CSV rows: the header, types, quotes and hints.

use promptmill_rowio::{ReadError, RowFormat};

use crate::support::{open_template, read, strings, template};

const FORMAT: RowFormat = RowFormat::Csv;

fn header_error(bytes: &[u8]) -> String {
    let read = read(bytes, FORMAT, &template());
    assert!(read.rows.is_empty());
    match read.error {
        Some(ReadError::Header(problems)) => problems.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn columns_are_typed_by_the_template() {
    let rows = concat!(
        "\u{feff}product,count,custom_id,tags\r\n",
        "\"Lamp, \"\"XL\"\"\r\nblue\",3,sku-1,\"[1,\"\"b\"\"]\"\r\n",
        "\r\n",
        "7,,,\r\n",
    );
    let expected = [
        r#"2: sku-1 {"product":"Lamp, \"XL\"\r\nblue","count":3,"tags":[1,"b"],"tone":"plain"}"#,
        r#"5: {"product":"7","count":1,"tags":[],"tone":"plain"}"#,
    ];
    assert_eq!(read(rows.as_bytes(), FORMAT, &template()).told(), expected);
}

#[test]
fn csv_and_ndjson_give_the_same_rows() {
    let csv = read(b"custom_id,product,count\nx,Lamp,3\n,\"a\nb\",4", FORMAT, &template()).good();
    let lines =
        b"{\"custom_id\":\"x\",\"product\":\"Lamp\",\"count\":3}\n{\"count\":4,\"product\":\"a\\nb\"}";
    let ndjson = read(lines, RowFormat::Ndjson, &template()).good();
    for (a, b) in csv.iter().zip(&ndjson) {
        assert_eq!(a.to_stored(), b.to_stored());
    }
    assert_eq!((csv.len(), ndjson.len()), (2, 2));
}

#[test]
fn a_header_that_fits_no_row_ends_the_reading_with_a_hint() {
    let cases: [(&[u8], &str); 12] = [
        (b"", "names the variables"),
        (b"\n\n", "names the variables"),
        (b"product;count\na;1\n", "separate the columns with commas"),
        (b"product\tcount\na\t1\n", "separate the columns with commas"),
        (b"{\"product\":\"a\"}\n", "jsonl"),
        (b"product,product\na,b\n", "product: is the name of two columns"),
        (b"product,\na,b\n", "column 2 has no name"),
        (b"product,colour\na,b\n", "colour: unknown variable; the template has: product, count, tags, tone"),
        (b"count\n1\n", "product: is required, but there is no such column"),
        (b"\"product\n", "not closed"),
        (b"pr\xf6duct\na\n", "UTF-8"),
        (b"custom_id,product,custom_id\n", "custom_id: is the name of two columns"),
    ];
    for (bytes, expected) in cases {
        let told = header_error(bytes);
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_row_of_another_length_is_told_with_its_line() {
    let rows = b"product,count\na\n\"b\nb\",1,2\n\nc,1\n\"d";
    let told = read(rows, FORMAT, &template()).told();
    assert_eq!(told[0], "line 2: has 1 fields, but the header row has 2");
    assert_eq!(told[1], "line 3: has 3 fields, but the header row has 2");
    assert!(told[2].starts_with("6: {"), "{told:?}");
    assert_eq!(told[3], "line 7: a quoted field is not closed");
}

#[test]
fn a_cell_of_the_wrong_type_is_a_problem_of_its_row() {
    let told = read(b"product,count,tone\na,two,warm\nb,1,loud\nc\xff,1,warm\n", FORMAT, &template()).told();
    assert!(told[0].starts_with("line 2: count: "), "{told:?}");
    assert!(told[1].starts_with("line 3: tone: "), "{told:?}");
    assert_eq!(told[2], "line 4: not UTF-8");
}

#[test]
fn custom_ids_are_checked_as_in_ndjson() {
    let told = read(b"custom_id,product\na,1\n\"b\nc\",2\na,3\n", FORMAT, &template()).told();
    assert_eq!(told[1], "line 3: custom_id: must not hold control characters");
    assert_eq!(told[2], "line 5: custom_id: lines 2 and 5 have the same");
    let variable = read(b"custom_id\na\na\n", FORMAT, &strings(&["custom_id"])).told();
    assert_eq!(variable, [r#"2: {"custom_id":"a"}"#, r#"3: {"custom_id":"a"}"#]);
}

#[test]
fn a_template_without_declared_variables_takes_any_column() {
    let told = read(b"text,colour\na,red\n", FORMAT, &open_template()).told();
    assert_eq!(told, [r#"2: {"text":"a","colour":"red"}"#]);
    assert!(read(b"colour\nred\n", FORMAT, &open_template()).error.is_some());
}
