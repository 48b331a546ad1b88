//! The names of the collections.
//!
//! A key that begins with a batch's 16 bytes is one range per batch ([`codec::range`](crate::codec::range)), so that a batch is found
//! and removed without a further index.

/// One document: the schema version; another: the change counter of batches; another: the number of the last event.
pub(crate) const META: &str = "meta";
/// `_id` batch. What to do and where it stands, its parts, its uploads that were given up, its outbox.
pub(crate) const BATCHES: &str = "batches";
/// `_id` batch + upload: who still sends, and when it last did.
pub(crate) const UPLOADS: &str = "uploads";
/// `_id` batch + upload + seq: a block of rows. Immutable.
pub(crate) const ROWS: &str = "rows";
/// `_id` as in [`ROWS`]: hashes of the block's custom ids, so that they are read without their rows.
pub(crate) const ROW_IDS: &str = "row_ids";
/// `_id` batch + n: where the items of a chunk stand.
pub(crate) const HEADS: &str = "heads";
/// `_id` batch + index: the body of an outcome. Insert-only, and invisible until the head's byte names it.
pub(crate) const OUTCOMES: &str = "outcomes";
/// `_id` the key of what it belongs to + slice: slices of bodies and histories that are too large for the document they belong to.
pub(crate) const SLICES: &str = "slices";
/// `_id` batch + number: the order in which outcomes settled.
pub(crate) const SETTLED: &str = "settled";
/// `_id` session.
pub(crate) const SESSIONS: &str = "sessions";
/// `_id` scope: an account of money.
pub(crate) const BUDGETS: &str = "budgets";
/// `_id` lane: what it learned, and until when it stands still.
pub(crate) const LANES: &str = "lanes";
/// `_id` what a reply goes with + digest of its request: a reply that is kept to be given again. Immutable.
pub(crate) const REPLIES: &str = "replies";
/// `_id` tenant: bytes it has stored.
pub(crate) const USAGE: &str = "usage";
/// `_id` tenant + day: rows it submitted.
pub(crate) const SUBMITTED: &str = "submitted";
/// `_id` delivery; `batch` is the batch it tells of, if it does of one, as binary, so that they go with it.
pub(crate) const DELIVERIES: &str = "deliveries";
/// `_id` endpoint.
pub(crate) const ENDPOINTS: &str = "endpoints";
/// `_id` tenant.
pub(crate) const TENANTS: &str = "tenants";
/// `_id` key.
pub(crate) const API_KEYS: &str = "api_keys";
/// `_id` template. Holds the text of its newest version and its labels, and says which versions there are.
pub(crate) const TEMPLATES: &str = "templates";
/// `_id` root of the template + version: a version behind which another came. Immutable.
pub(crate) const TEMPLATE_VERSIONS: &str = "template_versions";
/// `_id` tenant and key: a request that happens once, and its answer.
pub(crate) const CLAIMS: &str = "claims";
/// `_id` generation.
pub(crate) const GENERATIONS: &str = "generations";
/// `_id` schedule. When it is to be looked at stands beside it.
pub(crate) const SCHEDULES: &str = "schedules";
/// `_id` schedule + time: a tick, and what became of it.
pub(crate) const TICKS: &str = "ticks";
/// `_id` row set.
pub(crate) const ROW_SETS: &str = "row_sets";
/// `_id` row set + upload: whose it is and when it last took a block.
pub(crate) const SET_UPLOADS: &str = "set_uploads";
/// `_id` row set + upload + seq: a block of rows. Immutable.
pub(crate) const SET_BLOCKS: &str = "set_blocks";
