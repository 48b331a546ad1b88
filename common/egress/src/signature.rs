//! Signatures of Standard Webhooks 1.0.0 over `id.timestamp.body`: HMAC-SHA256 with a secret that both sides have (`v1`), and beside it Ed25519 with a key
//! pair of which the receiver has the public half (`v1a`).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use rand::TryRngCore as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use secrecy::{ExposeSecret as _, ExposeSecretMut as _, SecretSlice, SecretString};
use sha2::Sha256;

/// What the text of a secret begins with.
const PREFIX: &str = "whsec_";

/// Bytes of a secret we make.
const GENERATED_BYTES: usize = 32;

/// What the text of a signing key begins with, and that of its public half.
const KEY_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";

/// Bytes of the seed of a key pair, and of its public half.
const KEY_BYTES: usize = 32;

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
    /// It begins as a public key does and is none.
    #[error("what follows whpk_ is not standard base64 of 32 bytes")]
    PublicKey,
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

/// An Ed25519 key pair (RFC 8032), written `whsk_` + standard base64 of the seed and the public half.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    text: SecretString,
}

impl SigningKey {
    /// Reads the text form; `None` where it is none, or where its halves do not belong together.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = SecretSlice::from(STANDARD.decode(text.strip_prefix(KEY_PREFIX)?).ok()?);
        let (seed, public) = bytes.expose_secret().split_at_checked(KEY_BYTES)?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?;
        Some(Self { pair, text: SecretString::from(text.to_owned()) })
    }

    /// A new one; `None` when the system has no random bytes.
    pub fn generate() -> Option<Self> {
        let mut seed = SecretSlice::from(vec![0; KEY_BYTES]);
        rand::rngs::OsRng.try_fill_bytes(seed.expose_secret_mut()).ok()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret()).ok()?;
        let both = SecretSlice::from([seed.expose_secret(), pair.public_key().as_ref()].concat());
        let text = SecretString::from(format!("{KEY_PREFIX}{}", STANDARD.encode(both.expose_secret())));
        Some(Self { pair, text })
    }

    /// The public half, for whoever shall check signatures: `whpk_` + standard base64.
    pub fn public(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.pair.public_key().as_ref()))
    }
}

/// What one receiver is signed to with: a secret, and a key pair where it asked for one. Written as the text of the secret and, behind a space, that of
/// the key.
pub struct Signer {
    /// For `v1`.
    pub secret: Secret,
    /// For `v1a`.
    pub key: Option<SigningKey>,
}

impl Signer {
    /// Reads the text form; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (secret, key) = match text.split_once(' ') {
            Some((secret, key)) => (secret, Some(SigningKey::parse(key)?)),
            None => (text, None),
        };
        Some(Self { secret: Secret::parse(secret).ok()?, key })
    }

    /// The text form.
    pub fn text(&self) -> SecretString {
        match &self.key {
            None => self.secret.text(),
            Some(key) => {
                let secret = self.secret.text();
                SecretString::from(format!("{} {}", secret.expose_secret(), key.text.expose_secret()))
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

/// The value of `webhook-signature`: one item for each secret, the newest first, so that receivers can change theirs in their own time, and behind them one for
/// each key.
///
/// `id` is the event's and has no dot, `timestamp_s` is the time of this try in Unix seconds and goes into `webhook-timestamp`, `body` is
/// exactly what is sent.
pub fn sign(id: &str, timestamp_s: u64, body: &[u8], signers: &[Signer]) -> String {
    let by_secret = signers.iter().map(|signer| {
        let signature = mac(&signer.secret, id, timestamp_s, body).finalize().into_bytes();
        format!("v1,{}", STANDARD.encode(signature))
    });
    let by_key = signers.iter().filter_map(|signer| signer.key.as_ref()).map(|key| {
        let signature = key.pair.sign(&signed(id, timestamp_s, body));
        format!("v1a,{}", STANDARD.encode(signature))
    });
    by_secret.chain(by_key).collect::<Vec<_>>().join(" ")
}

/// What is signed.
fn signed(id: &str, timestamp_s: u64, body: &[u8]) -> Vec<u8> {
    [format!("{id}.{timestamp_s}.").as_bytes(), body].concat()
}

/// By what a receiver checks what comes.
#[derive(Debug, Clone)]
pub enum Checker {
    /// The secret, `whsec_...`.
    Secret(Secret),
    /// The public half of a key pair, `whpk_...`.
    PublicKey([u8; KEY_BYTES]),
}

impl Checker {
    /// Reads the text form of either.
    ///
    /// # Errors
    /// See [`SecretRefused`].
    pub fn parse(text: &str) -> Result<Self, SecretRefused> {
        let Some(encoded) = text.strip_prefix(PUBLIC_PREFIX) else {
            return Secret::parse(text).map(Self::Secret);
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretRefused::PublicKey)?;
        bytes.try_into().map(Self::PublicKey).map_err(|_| SecretRefused::PublicKey)
    }
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
    #[error("no signature of it is made with this secret or key")]
    Signature,
}

/// Checks what came as a receiver does: that one of the signatures is of this secret or key, and that it was made within five minutes of `now_s` (Unix
/// seconds). Answers the id of the event.
///
/// # Errors
/// See [`NotVerified`].
pub fn verify<'a>(
    headers: &'a HeaderMap,
    body: &[u8],
    checker: &Checker,
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
    let items =
        header("webhook-signature")?.split(' ').take(MOST_ITEMS).filter_map(|item| item.split_once(','));
    let signatures = |version| {
        let of_version = items.clone().filter(move |(its, _)| *its == version);
        of_version.filter_map(|(_, signature)| STANDARD.decode(signature).ok())
    };
    let is_ours = match checker {
        Checker::Secret(secret) => {
            let mac = mac(secret, id, timestamp_s, body);
            signatures("v1").any(|signature| mac.clone().verify_slice(&signature).is_ok())
        }
        Checker::PublicKey(key) => {
            let key = UnparsedPublicKey::new(&ED25519, key);
            let signed = signed(id, timestamp_s, body);
            signatures("v1a").any(|signature| key.verify(&signed, &signature).is_ok())
        }
    };
    if is_ours { Ok(id) } else { Err(NotVerified::Signature) }
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
    signers: &[Signer],
) -> Result<HeaderMap, InvalidMessageId> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_graphic() && b != b'.') {
        return Err(InvalidMessageId);
    }
    let signature = sign(id, timestamp_s, body, signers);
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

    fn alone(secret: &Secret) -> Signer {
        Signer { secret: secret.clone(), key: None }
    }

    fn by(secret: &Secret) -> Checker {
        Checker::Secret(secret.clone())
    }

    #[test]
    fn the_signature_is_that_of_the_official_libraries() {
        let secret = Secret::parse(TEXT).unwrap();
        let signature =
            sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}", &[alone(&secret)]);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_give_two_items_with_one_space_between() {
        let (new, old) = (Secret::generate().unwrap(), Secret::parse(TEXT).unwrap());
        let both = sign("evt_1", 1, b"{}", &[alone(&new), alone(&old)]);
        let each = [&new, &old].map(|secret| sign("evt_1", 1, b"{}", &[alone(secret)]));
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
        let secret = [alone(&Secret::parse(TEXT).unwrap())];
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
        let signed = headers(id, now_s, body, &[alone(&other), alone(&secret)]).unwrap();
        for at in [now_s - 300, now_s, now_s + 300] {
            assert_eq!(verify(&signed, body, &by(&secret), at), Ok(id));
        }
        assert_eq!(verify(&signed, body, &by(&secret), now_s + 301), Err(NotVerified::Time));
        assert_eq!(verify(&signed, body, &by(&secret), now_s - 301), Err(NotVerified::Time));
        assert_eq!(verify(&signed, b"{ }", &by(&secret), now_s), Err(NotVerified::Signature));
        assert_eq!(
            verify(&signed, body, &by(&Secret::generate().unwrap()), now_s),
            Err(NotVerified::Signature)
        );
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            let mut without = signed.clone();
            without.remove(name);
            assert_eq!(verify(&without, body, &by(&secret), now_s), Err(NotVerified::Header(name)));
        }
        for (name, value) in
            [("webhook-id", "evt_2"), ("webhook-signature", "v1,"), ("webhook-signature", "v1a,AAAA")]
        {
            let mut changed = signed.clone();
            changed.insert(name, HeaderValue::from_static(value));
            assert_eq!(
                verify(&changed, body, &by(&secret), now_s),
                Err(NotVerified::Signature),
                "{name}: {value}"
            );
        }
    }

    /// RFC 8032, section 7.1, TEST 3: the key pair and the signature of two bytes.
    #[test]
    fn a_key_pair_signs_as_the_rfc_has_it() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let (seed, public) = (
            hex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"),
            hex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"),
        );
        let key = SigningKey::parse(&format!("whsk_{}", STANDARD.encode([&seed[..], &public[..]].concat())))
            .unwrap();
        let signature = "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a";
        assert_eq!(key.pair.sign(&[0xaf, 0x82]).as_ref(), hex(signature));
        assert_eq!(key.public(), format!("whpk_{}", STANDARD.encode(&public)));
        // Halves of different pairs are no key.
        assert!(
            SigningKey::parse(&format!("whsk_{}", STANDARD.encode([&seed[..], &seed[..]].concat())))
                .is_none()
        );
        for text in ["", "whsk_", "whsk_AAAA", "whsk_!", TEXT] {
            assert!(SigningKey::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn what_a_key_signed_is_verified_by_its_public_half_beside_the_secret() {
        let signer = || Signer { secret: Secret::generate().unwrap(), key: SigningKey::generate() };
        let (new, old) = (signer(), signer());
        let public = |signer: &Signer| Checker::parse(&signer.key.as_ref().unwrap().public()).unwrap();
        let (id, now_s, body) = ("evt_1", 1_790_000_000, b"{}".as_slice());
        let signed =
            headers(id, now_s, body, &[signer(), Signer::parse(old.text().expose_secret()).unwrap()])
                .unwrap();
        let versions: Vec<_> = signed["webhook-signature"]
            .to_str()
            .unwrap()
            .split(' ')
            .map(|item| item.split_once(',').unwrap().0)
            .collect();
        assert_eq!(versions, ["v1", "v1", "v1a", "v1a"]);
        for checker in [public(&old), by(&old.secret)] {
            assert_eq!(verify(&signed, body, &checker, now_s), Ok(id));
            assert_eq!(verify(&signed, b"{ }", &checker, now_s), Err(NotVerified::Signature));
        }
        assert_eq!(verify(&signed, body, &public(&new), now_s), Err(NotVerified::Signature));
        assert_eq!(Checker::parse("whpk_AAAA").err(), Some(SecretRefused::PublicKey));
        assert_eq!(
            (format!("{:?}", old.key.as_ref().unwrap()), format!("{old:?}")),
            ("SigningKey".to_owned(), "Signer".to_owned())
        );
    }
}
