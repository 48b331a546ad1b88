use super::*;

#[test]
fn the_rows_at_the_positions_are_read_from_a_block() {
    let mut builder = promptmill_rowio::BlockBuilder::new();
    for n in 0..9 {
        builder.push(&StoredRow::of_variables(Some(format!("id{n}")), format!("{{\"n\":{n}}}")));
    }
    let block = Bytes::from(builder.finish().unwrap().bytes);
    let ids = |rows: &[(usize, u32)]| {
        let read = read(&block, rows).unwrap();
        read.into_iter().map(|(row, index)| (row.custom_id.unwrap(), index)).collect::<Vec<_>>()
    };
    let pairs = |pairs: &[(&str, u32)]| {
        pairs.iter().map(|(id, index)| ((*id).to_owned(), *index)).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[(2, 102), (3, 103), (8, 108)]), pairs(&[("id2", 102), ("id3", 103), ("id8", 108)]));
    assert_eq!(ids(&[(0, 100)]), pairs(&[("id0", 100)]));
    assert_eq!(ids(&[]), []);
    assert!(matches!(super::read(&block, &[(9, 109)]), Err(Refused::Corrupt(_))));
}
