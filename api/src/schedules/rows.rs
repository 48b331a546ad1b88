//! Rows that come with a schedule: held against its template as those of a batch are, and kept as a row set of its own.

use std::io::Cursor;

use promptmill_domain::schedule::{RowSource, Rule, Timing};
use promptmill_domain::{Schedule, ScheduleId, TenantId, UploadId};
use promptmill_intake::{
    BadRow, BadRows, Given, PREVIOUS_RUN, Packer, Refused, RowsOf, SCHEDULED_AT, Taken, read_rows, rechecked,
};
use promptmill_ports::{RowBlock, RowSet, RowSetVersion};
use promptmill_rowio::{RowContent, RowFormat, RowLimits, RowProblem, StoredRow, decode_block};
use promptmill_ticks::local_time;
use serde_json::json;
use serde_json::value::RawValue;

use super::body::RowsFrom;
use crate::App;
use crate::batches::create::{check, lines, place};
use crate::batches::parts::hex;
use crate::batches::refused::NotTaken;
use crate::problem::{FieldError, Problem};
use crate::row_sets;

/// Bytes of a row set that are looked at when a schedule names it; each run looks at all.
const SAMPLE_BYTES: usize = 1 << 20;

/// What a run at that time would know of itself, as far as the template asks for it.
fn sample(rows_of: &RowsOf, rule: &Rule, at_ms: u64) -> Given {
    let mut given = Given::default();
    if Given::is_asked_for(rows_of.parsed(), SCHEDULED_AT) {
        given.push(SCHEDULED_AT, &json!(local_time(rule, at_ms)));
    }
    if Given::is_asked_for(rows_of.parsed(), PREVIOUS_RUN) {
        let none = json!({
            "scheduled_at": null, "batch": null, "state": null, "rows": null, "succeeded": null, "failed": null,
        });
        given.push(PREVIOUS_RUN, &none);
    }
    given
}

/// Checks rows as a run at `at_ms` would, and packs them as they are kept: checked and completed, or as they came where a run adds to them.
pub(super) async fn packed(
    app: &App,
    rows: Vec<Box<RawValue>>,
    rows_of: RowsOf,
    timing: &Timing,
    at_ms: u64,
) -> Result<(Vec<RowBlock>, Taken), Problem> {
    let given = sample(&rows_of, &timing.rule, at_ms);
    if given.is_empty() {
        return check(app, rows, rows_of).await;
    }
    let limits = RowLimits { row_bytes: app.config().row_bytes, rows: u32::MAX };
    let reading = tokio::task::spawn_blocking(move || {
        let (mut blocks, mut packer, mut bad) = (Vec::new(), Packer::default(), BadRows::default());
        let reader = RowsOf::any().reader(Cursor::new(lines(&rows)), RowFormat::Ndjson, limits).naming_rows();
        let mut line = 0;
        read_rows(reader, |row| {
            line += 1;
            bad.rows += 1;
            let kept = row.to_stored();
            let content = match &kept.content {
                RowContent::Variables(json) => RowContent::Variables(given.added_to(json)),
                RowContent::Messages(_) => kept.content.clone(),
            };
            let completed = StoredRow { custom_id: kept.custom_id.clone(), content };
            match rechecked(rows_of.parsed(), completed) {
                Ok(_) => blocks.extend(packer.push(&kept)),
                Err(problems) => bad.add(line, problems.into_iter().map(in_row).collect()),
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

/// Where a variable stands in the row as it was sent.
fn in_row(problem: RowProblem) -> RowProblem {
    RowProblem { pointer: format!("/variables{}", problem.pointer), ..problem }
}

/// Rows of a stored row set, the first of which are held against the template as a run at `at_ms` would.
///
/// # Errors
/// `invalid` where there is none of that name or version, `invalid_rows` where they do not fit.
pub(super) async fn stored(
    app: &App,
    tenant: &TenantId,
    from: &RowsFrom,
    rows_of: RowsOf,
    timing: &Timing,
    at_ms: u64,
) -> Result<RowSource, Problem> {
    let Some(set) = row_sets::find(app, tenant, &from.row_set).await? else {
        return Err(Problem::invalid("/rows_from/row_set", "there is no such row set"));
    };
    let Some(version) = set.version(from.version) else {
        return Err(Problem::invalid("/rows_from/version", "the row set has no such version"));
    };
    let given = sample(&rows_of, &timing.rule, at_ms);
    let upload = version.upload;
    let first = app.engine().records.set_blocks(tenant, set.id, upload, 0, SAMPLE_BYTES).await?;
    let checking = tokio::task::spawn_blocking(move || {
        let mut bad = BadRows::default();
        for block in first {
            let rows = decode_block(&block.bytes).map_err(|error| Refused::Corrupt(error.to_string()))?;
            for row in rows {
                bad.rows += 1;
                let content = match &row.content {
                    RowContent::Variables(json) => RowContent::Variables(given.added_to(json)),
                    RowContent::Messages(_) => row.content.clone(),
                };
                let completed = StoredRow { custom_id: row.custom_id, content };
                if let Err(problems) = rechecked(rows_of.parsed(), completed) {
                    bad.add(bad.rows, problems.into_iter().map(in_row).collect());
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
    checked.map_err(|refused| NotTaken::Refused(refused).into_problem(place))?;
    Ok(RowSource::Set { set: set.id, version: from.version })
}

/// Keeps rows as those that came with the schedule. The same rows again make the same.
pub(super) async fn keep(
    app: &App,
    tenant: &TenantId,
    id: ScheduleId,
    blocks: Vec<RowBlock>,
    taken: Taken,
) -> Result<(), Problem> {
    let set = Schedule::own_rows(id);
    let upload = UploadId::from_bytes(*id.as_bytes());
    let now_ms = app.now_ms();
    let records = &app.engine().records;
    let version = RowSetVersion {
        version: 1,
        upload,
        blocks: taken.blocks,
        rows: u64::from(taken.rows),
        bytes: blocks.iter().map(|block| block.bytes.len() as u64).sum(),
        digest: hex(&taken.digest),
        created_ms: now_ms,
    };
    records.put_set_blocks(tenant, set, upload, blocks, now_ms).await?;
    let kept = RowSet {
        id: set,
        tenant: tenant.clone(),
        name: None,
        versions: vec![version],
        created_ms: now_ms,
        ver: 1,
    };
    // One that is there an earlier run of the request made, of the same rows.
    records.put_row_set(&kept, now_ms).await?;
    Ok(())
}
