//! What is told by mail.

use promptmill_domain::{Endpoint, WhyDisabled};
use url::Url;

use super::body::time;

/// How the URL of a delivery by mail begins; the address follows.
pub(super) const MAILTO: &str = "mailto:";

/// The subject of every mail.
pub(super) const SUBJECT: &str = "promptmill: an endpoint was switched off";

/// The text that tells of an endpoint which was switched off.
pub(super) fn of_disabled(off: &Endpoint, why: WhyDisabled) -> String {
    let because = match (why, off.failing) {
        (WhyDisabled::Failing, Some(failing)) => {
            format!("nothing reached it since {}", time(failing.since_ms))
        }
        (WhyDisabled::Failing, None) => "nothing reached it for five days".to_owned(),
        (WhyDisabled::Gone, _) => "it answered that it wants no more events (410)".to_owned(),
        (WhyDisabled::Requested, _) => "somebody asked for it".to_owned(),
    };
    let (id, tenant, url) = (off.id, &off.tenant, shown(&off.url));
    let description = off.description.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
    // Short lines, which need no encoding that a reader without a mail program would stumble over.
    format!(
        "This endpoint is told no more events:\n\n\
         {url}\n\
         {id}{description}\n\
         tenant {tenant}\n\n\
         Why: {because}.\n\n\
         To switch it on again:\n\
         PATCH /v1/endpoints/{id}\n\
         {{\"enabled\": true}}\n\n\
         What was given up until then is tried again by\n\
         promptmill webhook replay --since TIME\n"
    )
}

/// Where a URL leads, without what may be a secret in it.
fn shown(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return String::new() };
    url.origin().ascii_serialization()
}
