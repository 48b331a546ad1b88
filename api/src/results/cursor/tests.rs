use super::*;

const BATCH: BatchId = BatchId::from_bytes([1; 16]);

#[test]
fn a_cursor_gives_its_position_back_to_its_own_batch_and_order_only() {
    for position in [0, 1, 77 << 16 | 5, u64::MAX] {
        let text = encode(BATCH, Position::Settled, position);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(decode(&text, BATCH, Position::Settled), Ok(position));
        assert_eq!(decode(&text, BATCH, Position::Index), Err(InvalidCursor::OtherOrder));
        let other = BatchId::from_bytes([2; 16]);
        assert_eq!(decode(&text, other, Position::Settled), Err(InvalidCursor::OtherBatch));
    }
}

#[test]
fn a_changed_character_is_noticed() {
    let text = encode(BATCH, Position::Index, 4_711);
    for at in 0..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(decode(&changed, BATCH, Position::Index).is_err(), "{changed}");
    }
    for bad in ["", "0", "ä", &"A".repeat(24), &"A".repeat(10_000)] {
        assert_eq!(decode(bad, BATCH, Position::Index), Err(InvalidCursor::Unknown));
    }
}
