//! The tables of the records: tenants and keys, templates, claims, generations, deliveries.

/// The step that adds them.
///
/// A version's key is the number of its template in the upper half and the version in the lower, so that a template's versions are one
/// range. Every index answers one question of the ports; the partial ones hold open work only, or finished work only.
pub(super) const STEP: &str = "
    CREATE TABLE tenants(id TEXT PRIMARY KEY, created_ms INTEGER NOT NULL) WITHOUT ROWID;

    CREATE TABLE api_keys(
        id BLOB PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL, scopes TEXT NOT NULL,
        hash BLOB NOT NULL, hint TEXT NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER, revoked_ms INTEGER,
        used_ms INTEGER) WITHOUT ROWID;
    CREATE INDEX api_keys_tenant ON api_keys(tenant, created_ms, id);

    CREATE TABLE templates(
        num INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, name TEXT NOT NULL,
        latest INTEGER NOT NULL, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL);
    CREATE UNIQUE INDEX templates_name ON templates(tenant, name);
    CREATE TABLE template_versions(id INTEGER PRIMARY KEY, created_ms INTEGER NOT NULL, source TEXT NOT NULL);

    CREATE TABLE claims(
        id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, created_ms INTEGER NOT NULL,
        fingerprint BLOB NOT NULL, plan BLOB NOT NULL, owner BLOB NOT NULL, status INTEGER, headers TEXT, body BLOB);
    CREATE UNIQUE INDEX claims_key ON claims(tenant, key);
    CREATE INDEX claims_created ON claims(created_ms);

    CREATE TABLE generations(
        num INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, created_ms INTEGER NOT NULL,
        finished INTEGER NOT NULL, request BLOB NOT NULL, outcome BLOB);
    CREATE INDEX generations_open ON generations(created_ms, num) WHERE NOT finished;
    CREATE INDEX generations_finished ON generations(created_ms) WHERE finished;

    CREATE TABLE deliveries(
        num INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, batch BLOB NOT NULL, event BLOB NOT NULL,
        kind TEXT NOT NULL, state INTEGER NOT NULL, due_ms INTEGER NOT NULL, created_ms INTEGER NOT NULL,
        url TEXT NOT NULL, sealed_secret TEXT NOT NULL, attempts TEXT NOT NULL, body BLOB NOT NULL);
    CREATE INDEX deliveries_due ON deliveries(due_ms, num) WHERE state = 0;
    CREATE INDEX deliveries_over ON deliveries(created_ms) WHERE state <> 0;
    CREATE INDEX deliveries_batch ON deliveries(batch, created_ms);
";
