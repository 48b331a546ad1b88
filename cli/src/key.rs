//! `promptmill key`: API keys, of a server, of its data folder while none runs, or of a fleet's store.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use promptmill_api::keys::issue;
use promptmill_domain::{KeyId, TenantId};
use promptmill_ports::{ApiKey, Clock as _, Records, Role, Tenant};
use promptmill_runtime::fleet::{connect_store, store_of};
use promptmill_runtime::{Engine, Providers, Settings, SystemClock, install_tls};
use promptmill_vault::api_key;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::client::{Client, ServerArgs, print_json};
use crate::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and print it; it is shown this once.
    Create {
        /// What people call it.
        name: String,
        /// What its holder may do.
        #[arg(long, value_enum, default_value_t = RoleArg::Member)]
        role: RoleArg,
        /// Narrow the role to these, for example batches:read. May be repeated.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// With --data or --fleet: the tenant, made when missing.
        #[arg(long, value_name = "TENANT", default_value = "default", requires = "store")]
        tenant: TenantId,
        #[command(flatten)]
        place: Place,
    },
    /// Print a new key that nobody knows yet: for bootstrap_key, with which a service keeps it at its start.
    Generate,
    /// List the keys, without their secrets.
    List {
        /// With --data or --fleet: the tenant.
        #[arg(long, value_name = "TENANT", default_value = "default", requires = "store")]
        tenant: TenantId,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a key for good.
    Revoke {
        /// The key's id, key_...
        id: KeyId,
        /// With --data or --fleet: the tenant.
        #[arg(long, value_name = "TENANT", default_value = "default", requires = "store")]
        tenant: TenantId,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleArg {
    Viewer,
    Member,
    Admin,
    Owner,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Member => Self::Member,
            RoleArg::Admin => Self::Admin,
            RoleArg::Owner => Self::Owner,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Work on this data folder itself, while no server uses it. Needs no key.
    #[arg(long, value_name = "DIR", group = "store")]
    data: Option<PathBuf>,
    /// Work on a fleet's store itself, that of PROMPTMILL_MONGO_URL and PROMPTMILL_MONGO_DATABASE. Needs no key.
    #[arg(long, group = "store")]
    fleet: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn key(command: KeyCommand, settings: &Settings) -> Result<Exit, Failure> {
    match command {
        KeyCommand::Create { name, role, scopes, tenant, place } => {
            let made = match open(&place, settings).await? {
                Some(records) => {
                    let now_ms = SystemClock.now_ms();
                    records
                        .add_tenant(&Tenant { id: tenant.clone(), created_ms: now_ms })
                        .await
                        .map_err(unkept)?;
                    let issued =
                        issue(records.as_ref(), now_ms, &tenant, &name, role.into(), scopes, None).await;
                    let (text, key) = issued.map_err(|error| Failure::input(error.to_string()))?;
                    let mut view = view(&key);
                    view["key"] = text.into();
                    view
                }
                None => {
                    let role = serde_json::to_value(Role::from(role)).unwrap_or_default();
                    let body = json!({"name": name, "role": role, "scopes": scopes});
                    Client::new(&place.server)?.post("/v1/keys", Some(&body)).await?
                }
            };
            if place.server.json {
                print_json(&made)?;
            } else {
                eprintln!("{} ({}); the key is shown this once:", text(&made, "id"), text(&made, "role"));
                println!("{}", text(&made, "key"));
            }
        }
        KeyCommand::Generate => {
            let made = api_key::issue(KeyId::at(SystemClock.now_ms(), rand::random()), rand::random());
            println!("{}", made.text.expose_secret());
        }
        KeyCommand::List { tenant, place } => {
            let keys = match open(&place, settings).await? {
                Some(records) => records.keys(&tenant).await.map_err(unkept)?.iter().map(view).collect(),
                None => Client::new(&place.server)?.list("/v1/keys", &[], usize::MAX).await?,
            };
            for key in keys {
                if place.server.json {
                    print_json(&key)?;
                } else {
                    let state = if key["revoked_at"].is_null() { "" } else { "  revoked" };
                    println!(
                        "{}  {:8}  ...{}  {}{state}",
                        text(&key, "id"),
                        text(&key, "role"),
                        text(&key, "hint"),
                        text(&key, "name")
                    );
                }
            }
        }
        KeyCommand::Revoke { id, tenant, place } => {
            match open(&place, settings).await? {
                Some(records) => {
                    records.revoke_key(&tenant, id, SystemClock.now_ms()).await.map_err(unkept)?;
                }
                None => Client::new(&place.server)?.delete(&format!("/v1/keys/{id}"), None).await?,
            }
            eprintln!("{id} is revoked");
        }
    }
    Ok(Exit::Success)
}

/// The records of a store that is worked on itself; `None` where a server is asked.
async fn open(place: &Place, settings: &Settings) -> Result<Option<Arc<dyn Records>>, Failure> {
    if let Some(data) = &place.data {
        return open_folder(data).map(Some);
    }
    if !place.fleet {
        return Ok(None);
    }
    let (url, database) =
        store_of(settings).ok_or_else(|| Failure::input("--fleet: PROMPTMILL_MONGO_URL is not set"))?;
    install_tls();
    Ok(Some(connect_store(&url, &database).await?))
}

fn open_folder(data: &std::path::Path) -> Result<Arc<dyn Records>, Failure> {
    if !data.is_dir() {
        return Err(Failure::input(format!("--data: there is no folder {}", data.display())));
    }
    let engine = Engine::embedded(data, Arc::new(Providers::of([]))).map_err(|error| {
        Failure::work(
            "the data folder cannot be used (while a server runs on it, leave --data out and set PROMPTMILL_URL and PROMPTMILL_API_KEY)",
            error,
        )
    })?;
    Ok(engine.records)
}

fn unkept(error: promptmill_ports::StoreError) -> Failure {
    match error {
        promptmill_ports::StoreError::NotFound => Failure::input("there is no such key or tenant"),
        error => Failure::work("the keys cannot be read or written", error),
    }
}

fn view(key: &ApiKey) -> Value {
    json!({
        "id": key.id, "name": key.name, "role": key.role, "scopes": key.scopes, "hint": key.hint,
        "revoked_at": key.revoked_ms,
    })
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or("-")
}
