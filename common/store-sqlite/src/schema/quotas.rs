//! The bytes a tenant has stored beside its rows: outcomes, and records of every other kind.

/// The step that counts them.
///
/// Records are counted by triggers, so that no way of writing or forgetting one is missed; there are few of them. Outcomes are many, and
/// counted by the steps that write and remove them (`work.rs`, `delete.rs`). No statement in a trigger relies on a conflict clause: that of
/// the statement which fires it would win.
pub(super) const STEP: &str = "
    ALTER TABLE stored_bytes ADD COLUMN records INTEGER NOT NULL DEFAULT 0;

    INSERT OR IGNORE INTO stored_bytes(tenant, bytes) SELECT DISTINCT tenant, 0 FROM batches;
    INSERT OR IGNORE INTO stored_bytes(tenant, bytes) SELECT DISTINCT tenant, 0 FROM templates;
    INSERT OR IGNORE INTO stored_bytes(tenant, bytes) SELECT DISTINCT tenant, 0 FROM claims;
    INSERT OR IGNORE INTO stored_bytes(tenant, bytes) SELECT DISTINCT tenant, 0 FROM generations;
    UPDATE stored_bytes SET
        bytes = bytes + coalesce((SELECT sum(length(o.body)) FROM batches b
            JOIN outcomes o ON o.id BETWEEN b.num << 32 AND (b.num << 32) + 4294967295 WHERE b.tenant = stored_bytes.tenant), 0),
        records = coalesce((SELECT sum(octet_length(spec)) FROM batches WHERE tenant = stored_bytes.tenant), 0)
            + coalesce((SELECT sum(octet_length(v.source)) FROM templates t
                JOIN template_versions v ON v.id BETWEEN t.num << 32 AND (t.num << 32) + 4294967295
                WHERE t.tenant = stored_bytes.tenant), 0)
            + coalesce((SELECT sum(octet_length(key) + coalesce(length(body), 0)) FROM claims WHERE tenant = stored_bytes.tenant), 0)
            + coalesce((SELECT sum(length(request) + coalesce(length(outcome), 0)) FROM generations
                WHERE tenant = stored_bytes.tenant), 0);

    CREATE TRIGGER batches_counted AFTER INSERT ON batches BEGIN
        INSERT INTO stored_bytes(tenant, bytes) SELECT NEW.tenant, 0
            WHERE NOT EXISTS (SELECT 1 FROM stored_bytes WHERE tenant = NEW.tenant);
        UPDATE stored_bytes SET records = records + octet_length(NEW.spec) WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER batches_uncounted AFTER DELETE ON batches BEGIN
        UPDATE stored_bytes SET records = records - octet_length(OLD.spec) WHERE tenant = OLD.tenant;
    END;

    CREATE TRIGGER template_versions_counted AFTER INSERT ON template_versions BEGIN
        INSERT INTO stored_bytes(tenant, bytes) SELECT tenant, 0 FROM templates t WHERE t.num = NEW.id >> 32
            AND NOT EXISTS (SELECT 1 FROM stored_bytes s WHERE s.tenant = t.tenant);
        UPDATE stored_bytes SET records = records + octet_length(NEW.source)
            WHERE tenant = (SELECT tenant FROM templates WHERE num = NEW.id >> 32);
    END;
    CREATE TRIGGER template_versions_uncounted AFTER DELETE ON template_versions BEGIN
        UPDATE stored_bytes SET records = records - octet_length(OLD.source)
            WHERE tenant = (SELECT tenant FROM templates WHERE num = OLD.id >> 32);
    END;

    CREATE TRIGGER claims_counted AFTER INSERT ON claims BEGIN
        INSERT INTO stored_bytes(tenant, bytes) SELECT NEW.tenant, 0
            WHERE NOT EXISTS (SELECT 1 FROM stored_bytes WHERE tenant = NEW.tenant);
        UPDATE stored_bytes SET records = records + octet_length(NEW.key) + coalesce(length(NEW.body), 0)
            WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER claims_recounted AFTER UPDATE OF body ON claims BEGIN
        UPDATE stored_bytes SET records = records + coalesce(length(NEW.body), 0) - coalesce(length(OLD.body), 0)
            WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER claims_uncounted AFTER DELETE ON claims BEGIN
        UPDATE stored_bytes SET records = records - octet_length(OLD.key) - coalesce(length(OLD.body), 0)
            WHERE tenant = OLD.tenant;
    END;

    CREATE TRIGGER generations_counted AFTER INSERT ON generations BEGIN
        INSERT INTO stored_bytes(tenant, bytes) SELECT NEW.tenant, 0
            WHERE NOT EXISTS (SELECT 1 FROM stored_bytes WHERE tenant = NEW.tenant);
        UPDATE stored_bytes SET records = records + length(NEW.request) + coalesce(length(NEW.outcome), 0)
            WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER generations_recounted AFTER UPDATE OF request, outcome ON generations BEGIN
        UPDATE stored_bytes SET records = records + length(NEW.request) + coalesce(length(NEW.outcome), 0)
            - length(OLD.request) - coalesce(length(OLD.outcome), 0) WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER generations_uncounted AFTER DELETE ON generations BEGIN
        UPDATE stored_bytes SET records = records - length(OLD.request) - coalesce(length(OLD.outcome), 0)
            WHERE tenant = OLD.tenant;
    END;
";

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::schema::{STEPS, migrate};

    #[test]
    fn what_was_stored_before_is_counted_and_uncounted_like_the_rest() {
        let mut db = Connection::open_in_memory().unwrap();
        for step in &STEPS[..3] {
            db.execute_batch(step).unwrap();
        }
        db.pragma_update(None, "user_version", 3).unwrap();
        db.pragma_update(None, "application_id", super::super::APPLICATION_ID).unwrap();
        db.execute_batch(
            "INSERT INTO batches(num, id, tenant, phase, state, ver, total, created_ms, limits, spec)
                VALUES (7, x'07', 'a', 2, '{}', 0, 0, 0, '{}', 'ä');
            INSERT INTO outcomes VALUES (7 << 32, 1, x'010203'), ((7 << 32) + 1, 1, x'04');
            INSERT INTO templates VALUES (1, x'01', 'a', 't', 1, 0, 0), (2, x'02', 'b', 't', 1, 0, 0);
            INSERT INTO template_versions VALUES ((1 << 32) + 1, 0, '12345'), ((2 << 32) + 1, 0, '123');
            INSERT INTO claims VALUES (1, 'b', 'key', 0, x'00', x'00', x'00', 200, '', x'0102');
            INSERT INTO generations VALUES (1, x'01', 'c', 0, 1, x'0102', x'0304');",
        )
        .unwrap();
        migrate(&mut db).unwrap();
        let counted = |tenant: &str| {
            let sql = "SELECT bytes, records FROM stored_bytes WHERE tenant = ?1";
            db.query_row(sql, [tenant], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
        };
        assert_eq!([counted("a"), counted("b"), counted("c")], [(4, 7), (0, 8), (0, 4)]);
        db.execute_batch(
            "DELETE FROM template_versions; DELETE FROM claims; DELETE FROM generations; DELETE FROM batches",
        )
        .unwrap();
        assert_eq!([counted("a").1, counted("b").1, counted("c").1], [0, 0, 0]);
    }
}
