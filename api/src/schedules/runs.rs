//! What a request says of the runs of a schedule, checked as if the first of them began.

use promptmill_domain::schedule::{PreviousRows, RowSource, RunSpec, TemplateChoice, Timing};
use promptmill_domain::{BatchLimits, BatchSpec, Schedule, ScheduleId, TenantId};
use promptmill_intake::Taken;
use promptmill_ports::RowBlock;

use super::body::RowsFrom;
use super::rows::{self, FirstRun};
use crate::App;
use crate::batches::draft::{self, NewBatchBody, Plan};
use crate::batches::preflight;
use crate::batches::submit::{room_bytes, too_many_rows};
use crate::problem::Problem;
use crate::templates::{TemplateArg, Which};

/// When the first run would begin.
pub(super) struct First<'a> {
    pub(super) timing: &'a Timing,
    /// Unix milliseconds.
    pub(super) at_ms: u64,
}

/// What runs are to be.
pub(super) struct NewRuns {
    template: Option<TemplateChoice>,
    rows: NewRows,
    previous: Option<PreviousRows>,
    limits: BatchLimits,
    pub(super) spec: BatchSpec,
    /// Whether the webhook's signing secret was made for the request.
    pub(super) made_secret: bool,
    /// Whether no run that began before has the rows of the next.
    pub(super) begins_anew: bool,
}

/// Where their rows come from.
enum NewRows {
    /// The request.
    Own(Vec<RowBlock>, Taken),
    /// Elsewhere.
    Source(RowSource),
}

impl NewRuns {
    /// Checks what is asked for. Rows that it does not name are those of the schedule `before`, which are not its own.
    ///
    /// # Errors
    /// Those of a batch that cannot be made, with pointers into the request.
    pub(super) async fn checked(
        app: &App,
        tenant: &TenantId,
        id: ScheduleId,
        (mut batch, from): (NewBatchBody, Option<RowsFrom>),
        first: First<'_>,
        before: Option<&Schedule>,
    ) -> Result<Self, Problem> {
        let within = |problem: Problem| problem.within("/batch");
        let given = batch.rows.take();
        let plan = draft::plan(app, tenant, Schedule::sealed_for(id), &batch).await.map_err(within)?;
        let Plan { spec, limits, rows_of, made_secret, .. } = plan;
        preflight::check(app, &spec).await.map_err(within)?;
        room_bytes(app, tenant).await?;
        let names_rows =
            given.is_some() || from.as_ref().is_some_and(|from| from.row_set.is_some() || from.url.is_some());
        let chain = before.and_then(|before| before.run.previous.as_ref());
        let previous = match &from {
            Some(from) => from.previous_run.as_ref().map(|outcomes| PreviousRows {
                outcomes: outcomes.iter().copied().collect(),
                since_ms: chain.map_or(0, |chain| chain.since_ms),
            }),
            None if given.is_none() => chain.cloned(),
            None => None,
        };
        // Rows that are named begin anew; where they stay, what they came to goes on.
        let begins_anew = before.is_some() && (names_rows || chain.is_none());
        let has_previous = previous.is_some();
        let first = FirstRun { rows_of, timing: first.timing, at_ms: first.at_ms, has_previous };
        let rows = match (given, from.as_ref().map(|from| (from, &from.row_set, &from.url)), before) {
            (Some(given), ..) => {
                let (blocks, taken) = first.packed(app, given).await.map_err(within)?;
                if u64::from(taken.rows) > app.config().batch_rows {
                    return Err(too_many_rows(app.config().batch_rows));
                }
                NewRows::Own(blocks, taken)
            }
            (None, Some((from, Some(name), _)), _) => {
                NewRows::Source(first.named(app, tenant, name, from.version).await?)
            }
            (None, Some((from, None, Some(url))), _) => {
                NewRows::Source(first.served(app, tenant, id, from, url).await?)
            }
            (None, Some((_, None, None)) | None, Some(before)) => {
                match &before.run.rows {
                    RowSource::Set { set, version } => first.stored(app, tenant, *set, *version).await?,
                    RowSource::Http(http) => first.served_before(app, before, http).await?,
                }
                NewRows::Source(before.run.rows.clone())
            }
            (None, Some((_, None, None)) | None, None) => {
                return Err(Problem::internal("the rows of a schedule were not checked"));
            }
        };
        let template = match (&batch.template, &spec.template_ref) {
            (Some(TemplateArg::Stored(_, which)), Some(found)) => match which {
                Which::Newest => Some(TemplateChoice { id: found.id, label: None }),
                Which::Label(label) => Some(TemplateChoice { id: found.id, label: Some(label.clone()) }),
                Which::Version(_) => None,
            },
            _ => None,
        };
        let limits = BatchLimits { deadline_ms: None, ..limits };
        Ok(Self { template, rows, previous, limits, spec, made_secret, begins_anew })
    }

    /// Keeps rows that came with the request, and answers what the schedule is to run.
    ///
    /// # Errors
    /// When they cannot be kept.
    pub(super) async fn kept(
        self,
        app: &App,
        tenant: &TenantId,
        id: ScheduleId,
        before: Option<&Schedule>,
    ) -> Result<RunSpec, Problem> {
        let Self { template, rows, previous, limits, spec, .. } = self;
        let rows = match rows {
            NewRows::Source(source) => source,
            NewRows::Own(blocks, taken) => {
                let named = before.and_then(Schedule::own_version);
                let version = rows::keep(app, tenant, id, blocks, taken, named).await?;
                RowSource::Set { set: Schedule::own_rows(id), version: Some(version) }
            }
        };
        Ok(RunSpec { template, rows, previous, limits, spec })
    }
}
