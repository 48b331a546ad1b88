//! Rows that a server is to give at each tick: it is asked once when the schedule is made, and the first of them are checked.

use std::time::Duration;

use promptmill_domain::schedule::{HttpFormat, HttpRows, RowSource};
use promptmill_domain::{Schedule, ScheduleId, TenantId};
use promptmill_egress::{HeaderMap, Patience, extra_headers};
use promptmill_intake::{
    Asked, BadRow, BadRows, Broken, HandedOn, NoRows, Refused, RowsOf, ServedRows, served_rows, unpacked,
};
use promptmill_rowio::{ReadRow, RowLimits};
use promptmill_runtime::places::Place;

use super::body::RowsFrom;
use super::rows::{FirstRun, Fitting};
use crate::App;
use crate::batches::feed;
use crate::batches::refused::NotTaken;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::set_headers;

/// Bytes of the answer that are looked at; each run looks at all.
const SAMPLE_BYTES: u64 = 1 << 20;

/// The same of rows: few bytes may unfold to many.
const SAMPLE_ROWS: u64 = 10_000;

/// How long the server may take for them. A request must not wait longer.
const PATIENCE: Patience = Patience { idle: Duration::from_secs(10), total: Duration::from_secs(20) };

/// Where a request names the server.
const URL: &str = "/rows_from/url";

impl FirstRun<'_> {
    /// Rows of a server, the first of which are checked as the run would.
    ///
    /// # Errors
    /// `invalid` where it gives none, `invalid_rows` where they do not fit.
    pub(super) async fn served(
        &self,
        app: &App,
        tenant: &TenantId,
        id: ScheduleId,
        from: &RowsFrom,
        url: &str,
    ) -> Result<RowSource, Problem> {
        let set = from.headers.as_ref().filter(|headers| !headers.is_empty());
        let headers = set.map(extra_headers).transpose();
        let headers =
            headers.map_err(|refused| Problem::invalid("/rows_from/headers", refused.to_string()))?;
        let format = from.format.map(Into::into);
        self.sample(app, tenant, url, format, headers.unwrap_or_else(HeaderMap::new)).await?;
        let context = Schedule::headers_context(tenant, id);
        let headers = set.map(|set| set_headers::sealed(app, &context, set)).transpose()?.flatten();
        Ok(RowSource::Http(HttpRows { url: url.to_owned(), format, headers }))
    }

    /// The same for a server that a schedule has.
    ///
    /// # Errors
    /// As well where the headers cannot be opened any more.
    pub(super) async fn served_before(
        &self,
        app: &App,
        schedule: &Schedule,
        http: &HttpRows,
    ) -> Result<(), Problem> {
        let tenant = &schedule.tenant;
        let context = Schedule::headers_context(tenant, schedule.id);
        let headers = match &http.headers {
            None => HeaderMap::new(),
            Some(set) => set_headers::opened(app, &context, set)?,
        };
        self.sample(app, tenant, &http.url, http.format, headers).await
    }

    /// Asks a server, and checks the first of its rows.
    async fn sample(
        &self,
        app: &App,
        tenant: &TenantId,
        url: &str,
        format: Option<HttpFormat>,
        headers: HeaderMap,
    ) -> Result<(), Problem> {
        let Some(place) = app.sampling().enter(tenant.clone()) else {
            let detail = "for a tenant two servers are asked for the first rows of a schedule at a time";
            return Err(Problem::new(ProblemId::TooManyRequests).detail(detail).retry_after(1));
        };
        let asked = Asked { url, headers, format, known: None };
        let client = app.sources().map_err(Problem::internal)?;
        let none = |error: NoRows| Problem::invalid(URL, error.to_string());
        match served_rows(client, asked, PATIENCE).await.map_err(none)? {
            None => Err(none(NoRows::Status(304))),
            Some(rows) => {
                let fits = self.fitting();
                sampled(app, rows, fits, place).await
            }
        }
    }
}

/// Checks the first rows.
async fn sampled(
    app: &App,
    rows: ServedRows,
    fitting: Fitting,
    place: Place<TenantId>,
) -> Result<(), Problem> {
    let limits = RowLimits { row_bytes: app.config().row_bytes, rows: u32::MAX };
    let (send, pieces) = feed::channel();
    let (format, packing) = (rows.format, rows.packing);
    // Not among the heavy work: it waits for the server.
    let reading = tokio::task::spawn_blocking(move || {
        // Also when nobody waits for the answer any more.
        let _place = place;
        let mut bad = BadRows::default();
        let source = match unpacked(pieces, packing) {
            Ok(source) => source,
            Err(error) => return (bad, Some(Refused::NotRows(error.to_string()))),
        };
        let mut reader = RowsOf::any().reader(source, format, limits);
        while bad.rows < SAMPLE_ROWS {
            match reader.next_row() {
                Ok(None) => return (bad, None),
                Err(error) => return (bad, Some(Refused::from(error))),
                Ok(Some(ReadRow::Bad(problems))) => {
                    bad.rows += 1;
                    bad.add(problems.line, problems.problems);
                }
                Ok(Some(ReadRow::Row(row))) => {
                    bad.rows += 1;
                    if let Err(problems) = fitting.check(&row.to_stored()) {
                        bad.add(row.line, problems);
                    }
                }
            }
        }
        (bad, None)
    });
    let handed_on = rows.hand_on(send, SAMPLE_BYTES).await;
    let (bad, refused) = reading.await.map_err(Problem::internal)?;
    let handed_on = handed_on.map_err(|error| Problem::invalid(URL, error.to_string()))?;
    let refused = match refused {
        _ if bad.bad > 0 => Refused::Rows(bad),
        // The sample ends within a row.
        Some(Refused::Broken(Broken::Cut)) if handed_on == HandedOn::Cut => return Ok(()),
        Some(refused @ (Refused::NotRows(_) | Refused::Broken(_))) => {
            return Err(Problem::invalid(URL, refused.told()));
        }
        Some(refused) => refused,
        None if bad.rows == 0 => return Err(Problem::invalid(URL, "gives no rows")),
        None => return Ok(()),
    };
    let place = |row: &BadRow| FieldError::at(URL, format!("row {}: {}", row.line, row.problem));
    Err(NotTaken::Refused(refused).into_problem(place))
}
