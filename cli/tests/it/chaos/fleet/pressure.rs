//! Memory pressure (row 21): watchers and slow readers by the thousand beside an upload of very many rows, through one api.
//!
//! `PROMPTMILL_PRESSURE_WATCHERS` and `PROMPTMILL_PRESSURE_ROWS` say how many; by default few enough for every run of all tests.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::{Trial, seed};
use crate::chaos::scene::wait_until_it;
use crate::fleet::{Fleet, Servers, Size};
use crate::server::Http;

/// Rows of each part of the upload.
const ROWS_A_PART: usize = 25_000;

/// Tenants that watch.
const TENANTS: usize = 4;

/// Streams of events that one api has at the same time.
const STREAMS: usize = 512;

/// Readings of results of one tenant.
const READINGS: usize = 128;

/// Readers of results.
const READERS: usize = 356;

/// Those who come at the same time.
const AT_ONCE: usize = 200;

/// No answer takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one process may have resident at the most, KiB: it has to do with 256 MB.
const PEAK_KIB: u64 = 256_000_000 / 1024;

/// A template whose calls are told from those of journalled rows.
fn template() -> Value {
    json!({
        "name": "pressure",
        "messages": [{"role": "user", "content": "Say something about {{ m }}."}],
        "variables": {"m": {"type": "string"}},
        "output": {"format": "text"}
    })
}

/// The number that the environment asks for.
fn asked(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |number| number.parse().unwrap())
}

/// Asks from an address of its own for every hundred, and answers the status; a connection that was answered 200 is kept, and not read from.
async fn ask(to: SocketAddr, nth: usize, key: &str, path: &str) -> (u16, Option<TcpStream>) {
    let asked = async {
        let socket = TcpSocket::new_v4().unwrap();
        // What is not read is to stay where it is sent from.
        socket.set_recv_buffer_size(4096).unwrap();
        let [high, low] = u16::try_from(nth / 100).unwrap().to_be_bytes();
        socket.bind((Ipv4Addr::new(127, 1, high, low), 0).into()).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.expect("every connection is answered");
        let status: u16 = std::str::from_utf8(&status[9..]).unwrap().parse().unwrap();
        (status, (status == 200).then_some(stream))
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("every connection is answered in time")
}

/// All who ask: how many were answered what, and the connections that were kept.
async fn crowd<'a>(
    to: SocketAddr,
    who: impl Iterator<Item = (&'a str, &'a str)>,
) -> (BTreeMap<u16, usize>, Vec<TcpStream>) {
    let asking = who.enumerate().map(|(nth, (key, path))| ask(to, nth, key, path));
    let answers: Vec<_> = stream::iter(asking).buffer_unordered(AT_ONCE).collect().await;
    let mut told = BTreeMap::new();
    answers.iter().for_each(|(status, _)| *told.entry(*status).or_default() += 1);
    (told, answers.into_iter().filter_map(|(_, stream)| stream).collect())
}

/// Sends very many rows, again what was refused for now, and submits them. Answers the batch.
async fn upload(client: Http, rows: usize) -> String {
    let draft = json!({"template": template(), "model": "openai:m"});
    let id = made(&client, &draft).await;
    for part in 0..(rows / ROWS_A_PART) as u32 {
        let lines: String =
            (0..ROWS_A_PART).map(|n| format!("{{\"m\":\"pressure-{part}-{n}\"}}\n")).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, view) = client.put_rows(&id, part, lines.clone()).await;
            if status == 200 {
                break;
            }
            assert!([429, 503].contains(&status.as_u16()) && Instant::now() < deadline, "{view}");
            // What the answer asks for at least.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let (status, view) = client.step(&format!("/v1/batches/{id}/submit")).await;
    assert_eq!(status, 200, "{view}");
    id
}

async fn made(client: &Http, body: &Value) -> String {
    let (status, view) = client.post("/v1/batches", body).await;
    assert_eq!(status, 201, "{view}");
    view["id"].as_str().unwrap().to_owned()
}

/// A batch whose outcomes are twenty megabytes together.
async fn long_outcomes(client: &Http) -> String {
    let text = json!({"type": "string", "minLength": 4_000});
    let texts = json!({"type": "array", "minItems": 10, "items": text});
    let long = json!({"type": "object", "required": ["texts"], "properties": {"texts": texts}});
    let mut template = template();
    template["output"] = json!({"format": "json", "schema": long});
    let rows: Vec<Value> = (0..500).map(|n| json!({"variables": {"m": format!("long-{n}")}})).collect();
    let id = made(client, &json!({"template": template, "model": "openai:m", "rows": rows})).await;
    let view = client.wait_for_state(&id, &["completed"]).await;
    assert_eq!(view["counts"]["succeeded"], 500, "{view}");
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_watchers_and_slow_readers_than_there_are_places_are_told_so_and_nobody_else_waits() {
    let trial = Trial::begin(seed(1), "0..20", Servers::start(), Size::ONE);
    let (watchers, rows) = (
        asked("PROMPTMILL_PRESSURE_WATCHERS", 2_000),
        asked("PROMPTMILL_PRESSURE_ROWS", 100_000).next_multiple_of(ROWS_A_PART),
    );
    let api = trial.fleet.apis[0].url.clone();
    let address: SocketAddr = api.strip_prefix("http://").unwrap().parse().unwrap();
    let client_of = |tenant: &str| {
        let key = Fleet::new_key(&trial.scene.desk, tenant);
        (Http::new(&api, &key), key)
    };
    let (large, _) = client_of("large");
    let mut watched = Vec::new();
    for n in 0..TENANTS {
        let (client, key) = client_of(&format!("watching-{n}"));
        let id = made(&client, &json!({"template": template(), "model": "openai:m"})).await;
        watched.push((key, format!("/v1/batches/{id}/events")));
    }
    let (reader, reading_key) = client_of("reading");
    let long = long_outcomes(&reader).await;
    let results = format!("/v1/batches/{long}/results");

    let load = trial.load();
    let begun = Instant::now();
    let uploading = tokio::spawn(upload(large.clone(), rows));
    let readers = std::iter::repeat_n((reading_key.as_str(), results.as_str()), READERS);
    let (told_readers, read) = crowd(address, readers).await;
    assert_eq!(told_readers, [(200, READINGS), (429, READERS - READINGS)].into());
    let who = (0..watchers).map(|n| &watched[n % TENANTS]).map(|(key, path)| (key.as_str(), path.as_str()));
    let (told_watchers, watching) = crowd(address, who).await;
    assert_eq!(told_watchers, [(200, STREAMS), (429, watchers - STREAMS)].into());
    load.wait_for_more("others' batches to be taken beside the crowd", 40, |told| &told.acked).await;
    let id = uploading.await.unwrap();
    let took = begun.elapsed();
    let last_fault = Instant::now();
    println!(
        "pressure: {watchers} watchers were told {told_watchers:?}, {} slow readers {told_readers:?}, {rows} rows were sent meanwhile in {:.1} s; the api had at most {} MiB",
        READERS,
        took.as_secs_f64(),
        trial.fleet.apis[0].peak_kib() / 1024,
    );
    drop((watching, read));
    let (key, path) = &watched[0];
    wait_until_it("there to be places again", async || ask(address, 0, key, path).await.0 == 200).await;
    large.step(&format!("/v1/batches/{id}/cancel")).await;
    let view = large.wait_for_state(&id, &["cancelled"]).await;
    assert_eq!(view["counts"]["settled"], rows, "{view}");
    load.end().await;
    trial.conclude_within(PEAK_KIB, "watchers and slow readers beside an upload", last_fault).await;
}
