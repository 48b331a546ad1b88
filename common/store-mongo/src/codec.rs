//! How values stand in documents: ids and keys as binary, our own records as JSON text, numbers as 64-bit integers.

use mongodb::bson::raw::CStr;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, RawBinaryRef, RawBsonRef, RawDocumentBuf, doc};
use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{StoreError, StoreResult};

/// Bytes as they are stored.
pub(crate) fn binary(bytes: impl Into<Vec<u8>>) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes.into() })
}

/// The same without a copy, for what is large or many.
pub(crate) fn raw_binary(bytes: &[u8]) -> RawBsonRef<'_> {
    RawBsonRef::Binary(RawBinaryRef { subtype: BinarySubtype::Generic, bytes })
}

/// A document of fields that are borrowed.
pub(crate) fn raw_document(fields: &[(&CStr, RawBsonRef<'_>)]) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for (name, value) in fields {
        document.append(*name, *value);
    }
    document
}

/// The key of a batch's record with this number: the batch's 16 bytes, then the number, so that the order of keys is that of numbers.
pub(crate) fn key(batch: BatchId, number: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(batch.as_bytes());
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number in a [`key`].
pub(crate) fn number_of(key: &[u8]) -> u32 {
    key.last_chunk().map_or(0, |number| u32::from_be_bytes(*number))
}

/// Every `_id` of `len` bytes that begins with these.
pub(crate) fn range(prefix: &[u8], len: usize) -> Document {
    let fill = |byte| {
        let mut bytes = prefix.to_vec();
        bytes.resize(len, byte);
        binary(bytes)
    };
    doc! { "$gte": fill(0), "$lte": fill(0xff) }
}

/// An unsigned number as it is stored; what is beyond the signed range is cut to its end.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A record of ours as it is stored.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our records have string keys only and serialise without failing")
}

/// A record read back; `what` names it should it be damaged. The text itself never reaches an error.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(json: &str, what: &str) -> StoreResult<T> {
    serde_json::from_str(json).map_err(|_| corrupt(what))
}

/// A stored value that cannot be read.
pub(crate) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// A refusal in words fit to show.
pub(crate) fn conflict(words: impl Into<String>) -> StoreError {
    StoreError::Conflict(words.into())
}

/// A number, whichever of its types the server chose.
pub(crate) fn number(value: &Bson) -> Option<u64> {
    match value {
        Bson::Int32(value) => u64::try_from(*value).ok(),
        Bson::Int64(value) => u64::try_from(*value).ok(),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
        Bson::Double(value) if (0.0..9e15).contains(value) => Some(*value as u64),
        _ => None,
    }
}

/// The fields of a document, each with the error that it is damaged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a Document);

impl<'a> Fields<'a> {
    /// Whether it is there, and not null.
    pub(crate) fn has(self, name: &str) -> bool {
        !matches!(self.0.get(name), None | Some(Bson::Null))
    }

    /// Bytes.
    pub(crate) fn bytes(self, name: &str) -> StoreResult<&'a [u8]> {
        self.0.get_binary_generic(name).map(Vec::as_slice).map_err(|_| corrupt(name))
    }

    /// So many bytes: an id.
    pub(crate) fn id<const N: usize>(self, name: &str) -> StoreResult<[u8; N]> {
        self.bytes(name)?.try_into().map_err(|_| corrupt(name))
    }

    /// An id that may be missing.
    pub(crate) fn maybe_id<const N: usize>(self, name: &str) -> StoreResult<Option<[u8; N]>> {
        if self.has(name) { self.id(name).map(Some) } else { Ok(None) }
    }

    /// Text.
    pub(crate) fn text(self, name: &str) -> StoreResult<&'a str> {
        self.0.get_str(name).map_err(|_| corrupt(name))
    }

    /// Text that may be missing.
    pub(crate) fn maybe_text(self, name: &str) -> StoreResult<Option<&'a str>> {
        if self.has(name) { self.text(name).map(Some) } else { Ok(None) }
    }

    /// A number.
    pub(crate) fn uint(self, name: &str) -> StoreResult<u64> {
        self.0.get(name).and_then(number).ok_or_else(|| corrupt(name))
    }

    /// A small number.
    pub(crate) fn small(self, name: &str) -> StoreResult<u32> {
        self.uint(name).and_then(|value| u32::try_from(value).map_err(|_| corrupt(name)))
    }

    /// A number that may be missing.
    pub(crate) fn maybe_uint(self, name: &str) -> StoreResult<Option<u64>> {
        if self.has(name) { self.uint(name).map(Some) } else { Ok(None) }
    }

    /// A flag; missing is no.
    pub(crate) fn flag(self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Bson::Boolean(true)))
    }

    /// The documents of an array; missing is none.
    pub(crate) fn documents(self, name: &str) -> StoreResult<Vec<&'a Document>> {
        if !self.has(name) {
            return Ok(Vec::new());
        }
        let array = self.0.get_array(name).map_err(|_| corrupt(name))?;
        array.iter().map(|value| value.as_document().ok_or_else(|| corrupt(name))).collect()
    }

    /// A tenant id.
    pub(crate) fn tenant(self, name: &str) -> StoreResult<TenantId> {
        self.text(name)?.parse().map_err(|_| corrupt(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_order_of_their_numbers_and_a_batch_is_one_range() {
        let batch = BatchId::from_bytes([7; 16]);
        assert!(
            key(batch, 255) < key(batch, 256) && key(batch, u32::MAX) < key(BatchId::from_bytes([8; 16]), 0)
        );
        assert_eq!(number_of(&key(batch, 70_000)), 70_000);
        let range = range(batch.as_bytes(), 20);
        assert_eq!(range.get_binary_generic("$gte").unwrap(), &key(batch, 0));
        assert_eq!(range.get_binary_generic("$lte").unwrap(), &key(batch, u32::MAX));
    }

    #[test]
    fn numbers_survive_and_what_is_none_is_damage() {
        let stored = doc! { "a": int(u64::MAX), "b": 7, "c": 8.0, "d": -1_i64, "e": "9" };
        let fields = Fields(&stored);
        assert_eq!(fields.uint("a").unwrap(), i64::MAX as u64);
        assert_eq!((fields.small("b").unwrap(), fields.small("c").unwrap()), (7, 8));
        for name in ["a", "d", "e", "f"] {
            assert!(matches!(fields.small(name), Err(StoreError::Corrupt(_))), "{name}");
        }
        assert_eq!(fields.maybe_uint("f").unwrap(), None);
    }
}
