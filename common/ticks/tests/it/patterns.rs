//! What is a pattern and what is a zone, and what is said of those that are none.

use promptmill_ticks::MAX_PATTERN_BYTES;
use proptest::prelude::*;

use crate::support::{after, cron, ms, shown, try_cron, until, zone};

/// The first ticks of a pattern after the first moment of 2024, which is a leap year that begins with a Monday.
#[track_caller]
fn check(pattern: &str, ticks: &[&str]) {
    let timetable = cron(pattern, "UTC");
    let found: Vec<_> = after(&timetable, ms("2024-01-01T00:00:00Z"))
        .take(ticks.len())
        .map(|tick| shown(tick, &zone("UTC")).replace(":00+00:00", ""))
        .collect();
    assert_eq!(found, ticks, "`{pattern}`");
}

#[track_caller]
fn check_refused(pattern: &str, text: &str) {
    let error = try_cron(pattern, "UTC").unwrap_err();
    assert_eq!((error.member(), error.to_string().as_str()), ("pattern", text), "`{pattern}`");
}

#[test]
fn fields_hold_numbers_lists_ranges_steps_and_names() {
    check("5 8 * * *", &["2024-01-01T08:05", "2024-01-02T08:05"]);
    check("*/25 * * * *", &["2024-01-01T00:25", "2024-01-01T00:50", "2024-01-01T01:00"]);
    check(
        "10-50/20 6 * * *",
        &["2024-01-01T06:10", "2024-01-01T06:30", "2024-01-01T06:50", "2024-01-02T06:10"],
    );
    check("0 0 1,10-12/2 * *", &["2024-01-10T00:00", "2024-01-12T00:00", "2024-02-01T00:00"]);
    check("0 0 1 jul-Sep/2 *", &["2024-07-01T00:00", "2024-09-01T00:00", "2025-07-01T00:00"]);
    check("0 0 * * sat,Sun", &["2024-01-06T00:00", "2024-01-07T00:00", "2024-01-13T00:00"]);
    check("0 0 * * sat-sun", &["2024-01-06T00:00", "2024-01-07T00:00", "2024-01-13T00:00"]);
    check("15,45 30 12 * * *", &["2024-01-01T12:30:15+00:00", "2024-01-01T12:30:45+00:00"]);
    check("  0\t0  1 1   *  ", &["2025-01-01T00:00"]);
    check("0 0 * * 0", &["2024-01-07T00:00"]);
    check("0 0 * * 7", &["2024-01-07T00:00"]);
    check("0 0 * * 5-7", &["2024-01-05T00:00", "2024-01-06T00:00", "2024-01-07T00:00", "2024-01-12T00:00"]);
    check("0 0 ? 2 ?", &["2024-02-01T00:00", "2024-02-02T00:00"]);
}

#[test]
fn days_can_be_counted_from_the_end_of_the_month_and_by_weeks() {
    check("0 0 L * *", &["2024-01-31T00:00", "2024-02-29T00:00", "2024-03-31T00:00"]);
    check("0 0 L 2 *", &["2024-02-29T00:00", "2025-02-28T00:00"]);
    check("0 0 LW * *", &["2024-01-31T00:00", "2024-02-29T00:00", "2024-03-29T00:00"]);
    check("0 0 6W,7W * *", &["2024-01-05T00:00", "2024-01-08T00:00", "2024-02-06T00:00", "2024-02-07T00:00"]);
    // It stays in its month, and months without the day are skipped.
    check("0 0 1W 6,9 *", &["2024-06-03T00:00", "2024-09-02T00:00"]);
    check("0 0 31W * *", &["2024-01-31T00:00", "2024-03-29T00:00", "2024-05-31T00:00"]);
    check("0 0 * * 5L", &["2024-01-26T00:00", "2024-02-23T00:00"]);
    check("0 0 * * SUN#L", &["2024-01-28T00:00", "2024-02-25T00:00"]);
    check("0 0 * * fri#2", &["2024-01-12T00:00", "2024-02-09T00:00"]);
    check("0 0 * * 1-2#1", &["2024-01-02T00:00", "2024-02-05T00:00", "2024-02-06T00:00"]);
    check("0 0 * * 3#5", &["2024-01-31T00:00", "2024-05-29T00:00"]);
    check("0 0 * * 4#5", &["2024-02-29T00:00", "2024-05-30T00:00"]);
}

#[test]
fn either_day_matches_unless_one_is_any_or_both_are_asked_for() {
    check("0 0 13 * FRI", &["2024-01-05T00:00", "2024-01-12T00:00", "2024-01-13T00:00", "2024-01-19T00:00"]);
    check("0 0 13 * +FRI", &["2024-09-13T00:00", "2024-12-13T00:00", "2025-06-13T00:00"]);
    check("0 0 13 * *", &["2024-01-13T00:00", "2024-02-13T00:00"]);
    check("0 0 * * FRI", &["2024-01-05T00:00", "2024-01-12T00:00"]);
    // With a step it is a field like any other: odd days and Tuesdays.
    check("0 0 */2 * TUE", &["2024-01-02T00:00", "2024-01-03T00:00", "2024-01-05T00:00"]);
}

#[test]
fn rare_days_are_found() {
    check("0 0 29 2 *", &["2024-02-29T00:00", "2028-02-29T00:00"]);
    check("0 0 29 2 +MON", &["2044-02-29T00:00", "2072-02-29T00:00", "2112-02-29T00:00", "2140-02-29T00:00"]);
    check("0 0 29 2 MON#5", &["2024-02-29T00:00", "2028-02-29T00:00", "2032-02-29T00:00"]);
    check("0 0 ? 2 MON#5", &["2044-02-29T00:00", "2072-02-29T00:00"]);
    // 2100 is not a leap year.
    let ticks: Vec<_> = after(&cron("0 0 29 2 *", "UTC"), ms("2095-01-01T00:00:00Z")).take(2).collect();
    assert_eq!(ticks, [ms("2096-02-29T00:00:00Z"), ms("2104-02-29T00:00:00Z")]);
}

#[test]
fn nicknames_are_patterns() {
    for (nickname, pattern) in [
        ("@yearly", "0 0 1 1 *"),
        ("@ANNUALLY", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@Weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        (" @hourly ", "0 * * * *"),
    ] {
        let ticks = |pattern| after(&cron(pattern, "Europe/Berlin"), 0).take(300).collect::<Vec<_>>();
        assert_eq!(ticks(nickname), ticks(pattern), "{nickname}");
    }
    let known =
        "there are @yearly, @annually, @monthly, @weekly, @daily, @hourly, and patterns of five fields";
    check_refused("@reboot", &format!("`@REBOOT` is not known; {known}"));
    check_refused("@hourly * * * *", &format!("`@HOURLY * * * *` is not known; {known}"));
}

#[test]
fn a_pattern_has_five_or_six_fields_of_plain_characters() {
    let wanted =
        "minute, hour, day of the month, month and day of the week, or six with the second before them";
    check_refused("0 0 1 1 * * 2030", &format!("a pattern has no field for the year; give five, {wanted}"));
    for (pattern, count) in [("", 0), ("  ", 0), ("* * * *", 4), ("1 2 3 4 5 6 7 8", 8)] {
        check_refused(pattern, &format!("a pattern has five fields, {wanted}, and this one has {count}"));
    }
    for pattern in ["* * * * *\n* * * * *", "* * * * *\n", "*\u{a0}* * * *", "* * * * ſun", "\0 * * * *"] {
        check_refused(pattern, "a pattern is one line of ASCII, as `0 9 * * MON-FRI`");
    }
    let long = format!("{}5 * * * *", "0".repeat(MAX_PATTERN_BYTES));
    check_refused(&long, "a pattern has at most 100 bytes, and this one has 109");
    check(
        &format!("{}5 0 1 1 *", "0".repeat(MAX_PATTERN_BYTES - 9)),
        &["2024-01-01T00:05", "2025-01-01T00:05"],
    );
}

#[test]
fn what_is_wrong_with_a_field_is_said_of_that_field() {
    let minute = "give numbers 0 to 59 as `5`, `0,30`, `10-20`, `*/15` or `10-50/5`";
    for text in [
        "60", "5-1", "0/5", "/5", "*/0", "*/", "*/70000", "1,", ",", "-1", "1-2-3", "MON", "L", "?", "*,5",
        "+5", "5#1",
    ] {
        check_refused(
            &format!("{text} * * * *"),
            &format!("the minute `{text}` is not understood; {minute}"),
        );
        check_refused(
            &format!("{text} * * * * *"),
            &format!("the second `{text}` is not understood; {minute}"),
        );
    }
    let hour = "give numbers 0 to 23 as `5`, `6,18`, `8-17`, `*/4` or `8-17/2`";
    for text in ["24", "JAN", "23-24", "22-2"] {
        check_refused(&format!("* {text} * * *"), &format!("the hour `{text}` is not understood; {hour}"));
    }
    let day = "give numbers 1 to 31 as `5`, `1,15`, `1-7` or `*/2`, `L` for the last day, `15W` or `LW` for working days";
    for text in
        ["0", "32", "W", "15W3", "15WW", "W15", "32W", "0W", "L-3", "L,LW", "1-5W", "L5", "1#2", "?,5", "?/2"]
    {
        check_refused(
            &format!("* * {text} * *"),
            &format!("the day of the month `{text}` is not understood; {day}"),
        );
    }
    let month = "give numbers 1 to 12 or names as `5`, `JAN,JUL`, `6-9` or `*/3`";
    for text in ["0", "13", "JAN1", "1JAN", "JANFEB", "NOV-FEB", "MON", "*/JAN", "JANUARY", "L", "JA"] {
        check_refused(&format!("* * * {text} *"), &format!("the month `{text}` is not understood; {month}"));
    }
    let weekday = "give numbers 0 to 7 or names as `5`, `SAT,SUN` or `MON-FRI`, `5L` for the last Friday, `MON#2` for the second Monday \
                   of the month";
    for text in [
        "8", "FRI-MON", "JAN", "MONTUE", "L", "1,L", "L5", "1#0", "1#6", "1#", "#1", "5#3L", "1#2#3", "*#2",
        "1-5L", "+", "++1", "1,+2", "5W", "2/2", "MONDAY", "#",
    ] {
        check_refused(
            &format!("* * * * {text}"),
            &format!("the day of the week `{text}` is not understood; {weekday}"),
        );
    }
}

#[test]
fn a_pattern_that_never_comes_is_refused() {
    for pattern in [
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "* * 31 2 ?",
        "0 0 30W 2 *",
        "0 0 29 2 +1#1",
        "* * 1 * +1#2",
        "0 0 31 2 +5L",
        "0 0 31 2-2 *",
    ] {
        check_refused(
            pattern,
            &format!("`{pattern}` never comes, as no year has such a day; give days that the months have"),
        );
    }
    // The day of the week is enough.
    check("0 0 30 2 MON", &["2024-02-05T00:00", "2024-02-12T00:00"]);
}

#[test]
fn a_zone_is_a_name_of_the_database_as_it_is_spelled_there() {
    let known = [
        "UTC",
        "Europe/Berlin",
        "America/Argentina/Buenos_Aires",
        "Etc/GMT+5",
        "EST5EDT",
        "US/Eastern",
        "GB-Eire",
        "Etc/UTC",
    ];
    for zone in known {
        cron("0 0 * * *", zone);
    }
    let check_refused = |zone: &str, text: &str| {
        let error = try_cron("0 0 * * *", zone).unwrap_err();
        assert_eq!((error.member(), error.to_string().as_str()), ("zone", text));
    };
    check_refused("europe/berlin", "the time zone `europe/berlin` is spelled `Europe/Berlin`");
    check_refused("utc", "the time zone `utc` is spelled `UTC`");
    let wanted =
        "is not the name of a time zone in the IANA database; give one such as `Europe/Berlin` or `UTC`";
    for zone in [
        "",
        "Berlin",
        "CET-1CEST",
        "EST5EDT,M3.2.0,M11.1.0",
        "+02:00",
        "GMT+1",
        "Z",
        "local",
        ":UTC",
        "/etc/localtime",
        "../UTC",
        "posix/UTC",
        "Factory",
        "Etc/Unknown",
        "Europe/Berlin ",
        "Europe//Berlin",
    ] {
        check_refused(zone, &format!("`{zone}` {wanted}"));
    }
    check_refused("a\nb", &format!("`a\\nb` {wanted}"));
    check_refused(&"x".repeat(65), &format!("this {wanted}"));
}

/// Whatever is read as a pattern has ticks that go forward only, and they are the same ones from behind.
#[track_caller]
fn check_any(pattern: &str, zone: &str) {
    let Ok(timetable) = try_cron(pattern, zone) else { return };
    let from = ms("2025-03-29T22:00:00Z");
    let ticks: Vec<u64> = after(&timetable, from).take(12).collect();
    assert!(
        !ticks.is_empty() && ticks[0] > from && ticks.is_sorted_by(|one, next| one < next),
        "`{pattern}`"
    );
    let back: Vec<u64> = until(&timetable, ticks[ticks.len() - 1]).take(ticks.len()).collect();
    assert!(back.iter().rev().eq(&ticks), "`{pattern}`");
    assert!(timetable.shortest_gap_ms() >= 1_000, "`{pattern}`");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_pattern_or_refused(text in "[ -~]{0,100}") {
        check_any(&text, "Europe/Berlin");
    }

    #[test]
    fn any_bytes_are_a_pattern_or_refused(text in ".{0,100}", zone in ".{0,70}") {
        check_any(&text, "UTC");
        check_any("* * * * *", &zone);
    }

    /// Of the characters that patterns are made of more of them are one.
    #[test]
    fn any_fields_are_a_pattern_or_refused(fields in prop::collection::vec("[*?+]?[0-9LW*,/#-]{0,6}", 5..=6)) {
        check_any(&fields.join(" "), "Australia/Lord_Howe");
    }

    #[test]
    fn fields_that_are_well_formed_are_a_pattern_or_never_come(
        time in prop::collection::vec("\\*|\\*/[1-9]|[0-9](,[0-9]){0,3}|[0-3]-[4-9]|1?[0-9]|2[0-3]", 2),
        second in prop::option::of("\\*|[1-5]?[0-9](,[1-5]?[0-9]){0,2}|\\*/[1-9]{1,2}"),
        day in "\\*|\\?|\\*/[1-9]|([1-9]|[12][0-9]|3[01])(,[1-9]){0,2}|L|LW|[1-9]W,2[0-9]W|3[01]",
        month in "\\*|[1-9]|1[0-2]|FEB|[1-3]-[4-9]/[12]|(JAN|APR)(,JUN)?",
        weekday in "\\*|\\?|\\+?[0-7]|[0-6]#[1-5]|[0-7]L|MON-FRI|[0-3]-[4-6]#L|\\+[0-6]#[1-5]",
        zone in prop::sample::select(crate::timetables::ZONES),
    ) {
        let pattern = format!("{} {} {day} {month} {weekday}", second.unwrap_or_default(), time.join(" "));
        if let Err(error) = try_cron(&pattern, zone) {
            prop_assert!(error.to_string().contains("never comes"), "`{}`: {}", pattern, error);
        }
        check_any(&pattern, zone);
    }
}
