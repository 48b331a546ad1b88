//! kill -9 at any moment, then `--resume`: every row exactly one outcome, and only what was begun and unsettled is called again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use promptmill_domain::TenantId;
use promptmill_doubles::{Config, Doubles, FaultPlan};
use promptmill_ports::{BatchFilter, PageLimit};
use promptmill_runtime::{Engine, Providers};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Desk, check_all_succeeded, run_args, wait_for};

const ROWS: usize = 240;

/// Calls at once.
const CONCURRENCY: &str = "24";

/// The rows that have an outcome in the state folder of a dead process.
fn settled(state: &Path) -> BTreeSet<u32> {
    if !state.join("promptmill.db").exists() {
        return BTreeSet::new();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = Engine::embedded(state, Arc::new(Providers::of([]))).unwrap();
        let tenant = TenantId::default_tenant();
        let mut settled = BTreeSet::new();
        let all = (BatchFilter::default(), PageLimit::items(10));
        for batch in engine.store.batches(&tenant, &all.0, None, all.1).await.unwrap().batches {
            let limit = PageLimit { items: 100_000, bytes: usize::MAX };
            let page = engine.store.outcomes(&tenant, batch.id, 0, limit).await.unwrap();
            settled.extend(page.outcomes.iter().map(|outcome| outcome.index));
        }
        settled
    })
}

fn one_run(seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let plan = if dice.random_bool(0.5) { FaultPlan::none() } else { FaultPlan::standard() };
    let config = Config { plan, seed, latency: "2..15".parse().unwrap(), ..Config::default() };
    let doubles = Doubles::start(config).unwrap();
    let mut desk = Desk::with_rows(ROWS);
    desk.point_at(&doubles);
    let state = desk.path("out.jsonl.promptmill");
    let kills = dice.random_range(1..=3);
    let calls_of = |n: u32| {
        let row = doubles.ledger().marker(&n.to_string());
        row.calls + row.repair_calls
    };
    // How often each row had been called when its outcome was first found in the store of a dead process.
    let mut frozen: BTreeMap<u32, u64> = BTreeMap::new();
    // The rows that were begun and had no outcome when a process died: only these may repeat calls.
    let mut unsettled: BTreeSet<u32> = BTreeSet::new();
    for nth in 0..kills {
        let before = doubles.ledger().totals().calls;
        let mut child = desk.start(&run_args(
            "openai:m",
            &["--concurrency", CONCURRENCY, if nth == 0 { "--quiet" } else { "--resume" }],
        ));
        // Either in the middle of the work, or so early that rows are still coming in or heads being written.
        if dice.random_bool(0.8) {
            let calls = before + dice.random_range(1..ROWS as u64);
            wait_for("calls, or the end", || {
                doubles.ledger().totals().calls >= calls || child.try_wait().unwrap().is_some()
            });
        } else {
            let moment =
                std::time::Instant::now() + std::time::Duration::from_micros(dice.random_range(0..120_000));
            wait_for("the moment", || std::time::Instant::now() >= moment);
        }
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        if ended.success() || !state.join("promptmill.db").exists() {
            break;
        }
        wait_for("calls under way to end", || doubles.ledger().totals().in_flight == 0);
        let done = settled(&state);
        assert!(frozen.keys().all(|n| done.contains(n)), "seed {seed}: an outcome vanished");
        for n in 0..u32::try_from(ROWS).unwrap() {
            if done.contains(&n) {
                frozen.entry(n).or_insert_with(|| calls_of(n));
            } else if calls_of(n) > 0 {
                unsettled.insert(n);
            }
        }
    }
    if !desk.path("out.jsonl").exists() {
        finish(&desk, &state);
    }
    check_all_succeeded(&desk.outcomes(), ROWS);
    for (n, calls) in frozen {
        assert_eq!(calls_of(n), calls, "seed {seed}: row {n} had its outcome and was called again");
    }
    for n in 0..u32::try_from(ROWS).unwrap() {
        let repeated = doubles.ledger().marker(&n.to_string()).calls_after_valid;
        assert!(
            repeated == 0 || unsettled.contains(&n),
            "seed {seed}: row {n} was not begun and unsettled at a kill"
        );
    }
    let totals = doubles.ledger().totals();
    assert_eq!(totals.refused, 0, "seed {seed}");
}

/// Goes on to the end, as the user would: resuming if there is something to resume.
fn finish(desk: &Desk, state: &Path) {
    let resume: &[&str] = if state.join("promptmill.db").exists() { &["--resume"] } else { &[] };
    desk.run("openai:m", &[resume, &["--concurrency", CONCURRENCY]].concat()).check_code(0);
}

macro_rules! seeds {
    ($($name:ident: $seeds:expr;)*) => {$(
        #[test]
        fn $name() {
            for seed in $seeds {
                one_run(seed);
            }
        }
    )*};
}

seeds! {
    kill_9_loses_and_repeats_nothing_seeds_0_to_9: 0..10;
    kill_9_loses_and_repeats_nothing_seeds_10_to_19: 10..20;
    kill_9_loses_and_repeats_nothing_seeds_20_to_29: 20..30;
    kill_9_loses_and_repeats_nothing_seeds_30_to_39: 30..40;
    kill_9_loses_and_repeats_nothing_seeds_40_to_49: 40..50;
}
