//! Bytes as base64 text, for serde's `with`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize as _, Deserializer, Serializer, de};

/// As text.
pub(crate) fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&STANDARD_NO_PAD.encode(bytes))
}

/// From text.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: FromBytes>(from: D) -> Result<T, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(from)?;
    let bytes = STANDARD_NO_PAD.decode(text.as_ref()).map_err(|_| de::Error::custom("this is no base64"))?;
    T::from_bytes(bytes).ok_or_else(|| de::Error::custom("there are too many or too few bytes"))
}

/// What is read from bytes.
pub(crate) trait FromBytes: Sized {
    /// `None` when it has another number of them.
    fn from_bytes(bytes: Vec<u8>) -> Option<Self>;
}

impl FromBytes for Bytes {
    fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        Some(bytes.into())
    }
}

impl<const N: usize> FromBytes for [u8; N] {
    fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        bytes.try_into().ok()
    }
}

/// The same of bytes that may be missing.
pub(crate) mod maybe {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Text(#[serde(with = "super")] Bytes);

    /// As text, or null.
    pub(crate) fn serialize<S: Serializer>(bytes: &Option<Bytes>, to: S) -> Result<S::Ok, S::Error> {
        bytes.clone().map(Text).serialize(to)
    }

    /// From text, or null.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(|text| text.0))
    }
}
