//! Signatures of Standard Webhooks 1.0.0, symmetric (`v1`): HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use rand::TryRngCore as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use sha2::Sha256;

/// What the text of a secret begins with.
const PREFIX: &str = "whsec_";

/// Bytes of a secret we make.
const GENERATED_BYTES: usize = 32;

/// A signing secret: 24 to 64 bytes, written `whsec_` + standard base64.
#[derive(Clone)]
pub struct Secret(SecretSlice<u8>);

/// Why a text is no signing secret. Never holds any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretRefused {
    /// It does not begin with `whsec_`.
    #[error("a signing secret begins with whsec_")]
    Prefix,
    /// What follows is not standard base64 with its padding.
    #[error("what follows whsec_ is not standard base64")]
    Encoding,
    /// It holds fewer than 24 or more than 64 bytes.
    #[error("a signing secret holds 24 to 64 bytes")]
    Length,
}

impl Secret {
    /// Reads the text form.
    ///
    /// # Errors
    /// See [`SecretRefused`].
    pub fn parse(text: &str) -> Result<Self, SecretRefused> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretRefused::Prefix)?;
        // Longer than 64 bytes could be, and so not worth decoding.
        if encoded.len() > 128 {
            return Err(SecretRefused::Length);
        }
        let bytes = SecretSlice::from(STANDARD.decode(encoded).map_err(|_| SecretRefused::Encoding)?);
        match bytes.expose_secret().len() {
            24..=64 => Ok(Self(bytes)),
            _ => Err(SecretRefused::Length),
        }
    }

    /// A new secret of 32 random bytes; `None` when the system has no random bytes.
    pub fn generate() -> Option<Self> {
        let mut bytes = vec![0; GENERATED_BYTES];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).ok()?;
        Some(Self(SecretSlice::from(bytes)))
    }

    /// The text form, for whoever shall check signatures by it.
    pub fn text(&self) -> SecretString {
        SecretString::from(format!("{PREFIX}{}", STANDARD.encode(self.0.expose_secret())))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The value of `webhook-signature`: one item for each secret, the newest first, so that receivers can change theirs in their own time.
///
/// `id` is the event's and has no dot, `timestamp_s` is the time of this try in Unix seconds and goes into `webhook-timestamp`, `body` is
/// exactly what is sent.
pub fn sign(id: &str, timestamp_s: u64, body: &[u8], secrets: &[Secret]) -> String {
    let items = secrets.iter().map(|secret| {
        let signature = mac(secret, id, timestamp_s, body).finalize().into_bytes();
        format!("v1,{}", STANDARD.encode(signature))
    });
    items.collect::<Vec<_>>().join(" ")
}

/// How far the time of a try may be from that of whoever checks it, as the official libraries have it.
const TOLERANCE_S: u64 = 300;

/// Signatures that are looked at.
const MOST_ITEMS: usize = 16;

/// Why what came is not taken for what the sender signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    /// A header is missing or is none.
    #[error("it has no usable header {0}")]
    Header(&'static str),
    /// It was signed long ago, or the clocks differ.
    #[error("its time is more than five minutes from now")]
    Time,
    /// No item of the signature is that of the secret.
    #[error("no signature of it is made with this secret")]
    Signature,
}

/// Checks what came as a receiver does: that one of the signatures is of this secret, and that it was made within five minutes of `now_s` (Unix
/// seconds). Answers the id of the event.
///
/// # Errors
/// See [`NotVerified`].
pub fn verify<'a>(
    headers: &'a HeaderMap,
    body: &[u8],
    secret: &Secret,
    now_s: u64,
) -> Result<&'a str, NotVerified> {
    let header = |name| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.ok_or(NotVerified::Header(name))
    };
    let id = header("webhook-id")?;
    let timestamp = header("webhook-timestamp")?;
    let timestamp_s: u64 = timestamp.parse().map_err(|_| NotVerified::Header("webhook-timestamp"))?;
    if timestamp_s.abs_diff(now_s) > TOLERANCE_S {
        return Err(NotVerified::Time);
    }
    let items = header("webhook-signature")?.split(' ').filter_map(|item| item.strip_prefix("v1,"));
    let mac = mac(secret, id, timestamp_s, body);
    let is_ours = |item: &str| {
        STANDARD.decode(item).is_ok_and(|signature| mac.clone().verify_slice(&signature).is_ok())
    };
    let mut items = items.take(MOST_ITEMS);
    if items.any(is_ours) { Ok(id) } else { Err(NotVerified::Signature) }
}

fn mac(secret: &Secret, id: &str, timestamp_s: u64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.0.expose_secret()).expect("HMAC takes keys of every length");
    mac.update(format!("{id}.{timestamp_s}.").as_bytes());
    mac.update(body);
    mac
}

/// An id that cannot be signed: it is empty, has a dot, or has characters that no header holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a webhook is visible ASCII without a dot")]
pub struct InvalidMessageId;

/// The headers a webhook is posted with: what is signed as [`sign`] has it, and that the body is JSON.
///
/// # Errors
/// When a receiver could not tell where `id` ends.
pub fn headers(
    id: &str,
    timestamp_s: u64,
    body: &[u8],
    secrets: &[Secret],
) -> Result<HeaderMap, InvalidMessageId> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_graphic() && b != b'.') {
        return Err(InvalidMessageId);
    }
    let signature = sign(id, timestamp_s, body, secrets);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", HeaderValue::from_str(id).map_err(|_| InvalidMessageId)?);
    headers.insert("webhook-timestamp", HeaderValue::from(timestamp_s));
    let signature = HeaderValue::from_str(&signature).expect("version and base64 are visible ASCII");
    headers.insert("webhook-signature", signature);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_signature_is_that_of_the_official_libraries() {
        let secret = Secret::parse(TEXT).unwrap();
        let signature =
            sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}", &[secret]);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_give_two_items_with_one_space_between() {
        let (new, old) = (Secret::generate().unwrap(), Secret::parse(TEXT).unwrap());
        let both = sign("evt_1", 1, b"{}", &[new.clone(), old.clone()]);
        let each = [sign("evt_1", 1, b"{}", &[new]), sign("evt_1", 1, b"{}", &[old])];
        assert_eq!(both, each.join(" "));
        assert_ne!(each[0], each[1]);
    }

    #[test]
    fn a_secret_survives_its_text_form_and_is_not_shown_otherwise() {
        let secret = Secret::parse(TEXT).unwrap();
        assert_eq!(secret.text().expose_secret(), TEXT);
        assert_eq!(format!("{secret:?}"), "Secret");
        let made = Secret::generate().unwrap();
        assert_eq!(Secret::parse(made.text().expose_secret()).unwrap().0.expose_secret().len(), 32);
    }

    #[test]
    fn only_24_to_64_bytes_in_standard_base64_are_a_secret() {
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        for bytes in [24, 32, 64] {
            assert!(Secret::parse(&of(bytes)).is_ok(), "{bytes}");
        }
        for (text, expected) in [
            (of(0), SecretRefused::Length),
            (of(23), SecretRefused::Length),
            (of(65), SecretRefused::Length),
            (of(5000), SecretRefused::Length),
            (TEXT.replace("whsec_", ""), SecretRefused::Prefix),
            (TEXT.to_uppercase(), SecretRefused::Prefix),
            (String::new(), SecretRefused::Prefix),
            (format!("{TEXT}!"), SecretRefused::Encoding),
            (of(25).trim_end_matches('=').to_owned(), SecretRefused::Encoding),
            ("whsec_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_".to_owned(), SecretRefused::Encoding),
        ] {
            assert_eq!(Secret::parse(&text).err(), Some(expected), "{text}");
        }
    }

    #[test]
    fn the_headers_are_those_of_the_specification_and_an_id_with_a_dot_has_none() {
        let secret = [Secret::parse(TEXT).unwrap()];
        let headers = headers("evt_1", 1_614_265_330, b"{}", &secret).unwrap();
        assert_eq!(headers["webhook-id"], "evt_1");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-signature"], *sign("evt_1", 1_614_265_330, b"{}", &secret));
        assert_eq!(headers["content-type"], "application/json");
        for id in ["", "evt.1", "evt 1", "evt\n1", "événement"] {
            assert_eq!(super::headers(id, 1, b"{}", &secret), Err(InvalidMessageId), "{id:?}");
        }
    }

    #[test]
    fn what_was_signed_is_verified_and_nothing_else_is() {
        let (secret, other) = (Secret::parse(TEXT).unwrap(), Secret::generate().unwrap());
        let (id, now_s, body) = ("evt_1", 1_790_000_000, b"{}".as_slice());
        // In the midst of a change of secrets.
        let signed = headers(id, now_s, body, &[other.clone(), secret.clone()]).unwrap();
        for at in [now_s - 300, now_s, now_s + 300] {
            assert_eq!(verify(&signed, body, &secret, at), Ok(id));
        }
        assert_eq!(verify(&signed, body, &secret, now_s + 301), Err(NotVerified::Time));
        assert_eq!(verify(&signed, body, &secret, now_s - 301), Err(NotVerified::Time));
        assert_eq!(verify(&signed, b"{ }", &secret, now_s), Err(NotVerified::Signature));
        assert_eq!(verify(&signed, body, &Secret::generate().unwrap(), now_s), Err(NotVerified::Signature));
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            let mut without = signed.clone();
            without.remove(name);
            assert_eq!(verify(&without, body, &secret, now_s), Err(NotVerified::Header(name)));
        }
        for (name, value) in
            [("webhook-id", "evt_2"), ("webhook-signature", "v1,"), ("webhook-signature", "v1a,AAAA")]
        {
            let mut changed = signed.clone();
            changed.insert(name, HeaderValue::from_static(value));
            assert_eq!(
                verify(&changed, body, &secret, now_s),
                Err(NotVerified::Signature),
                "{name}: {value}"
            );
        }
    }
}
