//! What a pattern names where the clock is changed: in zones that do it in their own ways.

use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;

use crate::support::{after, cron, ms, shown, until, zone};

/// The ticks from one moment on, until another one, are these; and the same ones are met on the way back.
#[track_caller]
fn check(zone_name: &str, pattern: &str, from: &str, to: &str, ticks: &[&str]) {
    let (timetable, zone) = (cron(pattern, zone_name), zone(zone_name));
    let (from, to) = (ms(from), ms(to));
    let forward: Vec<_> =
        after(&timetable, from - 1).take_while(|tick| *tick < to).map(|tick| shown(tick, &zone)).collect();
    assert_eq!(forward, ticks, "`{pattern}` in {zone_name}");
    let mut back: Vec<_> =
        until(&timetable, to - 1).take_while(|tick| *tick >= from).map(|tick| shown(tick, &zone)).collect();
    back.reverse();
    assert_eq!(back, ticks, "`{pattern}` in {zone_name}, backwards");
}

#[test]
fn in_berlin_a_fixed_time_in_the_gap_moves_to_its_end_and_recurring_ones_are_left_out() {
    let (from, to) = ("2025-03-29T12:00:00+01:00", "2025-03-31T12:00:00+02:00");
    let moved = ["2025-03-30T03:00:00+02:00", "2025-03-31T02:30:00+02:00"];
    check("Europe/Berlin", "30 2 * * *", from, to, &moved);
    check("Europe/Berlin", "0 30 2 * * *", from, to, &moved);
    check("Europe/Berlin", "30 2 * * SUN", from, to, &moved[..1]);
    // The times around it stay where they are.
    check(
        "Europe/Berlin",
        "59 1 * * *",
        from,
        to,
        &["2025-03-30T01:59:00+01:00", "2025-03-31T01:59:00+02:00"],
    );
    check(
        "Europe/Berlin",
        "0 3 * * *",
        from,
        to,
        &["2025-03-30T03:00:00+02:00", "2025-03-31T03:00:00+02:00"],
    );
    check(
        "Europe/Berlin",
        "30 2,23 * * *",
        from,
        to,
        &["2025-03-29T23:30:00+01:00", "2025-03-30T23:30:00+02:00", "2025-03-31T02:30:00+02:00"],
    );
    check(
        "Europe/Berlin",
        "*/30 * * * *",
        "2025-03-30T01:00:00+01:00",
        "2025-03-30T04:00:00+02:00",
        &[
            "2025-03-30T01:00:00+01:00",
            "2025-03-30T01:30:00+01:00",
            "2025-03-30T03:00:00+02:00",
            "2025-03-30T03:30:00+02:00",
        ],
    );
}

#[test]
fn in_berlin_a_fixed_time_that_comes_twice_ticks_once_and_recurring_ones_twice() {
    let (from, to) = ("2025-10-25T12:00:00+02:00", "2025-10-27T12:00:00+01:00");
    check(
        "Europe/Berlin",
        "30 2 * * *",
        from,
        to,
        &["2025-10-26T02:30:00+02:00", "2025-10-27T02:30:00+01:00"],
    );
    check(
        "Europe/Berlin",
        "0 3 * * *",
        from,
        to,
        &["2025-10-26T03:00:00+01:00", "2025-10-27T03:00:00+01:00"],
    );
    check(
        "Europe/Berlin",
        "0 2 * * *",
        from,
        to,
        &["2025-10-26T02:00:00+02:00", "2025-10-27T02:00:00+01:00"],
    );
    check(
        "Europe/Berlin",
        "30 2,23 * * *",
        from,
        to,
        &[
            "2025-10-25T23:30:00+02:00",
            "2025-10-26T02:30:00+02:00",
            "2025-10-26T02:30:00+01:00",
            "2025-10-26T23:30:00+01:00",
            "2025-10-27T02:30:00+01:00",
        ],
    );
    check(
        "Europe/Berlin",
        "0 * * * *",
        "2025-10-26T01:00:00+02:00",
        "2025-10-26T04:00:00+01:00",
        &[
            "2025-10-26T01:00:00+02:00",
            "2025-10-26T02:00:00+02:00",
            "2025-10-26T02:00:00+01:00",
            "2025-10-26T03:00:00+01:00",
        ],
    );
}

#[test]
fn a_look_from_within_the_repeated_hour_goes_on_from_the_half_it_is_in() {
    let (first, second) = ("2025-10-26T02:15:00+02:00", "2025-10-26T02:15:00+01:00");
    let to = "2025-10-27T00:00:00+01:00";
    check("Europe/Berlin", "30 2 * * *", first, to, &["2025-10-26T02:30:00+02:00"]);
    check("Europe/Berlin", "30 2 * * *", second, to, &[]);
    check(
        "Europe/Berlin",
        "30 2-4 * * *",
        second,
        to,
        &["2025-10-26T02:30:00+01:00", "2025-10-26T03:30:00+01:00", "2025-10-26T04:30:00+01:00"],
    );
}

#[test]
fn in_new_york_it_is_the_same_an_hour_earlier_and_on_other_days() {
    let (from, to) = ("2026-03-07T12:00:00-05:00", "2026-03-09T12:00:00-04:00");
    check(
        "America/New_York",
        "30 2 * * *",
        from,
        to,
        &["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"],
    );
    let (from, to) = ("2026-10-31T12:00:00-04:00", "2026-11-02T12:00:00-05:00");
    check(
        "America/New_York",
        "30 1 * * *",
        from,
        to,
        &["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"],
    );
    check(
        "America/New_York",
        "30 1,2 * * 0",
        from,
        to,
        &["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00", "2026-11-01T02:30:00-05:00"],
    );
}

#[test]
fn on_lord_howe_half_an_hour_goes_and_comes_back() {
    let (from, to) = ("2025-10-04T12:00:00+10:30", "2025-10-06T12:00:00+11:00");
    check(
        "Australia/Lord_Howe",
        "15 2 * * *",
        from,
        to,
        &["2025-10-05T02:30:00+11:00", "2025-10-06T02:15:00+11:00"],
    );
    check(
        "Australia/Lord_Howe",
        "*/15 2 * * *",
        from,
        "2025-10-06T00:00:00+11:00",
        &["2025-10-05T02:30:00+11:00", "2025-10-05T02:45:00+11:00"],
    );
    let (from, to) = ("2026-04-05T01:00:00+11:00", "2026-04-05T03:00:00+10:30");
    check("Australia/Lord_Howe", "45 1 * * *", from, to, &["2026-04-05T01:45:00+11:00"]);
    check(
        "Australia/Lord_Howe",
        "*/20 * * * *",
        from,
        to,
        &[
            "2026-04-05T01:00:00+11:00",
            "2026-04-05T01:20:00+11:00",
            "2026-04-05T01:40:00+11:00",
            "2026-04-05T01:40:00+10:30",
            "2026-04-05T02:00:00+10:30",
            "2026-04-05T02:20:00+10:30",
            "2026-04-05T02:40:00+10:30",
        ],
    );
}

#[test]
fn in_apia_a_day_never_came() {
    let (from, to) = ("2011-12-29T00:00:00-10:00", "2012-01-01T00:00:00+14:00");
    check(
        "Pacific/Apia",
        "0 12 * * *",
        from,
        to,
        &["2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"],
    );
    // The tick that is moved there is the one that is there anyway.
    check("Pacific/Apia", "0 0 * * *", from, to, &["2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"]);
    check("Pacific/Apia", "0 12 30 12 *", from, to, &[]);
    check("Pacific/Apia", "0 12 31 12 *", from, to, &["2011-12-31T12:00:00+14:00"]);
    check(
        "Pacific/Apia",
        "0 */12 * * *",
        from,
        to,
        &[
            "2011-12-29T00:00:00-10:00",
            "2011-12-29T12:00:00-10:00",
            "2011-12-31T00:00:00+14:00",
            "2011-12-31T12:00:00+14:00",
        ],
    );
}

#[test]
fn in_casablanca_the_clock_goes_back_for_ramadan_and_forward_after_it() {
    let (from, to) = ("2026-02-14T12:00:00+01:00", "2026-02-16T00:00:00+00:00");
    check("Africa/Casablanca", "30 2 * * *", from, to, &["2026-02-15T02:30:00+01:00"]);
    check("Africa/Casablanca", "30 2-2 * * *", from, to, &["2026-02-15T02:30:00+01:00"]);
    check(
        "Africa/Casablanca",
        "30 2-3 * * *",
        from,
        to,
        &["2026-02-15T02:30:00+01:00", "2026-02-15T02:30:00+00:00", "2026-02-15T03:30:00+00:00"],
    );
    let (from, to) = ("2026-03-21T12:00:00+00:00", "2026-03-23T00:00:00+01:00");
    check("Africa/Casablanca", "30 2 * * *", from, to, &["2026-03-22T03:00:00+01:00"]);
    check("Africa/Casablanca", "30 2-3 * * *", from, to, &["2026-03-22T03:30:00+01:00"]);
}

#[test]
fn in_kathmandu_nothing_changes_and_nothing_is_on_the_hour_of_utc() {
    let (from, to) = ("2025-10-25T12:00:00Z", "2025-10-27T12:00:00Z");
    check(
        "Asia/Kathmandu",
        "0 9 * * *",
        from,
        to,
        &["2025-10-26T09:00:00+05:45", "2025-10-27T09:00:00+05:45"],
    );
    // In 1986 a quarter of an hour was left out, at midnight.
    let (from, to) = ("1985-12-31T00:00:00+05:30", "1986-01-03T00:00:00+05:45");
    check(
        "Asia/Kathmandu",
        "10 0 * * *",
        from,
        to,
        &["1985-12-31T00:10:00+05:30", "1986-01-01T00:15:00+05:45", "1986-01-02T00:10:00+05:45"],
    );
}

#[test]
fn in_sao_paulo_midnight_was_left_out_until_2019() {
    let (from, to) = ("2018-11-03T00:00:00-03:00", "2018-11-06T00:00:00-02:00");
    check(
        "America/Sao_Paulo",
        "0 0 * * *",
        from,
        to,
        &["2018-11-03T00:00:00-03:00", "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"],
    );
    check(
        "America/Sao_Paulo",
        "30 23 * * *",
        "2019-02-16T12:00:00-02:00",
        "2019-02-18T12:00:00-03:00",
        &["2019-02-16T23:30:00-02:00", "2019-02-17T23:30:00-03:00"],
    );
    let (from, to) = ("2026-11-01T00:00:00-03:00", "2026-11-03T00:00:00-03:00");
    check(
        "America/Sao_Paulo",
        "0 0 * * *",
        from,
        to,
        &["2026-11-01T00:00:00-03:00", "2026-11-02T00:00:00-03:00"],
    );
}

#[test]
fn in_dublin_the_winter_time_counts_as_the_change_and_ticks_do_not_mind() {
    let (from, to) = ("2026-03-28T12:00:00Z", "2026-03-30T12:00:00+01:00");
    check(
        "Europe/Dublin",
        "30 1 * * *",
        from,
        to,
        &["2026-03-29T02:00:00+01:00", "2026-03-30T01:30:00+01:00"],
    );
    let (from, to) = ("2026-10-24T12:00:00+01:00", "2026-10-26T12:00:00Z");
    check(
        "Europe/Dublin",
        "30 1 * * *",
        from,
        to,
        &["2026-10-25T01:30:00+01:00", "2026-10-26T01:30:00+00:00"],
    );
    check("Europe/Dublin", "30 1 * * 7-7", from, to, &["2026-10-25T01:30:00+01:00"]);
}

#[test]
fn at_troll_station_two_hours_go_and_come_back() {
    let (from, to) = ("2026-03-28T12:00:00Z", "2026-03-30T00:00:00+02:00");
    check("Antarctica/Troll", "30 1 * * *", from, to, &["2026-03-29T03:00:00+02:00"]);
    check(
        "Antarctica/Troll",
        "0 * * * *",
        "2026-10-25T00:30:00+02:00",
        "2026-10-25T03:30:00Z",
        &[
            "2026-10-25T01:00:00+02:00",
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T01:00:00+00:00",
            "2026-10-25T02:00:00+00:00",
            "2026-10-25T03:00:00+00:00",
        ],
    );
}

#[test]
fn a_zone_that_changed_its_rules_is_right_next_to_its_last_listed_change() {
    // Greenland moved to another offset in spring of 2023 and had no winter time to go back from.
    check(
        "America/Nuuk",
        "30 23 * * *",
        "2023-10-27T12:00:00-02:00",
        "2023-10-30T00:00:00-02:00",
        &["2023-10-27T23:30:00-02:00", "2023-10-28T23:30:00-02:00", "2023-10-29T23:30:00-02:00"],
    );
    check(
        "America/Ciudad_Juarez",
        "30 23 * * *",
        "2022-11-29T12:00:00-06:00",
        "2022-12-01T00:00:00-07:00",
        &["2022-11-29T23:30:00-06:00", "2022-11-30T23:30:00-07:00"],
    );
}

#[test]
fn a_time_that_came_twice_years_ago_is_still_one_tick() {
    // The last time that the clock was put back in Brazil was a Saturday, and there is none of that date until 2030.
    let timetable = cron("30 23 16 2 +SAT", "America/Sao_Paulo");
    let tick = ms("2019-02-16T23:30:00-02:00");
    for minute in 0..2 * 60 {
        for days in [1, 397, 398, 399, 400, 401, 402, 796, 800] {
            let from = ms("2019-02-16T23:00:00-03:00") + minute * 60_000 + days * 86_400_000;
            assert_eq!(timetable.last_until(from), Some(tick), "{days} days and {minute} minutes later");
            assert_eq!(timetable.next_after(from), Some(ms("2030-02-16T23:30:00-03:00")));
        }
    }
}

/// What the search for the last change relies on.
#[test]
fn in_no_zone_the_clock_is_changed_twice_within_two_days() {
    let until = "2100-01-01T00:00:00Z".parse().unwrap();
    for name in TimeZoneDatabase::bundled().available() {
        let zone = zone(name.as_str());
        let changes = zone.following(Timestamp::UNIX_EPOCH).map(|change| change.timestamp());
        let changes: Vec<_> = changes.take_while(|at| *at < until).map(Timestamp::as_second).collect();
        for pair in changes.windows(2) {
            assert!(pair[1] - pair[0] > 2 * 86_400, "{name} around {pair:?}");
        }
    }
}
