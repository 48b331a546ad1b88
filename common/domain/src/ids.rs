//! Identities. Every id is its own type, so that a chunk's number can never be passed where an item's index is meant.
//!
//! Nothing here makes randomness: whoever creates an id hands in the bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a {1}")]
pub struct InvalidId(String, &'static str);

/// Who owns a record. Every record, key and port call carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(String);

impl TenantId {
    /// The one tenant of a process that has no accounts (`promptmill run`).
    pub fn default_tenant() -> Self {
        Self("default".to_owned())
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
            return Err(InvalidId(text.chars().take(80).collect(), "tenant id"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for TenantId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes a 16-byte id with a text form of `prefix` + 32 hexadecimal digits.
macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// An id with exactly these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// A time-ordered id (UUID version 7, RFC 9562) from a wall-clock time and random bytes.
            pub fn at(unix_ms: u64, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid().into_bytes())
            }

            /// The wall-clock time it was made from, Unix milliseconds.
            pub fn unix_ms(&self) -> u64 {
                self.0[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte))
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:032x}"), u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let invalid = || InvalidId(text.chars().take(80).collect(), $what);
                let digits = text.strip_prefix($prefix).ok_or_else(invalid)?;
                let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if digits.len() != 32 || !digits.bytes().all(lower) {
                    return Err(invalid());
                }
                let value = u128::from_str_radix(digits, 16).map_err(|_| invalid())?;
                Ok(Self(value.to_be_bytes()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

bytes_id!(
    /// One batch.
    BatchId, "batch_", "batch id"
);
bytes_id!(
    /// One upload of one part of a batch's rows; a part that is sent again is another upload.
    UploadId, "upload_", "upload id"
);
bytes_id!(
    /// One live process (or one role of it) of the fleet.
    SessionId, "session_", "session id"
);
bytes_id!(
    /// One stored template.
    TemplateId, "tmpl_", "template id"
);
bytes_id!(
    /// One API key, without its secret.
    KeyId, "key_", "key id"
);
bytes_id!(
    /// One immediate generation.
    GenerationId, "gen_", "generation id"
);
bytes_id!(
    /// Something that happened; receivers tell repeated deliveries by it.
    EventId, "evt_", "event id"
);
bytes_id!(
    /// One event for one receiver.
    DeliveryId, "dlv_", "delivery id"
);
bytes_id!(
    /// A receiver of a tenant's events.
    EndpointId, "ep_", "endpoint id"
);
bytes_id!(
    /// One schedule.
    ScheduleId, "sched_", "schedule id"
);
bytes_id!(
    /// One stored row set.
    RowSetId, "rows_", "row set id"
);
bytes_id!(
    /// Random proof that a chunk is leased to whoever holds it. Never a counter: a token of an older lease is never valid again.
    LeaseToken, "lease_", "lease token"
);

impl EventId {
    /// The id of the change that gave `batch` its version `ver`: the same whoever asks, and another for every change.
    ///
    /// The random part of the batch's id is mixed with the version, so ids of different batches differ as those of the batches do.
    pub const fn of_batch(batch: BatchId, ver: u64) -> Self {
        let id = u128::from_be_bytes(*batch.as_bytes());
        Self::from_bytes((id ^ ver as u128).to_be_bytes())
    }

    /// The id of what tells of failed items of `batch`, of which the first is its `first`-th failure (from 0) in the order of settling of that epoch.
    pub const fn of_failures(batch: BatchId, epoch: u16, first: u32) -> Self {
        let id = u128::from_be_bytes(*batch.as_bytes());
        // No version is as large.
        let place = 1 << 64 | (epoch as u128) << 32 | first as u128;
        Self::from_bytes((id ^ place).to_be_bytes())
    }

    /// The id of whatever a digest stands for: the same for the same.
    pub const fn of_digest(digest: [u8; 32]) -> Self {
        let (first, _) = digest.split_at(16);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(first);
        Self::from_bytes(bytes)
    }

    /// The id of an endpoint's being switched off at that moment, likewise.
    pub const fn of_endpoint(endpoint: EndpointId, at_ms: u64) -> Self {
        let id = u128::from_be_bytes(*endpoint.as_bytes());
        Self::from_bytes((id ^ at_ms as u128).to_be_bytes())
    }

    /// The version that the change gave `batch`, of an id that [`of_batch`](Self::of_batch) made.
    pub fn ver_in(self, batch: BatchId) -> Option<u64> {
        let mixed = u128::from_be_bytes(self.0) ^ u128::from_be_bytes(*batch.as_bytes());
        u64::try_from(mixed).ok()
    }
}

impl DeliveryId {
    /// The id of the delivery of an event to the webhook named in its batch: the event's own bytes, since there is one of them.
    pub const fn to_batch_webhook(event: EventId) -> Self {
        Self::from_bytes(*event.as_bytes())
    }

    /// The id of whatever a digest stands for, likewise.
    pub const fn of_digest(digest: [u8; 32]) -> Self {
        Self::from_bytes(*EventId::of_digest(digest).as_bytes())
    }

    /// The id of the delivery of an event to an endpoint. Whoever asks gets the same, and another for each pair: the random halves of both ids
    /// stand in different places.
    pub const fn to_endpoint(event: EventId, endpoint: EndpointId) -> Self {
        let endpoint = u128::from_be_bytes(*endpoint.as_bytes()).rotate_left(64);
        Self::from_bytes((u128::from_be_bytes(*event.as_bytes()) ^ endpoint).to_be_bytes())
    }
}

impl RowSetId {
    /// The id of whatever a digest stands for: the same for the same.
    pub const fn of_digest(digest: [u8; 32]) -> Self {
        Self::from_bytes(*EventId::of_digest(digest).as_bytes())
    }
}

/// One chunk: the `n`-th run of consecutive items of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkId {
    /// The batch the chunk belongs to.
    pub batch: BatchId,
    /// 0-based position among the batch's chunks.
    pub n: u32,
}

impl ChunkId {
    /// What stands just before the chunks of a batch in the order of chunks: no chunk that exists. `None` when nothing can.
    pub fn just_before(batch: BatchId) -> Option<Self> {
        let before = u128::from_be_bytes(*batch.as_bytes()).checked_sub(1)?;
        Some(Self { batch: BatchId::from_bytes(before.to_be_bytes()), n: u32::MAX })
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.batch, self.n)
    }
}

/// One item: row `index` (0-based) of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ItemId {
    /// The batch the item belongs to.
    pub batch: BatchId,
    /// 0-based position among the batch's rows.
    pub index: u32,
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.batch, self.index)
    }
}

/// What a provider limits: provider and credential, and the model where limits are per model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LaneId(String);

impl LaneId {
    /// The lane of `provider` under the credential named `credential` (a name, never the secret).
    pub fn new(provider: &str, credential: &str) -> Self {
        Self(format!("{provider}/{credential}"))
    }

    /// A lane read back from a store.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text form `provider/credential`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn just_before_a_batch_stand_no_chunks_but_those_of_batches_before() {
        let batch = BatchId::at(1_790_000_000_000, [0; 10]);
        let before = ChunkId::just_before(batch).unwrap();
        assert!(before < ChunkId { batch, n: 0 });
        assert!(before > ChunkId { batch: BatchId::at(1_789_999_999_999, [0xff; 10]), n: 0 });
        assert_eq!(ChunkId::just_before(BatchId::from_bytes([0; 16])), None);
    }

    #[test]
    fn an_id_survives_its_text_form_and_refuses_another_kind() {
        let id = BatchId::at(1_790_000_000_000, [7; 10]);
        assert_eq!(id.to_string().parse::<BatchId>(), Ok(id));
        assert!(id.to_string().parse::<SessionId>().is_err());
        assert!("batch_00".parse::<BatchId>().is_err());
        assert!("batch_+0000000000000000000000000000001".parse::<BatchId>().is_err());
    }

    #[test]
    fn the_id_of_a_change_tells_the_version_in_its_own_batch_alone() {
        let (batch, other) =
            (BatchId::at(1_790_000_000_000, [7; 10]), BatchId::at(1_790_000_000_001, [7; 10]));
        for ver in [0, 1, u64::MAX] {
            assert_eq!(EventId::of_batch(batch, ver).ver_in(batch), Some(ver));
            assert_eq!(EventId::of_batch(batch, ver).ver_in(other), None);
        }
    }

    #[test]
    fn ids_made_later_sort_later() {
        assert!(BatchId::at(1, [255; 10]) < BatchId::at(2, [0; 10]));
    }

    #[test]
    fn a_tenant_id_is_short_lower_case_ascii() {
        assert!("acme-1".parse::<TenantId>().is_ok());
        for bad in ["", "Acme", "a b", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad:?}");
        }
    }
}
