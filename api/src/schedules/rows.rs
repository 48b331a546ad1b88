//! Rows of a schedule as it is made: held against its template as those of a batch are. Those that come with it are kept as a row set of its own.

use std::io::Cursor;

use promptmill_domain::schedule::{RowSource, Timing};
use promptmill_domain::{RowSetId, Schedule, ScheduleId, TenantId, UploadId};
use promptmill_intake::{
    BadRow, BadRows, Given, PREVIOUS_OUTCOME, PREVIOUS_RUN, Packer, Refused, RowsOf, SCHEDULED_AT, Taken,
    is_given, read_rows, rechecked,
};
use promptmill_ports::{RowBlock, RowSet, RowSetVersion, StoreError};
use promptmill_rowio::{RowContent, RowFormat, RowLimits, RowProblem, StoredRow, decode_block};
use promptmill_ticks::local_time;
use serde_json::json;
use serde_json::value::RawValue;

use crate::App;
use crate::batches::create::{check, lines, place};
use crate::batches::refused::NotTaken;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::row_sets;

/// Bytes of a row set that are looked at when a schedule names it; each run looks at all.
const SAMPLE_BYTES: usize = 1 << 20;

/// Versions of rows that came with a schedule that are kept until one is the schedule's.
const KEPT: usize = 16;

/// How often a version is added anew when another one came between.
const TRIES: u32 = 8;

/// The first run of a schedule, as rows are checked for it.
pub(super) struct FirstRun<'a> {
    pub(super) rows_of: RowsOf,
    pub(super) timing: &'a Timing,
    /// Its time, Unix milliseconds.
    pub(super) at_ms: u64,
    /// Whether later runs take rows of the one before.
    pub(super) has_previous: bool,
}

impl FirstRun<'_> {
    /// What it would know of itself, as far as the template asks for it.
    fn given(&self) -> Given {
        let mut given = Given::default();
        let asks = |name| Given::is_asked_for(self.rows_of.parsed(), name);
        if asks(SCHEDULED_AT) {
            given.push(SCHEDULED_AT, &json!(local_time(&self.timing.rule, self.at_ms)));
        }
        if asks(PREVIOUS_RUN) {
            let none = json!({
                "scheduled_at": null, "batch": null, "state": null, "rows": null, "succeeded": null, "failed": null,
            });
            given.push(PREVIOUS_RUN, &none);
        }
        if self.has_previous && asks(PREVIOUS_OUTCOME) {
            given.push(PREVIOUS_OUTCOME, &json!({ "outcome": null, "output": null, "reason": null }));
        }
        given
    }

    /// How its rows are checked.
    pub(super) fn fitting(&self) -> Fitting {
        Fitting { given: self.given(), rows_of: self.rows_of.clone(), reserves: self.has_previous }
    }

    /// Checks rows as the run would, and packs them as they are kept: checked and completed, or as they came where a run adds to them.
    pub(super) async fn packed(
        &self,
        app: &App,
        rows: Vec<Box<RawValue>>,
    ) -> Result<(Vec<RowBlock>, Taken), Problem> {
        let fitting = self.fitting();
        if fitting.given.is_empty() {
            return check(app, rows, self.rows_of.clone()).await;
        }
        let limits = RowLimits { row_bytes: app.config().row_bytes, rows: u32::MAX };
        let reading = tokio::task::spawn_blocking(move || {
            let (mut blocks, mut packer, mut bad) = (Vec::new(), Packer::default(), BadRows::default());
            let reader =
                RowsOf::any().reader(Cursor::new(lines(&rows)), RowFormat::Ndjson, limits).naming_rows();
            let mut line = 0;
            read_rows(reader, |row| {
                line += 1;
                bad.rows += 1;
                let kept = row.to_stored();
                match fitting.check(&kept) {
                    Ok(()) => blocks.extend(packer.push(&kept)),
                    Err(problems) => bad.add(line, problems),
                }
                true
            })?;
            if bad.bad > 0 {
                return Err(Refused::Rows(bad));
            }
            let (last, taken) = packer.finish();
            blocks.extend(last);
            Ok((blocks, taken))
        });
        let read = reading.await.map_err(Problem::internal)?;
        read.map_err(|refused| NotTaken::Refused(refused).into_problem(place))
    }

    /// Rows of a row set of that name, the first of which are checked as the run would.
    ///
    /// # Errors
    /// `invalid` where there is none of that name or version, `invalid_rows` where they do not fit.
    pub(super) async fn named(
        &self,
        app: &App,
        tenant: &TenantId,
        name: &str,
        version: Option<u32>,
    ) -> Result<RowSource, Problem> {
        let Some(set) = row_sets::find(app, tenant, name).await? else {
            return Err(Problem::invalid("/rows_from/row_set", "there is no such row set"));
        };
        self.found(app, &set, version).await?;
        Ok(RowSource::Set { set: set.id, version })
    }

    /// The same of a row set that a schedule has.
    ///
    /// # Errors
    /// As well where it was deleted.
    pub(super) async fn stored(
        &self,
        app: &App,
        tenant: &TenantId,
        set: RowSetId,
        version: Option<u32>,
    ) -> Result<(), Problem> {
        match app.engine().records.row_set(tenant, set).await {
            Ok(set) => self.found(app, &set, version).await,
            Err(StoreError::NotFound) => {
                Err(Problem::invalid("/rows_from", "is needed: the row set of the schedule was deleted"))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn found(&self, app: &App, set: &RowSet, version: Option<u32>) -> Result<(), Problem> {
        let Some(found) = set.version(version) else {
            return Err(Problem::invalid("/rows_from/version", "the row set has no such version"));
        };
        let fitting = self.fitting();
        let first =
            app.engine().records.set_blocks(&set.tenant, set.id, found.upload, 0, SAMPLE_BYTES).await?;
        let checking = tokio::task::spawn_blocking(move || {
            let mut bad = BadRows::default();
            for block in first {
                let rows = decode_block(&block.bytes).map_err(|error| Refused::Corrupt(error.to_string()))?;
                for row in rows {
                    bad.rows += 1;
                    if let Err(problems) = fitting.check(&row) {
                        bad.add(bad.rows, problems);
                    }
                }
            }
            if bad.bad > 0 { Err(Refused::Rows(bad)) } else { Ok(()) }
        });
        let place = |row: &BadRow| {
            let detail = format!("row {}: {}", row.line, row.problem);
            FieldError::at("/rows_from/row_set", detail)
        };
        let checked = checking.await.map_err(Problem::internal)?;
        checked.map_err(|refused| NotTaken::Refused(refused).into_problem(place))
    }
}

/// How rows are held against a template with what a run would add to them.
pub(super) struct Fitting {
    given: Given,
    rows_of: RowsOf,
    /// Whether what runs give may not stand in rows: those of the run before have it from there.
    reserves: bool,
}

impl Fitting {
    /// Whether a row fits.
    pub(super) fn check(&self, row: &StoredRow) -> Result<(), Vec<RowProblem>> {
        let content = match &row.content {
            RowContent::Variables(json) => {
                if self.reserves
                    && let Some(name) = self.given.first_in(json)
                {
                    return Err(is_given(name).into_iter().map(in_row).collect());
                }
                RowContent::Variables(self.given.added_to(json))
            }
            RowContent::Messages(_) => row.content.clone(),
        };
        let completed = StoredRow { custom_id: row.custom_id.clone(), content };
        let checked = rechecked(self.rows_of.parsed(), completed);
        checked.map(drop).map_err(|problems| problems.into_iter().map(in_row).collect())
    }
}

/// Where a variable stands in the row as it was sent.
fn in_row(problem: RowProblem) -> RowProblem {
    RowProblem { pointer: format!("/variables{}", problem.pointer), ..problem }
}

/// Keeps rows as those that came with the schedule; answers which version of its own row set they are. The same rows again are the same version. The version that the
/// schedule has `named` so far stays until [`only`].
pub(super) async fn keep(
    app: &App,
    tenant: &TenantId,
    id: ScheduleId,
    blocks: Vec<RowBlock>,
    taken: Taken,
    named: Option<u32>,
) -> Result<u32, Problem> {
    let set = Schedule::own_rows(id);
    let records = &app.engine().records;
    let now_ms = app.now_ms();
    let upload = UploadId::at(now_ms, rand::random());
    let bytes = blocks.iter().map(|block| block.bytes.len() as u64).sum();
    let mut stored = false;
    for _ in 0..TRIES {
        let mut kept = match records.row_set(tenant, set).await {
            Ok(kept) => kept,
            Err(StoreError::NotFound) => RowSet {
                id: set,
                tenant: tenant.clone(),
                name: None,
                versions: Vec::new(),
                created_ms: now_ms,
                ver: 0,
            },
            Err(error) => return Err(error.into()),
        };
        let digest = taken.digest_text();
        // An earlier run of the request made it, or they are those that runs had before.
        if let Some(newest) = kept.versions.last().filter(|newest| newest.digest == digest) {
            return Ok(newest.version);
        }
        if !stored {
            records.put_set_blocks(tenant, set, upload, blocks.clone(), now_ms).await?;
            stored = true;
        }
        let version = kept.versions.last().map_or(1, |newest| newest.version + 1);
        kept.versions.push(RowSetVersion {
            version,
            upload,
            blocks: taken.blocks,
            rows: u64::from(taken.rows),
            bytes,
            digest,
            created_ms: now_ms,
            origin: None,
        });
        // Requests that were cut off left some behind.
        while kept.versions.len() > KEPT
            && let Some(old) = kept.versions.iter().position(|kept| Some(kept.version) != named)
        {
            kept.versions.remove(old);
        }
        kept.ver += 1;
        if records.put_row_set(&kept, now_ms).await? {
            return Ok(version);
        }
    }
    Err(Problem::new(ProblemId::Unavailable).detail("the schedule is changed by too many at once"))
}

/// Forgets rows that came with the schedule before those it has now: all versions but `version` and later ones, or all there are.
pub(super) async fn only(
    app: &App,
    tenant: &TenantId,
    id: ScheduleId,
    version: Option<u32>,
) -> Result<(), Problem> {
    let (records, set) = (&app.engine().records, Schedule::own_rows(id));
    let Some(version) = version else {
        records.delete_row_set(tenant, set).await?;
        return Ok(());
    };
    for _ in 0..TRIES {
        let mut kept = match records.row_set(tenant, set).await {
            Err(StoreError::NotFound) => return Ok(()),
            found => found?,
        };
        let before = kept.versions.len();
        kept.versions.retain(|kept| kept.version >= version);
        if kept.versions.len() == before || kept.versions.is_empty() {
            return Ok(());
        }
        kept.ver += 1;
        if records.put_row_set(&kept, app.now_ms()).await? {
            return Ok(());
        }
    }
    // The next change does it.
    Ok(())
}
