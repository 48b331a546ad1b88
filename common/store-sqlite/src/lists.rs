//! Lists of a tenant's batches: the query that a filter becomes.

use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{BatchFilter, BatchPage, PageLimit};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::batches::{self, COLUMNS, int};
use crate::fault::Fault;

/// The tenant's batches that the filter names, newest first, those before `before`. What is beyond the limit is not decoded.
pub(crate) fn load(
    db: &Connection,
    tenant: &TenantId,
    filter: &BatchFilter,
    before: Option<BatchId>,
    limit: PageLimit,
) -> Result<BatchPage, Fault> {
    // One more, to know whether more follow.
    let (sql, values) = query(tenant, filter, before, limit.items.saturating_add(1));
    batches::load_page(db, &sql, &values, limit)
}

/// The query and its values. Every index it may be led by ends in the order of the list, so that a page is read and not sorted; a
/// label, where there is one, leads, for it is what a list has fewest of.
fn query(
    tenant: &TenantId,
    filter: &BatchFilter,
    before: Option<BatchId>,
    limit: u32,
) -> (String, Vec<Value>) {
    let tenant = || Value::from(tenant.as_str().to_owned());
    let mut labels = filter.labels.iter();
    let (mut sql, mut values, id) = match labels.next() {
        Some((key, value)) => (
            format!(
                "SELECT {COLUMNS} FROM batch_labels l CROSS JOIN batches b ON b.id = l.id
                WHERE l.tenant = ? AND l.key = ? AND l.value = ?"
            ),
            vec![tenant(), key.clone().into(), value.clone().into()],
            "l.id",
        ),
        None => (format!("SELECT {COLUMNS} FROM batches b WHERE b.tenant = ?"), vec![tenant()], "b.id"),
    };
    let mut and = |condition: &str, some: &[Value]| {
        sql.push_str(condition);
        values.extend_from_slice(some);
    };
    and(" AND b.phase <> 3", &[]);
    for (key, value) in labels {
        and(
            " AND EXISTS (SELECT 1 FROM batch_labels WHERE tenant = ? AND key = ? AND value = ? AND id = b.id)",
            &[tenant(), key.clone().into(), value.clone().into()],
        );
    }
    if let Some(name) = &filter.name {
        and(" AND b.name = ?", &[name.clone().into()]);
    }
    if let Some(state) = &filter.state {
        and(" AND json_extract(b.state, '$.name') = ?", &[state.clone().into()]);
    }
    if let Some(from_ms) = filter.created_from_ms {
        and(" AND b.created_ms >= ?", &[int(from_ms).into()]);
    }
    if let Some(before_ms) = filter.created_before_ms {
        and(" AND b.created_ms < ?", &[int(before_ms).into()]);
    }
    if let Some(before) = before {
        and(&format!(" AND {id} < ?"), &[before.as_bytes().to_vec().into()]);
    }
    and(&format!(" ORDER BY {id} DESC LIMIT ?"), &[limit.into()]);
    (sql, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    fn plan(filter: &BatchFilter) -> String {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let before = Some(BatchId::from_bytes([9; 16]));
        let (sql, values) = query(&TenantId::default_tenant(), filter, before, 10);
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = statement
            .query_map(rusqlite::params_from_iter(values), |row| row.get::<_, String>(3))
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        steps.join("; ")
    }

    #[test]
    fn every_list_is_read_from_an_index_in_its_order() {
        let named = |name: &str| BatchFilter { name: Some(name.to_owned()), ..BatchFilter::default() };
        let labelled = |count: usize| BatchFilter {
            labels: vec![("k".to_owned(), "v".to_owned()); count],
            ..BatchFilter::default()
        };
        for (filter, leader) in [
            (BatchFilter::default(), "batches_tenant"),
            (BatchFilter { created_from_ms: Some(1), ..BatchFilter::default() }, "batches_tenant"),
            (named("n"), "batches_name"),
            (BatchFilter { state: Some("running".to_owned()), ..BatchFilter::default() }, "batches_state"),
            (labelled(1), "SEARCH l USING PRIMARY KEY"),
            (BatchFilter { name: Some("n".to_owned()), ..labelled(3) }, "SEARCH l USING PRIMARY KEY"),
        ] {
            let plan = plan(&filter);
            assert!(plan.split(';').next().is_some_and(|first| first.contains(leader)), "{plan}");
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
