//! The clocks of a country are changed while a scheduler runs: what is due then is what the table of `promptmill-ticks` says.
//!
//! The scheduler's clock stands shortly before a change of next year, and five minutes of it pass in a second. The others have the right time.

use jiff::civil::{Weekday, date};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{Asked, Stand, ms, time};
use crate::chaos::fleet::seed;
use crate::checker::recurring::Misfire;

const MINUTE_MS: u64 = 60_000;

/// Begins and ends so many minutes before and after the change.
const WINDOW: (u64, u64) = (70, 40);

/// How much faster the time passes: in twenty seconds all of it.
const RATE: u32 = 300;

/// When Europe changes its clocks in a month of next year: on its last Sunday, at one o'clock UTC.
fn change_of(month: i8) -> u64 {
    let now = jiff::Timestamp::now().to_zoned(TimeZone::UTC);
    let sunday = date(now.year() + 1, month, 1).nth_weekday_of_month(-1, Weekday::Sunday).unwrap();
    let change = sunday.at(1, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap();
    u64::try_from(change.timestamp().as_millisecond()).unwrap()
}

/// Runs schedules, which are due so many minutes before or after the change.
async fn across(change_ms: u64, what: &str, schedules: &[(Value, &[i64])]) {
    let seed = seed(1);
    let mut stand = Stand::begin(seed, 0);
    let begin_ms = change_ms - WINDOW.0 * MINUTE_MS;
    let end_ms = change_ms + WINDOW.1 * MINUTE_MS;
    let minutes = |minutes: i64| change_ms.checked_add_signed(minutes * 60_000).unwrap();
    for (rule, due) in schedules {
        let mut when = json!({"start": time(begin_ms), "end": time(end_ms), "grace": 86_400});
        when.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        let view = stand.make(Misfire::Skip, when).await;
        let due: Vec<u64> = due.iter().map(|due| minutes(*due)).collect();
        assert_eq!(ms(&view["next_at"]), due[0], "{rule}");
        let id = view["id"].as_str().unwrap().to_owned();
        stand.asked.push(Asked { id, misfire: Misfire::Skip, due });
    }
    stand.scheduler_at(begin_ms - 5 * MINUTE_MS, RATE);
    let stories = stand.conclude(what, seed).await;
    assert!(stories.iter().all(|story| story.missed() == 0));
}

fn berlin(pattern: &str) -> Value {
    json!({"cron": pattern, "timezone": "Europe/Berlin"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_go_forward_cost_no_daily_tick_and_make_none_of_hours_that_do_not_come() {
    across(
        change_of(3),
        "clocks go forward",
        &[
            (berlin("30 2 * * *"), &[0]),
            (berlin("30 1 * * *"), &[-30]),
            (berlin("0 3 * * *"), &[0]),
            (berlin("30 1,2 * * *"), &[-30]),
            (berlin("*/30 * * * *"), &[-60, -30, 0, 30]),
            (berlin("0 * * * *"), &[-60, 0]),
            (json!({"cron": "30 0 * * *"}), &[-30]),
            (json!({"every": 1_200}), &[-70, -50, -30, -10, 10, 30]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_go_back_make_no_daily_tick_twice_and_each_of_an_hour_that_comes_twice() {
    across(
        change_of(10),
        "clocks go back",
        &[
            (berlin("30 2 * * *"), &[-30]),
            (berlin("0 2 * * *"), &[-60]),
            (berlin("30 1,2 * * *"), &[-30, 30]),
            (berlin("*/30 * * * *"), &[-60, -30, 0, 30]),
            (berlin("0 * * * *"), &[-60, 0]),
            (json!({"cron": "30 0 * * *"}), &[-30]),
            (json!({"every": 1_200}), &[-70, -50, -30, -10, 10, 30]),
        ],
    )
    .await;
}
