//! Schedules with rows from a server and from the run before, as their users type them, on either store.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::stand::{Kind, Stand, on_both_stands};
use crate::support::{Desk, wait_for};

on_both_stands! {
    a_schedule_reads_its_rows_from_a_server_at_each_run,
    a_schedule_goes_on_with_what_became_of_its_rows,
}

/// A server that gives the same rows to whoever does not know them, and keeps what it was asked.
struct Rows {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Rows {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                // Whoever goes away in the midst is not answered.
                let Some(request) = request(&mut stream) else { continue };
                let answer = if request.contains("if-none-match: \"rows-1\"") {
                    "HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n".to_owned()
                } else {
                    let rows = "custom_id,city\nb,Bern\nz,Biel\n";
                    let head =
                        "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\netag: \"rows-1\"\r\nconnection: close";
                    format!("{head}\r\ncontent-length: {}\r\n\r\n{rows}", rows.len())
                };
                kept.lock().unwrap().push(request);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { address, asked }
    }
}

fn request(stream: &mut TcpStream) -> Option<String> {
    let (mut read, mut piece) = (Vec::new(), [0; 4096]);
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(len) => read.extend_from_slice(&piece[..len]),
        }
    }
    Some(String::from_utf8(read).unwrap().to_ascii_lowercase())
}

fn stand(kind: Kind) -> (Desk, Stand) {
    let mut desk = Desk::new();
    let stand = Stand::start(kind, &mut desk);
    desk.set("PROMPTMILL_URL", stand.url());
    desk.set("PROMPTMILL_API_KEY", stand.key());
    (desk, stand)
}

/// Runs a schedule now; answers its tick when the run has ended.
fn run(desk: &Desk, id: &str) -> Value {
    let asked = desk.promptmill(&["schedule", "run", id, "--json"]).check_code(0);
    let asked: Value = serde_json::from_str(&asked.stdout).unwrap();
    let mut ended = Value::Null;
    wait_for("the run ends", || {
        let history = desk.promptmill(&["schedule", "history", id, "--json"]).check_code(0);
        let mut ticks = history.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let tick = ticks.find(|tick| tick["at"] == asked["at"]).unwrap();
        assert!(tick["state"] != "failed" && tick["state"] != "skipped", "{tick}");
        ended = tick;
        ended["state"] == "ended"
    });
    ended
}

async fn a_schedule_reads_its_rows_from_a_server_at_each_run(kind: Kind) {
    let (desk, stand) = stand(kind);
    let server = Rows::start();
    let asks = json!({"name": "a", "messages": [{"role": "user", "content": "{{ city }}?"}]});
    desk.write("ask.json", &asks.to_string());
    let url = format!("http://{}/cities", server.address);
    let create = ["schedule", "create", "ask.json", "--model", "demo:any", "--every", "86400"];
    let rows = ["--rows-url", &url, "--rows-header", "Authorization: Bearer rows-key"];
    let made = desk.promptmill(&[&create[..], &rows[..]].concat()).check_code(0);
    let id = made.stdout.trim();
    for _ in 0..2 {
        let tick = run(&desk, id);
        assert_eq!((&tick["batch"]["succeeded"], &tick["batch"]["rows"]), (&json!(2), &json!(2)));
    }
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.contains("authorization: bearer rows-key\r\n")), "{asked:?}");
    assert!(asked[2].contains("if-none-match: \"rows-1\"\r\n"), "{asked:?}");
    let shown = desk.promptmill(&["schedule", "show", id]).check_code(0);
    assert!(shown.stdout.contains(&url) && !shown.stdout.contains("rows-key"), "{}", shown.stdout);
    let absent = ["--rows-url", "http://127.0.0.1:1/cities.csv"];
    let refused = desk.promptmill(&[&create[..], &absent[..]].concat()).check_code(2);
    refused.check_says("/rows_from/url: no connection could be opened");
    let log = stand.stop();
    assert!(!log.contains("rows-key") && !log.contains("Bern"), "{log}");
}

async fn a_schedule_goes_on_with_what_became_of_its_rows(kind: Kind) {
    let (desk, stand) = stand(kind);
    let asks = json!({
        "name": "a", "messages": [{"role": "user", "content": "{{ city }}, after {{ previous_outcome.output }}"}],
    });
    desk.write("ask.json", &asks.to_string());
    desk.write("cities.jsonl", "{\"city\":\"Bern\"}\n{\"city\":\"Biel\"}\n");
    let create = ["schedule", "create", "ask.json", "--model", "demo:any", "--every", "86400"];
    let rows = ["--rows", "cities.jsonl", "--previous-run", "succeeded"];
    let made = desk.promptmill(&[&create[..], &rows[..]].concat()).check_code(0);
    let id = made.stdout.trim();
    let client = stand.client();
    let (first, second) = (run(&desk, id), run(&desk, id));
    for index in 0..2 {
        let item = async |tick: &Value| {
            let url = format!("{}/items/{index}", tick["batch"]["url"].as_str().unwrap());
            client.get(&url).await.1
        };
        let (first, second) = (item(&first).await, item(&second).await);
        assert_eq!(first["variables"]["previous_outcome"]["output"], Value::Null);
        assert_eq!(second["variables"]["previous_outcome"]["output"], first["output"]);
        assert_eq!(second["variables"]["city"], first["variables"]["city"]);
    }
    stand.stop();
}
