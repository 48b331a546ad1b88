//! What a run of a schedule came to that the run before it did not.
//!
//! Rows are told apart by their `custom_id`, those without one by what they bring, but for what a run adds. Both runs are read along as often as it takes to
//! hold a bounded part of the rows in memory at a time.

use std::collections::HashMap;

use axum::extract::State;
use promptmill_domain::{Batch, OutcomeName, ScheduleId, TenantId, Tick, TickState};
use promptmill_intake::GIVEN;
use promptmill_ports::{StoreError, StoredOutcome, decode_outcome};
use promptmill_rowio::{RowContent, StoredRow, decode_range};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Path, Query};
use crate::heavy::heavy;
use crate::outcome_view::OutcomeNames;
use crate::problem::{Problem, ProblemId};
use crate::results::walk::{Walk, walk};
use crate::time::Time;

/// Rows of the run before that are held in memory at a time.
const HELD: u32 = 100_000;

/// Rows of a run that is compared, at most.
const MOST_ROWS: u32 = 1_000_000;

/// Ticks that are looked through for the run before.
const TICKS: u32 = 50;

/// How many differences are listed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct DifferenceQuery {
    /// How many, 100 unless told; all are counted.
    #[param(minimum = 0, maximum = 1000)]
    limit: Option<usize>,
}

/// What a run came to that the one before did not.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Difference {
    /// The tick of the run before.
    previous_at: Time,
    /// Rows that it did not have.
    new: u64,
    /// Rows that it had and this run does not.
    gone: u64,
    /// Rows of both that came to another outcome.
    outcome_changed: u64,
    /// Rows that succeeded in both, with another output.
    output_changed: u64,
    /// Rows that came to the same.
    same: u64,
    /// The first of the differences, in no order.
    items: Vec<Changed>,
    /// Whether there are more than are listed.
    more: bool,
}

/// A row that came to something else than in the run before.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Changed {
    /// What is different.
    change: Change,
    /// Its own id, where it has one.
    custom_id: Option<String>,
    /// Its index in the batch of this run; null where it is gone.
    index: Option<u32>,
    /// Its index in the batch of the run before; null where it is new.
    previous_index: Option<u32>,
    /// What it came to; null where it is gone.
    #[schema(value_type = Option<OutcomeNames>, inline)]
    outcome: Option<OutcomeName>,
    /// What it came to in the run before; null where it is new.
    #[schema(value_type = Option<OutcomeNames>, inline)]
    previous_outcome: Option<OutcomeName>,
}

/// What is different about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// The run before did not have it.
    New,
    /// This run does not have it.
    Gone,
    /// It came to another outcome.
    Outcome,
    /// It succeeded in both, with another output.
    Output,
}

/// What tells a row apart.
type Identity = [u8; 16];

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Came {
    index: u32,
    outcome: Option<OutcomeName>,
    output: [u8; 16],
}

/// Compare a run with the one before
///
/// Which rows are new, gone, or came to another outcome or output than in the run before it, each run with its retries. Rows are told apart by their `custom_id`, those without
/// one by what they bring. Runs of up to a million rows, both over.
#[utoipa::path(
    get,
    path = "/v1/schedules/{id}/ticks/{at}/difference",
    tag = "schedules",
    operation_id = "compareRuns",
    params(
        ("id" = String, Path, description = "The schedule, sched_..."),
        ("at" = Time, Path, description = "The time of the tick"),
        DifferenceQuery,
    ),
    responses((status = 200, description = "The differences", body = Difference))
)]
pub(crate) async fn difference(
    State(app): State<App>,
    caller: Caller,
    Path((id, at)): Path<(ScheduleId, Time)>,
    Query(query): Query<DifferenceQuery>,
) -> Result<axum::Json<Difference>, Problem> {
    caller.may(Scope::SchedulesRead)?;
    caller.may(Scope::BatchesRead)?;
    let limit = query.limit.unwrap_or(100);
    if limit > 1_000 {
        return Err(Problem::new(ProblemId::BadRequest).detail("query parameter limit: 0 to 1000"));
    }
    let Some(_place) = app.comparing().enter(caller.tenant.clone()) else {
        let detail = "a tenant compares two runs at a time";
        return Err(Problem::new(ProblemId::TooManyRequests).detail(detail).retry_after(1));
    };
    let tick = app.engine().records.tick(&caller.tenant, id, at.0).await?;
    let (before_ms, before) = before(&app, &caller.tenant, &tick).await?;
    let now = batch_of(&app, &tick).await?;
    let mut found = Difference {
        previous_at: Time(before_ms),
        new: 0,
        gone: 0,
        outcome_changed: 0,
        output_changed: 0,
        same: 0,
        items: Vec::new(),
        more: false,
    };
    let (first_before, _) = walk(&app, before.clone()).await?;
    let (first_now, _) = walk(&app, now.clone()).await?;
    let most = first_before.total.max(first_now.total);
    if most > MOST_ROWS {
        let detail = format!("runs of up to {MOST_ROWS} rows are compared, and this one has {most}");
        return Err(Problem::new(ProblemId::Conflict).detail(detail));
    }
    let parts = first_before.total.div_ceil(HELD).max(1);
    for part in 0..parts {
        compare(&app, &before, &now, (part, parts), limit, &mut found).await?;
    }
    for changed in &mut found.items {
        let (batch, index) = match (changed.index, changed.previous_index) {
            (Some(index), _) => (&first_now, index),
            (None, Some(index)) => (&first_before, index),
            (None, None) => continue,
        };
        changed.custom_id = custom_id(&app, batch, index).await?;
    }
    Ok(axum::Json(found))
}

/// The last batch of a run that is over.
async fn batch_of(app: &App, tick: &Tick) -> Result<Batch, Problem> {
    let TickState::Ended { retry, .. } = tick.state else {
        let detail = format!("a run is compared when it is over, and the tick is {}", tick.state.as_str());
        return Err(Problem::new(ProblemId::Conflict).detail(detail));
    };
    match app.engine().store.batch(&tick.tenant, Tick::batch(tick.schedule, tick.at_ms, retry)).await {
        Err(StoreError::NotFound) => {
            Err(Problem::new(ProblemId::Conflict).detail("a batch of the two runs was deleted"))
        }
        found => Ok(found?),
    }
}

/// The last run before a tick that is over: its time and its last batch.
async fn before(app: &App, tenant: &TenantId, tick: &Tick) -> Result<(u64, Batch), Problem> {
    let mut before_ms = tick.at_ms;
    loop {
        let ticks = app.engine().records.ticks(tenant, tick.schedule, Some(before_ms), TICKS).await?;
        if let Some(before) = ticks.iter().find(|tick| matches!(tick.state, TickState::Ended { .. })) {
            return Ok((before.at_ms, batch_of(app, before).await?));
        }
        match ticks.last() {
            Some(last) if ticks.len() == TICKS as usize => before_ms = last.at_ms,
            Some(_) | None => {
                return Err(
                    Problem::new(ProblemId::Conflict).detail("there is no run before it that is over")
                );
            }
        }
    }
}

/// Compares the rows of one part of all, as their identities say which.
async fn compare(
    app: &App,
    before: &Batch,
    now: &Batch,
    part: (u32, u32),
    limit: usize,
    found: &mut Difference,
) -> Result<(), Problem> {
    let mut known: HashMap<Identity, Vec<Came>> = HashMap::new();
    let mut side = Side::new(app, before.clone(), part).await?;
    while let Some(rows) = side.next(app).await? {
        for (identity, came) in rows {
            known.entry(identity).or_default().push(came);
        }
    }
    let mut add = |change, now: Option<Came>, before: Option<Came>| {
        if found.items.len() >= limit {
            found.more = true;
            return;
        }
        found.items.push(Changed {
            change,
            custom_id: None,
            index: now.map(|came| came.index),
            previous_index: before.map(|came| came.index),
            outcome: now.and_then(|came| came.outcome),
            previous_outcome: before.and_then(|came| came.outcome),
        });
    };
    let mut side = Side::new(app, now.clone(), part).await?;
    while let Some(rows) = side.next(app).await? {
        for (identity, now) in rows {
            let before = known.get_mut(&identity).and_then(Vec::pop);
            match before {
                None => {
                    found.new += 1;
                    add(Change::New, Some(now), None);
                }
                Some(before) if before.outcome != now.outcome => {
                    found.outcome_changed += 1;
                    add(Change::Outcome, Some(now), Some(before));
                }
                Some(before) if before.output != now.output => {
                    found.output_changed += 1;
                    add(Change::Output, Some(now), Some(before));
                }
                Some(_) => found.same += 1,
            }
        }
    }
    for before in known.into_values().flatten() {
        found.gone += 1;
        add(Change::Gone, None, Some(before));
    }
    Ok(())
}

/// One of the two runs, read along.
struct Side {
    first: Batch,
    walk: Walk,
    part: (u32, u32),
}

impl Side {
    async fn new(app: &App, last: Batch, part: (u32, u32)) -> Result<Self, Problem> {
        let (first, walk) = walk(app, last).await?;
        Ok(Self { first, walk, part })
    }

    /// The next rows of the part; nothing at the end.
    async fn next(&mut self, app: &App) -> Result<Option<Vec<(Identity, Came)>>, Problem> {
        let Some(items) = self.walk.next().await? else { return Ok(None) };
        let mut found = Vec::with_capacity(items.len());
        let mut items = items.into_iter().peekable();
        while let Some((index, _)) = items.peek() {
            let chunk = app.engine().store.rows(&self.first.tenant, self.first.id, *index).await?;
            let end = chunk.base + chunk.len;
            let mut of_chunk = Vec::new();
            while let Some(item) = items.next_if(|(index, _)| *index < end) {
                of_chunk.push(item);
            }
            let (part, parts) = self.part;
            let told = heavy(move || {
                let rows = decode_range(&chunk.bytes, chunk.rows.skip as usize, chunk.len as usize);
                let rows = rows.map_err(|error| StoreError::Corrupt(error.to_string()))?;
                let mut told = Vec::with_capacity(of_chunk.len());
                for (index, stored) in of_chunk {
                    let row = rows.get((index - chunk.base) as usize);
                    let row = row.ok_or_else(|| StoreError::Corrupt("a row is missing".to_owned()))?;
                    let identity = identity(row);
                    if u32::from_be_bytes([identity[0], identity[1], identity[2], identity[3]]) % parts
                        != part
                    {
                        continue;
                    }
                    let (outcome, output) = (OutcomeName::of(stored.code), output(&stored)?);
                    told.push((identity, Came { index, outcome, output }));
                }
                Ok::<_, StoreError>(told)
            });
            found.extend(told.await??);
        }
        Ok(Some(found))
    }
}

fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    std::array::from_fn(|at| digest[at])
}

/// What tells a row apart: its own id, or what it brings but for what a run adds.
fn identity(row: &StoredRow) -> Identity {
    match (&row.custom_id, &row.content) {
        (Some(id), _) => digest(&[b"id", id.as_bytes()]),
        (None, RowContent::Messages(json)) => digest(&[b"messages", json.as_bytes()]),
        (None, RowContent::Variables(json)) => {
            let members = serde_json::from_str::<std::collections::BTreeMap<String, &RawValue>>(json);
            let Ok(mut members) = members else { return digest(&[b"variables", json.as_bytes()]) };
            members.retain(|name, _| !GIVEN.contains(&name.as_str()));
            let json = serde_json::to_string(&members).unwrap_or_default();
            digest(&[b"variables", json.as_bytes()])
        }
    }
}

/// A digest of what an item gave, where it succeeded.
fn output(stored: &StoredOutcome) -> Result<[u8; 16], StoreError> {
    use promptmill_domain::{Ending, Output};
    let Some(body) = &stored.body else { return Ok([0; 16]) };
    let outcome = decode_outcome(body).map_err(|_| StoreError::Corrupt("an outcome".to_owned()))?;
    Ok(match &outcome.ending {
        Ending::Succeeded { output: Output::Json(json), .. } => digest(&[b"json", json.get().as_bytes()]),
        Ending::Succeeded { output: Output::Text(text), .. } => digest(&[b"text", text.as_bytes()]),
        Ending::Failed { .. } => [0; 16],
    })
}

async fn custom_id(app: &App, batch: &Batch, index: u32) -> Result<Option<String>, Problem> {
    let chunk = app.engine().store.rows(&batch.tenant, batch.id, index).await?;
    let at = (chunk.rows.skip + (index - chunk.base)) as usize;
    let row = heavy(move || decode_range(&chunk.bytes, at, 1)).await?;
    let row = row.map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(row.into_iter().next().and_then(|row| row.custom_id))
}
