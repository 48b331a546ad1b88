//! A look at the servers before a fleet is built on them: can they be reached with these rights, and do they keep what is acknowledged?

use std::time::{Duration, Instant};

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, ReadPreference, RunCommandOptions, SelectionCriteria};
use mongodb::{Client, Database};
use promptmill_ports::{Clock, Finding};

use crate::codec::Fields;
use crate::collections::META;
use crate::options::MongoOptions;
use crate::schema;

/// What the tests run against, and what is promised.
const TESTED: &str = "6.0.5";
const OLDEST: (u32, u32) = (6, 0);

/// A server that is there answers within that.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A write of a fleet waits about so long for the majority's journals; where it takes longer each step does.
const SLOW_WRITE: Duration = Duration::from_millis(50);

/// Shares of the disk that are used.
const NEARLY_FULL: f64 = 0.85;
const FULL: f64 = 0.95;

/// Bytes that a batch of a million rows finds room in; a large disk has them left when all but a small share of it is used.
const ROOM: f64 = 5.0 * 1024.0 * 1024.0 * 1024.0;

/// Codes of the server: it does not take the credentials, or the user may not do that.
const UNAUTHENTICATED: i32 = 18;
const UNAUTHORIZED: i32 = 13;

/// Adds what there is to say of the servers at the URL of `options`, as it is found; one that makes the rest pointless is the last. Writes one document and takes
/// it away again.
pub async fn examine(options: &MongoOptions, clock: &dyn Clock, findings: &mut Vec<Finding>) {
    if let Err(stopped) = look(options, clock, findings).await {
        findings.push(stopped);
    }
}

async fn look(options: &MongoOptions, clock: &dyn Clock, findings: &mut Vec<Finding>) -> Result<(), Finding> {
    let mut driver = options.client().await.map_err(|error| Finding::wrong(error.to_string()))?;
    driver.server_selection_timeout = Some(ANSWERS_WITHIN);
    let client =
        Client::with_options(driver.clone()).map_err(|_| Finding::wrong("mongo.url cannot be used"))?;
    let database = client.database(&options.database);
    if let Err(error) = nearest(&database, doc! { "ping": 1 }).await {
        return Err(unreached(&error, driver).await);
    }
    let has_user = driver.credential.is_some();
    let before = clock.now_ms();
    let hello = nearest(&database, doc! { "hello": 1 }).await;
    let after = clock.now_ms();
    let build = nearest(&database, doc! { "buildInfo": 1 }).await;
    let (hello, build) = match (hello, build) {
        (Ok(hello), Ok(build)) => (hello, build),
        (Err(error), _) | (_, Err(error)) => return Err(unreached(&error, driver).await),
    };
    findings.push(version(build.get_str("version").unwrap_or_default()));
    findings.push(members(&hello)?);
    if let Ok(theirs) = hello.get_datetime("localTime") {
        let theirs = u64::try_from(theirs.timestamp_millis()).unwrap_or(0);
        findings.push(Finding::of_clock("MongoDB", theirs, before, after));
    }
    // From here on the primary is asked.
    findings.push(write(&database, has_user).await?);
    findings.extend(schema_of(&database).await);
    findings.extend(disk(&database).await);
    Ok(())
}

async fn nearest(database: &Database, command: Document) -> Result<Document, Error> {
    let nearest = SelectionCriteria::ReadPreference(ReadPreference::Nearest { options: None });
    let options = RunCommandOptions::builder().selection_criteria(nearest).build();
    database.run_command(command).with_options(options).await
}

/// Why nobody answered.
async fn unreached(error: &Error, driver: ClientOptions) -> Finding {
    let refused = Finding::wrong(
        "MongoDB refuses the user or the password of mongo.url; mend them, and name the database of the user with ?authSource=",
    );
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => refused,
        ErrorKind::Command(command) if command.code == UNAUTHENTICATED => refused,
        ErrorKind::ServerSelection { message, .. }
            if message.contains("Authentication") || message.contains("SCRAM") =>
        {
            refused
        }
        _ => unselected(driver).await,
    }
}

/// Why the driver takes none of the servers: each is asked by itself.
async fn unselected(driver: ClientOptions) -> Finding {
    let wanted = driver.repl_set_name.clone();
    let hosts: Vec<_> = driver.hosts.iter().map(ToString::to_string).collect();
    for host in &driver.hosts {
        let mut alone = driver.clone();
        (alone.hosts, alone.direct_connection, alone.repl_set_name) = (vec![host.clone()], Some(true), None);
        let Ok(client) = Client::with_options(alone) else { continue };
        if let Ok(hello) = nearest(&client.database("admin"), doc! { "hello": 1 }).await {
            return of_one(&hello, wanted.as_deref(), &host.to_string());
        }
    }
    Finding::wrong(format!(
        "no MongoDB server answers at {} within {} s; start it, or mend mongo.url or the way there",
        hosts.join(","),
        ANSWERS_WITHIN.as_secs()
    ))
}

/// Why a server that answers is none of the set of the URL.
fn of_one(hello: &Document, wanted: Option<&str>, host: &str) -> Finding {
    let Ok(name) = hello.get_str("setName") else {
        return match hello.get_bool("isreplicaset") {
            Ok(true) => Finding::wrong(format!(
                "the MongoDB server {host} waits for its replica set to be made; call rs.initiate() there once"
            )),
            _ => no_member(),
        };
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != name) {
        return Finding::wrong(format!(
            "the replica set of {host} is {name}, and not {wanted}; mend replicaSet= in mongo.url"
        ));
    }
    let members: Vec<_> = hello.get_array("hosts").into_iter().flatten().filter_map(Bson::as_str).collect();
    Finding::wrong(format!(
        "{host} answers, and the members that its replica set names do not ({}); name them there as every process reaches them, or bring them back",
        members.join(",")
    ))
}

fn no_member() -> Finding {
    Finding::wrong(
        "the MongoDB server is no member of a replica set; start it with --replSet NAME and call rs.initiate() once, one member will do",
    )
}

fn version(version: &str) -> Finding {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < OLDEST {
        return Finding::wrong(format!("MongoDB is {version}; install {}.{} or newer", OLDEST.0, OLDEST.1));
    }
    Finding::good(format!("MongoDB is {version} (tested with {TESTED})"))
}

fn members(hello: &Document) -> Result<Finding, Finding> {
    if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        return Ok(Finding::good("MongoDB is reached through mongos"));
    }
    let Ok(name) = hello.get_str("setName") else { return Err(no_member()) };
    // Some can never be the primary, and are listed by themselves.
    let members: usize =
        ["hosts", "passives"].map(|list| hello.get_array(list).map_or(0, Vec::len)).iter().sum();
    Ok(match members {
        0 | 1 => Finding::note(format!(
            "the replica set {name} has one member, whose disk is all there is; add two more, or back it up"
        )),
        2 => Finding::note(format!(
            "the replica set {name} has two members, and stands still when either is away; add a third"
        )),
        members => Finding::good(format!("the replica set {name} has {members} members")),
    })
}

/// A document written as a fleet writes, and taken away, with those that somebody left who died over it.
async fn write(database: &Database, has_user: bool) -> Result<Finding, Finding> {
    let concern = doc! { "w": "majority", "j": true, "wtimeout": ANSWERS_WITHIN.as_millis() as i64 };
    let name = database.name();
    let id = format!("doctor-{:032x}", rand::random::<u128>());
    let insert = doc! { "insert": META, "documents": [{ "_id": &id }], "writeConcern": concern.clone() };
    let update = doc! { "q": { "_id": &id }, "u": { "$set": { "again": true } } };
    let update = doc! { "update": META, "updates": [update], "writeConcern": concern.clone() };
    let ours = doc! { "q": { "_id": { "$regex": "^doctor-" } }, "limit": 0 };
    let delete = doc! { "delete": META, "deletes": [ours], "writeConcern": concern };
    let run = async |command: Document| {
        let answer =
            database.run_command(command).await.map_err(|error| unwritten(&error, name, has_user))?;
        if answer.contains_key("writeConcernError") {
            return Err(Finding::wrong(format!(
                "a write to {name} is not in the journals of a majority within {} s; bring back the members that are away",
                ANSWERS_WITHIN.as_secs()
            )));
        }
        match answer.get_array("writeErrors") {
            Ok(errors) if !errors.is_empty() => {
                Err(Finding::wrong(format!("the database {name} refuses a document; its log tells why")))
            }
            _ => Ok(()),
        }
    };
    // The first may make the collection, and a connection; it is the second that is timed.
    run(insert).await?;
    let begun = Instant::now();
    let timed = run(update).await;
    let took = begun.elapsed();
    run(delete).await?;
    timed?;
    let took_ms = took.as_secs_f64() * 1e3;
    if took > SLOW_WRITE {
        return Ok(Finding::note(format!(
            "a write to {name} takes {took_ms:.0} ms until it is in the journals of a majority, and each step of a fleet does; use faster disks"
        )));
    }
    Ok(Finding::good(format!("a write to {name} is in the journals of a majority after {took_ms:.1} ms")))
}

fn unwritten(error: &Error, database: &str, has_user: bool) -> Finding {
    match error.kind.as_ref() {
        ErrorKind::Command(command) if command.code == UNAUTHORIZED && !has_user => {
            Finding::wrong("MongoDB wants a user; put it into mongo.url: mongodb://USER:PASSWORD@...")
        }
        ErrorKind::Command(command) if command.code == UNAUTHORIZED => Finding::wrong(format!(
            "the user of mongo.url may not write to the database {database}; give it the role readWrite there"
        )),
        ErrorKind::ServerSelection { .. } => {
            Finding::wrong("the replica set has no primary; bring back the members that are away")
        }
        _ => Finding::wrong(format!("a write to the database {database} failed; its log tells why")),
    }
}

async fn schema_of(database: &Database) -> Option<Finding> {
    let find = doc! { "find": META, "filter": { "_id": schema::SCHEMA }, "limit": 1 };
    let found = database.run_command(find).await.ok()?;
    let found =
        found.get_document("cursor").ok()?.get_array("firstBatch").ok()?.first()?.as_document()?.clone();
    let version = Fields(&found).uint("version").ok()?;
    Some(match version {
        newer if newer > schema::VERSION => Finding::wrong(format!(
            "the database {} is of a newer promptmill (schema {newer}, this one knows up to {}); use a newer promptmill",
            database.name(),
            schema::VERSION
        )),
        version => Finding::good(format!("the database {} has schema {version}", database.name())),
    })
}

async fn disk(database: &Database) -> Option<Finding> {
    let stats = database.run_command(doc! { "dbStats": 1 }).await.ok()?;
    let bytes = |name| stats.get_f64(name).ok().filter(|bytes| *bytes > 0.0);
    Some(disk_used(bytes("fsUsedSize")?, bytes("fsTotalSize")?))
}

fn disk_used(used: f64, total: f64) -> Finding {
    let share = used / total;
    let percent = format!("the disk of MongoDB is {:.0} % full", share * 100.0);
    if share > FULL && total - used < ROOM {
        Finding::wrong(format!("{percent}; free some of it, or writes will be refused soon"))
    } else if share > NEARLY_FULL {
        Finding::note(format!("{percent}; enlarge it before it is full"))
    } else {
        Finding::good(percent)
    }
}

#[cfg(test)]
mod tests {
    use promptmill_ports::Verdict;

    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (text, verdict) in [
            ("6.0.5", Verdict::Good),
            ("10.1.0", Verdict::Good),
            ("7.0.0-rc1", Verdict::Good),
            ("5.0.9", Verdict::Wrong),
            ("4.4", Verdict::Wrong),
            ("", Verdict::Wrong),
        ] {
            assert_eq!(version(text).verdict, verdict, "{text}");
        }
    }

    #[test]
    fn a_server_that_is_none_of_the_set_is_told_why() {
        let of = |hello| of_one(&hello, Some("rs0"), "h:1").sentence;
        assert!(of(doc! {}).contains("no member of a replica set"));
        assert!(of(doc! { "isreplicaset": true }).contains("rs.initiate()"));
        assert!(of(doc! { "setName": "rs1" }).contains("is rs1, and not rs0; mend replicaSet="));
        assert!(of(doc! { "setName": "rs0", "hosts": ["a:1", "b:1"] }).contains("(a:1,b:1)"));
    }

    #[test]
    fn a_disk_is_judged_by_what_is_used_of_it() {
        const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
        let of = |share| disk_used(share * 100.0 * GIB, 100.0 * GIB).verdict;
        assert_eq!(
            [0.0, 0.85, 0.9, 0.951].map(of),
            [Verdict::Good, Verdict::Good, Verdict::Note, Verdict::Wrong]
        );
        assert_eq!(
            disk_used(97.0 * GIB, 100.0 * GIB).sentence,
            "the disk of MongoDB is 97 % full; free some of it, or writes will be refused soon"
        );
        assert_eq!(
            disk_used(970.0 * GIB, 1_000.0 * GIB),
            Finding::note("the disk of MongoDB is 97 % full; enlarge it before it is full"),
            "30 GiB are left"
        );
    }

    #[test]
    fn the_number_of_members_is_judged_and_a_server_alone_is_refused() {
        let of = |members: usize| {
            let hosts: Vec<_> = (0..members).map(|n| format!("h{n}:1")).collect();
            members_of(&doc! { "setName": "rs0", "hosts": hosts })
        };
        fn members_of(hello: &Document) -> Verdict {
            super::members(hello).map_or_else(|found| found.verdict, |found| found.verdict)
        }
        assert_eq!([1, 2, 3, 5].map(of), [Verdict::Note, Verdict::Note, Verdict::Good, Verdict::Good]);
        assert_eq!(
            members_of(&doc! { "setName": "rs0", "hosts": ["a", "b"], "passives": ["c"] }),
            Verdict::Good
        );
        assert_eq!(members_of(&doc! {}), Verdict::Wrong);
        assert_eq!(members_of(&doc! { "msg": "isdbgrid" }), Verdict::Good);
    }
}
