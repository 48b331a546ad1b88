use super::*;

#[test]
fn a_time_is_written_with_milliseconds_and_read_with_any_offset() {
    let time: Time = "2026-11-23T06:00:00.5+01:00".parse().unwrap();
    assert_eq!(time.to_string(), "2026-11-23T05:00:00.500Z");
    assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
    assert_eq!(Time(u64::MAX).to_string().len(), "9999-12-30T22:00:00.999Z".len());
}

#[test]
fn what_is_no_time_is_refused() {
    for bad in ["", "yesterday", "2026-11-23", "2026-11-23T05:00:00", "1969-12-31T23:59:59Z", "1e9"] {
        assert_eq!(bad.parse::<Time>(), Err(InvalidTime), "{bad}");
    }
}
