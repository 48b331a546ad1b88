//! `promptmill webhook`: what comes is shown and checked on a laptop, and what was given up is tried again.

use std::fs::File;
use std::process::{Child, Stdio};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::stand::{Kind, Stand, on_both_stands};
use crate::support::{Desk, signal, ticket_template, wait_for};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

on_both_stands! {
    a_receiver_on_a_laptop_shows_and_checks_what_comes_and_what_was_given_up_is_tried_again,
}

/// A listener whose output goes to this file of the desk.
struct Listening {
    child: Child,
    url: String,
}

impl Listening {
    fn start(desk: &Desk, secret: &str, more: &[&str], out: &str) -> Self {
        let args = [&["webhook", "listen", "--listen", "127.0.0.1:0", "--secret", secret], more].concat();
        let said = desk.path(&format!("{out}.err"));
        let child = desk
            .command(&args)
            .stdin(Stdio::null())
            .stdout(File::create(desk.path(out)).unwrap())
            .stderr(File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let url = || {
            let said = std::fs::read_to_string(&said).unwrap_or_default();
            said.split_once("at ").and_then(|(_, url)| url.split_once(';')).map(|(url, _)| url.to_owned())
        };
        wait_for("the receiver says where it listens", || url().is_some());
        Self { child, url: url().unwrap() }
    }

    fn stop(mut self) {
        signal(&self.child, "-INT");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

async fn a_receiver_on_a_laptop_shows_and_checks_what_comes_and_what_was_given_up_is_tried_again(kind: Kind) {
    let mut desk = Desk::new();
    let stand = Stand::start(kind, &mut desk);
    desk.set("PROMPTMILL_URL", stand.url());
    desk.set("PROMPTMILL_API_KEY", stand.key());
    let client = stand.client();
    let run = async |url: &str| {
        let body = json!({
            "template": ticket_template(), "model": "demo:any", "rows": [{"variables": {"n": 1}}],
            "webhook_url": format!("{url}/hook"), "webhook_secret": SECRET,
        });
        let (status, batch) = client.post("/v1/batches", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{batch}");
        batch["id"].as_str().unwrap().to_owned()
    };
    let delivery = async |batch: &str, tries: usize| {
        loop {
            let (_, list) = client.get(&format!("/v1/batches/{batch}/deliveries")).await;
            let delivery = list["data"][0].clone();
            if delivery["attempts"].as_array().is_some_and(|attempts| attempts.len() >= tries) {
                return delivery;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };

    let listening = Listening::start(&desk, SECRET, &[], "plain.txt");
    let batch = run(&listening.url).await;
    let taken = delivery(&batch, 1).await;
    assert_eq!((&taken["state"], &taken["attempts"][0]["status"]), (&json!("delivered"), &json!(204)));
    let event = taken["event_id"].as_str().unwrap();
    let shown = desk.read("plain.txt");
    let end = format!(" batch.completed {batch} 1/1 {event} (verified)\n");
    assert!(shown.ends_with(&end), "{shown:?} does not end with {end:?}");

    // Again, although it was taken.
    let id = taken["id"].as_str().unwrap();
    desk.promptmill(&["webhook", "replay", id]).check_code(0);
    let again = delivery(&batch, 2).await;
    assert_eq!((&again["state"], &again["id"]), (&json!("delivered"), &taken["id"]));
    let shown = desk.read("plain.txt");
    assert!(shown.ends_with(&format!("{event} (verified, again)\n")), "{shown:?}");
    listening.stop();

    // Who signs otherwise is refused.
    let listening = Listening::start(&desk, OTHER, &["--json"], "lines.txt");
    let batch = run(&listening.url).await;
    let refused = delivery(&batch, 1).await;
    assert_eq!((&refused["state"], &refused["attempts"][0]["status"]), (&json!("pending"), &json!(400)));
    let line: Value = serde_json::from_str(desk.read("lines.txt").lines().next().unwrap()).unwrap();
    assert_eq!((&line["verified"], &line["again"]), (&json!(false), &json!(false)));
    assert_eq!((&line["id"], &line["event"]["data"]["batch_id"]), (&refused["event_id"], &json!(batch)));
    assert_eq!(line["problem"], "no signature of it is made with this secret");
    let http = reqwest::Client::new();
    assert_eq!(http.get(&listening.url).send().await.unwrap().status(), 405);
    let large = http.post(&listening.url).body(vec![b'x'; 2 * 1024 * 1024]).send().await.unwrap();
    assert_eq!(large.status(), 413);
    listening.stop();

    // Nothing of this tenant was given up; nobody else's delivery is there.
    desk.promptmill(&["webhook", "replay", "--since", "2026-01-01T00:00:00Z"]).check_code(0);
    let (status, _) = client.step(&format!("/v1/deliveries/dlv_{:032x}/replay", 1)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    desk.promptmill(&["webhook", "replay"]).check_code(2);
    desk.promptmill(&["webhook", "replay", "--since", "yesterday"]).check_code(2).check_says("/since");
    desk.promptmill(&["webhook", "listen", "--secret", "whsec_short"]).check_code(2).check_says("--secret");
    stand.stop();
}
