//! The receiver of a batch's events: its URL vetted, its signing secret made or checked, and sealed as it is kept.

use promptmill_domain::{BatchId, TenantId, Webhook};
use promptmill_egress::{Secret, vet_url};
use secrecy::ExposeSecret as _;

use super::draft::NewBatchBody;
use crate::App;
use crate::problem::{FieldError, Problem};

/// Where events go and how they are signed; whether the secret was made by us.
pub(crate) fn named(app: &App, body: &NewBatchBody) -> Result<Option<(String, Secret, bool)>, FieldError> {
    let Some(url) = &body.webhook_url else {
        return match (&body.webhook_secret, body.webhook_results) {
            (Some(_), _) => Err(FieldError::at("/webhook_secret", "is of use only with a webhook_url")),
            (None, Some(_)) => Err(FieldError::at("/webhook_results", "is of use only with a webhook_url")),
            (None, None) => Ok(None),
        };
    };
    let url = vet_url(url, app.url_policy())
        .map_err(|refused| FieldError::at("/webhook_url", refused.to_string()))?;
    let (secret, made) = match &body.webhook_secret {
        Some(text) => {
            let secret = Secret::parse(text);
            (secret.map_err(|refused| FieldError::at("/webhook_secret", refused.to_string()))?, false)
        }
        None => {
            let no_randomness =
                || FieldError::at("/webhook_secret", "cannot be made at the moment; send one");
            (Secret::generate().ok_or_else(no_randomness)?, true)
        }
    };
    Ok(Some((url.to_string(), secret, made)))
}

/// The webhook as it is kept with the batch `id`.
pub(crate) fn sealed(
    app: &App,
    tenant: &TenantId,
    id: BatchId,
    url: String,
    secret: &Secret,
    results: bool,
) -> Result<Webhook, Problem> {
    let text = secret.text();
    let sealed = app.vault().seal(&Webhook::context(tenant, id), text.expose_secret().as_bytes());
    Ok(Webhook { url, sealed_secret: sealed.map_err(Problem::internal)?, results })
}

/// The secret of the webhook that is kept with the batch `id`.
pub(crate) fn opened(
    app: &App,
    tenant: &TenantId,
    id: BatchId,
    webhook: &Webhook,
) -> Result<Secret, Problem> {
    let bytes = app.vault().open(&Webhook::context(tenant, id), &webhook.sealed_secret);
    let bytes = bytes.map_err(Problem::internal)?;
    let text = std::str::from_utf8(bytes.expose_secret()).map_err(Problem::internal)?;
    Secret::parse(text).map_err(Problem::internal)
}

/// The webhook of one batch, its secret sealed for another.
pub(crate) fn moved(
    app: &App,
    tenant: &TenantId,
    from: BatchId,
    to: BatchId,
    webhook: &Webhook,
) -> Result<Webhook, Problem> {
    let secret = opened(app, tenant, from, webhook)?;
    sealed(app, tenant, to, webhook.url.clone(), &secret, webhook.results)
}
