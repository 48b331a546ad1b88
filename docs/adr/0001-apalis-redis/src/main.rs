//! Measures apalis-redis 1.0.0 against a real Redis and prints the figures of the decision record next to this folder.
//!
//! `cargo run -- REDIS_URL [due|ready-length|kept|attempts|priority]...`; without a name all of them run, in about two minutes.
//! The Redis must be empty, because every measurement ends with FLUSHALL. Start with [`due`]: it alone decides the matter.

mod bench;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::bench::{Bench, End};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(url) = args.next() else {
        bail!("usage: apalis-redis-measurements REDIS_URL [due|ready-length|kept|attempts|priority]...");
    };
    let mut names: Vec<String> = args.collect();
    if names.is_empty() {
        names = ["due", "ready-length", "kept", "attempts", "priority"].map(str::to_owned).into();
    }
    let mut bench = Bench::connect(&url).await?;
    println!("redis {}", bench.server_version().await?);
    for name in &names {
        println!("\n{name}");
        match name.as_str() {
            "due" => due(&mut bench).await?,
            "ready-length" => ready_length(&mut bench).await?,
            "kept" => kept(&mut bench).await?,
            "attempts" => attempts(&mut bench).await?,
            "priority" => priority(&mut bench).await?,
            other => bail!("there is no measurement {other:?}"),
        }
        bench.flush().await?;
    }
    Ok(())
}

/// How many tasks may be due at one moment: the promoting script hands all of them to Lua's `unpack`.
async fn due(bench: &mut Bench) -> Result<()> {
    println!("  {:>7}  {:>7}  how the worker ended", "due", "done");
    for count in [1_000, 5_000, 7_000, 7_990, 8_000, 10_000, 20_000] {
        bench.flush().await?;
        bench.push(count, bench::plain).await?;
        let end = bench.work_until_done(count, Duration::from_secs(60)).await?;
        println!("  {count:>7}  {:>7}  {end}", bench.done().await?);
        if matches!(end, End::Failed(_)) {
            // A restart meets the same set of due tasks, so it cannot help.
            let again = bench.work_until_done(count, Duration::from_secs(60)).await?;
            println!("  {:>7}  {:>7}  the next worker: {again}", "", bench.done().await?);
        }
    }
    Ok(())
}

/// What one task costs Redis with a long ready list behind it: taking the lease scans the list for an id that left it before.
async fn ready_length(bench: &mut Bench) -> Result<()> {
    const TASKS: usize = 1_000;
    println!("  {:>7}  {:>12}  {:>20}  {:>8}", "ready", "LREM us/call", "Redis CPU us a task", "tasks/s");
    for ready in [1_000, 10_000, 100_000] {
        bench.flush().await?;
        bench.push_ready(ready + TASKS).await?;
        bench.reset_statistics().await?;
        let before = bench.cpu().await?;
        let started = std::time::Instant::now();
        let end = bench.work_until_done(TASKS, Duration::from_secs(120)).await?;
        let elapsed = started.elapsed().as_secs_f64();
        let done = bench.done().await?.max(1);
        let cpu = (bench.cpu().await? - before) * 1e6 / done as f64;
        let lrem = bench.usec_per_call("lrem").await?;
        let rate = done as f64 / elapsed;
        println!("  {ready:>7}  {lrem:>12.1}  {cpu:>20.0}  {rate:>8.0}");
        if !matches!(end, End::Done) {
            println!("           {end}");
        }
    }
    Ok(())
}

/// What a finished task leaves in Redis for ever: nothing expires and nothing is removed.
async fn kept(bench: &mut Bench) -> Result<()> {
    const TASKS: usize = 5_000;
    // Scripts, connections and the worker's own keys are there before the base line is taken.
    bench.push(10, bench::plain).await?;
    bench.work_until_done(10, Duration::from_secs(60)).await?;
    let before = bench.used_memory().await?;
    bench.push(TASKS, bench::plain).await?;
    let end = bench.work_until_done(TASKS + 10, Duration::from_secs(120)).await?;
    let after = bench.used_memory().await?;
    println!(
        "  {TASKS} tasks whose argument is one number, {end}: {} bytes kept a task, {} keys, {} with an expiry",
        (after - before) / TASKS as i64,
        bench.keys().await?,
        bench.expiring_keys().await?
    );
    Ok(())
}

/// Whether `max_attempts` holds: a task that may be tried twice and always fails is watched for 20 seconds.
async fn attempts(bench: &mut Bench) -> Result<()> {
    bench.push(1, |builder| builder.max_attempts(2)).await?;
    let runs = bench.count_failing_runs(Duration::from_secs(20)).await?;
    println!("  a task with max_attempts 2 that always fails ran {runs} times in 20 s");
    Ok(())
}

/// Whether `priority` holds: where the first task of the high priority stands among the tasks that were run.
async fn priority(bench: &mut Bench) -> Result<()> {
    const EACH: usize = 500;
    bench.push(EACH, |builder| builder.priority(1)).await?;
    // Due times have whole seconds; the later tasks shall be later for certain.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    bench.push_from(EACH as u64, EACH, |builder| builder.priority(100)).await?;
    let end = bench.work_until_done(2 * EACH, Duration::from_secs(60)).await?;
    let order = bench.order();
    let first = order.iter().position(|&task| task >= EACH as u64);
    println!(
        "  {EACH} tasks of priority 1, then {EACH} of priority 100, {end}: the first of priority 100 ran as number {}",
        first.map_or_else(|| "-".to_owned(), |place| (place + 1).to_string())
    );
    Ok(())
}
