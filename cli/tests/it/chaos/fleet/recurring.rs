//! Schedules under faults: schedulers are killed or stopped, all of them are gone for a while, their clocks are wrong, the clocks of a
//! country are changed. Each due tick has exactly one batch, or was missed by its policy.
//!
//! Every schedule ends by itself, so that all of its ticks are known beforehand; what came of them is for the
//! [judge](crate::checker::recurring).

mod clocks;
mod daylight;
mod deaths;
mod outage;

use std::collections::BTreeMap;

use jiff::Timestamp;
use promptmill_doubles::{Config, Doubles};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::chaos::scene::{all_batches, check_log, wait_until, wait_until_it};
use crate::chaos::wrong_clock::{WrongClock, now_ms};
use crate::checker::recurring::{Became, Calls, Misfire, Run, Story, Told, check};
use crate::fleet::{Fleet, Program, Size};
use crate::server::Http;
use crate::support::Desk;

/// Rows of each run.
const ROWS: u64 = 2;

/// What a scheduler says when it begins to lead.
const LEADS: &str = "this scheduler leads";

/// A fleet with schedules.
struct Stand {
    doubles: Doubles,
    desk: Desk,
    fleet: Fleet,
    client: Http,
    asked: Vec<Asked>,
    /// Whether whoever decides a tick and whoever makes its batch have the same time.
    has_one_clock: bool,
}

/// A schedule as it was asked for.
struct Asked {
    id: String,
    misfire: Misfire,
    due: Vec<u64>,
}

impl Stand {
    /// A fleet with so many schedulers, whose schedules may be due every second.
    fn begin(seed: u64, schedulers: usize) -> Self {
        let config = Config { seed, latency: "5..30".parse().unwrap(), ..Config::default() };
        let doubles = Doubles::start(config).unwrap();
        let mut desk = Desk::new();
        desk.point_at(&doubles);
        desk.set("PROMPTMILL_SCHEDULE_SECONDS", "1");
        desk.set("PROMPTMILL_RUNNING_BATCHES", "1000");
        let fleet = Fleet::new(&mut desk, Size { schedulers, ..Size::ONE });
        let client = fleet.client();
        Self { doubles, desk, fleet, client, asked: Vec::new(), has_one_clock: true }
    }

    /// Makes a schedule that is due so often, from the first of its ticks that is still to come until the end.
    async fn every(&mut self, misfire: Misfire, seconds: u64, (start_ms, end_ms): (u64, u64)) {
        let when = json!({"every": seconds, "start": time(start_ms), "end": time(end_ms), "grace": 1});
        let view = self.make(misfire, when).await;
        let due = (ms(&view["next_at"])..=end_ms).step_by(usize::try_from(seconds * 1_000).unwrap());
        let id = view["id"].as_str().unwrap().to_owned();
        self.asked.push(Asked { id, misfire, due: due.collect() });
    }

    /// Makes one that is due as told, whose runs go on beside each other.
    async fn make(&self, misfire: Misfire, when: Value) -> Value {
        let name = format!("s{}", self.asked.len());
        let rows: Vec<_> =
            (0..ROWS).map(|row| json!({"variables": {"row": format!("{name}_{row}")}})).collect();
        // The prompt says of which run it is, in letters that the double takes for a marker.
        let prompt = "Say something about [[row:{{ row }}_{{ scheduled_at | replace('+', '.') }}]].";
        let template = json!({"name": "recurring", "messages": [{"role": "user", "content": prompt}]});
        let mut wish = json!({"name": name, "concurrency": "allow",
            "batch": {"template": template, "model": "openai:m", "rows": rows}});
        let wishes = wish.as_object_mut().unwrap();
        wishes.extend(when.as_object().unwrap().clone());
        let (name, runs) = match misfire {
            Misfire::RunOnce => ("run_once", None),
            Misfire::RunEach { most } => ("run_each", Some(most)),
            Misfire::Skip => ("skip", None),
        };
        wishes.extend([("misfire".to_owned(), json!(name)), ("misfire_runs".to_owned(), json!(runs))]);
        let (status, view) = self.client.post("/v1/schedules", &wish).await;
        assert_eq!(status, StatusCode::CREATED, "{view}");
        view
    }

    /// Starts a further scheduler, and answers its number.
    fn scheduler(&mut self) -> usize {
        let nth = self.fleet.schedulers.len();
        self.fleet.schedulers.push(Program::start(&self.desk, "scheduler", nth, &[]));
        nth
    }

    /// Starts a further scheduler whose clock shows that time now and goes on so many times as fast, and answers its number. What waits
    /// inside of it, such as for the beat of others, goes by the right one.
    fn scheduler_at(&mut self, shown_ms: u64, rate: u32) -> usize {
        WrongClock::new(&self.desk).set(&mut self.desk, shown_ms, rate);
        let nth = self.scheduler();
        WrongClock::unset(&mut self.desk);
        nth
    }

    /// kill -9 of a scheduler that is not started again.
    fn end_scheduler(&mut self, n: usize) {
        self.fleet.schedulers.remove(n).kill();
    }

    /// Waits until that scheduler leads.
    fn wait_until_it_leads(&self, n: usize) {
        wait_until("the scheduler to lead", || self.fleet.schedulers[n].has_said(&[LEADS]));
    }

    /// The ticks of a schedule, oldest first, those too that somebody asked for.
    async fn ticks(&self, nth: usize) -> Vec<Value> {
        let path = format!("/v1/schedules/{}/ticks?limit=500", self.asked[nth].id);
        let (mut all, mut next) = (Vec::new(), path.clone());
        loop {
            let (status, page) = self.client.get(&next).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            all.extend(page["data"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(cursor) => next = format!("{path}&cursor={cursor}"),
                None => break,
            }
        }
        all.reverse();
        all
    }

    /// Waits until so many ticks of a schedule ran to their end.
    async fn wait_for_runs(&self, nth: usize, count: usize) {
        wait_until_it("runs to end", async || {
            self.ticks(nth).await.iter().filter(|tick| tick["state"] == "ended").count() >= count
        })
        .await;
    }

    /// Waits until every tick of these schedules that was decided is over.
    async fn wait_for_rest(&self, schedules: impl IntoIterator<Item = usize>) {
        let is_open = |tick: &Value| tick["state"] == "due" || tick["state"] == "running";
        for nth in schedules {
            wait_until_it("ticks to be over", async || !self.ticks(nth).await.iter().any(is_open)).await;
        }
    }

    /// Waits until every schedule has decided its last tick, and all runs are over.
    async fn wait_for_the_end(&self) {
        wait_until_it("every schedule to end", async || {
            let (_, page) = self.client.get("/v1/schedules?limit=100").await;
            page["data"].as_array().unwrap().iter().all(|schedule| schedule["state"] != "active")
        })
        .await;
        self.wait_for_rest(0..self.asked.len()).await;
        wait_until("calls to end", || self.doubles.ledger().totals().in_flight == 0);
    }

    /// What is known of every schedule.
    async fn stories(&self) -> Vec<Story> {
        let mut batches: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
        for batch in all_batches(&self.client).await {
            let of = &batch["schedule"];
            let id = of["id"].as_str().unwrap_or_else(|| panic!("a batch of no schedule: {batch}"));
            let batch = (batch["id"].as_str().unwrap().to_owned(), ms(&of["at"]));
            batches.entry(id.to_owned()).or_default().push(batch);
        }
        let mut calls = self.calls();
        let mut stories = Vec::new();
        for (nth, asked) in self.asked.iter().enumerate() {
            let name = format!("s{nth}");
            stories.push(Story {
                misfire: asked.misfire,
                rows: ROWS,
                due: asked.due.clone(),
                ticks: self.ticks(nth).await.iter().map(|tick| told(tick, self.has_one_clock)).collect(),
                batches: batches.remove(&asked.id).unwrap_or_default(),
                calls: calls.remove(&name).unwrap_or_default(),
                name,
            });
        }
        assert!(batches.is_empty(), "batches of schedules that are not there: {batches:?}");
        assert!(calls.is_empty(), "calls for schedules that are not there: {calls:?}");
        stories
    }

    /// Calls for each schedule.
    fn calls(&self) -> BTreeMap<String, Calls> {
        let ledger = self.doubles.ledger().snapshot();
        assert_eq!((ledger.totals.unmarked_calls, &ledger.refusals), (0, &Vec::new()));
        let mut calls: BTreeMap<String, Calls> = BTreeMap::new();
        for (marker, record) in &ledger.markers {
            let parts: Vec<&str> = marker.split('_').collect();
            let [name, row, at] = parts[..] else { panic!("a marker of nobody: {marker}") };
            // The last of its dots stands before the zone's offset.
            let (local, offset) = at.rsplit_once('.').unwrap();
            let at: Timestamp = format!("{local}+{offset}").parse().unwrap();
            let key = (u64::try_from(at.as_second()).unwrap(), row.parse().unwrap());
            calls.entry(name.to_owned()).or_default().insert(key, record.calls + record.repair_calls);
        }
        calls
    }

    /// Waits for the end of all, stops every process in order, and judges.
    async fn conclude(mut self, fault: &str, seed: u64) -> Vec<Story> {
        self.wait_for_the_end().await;
        let stories = self.stories().await;
        check_log(&self.fleet.stop());
        let ran: usize = stories.iter().map(|story| story.ran().len()).sum();
        let missed: usize = stories.iter().map(Story::missed).sum();
        println!("{fault}, seed {seed}: {} schedules, {ran} ticks ran, {missed} were missed", stories.len());
        check(&format!("{fault}, seed {seed}"), &stories);
        stories
    }
}

/// A tick of the API.
fn told(tick: &Value, has_one_clock: bool) -> Told {
    let batch = &tick["batch"];
    let became = match (tick["state"].as_str().unwrap(), tick["skipped_because"].as_str()) {
        ("ended", None) => Became::Ran(Run {
            batch: batch["id"].as_str().unwrap().to_owned(),
            state: batch["state"].as_str().unwrap_or("deleted").to_owned(),
            rows: batch["rows"].as_u64().unwrap_or(0),
            succeeded: batch["succeeded"].as_u64().unwrap_or(0),
            is_early: has_one_clock && ms(&tick["started_at"]) < ms(&tick["at"]),
        }),
        ("skipped", Some("missed")) => Became::Missed,
        _ => Became::Other(tick.to_string()),
    };
    Told { at_ms: ms(&tick["at"]), became }
}

/// Unix milliseconds of a time of the API.
#[track_caller]
fn ms(time: &Value) -> u64 {
    let time: Timestamp = time.as_str().unwrap().parse().unwrap();
    u64::try_from(time.as_millisecond()).unwrap()
}

/// A time for the API.
fn time(at_ms: u64) -> String {
    Timestamp::from_millisecond(i64::try_from(at_ms).unwrap()).unwrap().to_string()
}

/// The second that begins so many seconds from now.
fn second_in(seconds: u64) -> u64 {
    (now_ms() / 1_000 + seconds) * 1_000
}

/// Waits until the right clock shows that time.
async fn wait_for_time(at_ms: u64) {
    wait_until_it("a time", async || now_ms() >= at_ms).await;
}
