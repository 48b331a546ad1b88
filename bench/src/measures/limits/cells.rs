//! The cells of the table.

use super::Sizes;
use super::desk::{Desk, Story, TOKEN_COSTS};
use crate::figures::{Number, Runs};
use crate::limited::{Hints, Plan, Trouble};
use crate::measures::Lab;
use crate::measures::engines::Engines;
use crate::table::{Goal, Table};
use crate::work;

/// So many rows as nobody gets through.
const ENDLESS: u32 = 200_000;

const WORKERS: [u32; 2] = [1, 3];

const fn at_least(target: f64) -> Goal {
    Goal::AtLeast { target, failure: target - 10.0 }
}

const fn below(target: f64) -> Goal {
    Goal::AtMost { target, failure: 2.0 * target }
}

fn told(hints: Hints) -> &'static str {
    match hints {
        Hints::None => "nothing told",
        Hints::RetryAfter => "Retry-After",
        Hints::Headers => "headers",
    }
}

fn who(workers: u32) -> String {
    match workers {
        0 => "serve".to_owned(),
        1 => "1 worker".to_owned(),
        n => format!("{n} workers"),
    }
}

/// What must be used, and refused at most, by what is told.
const fn goals(hints: Hints) -> (f64, f64) {
    match hints {
        Hints::Headers => (98.0, 1.0),
        Hints::RetryAfter => (95.0, 2.0),
        Hints::None => (90.0, 3.0),
    }
}

/// One batch to its end for each seed: two lines.
async fn filled(
    lab: &Lab<Sizes>,
    table: &mut Table,
    (rpm, hints): (f64, Hints),
    rows: u32,
    workers: u32,
    seeds: u8,
) -> anyhow::Result<()> {
    let (mut used, mut refused) = (Runs::default(), Runs::default());
    let what = format!("{} rpm, {}, {rows} rows, {}", Number(rpm), told(hints), who(workers));
    for seed in 1..=seeds {
        let desk = Desk::new(lab, Plan::of(rpm, hints, seed.into()), workers).await?;
        let story = desk.run(rows).await?;
        desk.stop().await?;
        eprintln!(
            "{what}, seed {seed}: {} % used, {} % refused",
            Number(story.used()),
            Number(story.refused())
        );
        used.push(story.used());
        refused.push(story.refused());
    }
    let (most, least) = goals(hints);
    table.push(format!("{what}: used"), at_least(most), " %", used);
    table.push("- refused", below(least), " %", refused);
    Ok(())
}

pub(super) async fn minute(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    filled(lab, table, (600.0, Hints::Headers), lab.sizes.rows[0], 0, 1).await
}

pub(super) async fn steady(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    for hints in [Hints::Headers, Hints::RetryAfter] {
        for rows in lab.sizes.rows {
            for workers in WORKERS {
                filled(lab, table, (600.0, hints), rows, workers, 1).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn odd(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let [short, long] = lab.sizes.rows;
    for hints in [Hints::Headers, Hints::RetryAfter, Hints::None] {
        // A few seconds of calls say nothing, and neither do half an hour's more than four minutes'.
        for (rpm, rows) in [(137.0, short), (4_321.0, long)] {
            filled(lab, table, (rpm, hints), rows, 3, lab.sizes.seeds).await?;
        }
    }
    Ok(())
}

pub(super) async fn phases(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let Sizes { phase, settling, .. } = lab.sizes;
    for workers in WORKERS {
        let mut plan = Plan::of(600.0, Hints::None, 1);
        plan.rates = vec![(0.0, 600.0), (phase, 200.0), (2.0 * phase, 1_200.0)];
        let desk = Desk::new(lab, plan, workers).await?;
        let batch = desk.submit(work::MODEL, ENDLESS).await?;
        desk.until(3.0 * phase).await;
        desk.client()?.steer(&batch, "cancel").await?;
        let story = desk.story();
        desk.stop().await?;
        for (number, rpm) in [600, 200, 1_200].into_iter().enumerate() {
            let from = number as f64 * phase;
            let (from, to) = (from + settling, from + phase);
            let (used, refused) = (story.used_between(from, to), story.refused_between(from, to));
            let what = format!("nothing told, then {rpm} rpm, {}", who(workers));
            eprintln!("{what}: {} % used, {} % refused", Number(used), Number(refused));
            table.push(format!("{what}: used"), at_least(90.0), " %", Runs::from_iter([used]));
            table.push("- refused", below(3.0), " %", Runs::from_iter([refused]));
        }
    }
    Ok(())
}

pub(super) async fn shared(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    for hints in [Hints::Headers, Hints::RetryAfter, Hints::None] {
        let rows = lab.sizes.rows[0];
        let desk = Desk::new(lab, Plan::of(600.0, hints, 1), 3).await?;
        let one = desk.submit(work::MODEL, rows).await?;
        let other = desk.submit("openrouter:bench/bench", rows).await?;
        desk.succeeded(&one, rows).await?;
        desk.succeeded(&other, rows).await?;
        let story = desk.story();
        desk.stop().await?;
        let what = format!("two lanes of {rows} rows share 600 rpm, {}", told(hints));
        eprintln!("{what}: {} % used, {} % refused", Number(story.used()), Number(story.refused()));
        table.push(format!("{what}: refused"), below(5.0), " %", Runs::from_iter([story.refused()]));
        table.push("- used", Goal::Told, " %", Runs::from_iter([story.used()]));
    }
    Ok(())
}

pub(super) async fn trouble(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let (from, lasts) = lab.sizes.trouble;
    let to = from + lasts;
    for (name, trouble) in
        [("429", Trouble::TooMany), ("503", Trouble::Unavailable), ("silence", Trouble::Silence)]
    {
        let mut plan = Plan::of(600.0, Hints::None, 1);
        plan.trouble = Some((from, to, trouble));
        let desk = Desk::new(lab, plan, 3).await?;
        // As many rows as the time before and after the trouble takes.
        let rows = ((from + 60.0_f64.min(4.0 * lasts)) * 10.0) as u32;
        let story = desk.run(rows).await?;
        desk.stop().await?;
        let minutes = lasts / 60.0;
        let calls = story.between(from, to).count() as f64 / minutes;
        let after = story.used_between(to + 5.0, to + 15.0);
        let what = format!("{} s of {name}, 600 rpm, 3 workers", Number(lasts));
        eprintln!("{what}: {} calls a minute, then {} % used", Number(calls), Number(after));
        table.push(format!("{what}: calls of the lane a minute"), below(19.0), "", Runs::from_iter([calls]));
        table.push(
            "- used from the 5th to the 15th second after",
            at_least(90.0),
            " %",
            Runs::from_iter([after]),
        );
    }
    Ok(())
}

pub(super) async fn slots(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    const WARM_UP: f64 = 30.0;
    let timed = lab.sizes.timed;
    let warm_up = WARM_UP.min(timed / 2.0);
    for workers in WORKERS {
        let plan =
            Plan { rates: vec![], slots: Some((4, 8)), takes: (0.5, 1.5), ..Plan::of(0.0, Hints::None, 1) };
        let desk = Desk::new(lab, plan, workers).await?;
        let batch = desk.submit("ollama:bench", ENDLESS).await?;
        desk.until(timed).await;
        let story = desk.story();
        desk.client()?.steer(&batch, "cancel").await?;
        desk.stop().await?;
        let calls: Vec<_> = story.between(warm_up, timed).collect();
        let refused = calls.iter().filter(|call| !call.taken).count() as f64;
        // A call that comes while four or more are there finds every slot busy, or the one free that it takes.
        let busy = calls.iter().filter(|call| call.busy >= 3).count() as f64 / calls.len().max(1) as f64;
        let what = format!("4 slots, a queue of 8, {}", who(workers));
        eprintln!("{what}: {} refused, busy {} %", Number(refused), Number(100.0 * busy));
        table.push(format!("{what}: refused after 30 s"), below(0.0), "", Runs::from_iter([refused]));
        table.push(
            "- calls that found all other slots busy",
            at_least(99.0),
            " %",
            Runs::from_iter([100.0 * busy]),
        );
    }
    Ok(())
}

pub(super) async fn flush(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let at = lab.sizes.trouble.0;
    for hints in [Hints::Headers, Hints::None] {
        let desk = Desk::new(lab, Plan::of(600.0, hints, 1), 3).await?;
        let rows = (at * 20.0) as u32;
        let batch = desk.submit(work::MODEL, rows).await?;
        desk.until(at).await;
        if let Engines::Fleet(fleet) = &desk.engines {
            fleet.servers.redis.command(&["FLUSHALL"]);
        }
        let flushed = desk.story().calls.last().map_or(at, |call| call.at);
        desk.succeeded(&batch, rows).await?;
        let story = desk.story();
        desk.stop().await?;
        let most = most_in_a_second(&story, flushed, flushed + 10.0);
        let before = most_in_a_second(&story, flushed - 10.0, flushed);
        let what = format!("FLUSHALL at 600 rpm, {}, 3 workers", told(hints));
        let past = story.between(flushed, flushed + 10.0).filter(|call| !call.taken).count();
        eprintln!(
            "{what}: {past} calls past the limit, {most} in a second at most, {before} before, {} % refused",
            Number(story.refused())
        );
        // A block of one for each worker.
        table.push(
            format!("{what}: calls past the limit in the ten seconds after"),
            below(3.0),
            "",
            Runs::from_iter([past as f64]),
        );
        table.push("- calls in the worst of these seconds", Goal::Told, "", Runs::from_iter([most as f64]));
        table.push("- in the worst of the ten before", Goal::Told, "", Runs::from_iter([before as f64]));
        table.push("- refused over all", below(goals(hints).1), " %", Runs::from_iter([story.refused()]));
    }
    Ok(())
}

/// What replies of the cell of money tell.
const TOKENS: (u32, u32) = (140, 600);

/// Half of the batch is paid for, and no two calls cost the same. What the dead worker held may have been spent and counts, so as many calls fewer are made.
pub(super) async fn money(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let rows = lab.sizes.rows[1];
    let plan = Plan { rates: vec![], tokens: Some(TOKENS), ..Plan::of(0.0, Hints::None, 1) };
    let mut desk = Desk::new(lab, plan, 3).await?;
    let client = desk.client()?;
    let half = f64::from(rows / 2);
    let average = f64::from(TOKENS.0 + TOKENS.1) / 2.0 * TOKEN_COSTS;
    let batch = desk.draft(work::MODEL, rows).await?;
    client.set_max_cost(&batch, half * average).await?;
    client.submit(&batch).await?;
    while (desk.provider.calls().len() as f64) < half / 2.0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    if let Engines::Fleet(fleet) = &mut desk.engines {
        fleet.kill_worker();
    }
    client.out_of_money(&batch).await?;
    let spent = desk.provider.calls().iter().map(|call| f64::from(call.tokens) * TOKEN_COSTS).sum::<f64>();
    let (_, unknown) = client.spend(&batch).await?;
    client.set_max_cost(&batch, 10.0 * f64::from(rows) * average).await?;
    client.steer(&batch, "resume").await?;
    desk.succeeded(&batch, rows).await?;
    let repeated = desk.provider.calls().len() as f64 - f64::from(rows);
    desk.stop().await?;
    let (over, unknown) = (spent / average - half, unknown / average);
    let what = format!("max_cost at half of {rows} rows, 3 workers, one killed");
    eprintln!("{what}: {over:.1} calls above it, {unknown:.1} unknown, {repeated} repeated");
    // Calls under way when it is reached: each costs what it costs, and not what was set aside.
    let in_flight = 3.0 * 64.0;
    let dearer = f64::from(TOKENS.1 - TOKENS.0) / f64::from(TOKENS.0 + TOKENS.1);
    let runs = |figure: f64| Runs::from_iter([figure]);
    table.push(
        format!("{what}: above it, in calls"),
        below(in_flight * dearer / 8.0),
        "",
        runs(over.max(0.0)),
    );
    table.push("- below it, but for what is unknown", below(64.0), "", runs((-over - unknown).max(0.0)));
    table.push("- unknown of the dead", Goal::Told, "", runs(unknown));
    table.push("- calls that were repeated", Goal::Told, "", runs(repeated));
    Ok(())
}

/// The most calls of any second between two.
fn most_in_a_second(story: &Story, from: f64, to: f64) -> usize {
    let begins = story.between(from, to).map(|call| call.at);
    begins.map(|at| story.between(at, at + 1.0).count()).max().unwrap_or(0)
}
