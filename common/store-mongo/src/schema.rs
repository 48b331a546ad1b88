//! The schema version, and how an older database is brought forward: step by step under a lock, each step additive, so that processes
//! of the release before go on meanwhile.

use std::time::{Duration, Instant};

use mongodb::bson::{Bson, Document, doc};
use promptmill_ports::{StoreError, StoreResult};

use crate::codec::{Fields, binary, conflict};
use crate::collections::META;
use crate::commands::{Commands, Concern, Query, Update};

/// The version this program writes.
pub(crate) const VERSION: u64 = 1;
/// The document in [`META`].
pub(crate) const SCHEMA: &str = "schema";
/// A lock that was not given back is taken over after this long.
const LOCK: Duration = Duration::from_secs(60);
/// How long a process waits for another one to bring the database forward.
const WAIT: Duration = Duration::from_secs(120);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

/// Brings the database to this program's version.
///
/// # Errors
/// `Conflict` when a newer promptmill wrote it.
pub(crate) async fn migrate(commands: &Commands) -> StoreResult<()> {
    let begun = Instant::now();
    loop {
        let query = Query::of(doc! { "_id": SCHEMA });
        let Some(found) = commands.find_one(META, query, Concern::Local).await? else {
            commands.insert_one(META, &doc! { "_id": SCHEMA, "version": 0_i64 }).await?;
            continue;
        };
        let version = Fields(&found).uint("version")?;
        if version > VERSION {
            return Err(newer(version));
        }
        if version == VERSION {
            return Ok(());
        }
        if let Some(token) = lock(commands, version).await? {
            step(commands, version).await?;
            finish(commands, version, token).await?;
        } else if begun.elapsed() > WAIT {
            return Err(StoreError::unavailable(
                "another process does not finish bringing the database forward",
            ));
        } else {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// That the database is of this program's version, for those who may not bring it forward.
///
/// # Errors
/// `Conflict` when there is nothing of promptmill in it, or an older or newer one wrote it.
pub(crate) async fn check_current(commands: &Commands, name: &str) -> StoreResult<()> {
    let Some(found) = commands.find_one(META, Query::of(doc! { "_id": SCHEMA }), Concern::Majority).await?
    else {
        return Err(conflict(format!("there is no store in the database {name}")));
    };
    let version = Fields(&found).uint("version")?;
    if version == VERSION {
        return Ok(());
    }
    if version > VERSION {
        return Err(newer(version));
    }
    Err(conflict(format!(
        "the database has schema version {version}, and this promptmill's is {VERSION}; start this promptmill on it once"
    )))
}

fn newer(version: u64) -> StoreError {
    conflict(format!(
        "the database has schema version {version}, this promptmill knows up to {VERSION}; use a newer promptmill"
    ))
}

/// Takes the database from `version` to the next. Repeatable: whoever did it last may have died before it said so.
#[expect(clippy::unused_async, reason = "the first step has nothing to convert; those to come will")]
async fn step(_commands: &Commands, version: u64) -> StoreResult<()> {
    match version {
        // A new database: the indexes make the collections.
        0 => Ok(()),
        _ => Err(conflict("this promptmill cannot bring the database forward")),
    }
}

/// Locks the database for a step; `None` while someone else has it.
async fn lock(commands: &Commands, version: u64) -> StoreResult<Option<Bson>> {
    let token = binary(rand::random::<[u8; 16]>());
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    let millis = i64::try_from(LOCK.as_millis()).unwrap_or(i64::MAX);
    // The time is the server's, and a lock that is missing is less than any.
    let free = doc! { "_id": SCHEMA, "version": version, "$expr": { "$lt": ["$lock.until", "$$NOW"] } };
    let until = doc! { "$add": ["$$NOW", millis] };
    let change = vec![doc! { "$set": { "lock": { "token": token.clone(), "until": until } } }];
    let update = Update { change: Bson::from(change), ..Update::one(free, Document::new()) };
    if commands.update(META, vec![update]).await?.n == 1 {
        return Ok(Some(token));
    }
    let mine = Query::of(doc! { "_id": SCHEMA, "lock.token": token.clone() });
    Ok(commands.find_one(META, mine, Concern::Local).await?.map(|_| token))
}

async fn finish(commands: &Commands, version: u64, token: Bson) -> StoreResult<()> {
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    let mine = doc! { "_id": SCHEMA, "version": version, "lock.token": token };
    let change = doc! { "$set": { "version": version + 1 }, "$unset": { "lock": "" } };
    // Whoever took the lock over does the same step, so it does not matter whose this is.
    commands.update(META, vec![Update::one(mine, change)]).await.map(|_| ())
}
