//! Where a provider is and how we present ourselves there: base URL, key and headers, checked once at construction.

use bytes::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use promptmill_domain::FailureKind;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::chat::ChatRequest;
use crate::client::{self, Caller, HttpClient};
use crate::failure::CallFailure;
use crate::http::{Incoming, Timeouts, send};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// A provider's configuration that cannot be used; the messages hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// The base URL is not one.
    #[error("{0:?} is not an http or https base URL without user, password, query and fragment")]
    BaseUrl(String),
    /// The key cannot stand in a header.
    #[error("the API key is empty or holds characters other than visible ASCII")]
    ApiKey,
    /// A header's text cannot stand in a header.
    #[error("the {0} header is not visible ASCII")]
    Header(&'static str),
}

/// Parses a base URL; a path prefix is kept and later joined, never replaced.
///
/// # Errors
/// The text is no http or https URL, or it holds a user, a password, a query or a fragment.
pub fn parse_base_url(text: &str) -> Result<Url, InvalidConfig> {
    let text = text.trim();
    // What stands before an @ may be a password, and this error is shown.
    let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let invalid = || invalid_base_url(shown);
    let url = Url::parse(text).map_err(|_| invalid())?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !plain {
        return Err(invalid());
    }
    Ok(url)
}

fn invalid_base_url(shown: &str) -> InvalidConfig {
    InvalidConfig::BaseUrl(shown.chars().take(200).collect())
}

/// One server with one credential.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    caller: Caller,
    chat: Uri,
    models: Uri,
    headers: HeaderMap,
    timeouts: Timeouts,
}

impl Endpoint {
    pub(crate) fn new(
        http: &HttpClient,
        base: &Url,
        paths: [&str; 2],
        api_key: Option<&SecretString>,
        timeouts: Timeouts,
    ) -> Result<Self, InvalidConfig> {
        let [chat, models] = paths.map(|path| join(base, path));
        let (chat, models) = (chat?, models?);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
        if let Some(key) = api_key {
            let key = key.expose_secret().trim();
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(InvalidConfig::ApiKey);
            }
            let mut value =
                HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| InvalidConfig::ApiKey)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self { caller: http.for_uri(&chat), chat, models, headers, timeouts })
    }

    /// Adds a header to every request.
    pub(crate) fn header(&mut self, name: &'static str, text: &str) -> Result<(), InvalidConfig> {
        let visible = !text.is_empty() && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        let value =
            HeaderValue::from_str(text).ok().filter(|_| visible).ok_or(InvalidConfig::Header(name))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(())
    }

    /// Where chats are sent.
    pub(crate) fn address(&self) -> String {
        self.chat.to_string()
    }

    /// Sends a chat body and waits for the reply's headers.
    pub(crate) async fn chat(&self, request: &ChatRequest, body: Vec<u8>) -> Result<Incoming, CallFailure> {
        let mut call = self.request(Method::POST, &self.chat, body.into());
        let key = &request.item_key;
        if !key.is_empty() && key.len() <= 128 && key.bytes().all(|b| b.is_ascii_graphic()) {
            let value = HeaderValue::from_str(key).map_err(|_| internal("the item key cannot be sent"))?;
            call.headers_mut().insert(REQUEST_ID, value);
        }
        send(&self.caller, call, &self.timeouts).await
    }

    /// Asks for the list of models.
    pub(crate) async fn models(&self) -> Result<Incoming, CallFailure> {
        self.get(&self.models).await
    }

    /// Asks for what is at `uri`, an address of the same server.
    pub(crate) async fn get(&self, uri: &Uri) -> Result<Incoming, CallFailure> {
        send(&self.caller, self.request(Method::GET, uri, Bytes::new()), &self.timeouts).await
    }

    fn request(&self, method: Method, uri: &Uri, body: Bytes) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// A failure of ours.
pub(crate) fn internal(message: &str) -> CallFailure {
    CallFailure::new(FailureKind::Internal, message)
}

/// The address of `path` below a base URL.
pub(crate) fn join(base: &Url, path: &str) -> Result<Uri, InvalidConfig> {
    let mut url = base.clone();
    let joined = format!("{}/{path}", base.path().trim_end_matches('/'));
    url.set_path(&joined);
    // Parsed anew, so that what is sent is what was vetted.
    let url = parse_base_url(url.as_str())?;
    Uri::try_from(url.as_str()).map_err(|_| invalid_base_url(url.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_keeps_its_path_prefix() {
        let cases = [
            ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
            ("http://127.0.0.1:8080/a/v1/", "http://127.0.0.1:8080/a/v1/chat/completions"),
            ("http://h", "http://h/chat/completions"),
        ];
        for (base, expected) in cases {
            assert_eq!(join(&parse_base_url(base).unwrap(), "chat/completions").unwrap(), expected);
        }
    }

    #[test]
    fn a_base_url_that_hides_something_is_refused() {
        for bad in
            ["", "openrouter.ai", "ftp://h", "http://", "http://u:hunter2@h", "http://h?x=1", "http://h#f"]
        {
            let error = parse_base_url(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
