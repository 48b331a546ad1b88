//! Jobs of a single row from many clients, each of which waits for its job to end before it hands in the next.
//!
//! A careful client asks once for all who wait: one of each tenant reads the list of completed batches again and again. Beside it
//! stands what it costs when each waits at the results of its own job.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet, LocalSet};

use super::{Sizes, at_least, at_most};
use crate::client::{Client, Job};
use crate::engine::Settings;
use crate::figures::{Number, Runs};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::servers::Asked;
use crate::table::{Goal, Table};

/// A tenant may run twenty batches at a time unless the operator says otherwise, so this many clients cannot be of one.
const TENANTS: u32 = 4;
const CLIENTS_OF_A_TENANT: u32 = 16;
const CLIENTS: u32 = TENANTS * CLIENTS_OF_A_TENANT;

/// Between two readings of the list.
const GAP: Duration = Duration::from_millis(20);

/// Entries of the list: more than a tenant's clients wait for, and no more than a store reads at once.
const ENTRIES: u32 = 48;

/// How a client comes to know that its job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One reads the list for all of its tenant.
    List,
    /// Each reads the results of its job, and is held by the service until there are some.
    Results,
}

/// What a run gave.
#[derive(Debug)]
struct Done {
    seconds: f64,
    took_ms: Runs,
    lists: u64,
    asked: Asked,
}

/// What all runs of a way gave.
#[derive(Debug, Default)]
struct Figures {
    rate: Runs,
    commands: Runs,
    lists: Runs,
    p50_ms: Runs,
}

/// Jobs a second, and commands for a job.
pub(super) async fn run(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let desk = lab.desk()?;
    let fake = lab.programs.fake(Duration::ZERO)?;
    let settings = Settings { provider: Some(&fake.url), threads: sizes.threads, ..Settings::default() };
    let fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    let mut tenants = Vec::new();
    for n in 1..=TENANTS {
        let client = fleet.client_of(&format!("tenant-{n}"))?;
        client.store_template().await?;
        tenants.push(client);
    }
    jobs(&fleet, &tenants, CLIENTS, Way::List).await?;
    let (mut list, mut results) = (Figures::default(), Figures::default());
    for run in 1..=sizes.runs {
        for (way, figures) in [(Way::List, &mut list), (Way::Results, &mut results)] {
            let done = jobs(&fleet, &tenants, sizes.waiting_jobs, way).await?;
            let count = f64::from(sizes.waiting_jobs);
            eprintln!(
                "waiting {run}/{} {way:?}: {} jobs/s, p50 {} ms; for a job MongoDB {}; Redis {}",
                sizes.runs,
                Number(count / done.seconds),
                Number(done.took_ms.median()),
                done.asked.mongo.for_each_of(count),
                done.asked.redis.for_each_of(count),
            );
            figures.rate.push(count / done.seconds);
            figures.commands.push(done.asked.mongo.sum() as f64 / count);
            figures.lists.push(done.lists as f64 / count);
            figures.p50_ms.push(done.took_ms.median());
        }
    }
    fleet.stop()?;
    let what = format!("single-row jobs, {CLIENTS} waiting clients");
    table.push(format!("{what}, one list for all of a tenant"), at_least(1_200.0), " jobs/s", list.rate);
    table.push(format!("{what}: MongoDB commands per job"), at_most(2.5), "", list.commands);
    table.push("- lists read per job, in the commands above", Goal::Told, "", list.lists);
    table.push("- from POST until it is known to be completed: p50", Goal::Told, " ms", list.p50_ms);
    table.push("- each waits at its own results instead", Goal::Told, " jobs/s", results.rate);
    table.push("- MongoDB commands per job then", Goal::Told, "", results.commands);
    table.push("- from POST until the outcome is read then: p50", Goal::Told, " ms", results.p50_ms);
    Ok(())
}

async fn jobs(fleet: &Fleet, tenants: &[Client], count: u32, way: Way) -> anyhow::Result<Done> {
    let local = LocalSet::new();
    let left = Rc::new(Cell::new(count));
    let mut lists = JoinSet::new();
    let mut waiting: Vec<JoinHandle<anyhow::Result<Vec<Duration>>>> = Vec::new();
    let before = fleet.servers.asked()?;
    let begun = Instant::now();
    let boards: Vec<Rc<Board>> = tenants.iter().map(|_| Rc::default()).collect();
    for (client, board) in tenants.iter().zip(&boards) {
        if way == Way::List {
            lists.spawn_local_on(board.clone().keep(client.clone()), &local);
        }
        for _ in 0..CLIENTS_OF_A_TENANT {
            let (client, board, left) = (client.clone(), board.clone(), left.clone());
            waiting.push(local.spawn_local(async move { work(&client, &board, &left, way).await }));
        }
    }
    let all = async {
        let mut took = Vec::new();
        for client in waiting {
            took.extend(client.await??);
        }
        anyhow::Ok(took)
    };
    let took = local
        .run_until(async {
            tokio::select! {
                took = all => took,
                Some(ended) = lists.join_next() => match ended?? {},
            }
        })
        .await?;
    let seconds = begun.elapsed().as_secs_f64();
    let asked = fleet.servers.asked()?.since(&before);
    ensure!(took.len() == count as usize, "{} of {count} jobs ended", took.len());
    Ok(Done {
        seconds,
        took_ms: took.iter().map(|took| took.as_secs_f64() * 1e3).collect(),
        lists: boards.iter().map(|board| board.lists.get()).sum(),
        asked,
    })
}

/// One client: hands in jobs as long as there are some left, and waits for each.
async fn work(client: &Client, board: &Board, left: &Cell<u32>, way: Way) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    while let Some(rest) = left.get().checked_sub(1) {
        left.set(rest);
        let begun = Instant::now();
        let job = client.post_row(rest).await?;
        match way {
            Way::List => board.wait_for(job).await?,
            Way::Results => client.first_outcome(&job.id).await?,
        }
        took.push(begun.elapsed());
    }
    Ok(took)
}

/// Who waits for which job of a tenant.
#[derive(Debug, Default)]
struct Board {
    waiting: RefCell<HashMap<String, Waiting>>,
    lists: Cell<u64>,
}

#[derive(Debug)]
struct Waiting {
    created_at: String,
    ended: oneshot::Sender<()>,
}

impl Board {
    async fn wait_for(&self, job: Job) -> anyhow::Result<()> {
        let (ended, told) = oneshot::channel();
        self.waiting.borrow_mut().insert(job.id, Waiting { created_at: job.created_at, ended });
        told.await.context("nobody reads the list")
    }

    /// Reads the list again and again, and tells whoever waits for a batch that stands in it. Ends only with an error.
    async fn keep(self: Rc<Self>, client: Client) -> anyhow::Result<Infallible> {
        loop {
            if !self.waiting.borrow().is_empty() {
                self.read(&client).await?;
            }
            tokio::time::sleep(GAP).await;
        }
    }

    async fn read(&self, client: &Client) -> anyhow::Result<()> {
        let mut cursor = None;
        loop {
            let page = client.completed_batches(ENTRIES, cursor.as_deref()).await?;
            self.lists.set(self.lists.get() + 1);
            for ended in &page.data {
                if !ended.succeeded() {
                    bail!("a job did not succeed: {}", ended.id);
                }
                if let Some(waiting) = self.waiting.borrow_mut().remove(&ended.id) {
                    // A client that is gone took its error with it.
                    let _ = waiting.ended.send(());
                }
            }
            // The list is in the order of the making: what is older than all of this page may stand on the next.
            let oldest = page.data.last().map(|ended| &ended.created_at);
            let is_older = |waiting: &Waiting| oldest.is_some_and(|oldest| waiting.created_at <= *oldest);
            cursor = page.next_cursor;
            if cursor.is_none() || !self.waiting.borrow().values().any(is_older) {
                return Ok(());
            }
        }
    }
}
