//! What holds for every timetable: its bounds, the ends of time, and that both ways through it meet the same ticks.

use promptmill_ticks::{MAX_INTERVAL_SECONDS, Rule, RuleError, Timetable};
use proptest::prelude::*;

use crate::support::{after, cron, cron_rule, every, ms, until, zone};

/// The end of the last year with ticks.
const LAST_MS: u64 = 253_370_764_799_000;

const DAY_MS: u64 = 86_400_000;

pub(crate) const PATTERNS: &[&str] = &[
    "* * * * * *",
    "*/7 * * * * *",
    "0,59 59 * * * *",
    "* * * * *",
    "*/13 */5 * * *",
    "30 2 * * *",
    "0 0 * * *",
    "59 59 23 * * *",
    "30 1,13 * * *",
    "0 9 * * MON-FRI",
    "0 0 13 * FRI",
    "0 0 13 * +FRI",
    "0 0 L * *",
    "15 6 LW * *",
    "0 12 15W,L * *",
    "0 0 * * 5L",
    "0 0 * * 1#5",
    "0 0 31 * *",
    "0 0 29 2 *",
    "0 0 29 2 +MON",
    "@hourly",
    "@weekly",
];

pub(crate) const ZONES: &[&str] = &[
    "UTC",
    "Africa/Casablanca",
    "America/Ciudad_Juarez",
    "America/New_York",
    "America/Nuuk",
    "America/Sao_Paulo",
    "Antarctica/Casey",
    "Antarctica/Troll",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Europe/Dublin",
    "Pacific/Apia",
];

/// Any rule, and most moments between 1970 and the years that fewer people plan for.
pub(crate) fn any_rule() -> impl Strategy<Value = Rule> {
    let cron = (prop::sample::select(PATTERNS), prop::sample::select(ZONES))
        .prop_map(|(pattern, zone)| cron_rule(pattern, zone));
    let every = (prop_oneof![1..100_u64, 1..=MAX_INTERVAL_SECONDS], any_ms())
        .prop_map(|(seconds, from_ms)| Rule::Every { seconds, from_ms });
    prop_oneof![3 => cron, 1 => every]
}

pub(crate) fn any_ms() -> impl Strategy<Value = u64> {
    // 2010 to 2030: the changes of the clock that went wrong once lie there.
    prop_oneof![8 => 1_262_304_000_000..1_893_456_000_000_u64, 1 => 0..LAST_MS]
}

/// What the clock of a zone shows close to one of its changes.
pub(crate) fn near_a_change() -> impl Strategy<Value = u64> {
    let from = "2009-01-01T00:00:00Z".parse().unwrap();
    let changes = |zone: jiff::tz::TimeZone| {
        let changes = zone.following(from).map(|change| change.timestamp().as_millisecond().unsigned_abs());
        changes.take(40).collect::<Vec<_>>()
    };
    let changes: Vec<u64> = ZONES.iter().map(|name| zone(name)).flat_map(changes).collect();
    (prop::sample::select(changes), -DAY_MS.cast_signed()..DAY_MS.cast_signed())
        .prop_map(|(change, away)| change.saturating_add_signed(away))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn ticks_only_go_forward_and_both_ways_meet_the_same_ones(
        rule in any_rule(),
        from in prop_oneof![any_ms(), near_a_change()],
    ) {
        let timetable = Timetable::new(&rule, None, None).unwrap();
        let ticks: Vec<u64> = after(&timetable, from).take(40).collect();
        prop_assert!(ticks.first().is_none_or(|first| *first > from));
        prop_assert!(ticks.is_sorted_by(|one, next| one < next));
        let Some(last) = ticks.last() else { return Ok(()) };
        let mut back: Vec<u64> = until(&timetable, *last).take_while(|tick| *tick > from).collect();
        back.reverse();
        prop_assert_eq!(&back, &ticks);
        // Nothing lies between two of them, wherever one asks.
        for (one, next) in ticks.iter().zip(&ticks[1..]) {
            for between in [*one, one + 1, one + (next - one) / 2, next - 1] {
                prop_assert_eq!(timetable.next_after(between), Some(*next));
                prop_assert_eq!(timetable.last_until(between), Some(*one));
            }
        }
    }

    #[test]
    fn bounds_leave_out_what_is_outside_of_them_and_nothing_else(
        rule in any_rule(),
        start in any_ms(),
        length in 1..400 * DAY_MS,
        from in any_ms(),
    ) {
        let all = Timetable::new(&rule, None, None).unwrap();
        let end = start + length;
        let inside = |tick: &u64| (start..=end).contains(tick);
        match Timetable::new(&rule, Some(start), Some(end)) {
            Ok(bounded) => {
                for from in [0, from, start, start + length / 2, end - 1, end, u64::MAX] {
                    let next = all.next_after(from.max(start.saturating_sub(1))).filter(inside);
                    prop_assert_eq!(bounded.next_after(from), next);
                    prop_assert_eq!(bounded.last_until(from), all.last_until(from.min(end)).filter(inside));
                }
            }
            Err(error) => {
                prop_assert_eq!(error.member(), "end");
                prop_assert_eq!(all.last_until(end).filter(inside), None);
            }
        }
    }

    /// A fixed time moves by the length of a gap at most, and a repeated time is as far from itself as the clock goes back.
    #[test]
    fn ticks_are_the_shortest_gap_apart_where_the_clock_is_not_changed(rule in any_rule(), from in any_ms()) {
        let timetable = Timetable::new(&rule, None, None).unwrap();
        let gap = timetable.shortest_gap_ms();
        let ticks: Vec<u64> = after(&timetable, from).take(30).collect();
        let zone = match &rule {
            Rule::Cron { zone: name, .. } => zone(name),
            Rule::Every { .. } => zone("UTC"),
        };
        let offset = |ms: u64| zone.to_offset(jiff::Timestamp::from_millisecond(ms.cast_signed()).unwrap());
        for (one, next) in ticks.iter().zip(ticks.get(1..).unwrap_or_default()) {
            // One that is moved lies at the change itself.
            let is_changed = (0..=48).any(|step| offset(one + (next - one) * step / 48) != offset(one - 1));
            prop_assert!(is_changed || next - one >= gap, "{} and {} are nearer than {}", one, next, gap);
        }
    }
}

#[test]
fn the_shortest_gap_is_found_where_it_is() {
    let check = |pattern: &str, seconds: u64| {
        assert_eq!(cron(pattern, "UTC").shortest_gap_ms(), seconds * 1_000, "{pattern}");
        assert_eq!(cron(pattern, "Europe/Berlin").shortest_gap_ms(), seconds * 1_000, "{pattern}");
    };
    check("* * * * * *", 1);
    check("* * * * *", 60);
    check("0 * * * *", 3_600);
    check("30 2 * * *", 86_400);
    check("@weekly", 7 * 86_400);
    check("@monthly", 28 * 86_400);
    check("@yearly", 365 * 86_400);
    // Two seconds of one minute of the year; from one minute, hour or day to the next one.
    check("0,1 0 0 1 1 *", 1);
    check("0,50 * * * * *", 10);
    check("0,50 */2 * * * *", 50);
    check("0,50 0,59 * * * *", 10);
    check("0 5,50 * * * *", 15 * 60);
    check("0,25,50 0-59/2,59 0-20/2,23 1,15,31 * *", 10);
    check("0 1,23 * * *", 2 * 3_600);
    check("0 1,23 1 * *", 22 * 3_600);
    check("0,40 0,23 * * *", 20 * 60);
    check("0,50 0,59 0,23 * * *", 10);
    check("0 0 1,3,10,11 * *", 86_400);
    // The 31st and the 1st, across a year's end too.
    check("0 0 1,31 * *", 86_400);
    check("0 0 1,31 1,12 *", 86_400);
    check("0 0 28 2,3 *", 28 * 86_400);
    check("0 0 * * 1#1,5L", 3 * 86_400);
    check("0 0 13 * +FRI", 28 * 86_400);
    // What comes less than once a year is told as a year.
    check("0 0 29 2 *", 366 * 86_400);
    check("0 0 29 2 +MON", 366 * 86_400);
    assert_eq!(every(90, 5).shortest_gap_ms(), 90_000);
}

#[test]
fn an_interval_ticks_from_its_first_moment_on_to_the_millisecond() {
    let timetable = every(90, 1_234_567);
    assert_eq!(timetable.last_until(1_234_566), None);
    assert_eq!(timetable.next_after(0), Some(1_234_567));
    assert_eq!(timetable.next_after(1_234_566), Some(1_234_567));
    assert_eq!(timetable.next_after(1_234_567), Some(1_324_567));
    assert_eq!(timetable.last_until(1_324_566), Some(1_234_567));
    assert_eq!(timetable.last_until(1_324_567), Some(1_324_567));
    assert_eq!(every(1, 0).last_until(0), Some(0));
}

#[test]
fn intervals_have_a_least_and_a_greatest_length() {
    for seconds in [0, MAX_INTERVAL_SECONDS + 1, u64::MAX] {
        let error = Timetable::new(&Rule::Every { seconds, from_ms: 0 }, None, None).unwrap_err();
        let text = format!(
            "an interval of {seconds} seconds is not possible; give 1 to 31622400, which is 366 days"
        );
        assert_eq!(error, RuleError::Seconds(text));
    }
    assert_eq!(every(MAX_INTERVAL_SECONDS, 0).next_after(0), Some(366 * DAY_MS));
}

#[test]
fn ticks_end_with_the_year_9998_and_nothing_overflows() {
    let rules = PATTERNS.iter().flat_map(|pattern| ZONES.iter().map(|zone| cron_rule(pattern, zone)));
    let intervals = [1, 60, MAX_INTERVAL_SECONDS].map(|seconds| Rule::Every { seconds, from_ms: 7 });
    for rule in rules.chain(intervals) {
        let timetable = Timetable::new(&rule, None, None).unwrap();
        let last = timetable.last_until(u64::MAX).unwrap();
        assert!(last <= LAST_MS, "{rule:?}");
        assert_eq!(timetable.last_until(LAST_MS), Some(last), "{rule:?}");
        assert_eq!(timetable.next_after(last - 1), Some(last), "{rule:?}");
        for behind in [last, LAST_MS, LAST_MS + 1, i64::MAX.unsigned_abs(), u64::MAX - 1, u64::MAX] {
            assert_eq!(timetable.next_after(behind), None, "{rule:?}");
        }
        let first = timetable.last_until(0).or(timetable.next_after(0)).unwrap();
        assert_eq!(timetable.last_until(first), Some(first), "{rule:?}");
        assert_eq!(first.checked_sub(1).and_then(|before| timetable.last_until(before)), None, "{rule:?}");
    }
}

#[test]
fn a_tick_at_the_first_moment_of_1970_is_one() {
    let timetable = cron("0 0 1 1 *", "UTC");
    assert_eq!(timetable.last_until(0), Some(0));
    assert_eq!(timetable.next_after(0), Some(365 * DAY_MS));
    // In New York it was still 1969.
    assert_eq!(cron("0 0 1 1 *", "America/New_York").last_until(0), None);
    assert_eq!(cron("0 19 31 12 *", "America/New_York").last_until(0), Some(0));
}

#[test]
fn a_start_and_an_end_at_ticks_leave_both_of_them_in() {
    let (start, end) = (ms("2025-06-02T09:00:00Z"), ms("2025-06-04T09:00:00Z"));
    let timetable = Timetable::new(&cron_rule("0 9 * * *", "UTC"), Some(start), Some(end)).unwrap();
    assert_eq!(after(&timetable, 0).collect::<Vec<_>>(), [start, start + DAY_MS, end]);
    assert_eq!(until(&timetable, u64::MAX).collect::<Vec<_>>(), [end, start + DAY_MS, start]);
}

#[test]
fn bounds_without_a_tick_between_them_are_refused() {
    let check = |rule: Rule, start: Option<u64>, end: Option<u64>, member: &str, text: &str| {
        let error = Timetable::new(&rule, start, end).unwrap_err();
        assert_eq!((error.member(), error.to_string().as_str()), (member, text));
    };
    let nine = || cron_rule("0 9 * * *", "UTC");
    let start = ms("2025-06-02T09:00:01Z");
    let not_after = "the end is not after the start; give a later one";
    check(nine(), Some(start), Some(start), "end", not_after);
    check(nine(), Some(start), Some(start - 1), "end", not_after);
    check(nine(), None, Some(0), "end", not_after);
    let no_tick = "this never comes, as no tick lies before the end; give a later one";
    check(nine(), Some(start), Some(start + DAY_MS - 2_000), "end", no_tick);
    check(nine(), None, Some(1), "end", no_tick);
    check(Rule::Every { seconds: 60, from_ms: start }, None, Some(start - 1), "end", no_tick);
    let too_late = "this never comes, as no tick lies behind the start; give one before the year 9999";
    check(nine(), Some(LAST_MS + 1), None, "start", too_late);
    check(nine(), Some(u64::MAX), None, "start", too_late);
    check(Rule::Every { seconds: 60, from_ms: u64::MAX }, None, None, "start", too_late);
    check(Rule::Every { seconds: 60, from_ms: 5 }, Some(u64::MAX - 1), Some(u64::MAX), "end", no_tick);
    // One that ends in the past is not refused: whoever asks knows what the time is.
    assert!(Timetable::new(&nine(), Some(start), Some(start + DAY_MS)).is_ok());
}
