//! Who calls: the API key of a request, and what it may do.
//!
//! A key is looked up in the store and remembered for five seconds; a key that this process revokes is forgotten at once. Only the hash
//! of a secret is ever compared, and no answer tells an unknown key from a wrong, revoked or expired one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use promptmill_domain::{KeyId, TenantId};
use promptmill_ports::{ApiKey, Role, StoreResult};
use promptmill_vault::api_key;
use utoipa::ToSchema;

use crate::frame::Peer;
use crate::limits;
use crate::problem::{Problem, ProblemId, chain};
use crate::state::App;

/// How long a key is believed without asking the store again.
const FRESH: Duration = Duration::from_secs(5);
/// How often the use of a key is written down, milliseconds.
const NOTE_USE_EVERY_MS: u64 = 60_000;
/// Keys that are remembered.
const MAX_KEYS: usize = 10_000;

/// One thing a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
pub(crate) enum Scope {
    /// See batches, results and generations.
    #[schema(rename = "batches:read")]
    BatchesRead,
    /// Make and steer them.
    #[schema(rename = "batches:write")]
    BatchesWrite,
    /// See templates.
    #[schema(rename = "templates:read")]
    TemplatesRead,
    /// Make and change them.
    #[schema(rename = "templates:write")]
    TemplatesWrite,
    /// See endpoints and deliveries.
    #[schema(rename = "webhooks:read")]
    WebhooksRead,
    /// Make and change endpoints, and have deliveries tried again.
    #[schema(rename = "webhooks:write")]
    WebhooksWrite,
    /// See schedules and their ticks.
    #[schema(rename = "schedules:read")]
    SchedulesRead,
    /// Make, change and run schedules.
    #[schema(rename = "schedules:write")]
    SchedulesWrite,
    /// See how the limits of the installation's providers are used, by all tenants together.
    #[schema(rename = "providers:read")]
    ProvidersRead,
    /// Make and revoke keys.
    #[schema(rename = "admin:keys")]
    AdminKeys,
}

impl Scope {
    /// Every one.
    pub(crate) const ALL: [Self; 10] = [
        Self::BatchesRead,
        Self::BatchesWrite,
        Self::TemplatesRead,
        Self::TemplatesWrite,
        Self::WebhooksRead,
        Self::WebhooksWrite,
        Self::SchedulesRead,
        Self::SchedulesWrite,
        Self::ProvidersRead,
        Self::AdminKeys,
    ];

    /// The name on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BatchesRead => "batches:read",
            Self::BatchesWrite => "batches:write",
            Self::TemplatesRead => "templates:read",
            Self::TemplatesWrite => "templates:write",
            Self::WebhooksRead => "webhooks:read",
            Self::WebhooksWrite => "webhooks:write",
            Self::SchedulesRead => "schedules:read",
            Self::SchedulesWrite => "schedules:write",
            Self::ProvidersRead => "providers:read",
            Self::AdminKeys => "admin:keys",
        }
    }

    /// Whether a role covers it.
    const fn is_of(self, role: Role) -> bool {
        match self {
            Self::BatchesRead | Self::TemplatesRead | Self::WebhooksRead | Self::SchedulesRead => true,
            Self::BatchesWrite | Self::TemplatesWrite | Self::WebhooksWrite | Self::SchedulesWrite => {
                matches!(role, Role::Member | Role::Admin | Role::Owner)
            }
            Self::ProvidersRead | Self::AdminKeys => matches!(role, Role::Admin | Role::Owner),
        }
    }
}

/// What a key of that role and those scopes may do. Names that are no scope of ours allow nothing.
pub(crate) fn allowed(role: Role, scopes: &[String]) -> Vec<Scope> {
    let named = |scope: &Scope| scopes.is_empty() || scopes.iter().any(|name| name == scope.as_str());
    Scope::ALL.into_iter().filter(|scope| scope.is_of(role)).filter(named).collect()
}

/// Whoever sent the request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Whose data it sees.
    pub(crate) tenant: TenantId,
    /// The key it showed.
    pub(crate) key_id: KeyId,
    /// What it is within the tenant.
    pub(crate) role: Role,
    scopes: Arc<[Scope]>,
}

impl Caller {
    /// Whether it may do that.
    ///
    /// # Errors
    /// `forbidden`, naming the scope.
    pub(crate) fn may(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        Err(Problem::new(ProblemId::Forbidden)
            .detail(format!("the key does not have the scope {}", scope.as_str())))
    }

    /// Everything it may do.
    pub(crate) fn scopes(&self) -> &[Scope] {
        &self.scopes
    }
}

#[cfg(test)]
impl Caller {
    /// Someone who may do everything in `tenant`.
    pub(crate) fn owner_of(tenant: TenantId) -> Self {
        let key_id = KeyId::from_bytes([0; 16]);
        Self { tenant, key_id, role: Role::Owner, scopes: Scope::ALL.into() }
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::internal("a route that needs a key is not behind the key check"))
    }
}

/// The layer before every route that needs a key.
pub(crate) async fn require_key(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let from = request.extensions().get::<Peer>().map(|peer| peer.0);
    let caller = match authenticate(&app, request.headers(), from).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    match app.limits().requests.take(caller.key_id, Instant::now()) {
        Ok(left) => {
            request.extensions_mut().insert(caller);
            let mut response = next.run(request).await;
            limits::describe(app.config(), left, response.headers_mut());
            response
        }
        Err(wait) => limits::refuse(app.config(), wait),
    }
}

async fn authenticate(app: &App, headers: &HeaderMap, from: Option<IpAddr>) -> Result<Caller, Problem> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let Some(authorization) = sent.next() else {
        return Err(ProblemId::Unauthorized.into());
    };
    if sent.next().is_some() {
        return Err(Problem::new(ProblemId::BadRequest).detail("two Authorization headers"));
    }
    let shown = authorization
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, key)| api_key::parse(key.trim()).ok());
    let Some((id, hash)) = shown else {
        return Err(refused(app, from));
    };
    // Whoever guesses keys must not keep the store busy; keys that were good a moment ago are not held up by that.
    if !app.keys().is_known(id)
        && let Some(wait) = from.and_then(|from| app.limits().refusals.wait(&from, Instant::now()))
    {
        return Err(limits::too_many_refusals(wait));
    }
    let Some(key) = look_up(app, id).await? else {
        return Err(refused(app, from));
    };
    let now_ms = app.now_ms();
    if !api_key::verify(&key.hash, &hash) || is_over(&key, now_ms) {
        return Err(refused(app, from));
    }
    note_use(app, id, now_ms);
    Ok(Caller {
        tenant: key.tenant.clone(),
        key_id: id,
        role: key.role,
        scopes: allowed(key.role, &key.scopes).into(),
    })
}

/// The key of that id, at most [`FRESH`] old.
async fn look_up(app: &App, id: KeyId) -> StoreResult<Option<Arc<ApiKey>>> {
    if let Some(key) = app.keys().fresh(id) {
        return Ok(Some(key));
    }
    let epoch = app.keys().epoch();
    let found = app.engine().records.key(id).await?;
    Ok(found.map(|key| app.keys().remember(key, epoch)))
}

fn is_over(key: &ApiKey, now_ms: u64) -> bool {
    key.revoked_ms.is_some() || key.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
}

/// Whether a caller is still one: for answers that outlast the look at its key by long.
///
/// # Errors
/// The store's.
pub(crate) async fn is_still_good(app: &App, caller: &Caller) -> StoreResult<bool> {
    let key = look_up(app, caller.key_id).await?;
    Ok(key.is_some_and(|key| !is_over(&key, app.now_ms())))
}

/// The answer to a key that is not good; to too many of them from one address another one.
fn refused(app: &App, from: Option<IpAddr>) -> Problem {
    match from.map(|from| app.limits().refusals.take(from, Instant::now())) {
        Some(Err(wait)) => limits::too_many_refusals(wait),
        Some(Ok(_)) | None => Problem::new(ProblemId::Unauthorized).detail("the API key is not valid"),
    }
}

/// Writes down that the key is used, beside the request and at most once a minute.
fn note_use(app: &App, id: KeyId, now_ms: u64) {
    if !app.keys().is_use_to_be_noted(id, now_ms) {
        return;
    }
    let records = app.engine().records.clone();
    tokio::spawn(async move {
        if let Err(error) = records.keys_used(&[(id, now_ms)]).await {
            tracing::debug!(key.id = %id, error = chain(&error), "the use of a key could not be noted");
        }
    });
}

/// Keys that were looked up lately.
#[derive(Default)]
pub(crate) struct KeyCache(Mutex<Keys>);

#[derive(Default)]
struct Keys {
    /// Grows with every [`KeyCache::forget`], so that a look-up begun before it is not remembered after it.
    epoch: u64,
    known: HashMap<KeyId, Known>,
}

struct Known {
    key: Arc<ApiKey>,
    read_at: Instant,
    used_ms: u64,
}

impl KeyCache {
    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, id: KeyId) -> Option<Arc<ApiKey>> {
        let keys = self.lock();
        keys.known.get(&id).filter(|known| known.read_at.elapsed() < FRESH).map(|known| known.key.clone())
    }

    fn is_known(&self, id: KeyId) -> bool {
        self.lock().known.contains_key(&id)
    }

    fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    fn remember(&self, key: ApiKey, epoch: u64) -> Arc<ApiKey> {
        let key = Arc::new(key);
        let mut keys = self.lock();
        if keys.epoch != epoch {
            return key;
        }
        if keys.known.len() >= MAX_KEYS && !keys.known.contains_key(&key.id) {
            keys.known.retain(|_, known| known.read_at.elapsed() < FRESH);
            if keys.known.len() >= MAX_KEYS {
                return key;
            }
        }
        let used_ms = keys.known.get(&key.id).map_or(0, |known| known.used_ms).max(key.used_ms.unwrap_or(0));
        keys.known.insert(key.id, Known { key: key.clone(), read_at: Instant::now(), used_ms });
        key
    }

    /// Believes nothing of the key any more.
    pub(crate) fn forget(&self, id: KeyId) {
        let mut keys = self.lock();
        keys.epoch += 1;
        keys.known.remove(&id);
    }

    fn is_use_to_be_noted(&self, id: KeyId, now_ms: u64) -> bool {
        let mut keys = self.lock();
        match keys.known.get_mut(&id) {
            Some(known) if known.used_ms + NOTE_USE_EVERY_MS <= now_ms => {
                known.used_ms = now_ms;
                true
            }
            Some(_) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_narrow_a_role_and_never_widen_it() {
        let scopes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(allowed(Role::Owner, &[]), Scope::ALL);
        assert_eq!(
            allowed(Role::Viewer, &[]),
            [Scope::BatchesRead, Scope::TemplatesRead, Scope::WebhooksRead, Scope::SchedulesRead]
        );
        assert_eq!(allowed(Role::Member, &scopes(&["batches:write", "admin:keys"])), [Scope::BatchesWrite]);
        assert_eq!(allowed(Role::Owner, &scopes(&["batches:*", ""])), []);
    }
}
