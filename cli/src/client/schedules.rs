//! `promptmill schedule`: batches that recur, and what became of each of their ticks.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::args::{ScheduleArgs, ScheduleCommand, headers};
use super::{Client, ServerArgs, print_json, print_line, submit, text};
use crate::exit::{Exit, Failure};

/// Bytes of rows that come with a schedule.
const MAX_ROWS: u64 = 8 * 1024 * 1024;

pub(crate) async fn schedule(command: ScheduleCommand) -> Result<Exit, Failure> {
    match command {
        ScheduleCommand::Create(args) => create(*args).await?,
        ScheduleCommand::List { limit, server } => {
            for schedule in &Client::new(&server)?.list("/v1/schedules", &[], limit).await? {
                if server.json { print_json(schedule)? } else { print_line(&line(schedule))? }
            }
        }
        ScheduleCommand::Show { id, server } => {
            let schedule = Client::new(&server)?.get(&format!("/v1/schedules/{id}")).await?;
            if server.json { print_json(&schedule)? } else { print_line(&shown(&schedule))? }
        }
        ScheduleCommand::Pause { id, server } => steer(&server, &id.to_string(), "pause").await?,
        ScheduleCommand::Resume { id, server } => steer(&server, &id.to_string(), "resume").await?,
        ScheduleCommand::Run { id, server } => {
            let tick = Client::new(&server)?.post(&format!("/v1/schedules/{id}/run"), None).await?;
            let at = text(&tick, "at");
            if server.json { print_json(&tick)? } else { print_line(&format!("a run of {at} begins"))? }
        }
        ScheduleCommand::History { id, limit, server } => {
            let path = format!("/v1/schedules/{id}/ticks");
            for tick in &Client::new(&server)?.list(&path, &[], limit).await? {
                if server.json { print_json(tick)? } else { print_line(&tick_line(tick))? }
            }
        }
        ScheduleCommand::Diff { id, at, limit, server } => diff(&id.to_string(), at, limit, &server).await?,
        ScheduleCommand::Next { id, count, server } => {
            let next = Client::new(&server)?.get(&format!("/v1/schedules/{id}/next?count={count}")).await?;
            for tick in next["data"].as_array().into_iter().flatten() {
                if server.json { print_json(tick)? } else { print_line(text(tick, "local"))? }
            }
        }
        ScheduleCommand::Delete { id, server } => {
            Client::new(&server)?.delete(&format!("/v1/schedules/{id}"), None).await?;
        }
    }
    Ok(Exit::Success)
}

async fn create(args: ScheduleArgs) -> Result<(), Failure> {
    let body = request(&args)?;
    let schedule = Client::new(&args.server)?.post("/v1/schedules", Some(&body)).await?;
    if let Some(secret) = schedule["webhook_secret"].as_str() {
        eprintln!("events are signed with {secret} (shown this once)");
    }
    if args.server.json {
        return print_json(&schedule);
    }
    if let Some(next) = schedule["next_at"].as_str() {
        eprintln!("its first tick is {next}");
    }
    print_line(text(&schedule, "id"))
}

fn request(args: &ScheduleArgs) -> Result<Value, Failure> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("name", args.batch.name.clone().map(Value::from));
    put("cron", args.cron.clone().map(Value::from));
    put("timezone", args.timezone.clone().map(Value::from));
    put("every", args.every.map(Value::from));
    put("start", args.start.clone().map(Value::from));
    put("end", args.end.clone().map(Value::from));
    put("jitter", args.jitter.map(Value::from));
    put("concurrency", args.concurrency.clone().map(Value::from));
    put("misfire", args.misfire.clone().map(Value::from));
    put("misfire_runs", args.misfire_runs.map(Value::from));
    put("grace", args.grace.map(Value::from));
    put("max_cost_per_month", args.max_cost_per_month.map(|cost| cost.to_string().into()));
    put(
        "retry",
        args.retry.map(|times| match args.retry_after {
            Some(after) => json!({ "times": times, "after": after }),
            None => json!({ "times": times }),
        }),
    );
    put("paused", args.paused.then_some(Value::Bool(true)));
    let mut batch = submit::request(&args.batch)?;
    if let Some(path) = &args.rows {
        batch.insert("rows".to_owned(), rows(path)?);
    }
    put("rows_from", rows_from(args)?);
    if let Some(window) = args.completion_window {
        batch.insert("completion_window".to_owned(), window.into());
    }
    put("batch", Some(Value::Object(batch)));
    Ok(Value::Object(body))
}

/// Where rows come from that are in no file.
fn rows_from(args: &ScheduleArgs) -> Result<Option<Value>, Failure> {
    let mut from = Map::new();
    if let Some(text) = &args.row_set {
        let (name, version) = match text.split_once('@') {
            None => (text.as_str(), None),
            Some((name, version)) => (name, Some(version)),
        };
        from.insert("row_set".to_owned(), name.into());
        if let Some(version) = version {
            let version: u32 = version
                .parse()
                .map_err(|_| Failure::input(format!("--row-set {text}: must be NAME or NAME@VERSION")))?;
            from.insert("version".to_owned(), version.into());
        }
    }
    if let Some(url) = &args.rows_url {
        from.insert("url".to_owned(), url.as_str().into());
    }
    if let Some(format) = &args.rows_format {
        from.insert("format".to_owned(), format.as_str().into());
    }
    if !args.rows_headers.is_empty() {
        from.insert("headers".to_owned(), headers("--rows-header", &args.rows_headers)?);
    }
    if !args.previous_run.is_empty() {
        let outcomes: Vec<_> = args.previous_run.iter().map(|outcome| outcome.as_str()).collect();
        from.insert("previous_run".to_owned(), outcomes.into());
    }
    Ok((!from.is_empty()).then_some(Value::Object(from)))
}

/// The rows of a file of JSON lines.
fn rows(path: &Path) -> Result<Value, Failure> {
    let shown = path.display();
    let is_too_large = std::fs::metadata(path).is_ok_and(|file| file.len() > MAX_ROWS);
    if is_too_large {
        return Err(Failure::input(format!(
            "--rows {shown}: rows that come with a schedule have at most 8 MiB"
        )));
    }
    let content = std::fs::read_to_string(path)
        .map_err(|error| Failure::input(format!("the rows {shown} cannot be read: {error}")))?;
    let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let rows = lines.map(|(nth, line)| {
        let wrong = |error| Failure::input(format!("--rows {shown}: line {}: {error}", nth + 1));
        serde_json::from_str::<Value>(line).map_err(wrong)
    });
    Ok(Value::Array(rows.collect::<Result<_, _>>()?))
}

async fn diff(id: &str, at: Option<String>, limit: usize, server: &ServerArgs) -> Result<(), Failure> {
    let client = Client::new(server)?;
    let at = match at {
        Some(at) => at,
        None => {
            let ticks = client.list(&format!("/v1/schedules/{id}/ticks"), &[], 50).await?;
            let over = ticks.iter().find(|tick| tick["state"] == "ended");
            let at = over.map(|tick| text(tick, "at").to_owned());
            at.ok_or_else(|| Failure::input("no run of the schedule is over"))?
        }
    };
    let found = client.get(&format!("/v1/schedules/{id}/ticks/{at}/difference?limit={limit}")).await?;
    if server.json {
        return print_json(&found);
    }
    for item in found["items"].as_array().into_iter().flatten() {
        let index = item["index"].as_u64().or(item["previous_index"].as_u64()).unwrap_or(0);
        let name = match item["custom_id"].as_str() {
            Some(id) => id.to_owned(),
            None => format!("row {index}"),
        };
        let came = match (item["previous_outcome"].as_str(), item["outcome"].as_str()) {
            (Some(before), Some(now)) if before != now => format!("{before} -> {now}"),
            (_, Some(now)) => now.to_owned(),
            (before, None) => before.unwrap_or("").to_owned(),
        };
        print_line(&format!("{:8} {name}  {came}", text(item, "change")))?;
    }
    let count = |member: &str| found[member].as_u64().unwrap_or(0);
    print_line(&format!(
        "{at} and {}: {} new, {} gone, {} other outcomes, {} other outputs, {} the same",
        text(&found, "previous_at"),
        count("new"),
        count("gone"),
        count("outcome_changed"),
        count("output_changed"),
        count("same"),
    ))
}

async fn steer(server: &ServerArgs, id: &str, step: &str) -> Result<(), Failure> {
    let schedule = Client::new(server)?.post(&format!("/v1/schedules/{id}/{step}"), None).await?;
    if server.json {
        return print_json(&schedule);
    }
    print_line(&format!("{id} is {}", text(&schedule, "state")))
}

/// When a schedule is due, in words.
fn rule(schedule: &Value) -> String {
    match (schedule["cron"].as_str(), schedule["every"].as_u64()) {
        (Some(cron), _) => format!("{cron} ({})", text(schedule, "timezone")),
        (None, Some(seconds)) => format!("every {seconds} s"),
        (None, None) => String::new(),
    }
}

fn line(schedule: &Value) -> String {
    let (id, state, name) = (text(schedule, "id"), text(schedule, "state"), text(schedule, "name"));
    let next = schedule["next_at"].as_str().unwrap_or("-");
    format!("{id}  {state:6}  {next:24}  {}  {name}", rule(schedule)).trim_end().to_owned()
}

fn shown(schedule: &Value) -> String {
    let batch = &schedule["batch"];
    let mut lines = vec![line(schedule), format!("model {}", text(batch, "model"))];
    let mut put = |what: &str, value: &Value| {
        if let Some(value) = value.as_str() {
            lines.push(format!("{what} {value}"));
        }
    };
    put("template", &batch["template"]);
    put("rows of", &schedule["rows_from"]["row_set"]);
    put("rows of", &schedule["rows_from"]["url"]);
    put("webhook", &batch["webhook_url"]);
    put("a tick during an earlier run:", &schedule["concurrency"]);
    put("ticks that were missed:", &schedule["misfire"]);
    put("no tick before", &schedule["start"]);
    put("no tick after", &schedule["end"]);
    lines.join("\n")
}

fn tick_line(tick: &Value) -> String {
    let batch = &tick["batch"];
    let what = match text(tick, "state") {
        "skipped" => format!("skipped: {}", text(tick, "skipped_because")),
        "failed" => format!("failed: {}", text(tick, "error")),
        state => state.to_owned(),
    };
    let counts = match (batch["succeeded"].as_u64(), batch["rows"].as_u64()) {
        (Some(succeeded), Some(rows)) => format!("{succeeded}/{rows} succeeded"),
        _ => String::new(),
    };
    let asked = if tick["requested"] == true { "asked for" } else { "" };
    let (at, id) = (text(tick, "at"), text(batch, "id"));
    format!("{at}  {what:18}  {id}  {counts}  {asked}").trim_end().to_owned()
}
