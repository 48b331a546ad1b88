//! API keys: made, listed and revoked over HTTP, and by [`bootstrap`] and [`issue`] for whoever has the store in hand.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use promptmill_domain::{KeyId, TenantId};
use promptmill_ports::{ApiKey, Records, Role, StoreError, Tenant};
use promptmill_runtime::Engine;
use promptmill_vault::api_key::{self, InvalidKey};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Caller, Scope, allowed};
use crate::extract::{Json, Path};
use crate::idempotency::Idempotency;
use crate::problem::{Problem, ProblemId};
use crate::state::App;
use crate::time::Time;

/// Characters of a key's name.
const MAX_NAME: usize = 100;
/// What a key's holder is where nothing is said.
const DEFAULT_ROLE: Role = Role::Member;

/// A key could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The name is empty, too long or not printable.
    #[error("a key's name is 1 to {MAX_NAME} characters without control characters")]
    Name,
    /// There is no scope of that name.
    #[error("scopes are {}", scope_names())]
    Scope(usize),
    /// It would be refused from the start.
    #[error("the key would have expired already")]
    Expired,
    /// There is no such tenant, or the store is away.
    #[error("the key could not be stored")]
    Store(#[from] StoreError),
}

fn scope_names() -> String {
    Scope::ALL.map(Scope::as_str).join(", ")
}

/// Makes a key and stores what is needed to recognise it. Answers its text, which nobody can read again, and the stored record.
///
/// # Errors
/// When name, scopes or expiry are not allowed, the tenant does not exist, or the store is away.
pub async fn issue(
    records: &dyn Records,
    now_ms: u64,
    tenant: &TenantId,
    name: &str,
    role: Role,
    scopes: Vec<String>,
    expires_ms: Option<u64>,
) -> Result<(String, ApiKey), IssueError> {
    if name.trim().is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(IssueError::Name);
    }
    let known = |name: &String| Scope::ALL.iter().any(|scope| scope.as_str() == name);
    if let Some(unknown) = scopes.iter().position(|name| !known(name)) {
        return Err(IssueError::Scope(unknown));
    }
    if expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
        return Err(IssueError::Expired);
    }
    let id = KeyId::at(now_ms, rand::random());
    let issued = api_key::issue(id, rand::random());
    let key = ApiKey {
        id,
        tenant: tenant.clone(),
        name: name.to_owned(),
        role,
        scopes,
        hash: issued.hash,
        hint: issued.hint,
        created_ms: now_ms,
        expires_ms,
        revoked_ms: None,
        used_ms: None,
    };
    records.add_key(&key).await?;
    Ok((issued.text.expose_secret().to_owned(), key))
}

/// Makes the tenant `default` and an owner's key on a store that has no key yet. Answers the key's text, once.
///
/// # Errors
/// When the store is away.
pub async fn bootstrap(engine: &Engine) -> Result<Option<String>, IssueError> {
    for tenant in engine.records.tenants().await? {
        if !engine.records.keys(&tenant.id).await?.is_empty() {
            return Ok(None);
        }
    }
    let id = TenantId::default_tenant();
    let now_ms = engine.clock.now_ms();
    engine.records.add_tenant(&Tenant { id: id.clone(), created_ms: now_ms }).await?;
    let records = engine.records.as_ref();
    let (text, _) = issue(records, now_ms, &id, "first key", Role::Owner, Vec::new(), None).await?;
    Ok(Some(text))
}

/// A key that its holder made could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It is no key.
    #[error("bootstrap_key is {0}; promptmill key generate prints one")]
    NoKey(InvalidKey),
    /// The store is away, or another tenant has it.
    #[error("the key could not be stored")]
    Store(#[from] StoreError),
}

/// Keeps an owner's key of the tenant `default` whose text its holder made before ([`api_key::issue`]). One that is known already stays as it is, revoked
/// too, so every start of any process may do this.
///
/// # Errors
/// When the text is no key or the store is away.
pub async fn adopt(engine: &Engine, text: &str) -> Result<(), AdoptError> {
    let (id, hash) = api_key::parse(text).map_err(AdoptError::NoKey)?;
    let (tenant, now_ms) = (TenantId::default_tenant(), engine.clock.now_ms());
    engine.records.add_tenant(&Tenant { id: tenant.clone(), created_ms: now_ms }).await?;
    let key = ApiKey {
        id,
        tenant,
        name: "bootstrap key".to_owned(),
        role: Role::Owner,
        scopes: Vec::new(),
        hash,
        hint: api_key::hint(text).to_owned(),
        created_ms: now_ms,
        expires_ms: None,
        revoked_ms: None,
        used_ms: None,
    };
    Ok(engine.records.add_key(&key).await?)
}

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(revoke))
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewKey {
    /// What people call it.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    name: String,
    /// viewer, member (the default), admin or owner.
    #[schema(value_type = Option<String>, pattern = "^(viewer|member|admin|owner)$")]
    role: Option<Role>,
    /// Narrows what the role may do; empty for all of it.
    #[schema(value_type = Option<Vec<Scope>>)]
    scopes: Option<Vec<String>>,
    /// From when on it is refused.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Time>,
}

/// A key without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct KeyView {
    id: String,
    /// What people call it.
    name: String,
    /// viewer, member, admin or owner.
    #[schema(value_type = String)]
    role: Role,
    /// What it may do at most; empty for everything its role may.
    scopes: Vec<String>,
    /// The last characters of the key.
    hint: String,
    created_at: Time,
    /// From when on it is refused.
    expires_at: Option<Time>,
    revoked_at: Option<Time>,
    /// When it was last used, to about a minute.
    used_at: Option<Time>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name,
            role: key.role,
            scopes: key.scopes,
            hint: key.hint,
            created_at: Time(key.created_ms),
            expires_at: key.expires_ms.map(Time),
            revoked_at: key.revoked_ms.map(Time),
            used_at: key.used_ms.map(Time),
        }
    }
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
struct NewKeyView {
    #[serde(flatten)]
    view: KeyView,
    /// The key itself. It is shown this once.
    key: String,
}

/// The tenant's keys.
#[derive(Debug, Serialize, ToSchema)]
struct KeyList {
    /// Oldest first, revoked ones too.
    data: Vec<KeyView>,
}

/// Makes a key. Nobody can make one that may do more than the key that asks for it.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", operation_id = "createKey",
    request_body(content = NewKey, example = json!({"name": "reports", "role": "viewer"})),
    responses((status = 201, description = "The key, shown this once", body = NewKeyView)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    idempotency: Idempotency,
    Json(new, digest): Json<NewKey>,
) -> Result<Response, Problem> {
    caller.may(Scope::AdminKeys)?;
    // Before any answer is repeated: it may hold a key that another caller was allowed to make.
    check_grant(&caller, &new)?;
    // The id is not derived from the request's plan: a key whose text was lost with an answer must not be found again, but made anew.
    idempotency.once(&app, &caller, digest, async |_| make(&app, &caller, new).await).await
}

/// Whether the caller may do everything that the new key may.
fn check_grant(caller: &Caller, new: &NewKey) -> Result<(), Problem> {
    let role = new.role.unwrap_or(DEFAULT_ROLE);
    let scopes = new.scopes.as_deref().unwrap_or_default();
    let beyond = |scope: &Scope| !caller.scopes().contains(scope);
    if role > caller.role || allowed(role, scopes).iter().any(beyond) {
        return Err(Problem::new(ProblemId::Forbidden)
            .detail("the new key would be allowed more than the key that asks for it"));
    }
    Ok(())
}

async fn make(app: &App, caller: &Caller, new: NewKey) -> Result<Response, Problem> {
    let role = new.role.unwrap_or(DEFAULT_ROLE);
    let scopes = new.scopes.unwrap_or_default();
    let expires_ms = new.expires_at.map(|time| time.0);
    let records = app.engine().records.as_ref();
    match issue(records, app.now_ms(), &caller.tenant, &new.name, role, scopes, expires_ms).await {
        Ok((text, key)) => {
            let view = NewKeyView { view: key.into(), key: text };
            Ok((StatusCode::CREATED, axum::Json(view)).into_response())
        }
        Err(IssueError::Store(error)) => Err(error.into()),
        Err(error @ IssueError::Name) => Err(Problem::invalid("/name", error.to_string())),
        Err(error @ IssueError::Scope(n)) => Err(Problem::invalid(format!("/scopes/{n}"), error.to_string())),
        Err(error @ IssueError::Expired) => Err(Problem::invalid("/expires_at", error.to_string())),
    }
}

/// The tenant's keys, without their secrets.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", operation_id = "listKeys",
    responses((status = 200, description = "The keys", body = KeyList)))]
async fn list(State(app): State<App>, caller: Caller) -> Result<axum::Json<KeyList>, Problem> {
    caller.may(Scope::AdminKeys)?;
    let keys = app.engine().records.keys(&caller.tenant).await?;
    Ok(axum::Json(KeyList { data: keys.into_iter().map(KeyView::from).collect() }))
}

/// Revokes a key for good: this process refuses it from now on, others within five seconds.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys", operation_id = "revokeKey",
    params(("id" = String, Path, description = "The key's id, key_...")),
    responses((status = 204, description = "It is revoked")))]
async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<KeyId>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::AdminKeys)?;
    app.engine().records.revoke_key(&caller.tenant, id, app.now_ms()).await?;
    app.keys().forget(id);
    Ok(StatusCode::NO_CONTENT)
}
