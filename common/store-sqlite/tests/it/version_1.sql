-- A file of schema version 1, as promptmill made it then: its tables, and a few batches in them.
PRAGMA journal_mode = WAL;

CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('changes', 0);

CREATE TABLE batches(
    num INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, idem_key TEXT,
    phase INTEGER NOT NULL, state TEXT NOT NULL, ver INTEGER NOT NULL, priority INTEGER NOT NULL,
    total INTEGER NOT NULL, created_ms INTEGER NOT NULL, limits TEXT NOT NULL, final_counts TEXT, spec TEXT NOT NULL);
CREATE UNIQUE INDEX batches_key ON batches(tenant, idem_key) WHERE idem_key IS NOT NULL;
CREATE INDEX batches_tenant ON batches(tenant, id);
CREATE INDEX batches_phase ON batches(phase, id);

CREATE TABLE parts(
    num INTEGER NOT NULL, part INTEGER NOT NULL, upload BLOB NOT NULL, blocks INTEGER NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (num, part)) WITHOUT ROWID;

CREATE TABLE row_blocks(
    id INTEGER PRIMARY KEY, num INTEGER NOT NULL, upload BLOB NOT NULL, seq INTEGER NOT NULL, len INTEGER NOT NULL,
    bytes BLOB NOT NULL);
CREATE UNIQUE INDEX row_blocks_key ON row_blocks(num, upload, seq);

CREATE TABLE heads(
    id INTEGER PRIMARY KEY, first INTEGER NOT NULL, state INTEGER NOT NULL, owner BLOB, token BLOB, due INTEGER,
    ver INTEGER NOT NULL, settles INTEGER NOT NULL, kills INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    upload BLOB NOT NULL, seq INTEGER NOT NULL, skip INTEGER NOT NULL, trying_offset INTEGER, trying_kills INTEGER,
    calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost INTEGER NOT NULL,
    lane TEXT NOT NULL, parked_len INTEGER NOT NULL, done BLOB NOT NULL, parked TEXT);
CREATE UNIQUE INDEX heads_first ON heads(first);
CREATE INDEX heads_open ON heads(state, id) WHERE state < 4;
CREATE INDEX heads_owner ON heads(owner) WHERE owner IS NOT NULL;
CREATE INDEX heads_due ON heads(due) WHERE due IS NOT NULL;

CREATE TABLE outcomes(id INTEGER PRIMARY KEY, code INTEGER NOT NULL, body BLOB NOT NULL);

CREATE TABLE sessions(id BLOB PRIMARY KEY, label TEXT NOT NULL, beat INTEGER NOT NULL, alive INTEGER NOT NULL)
    WITHOUT ROWID;

-- Batch 1 is over: items 0 and 3 succeeded, 1 failed by a timeout, 2 killed its workers, 4 and 5 were cancelled.
INSERT INTO batches VALUES (1, x'11111111111111111111111111111111', 'default', 'key-1', 2, '{"name":"cancelled"}', 5, 7, 6, 1790000000000,
    '{"max_concurrency":4,"max_cost":null,"guard":true}',
    '{"waiting":0,"leased":0,"parked":0,"succeeded":2,"repaired":0,"failed":{"timeout":1,"worker_killer":1},"cancelled":2,"expired":0,"totals":{"calls":3,"tokens":{"prompt":30,"completion":9},"cost":"0"}}',
    '{"template":"{}","model":"demo:any","settings":{"temperature":0.1},"max_attempts":3,"priority":7}');
INSERT INTO parts VALUES (1, 0, x'21212121212121212121212121212121', 2, zeroblob(32));
INSERT INTO row_blocks VALUES (1, 1, x'21212121212121212121212121212121', 0, 4, x'01020304'), (2, 1, x'21212121212121212121212121212121', 1, 2, x'0506');
INSERT INTO heads VALUES
    ((1 << 32) + 0, (1 << 32) + 0, 4, NULL, NULL, NULL, 6, 1, 4, 7, x'21212121212121212121212121212121', 0, 0, NULL, NULL, 3, 30, 9, 0, 'demo/none', 0, x'014c5201', NULL),
    ((1 << 32) + 1, (1 << 32) + 4, 5, NULL, NULL, NULL, 2, 0, 0, 7, x'21212121212121212121212121212121', 1, 0, NULL, NULL, 0, 0, 0, 0, 'demo/none', 0, x'f0f0', NULL);
-- The body of item 4 came after its cancel and is no result.
INSERT INTO outcomes VALUES
    ((1 << 32) + 0, 1, x'aa'), ((1 << 32) + 1, 76, x'bb'), ((1 << 32) + 3, 1, x'cc'), ((1 << 32) + 4, 1, x'dd');

-- Batch 2 runs: its chunk is leased, item 0 succeeded, item 1 waits.
INSERT INTO batches VALUES (2, x'12121212121212121212121212121212', 'default', NULL, 1, '{"name":"running"}', 3, -5, 3, 1790000001000,
    '{"max_concurrency":null,"max_cost":"1.5","guard":false}', NULL,
    '{"template":"{}","model":"ollama:llama3.2:1b","settings":{},"max_attempts":5,"priority":-5}');
INSERT INTO parts VALUES (2, 0, x'22222222222222222222222222222222', 1, zeroblob(32));
INSERT INTO row_blocks VALUES (3, 2, x'22222222222222222222222222222222', 0, 3, x'070809');
INSERT INTO heads VALUES
    (2 << 32, 2 << 32, 2, x'31313131313131313131313131313131', x'41414141414141414141414141414141', NULL, 4, 1, 0, -5, x'22222222222222222222222222222222', 0, 0, NULL, NULL, 2, 20, 6, 0, 'ollama/default', 1, x'010000',
    '[{"offset":1,"due_ms":1,"counted":1,"reason":"rate_limited","begun_ms":1,"attempts":[],"cut":{"calls":0,"tokens":{"prompt":0,"completion":0},"cost":"0"}}]');
INSERT INTO outcomes VALUES (2 << 32, 1, x'ee');
INSERT INTO sessions VALUES (x'31313131313131313131313131313131', 'worker', 4, 1);

-- Batch 3 is a draft with a part, and an upload that was abandoned.
INSERT INTO batches VALUES (3, x'13131313131313131313131313131313', 'default', NULL, 0, '{"name":"draft"}', 0, 0, 0, 1790000002000,
    '{"max_concurrency":null,"max_cost":null,"guard":true}', NULL,
    '{"template":"{}","model":"openrouter:a/b","settings":{},"max_attempts":5,"priority":0}');
INSERT INTO parts VALUES (3, 2, x'23232323232323232323232323232323', 1, zeroblob(32));
INSERT INTO row_blocks VALUES (4, 3, x'23232323232323232323232323232323', 0, 2, x'0a0b'), (5, 3, x'24242424242424242424242424242424', 0, 2, x'0c0d0e0f');

PRAGMA application_id = 0x706d696c;
PRAGMA user_version = 1;
