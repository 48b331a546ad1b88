//! The double's own paths: `GET /_ledger`, `POST /_reset`, `GET` and `PUT /_plan`, and `/` as a sign of life.

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request};

use super::Shared;
use crate::wire::{Answer, JSON};

const LARGEST_PLAN: usize = 8 << 20;
const TEXT: &str = "text/plain";

pub(super) async fn control(request: Request<Incoming>, shared: &Shared) -> Answer {
    let method = request.method().clone();
    match (method, request.uri().path()) {
        (Method::GET | Method::HEAD, "/") => Answer::whole(200, TEXT, "promptmill doubles are running"),
        (Method::GET, "/_ledger") => {
            // `markers=false` leaves the sums, `history=false` leaves out every single call.
            let query = request.uri().query().unwrap_or_default();
            let without = |name: &str| query.split('&').any(|part| part.strip_prefix(name) == Some("=false"));
            let snapshot = shared.ledger.snapshot_with(!without("markers"), !without("history"));
            json(&snapshot)
        }
        (Method::POST, "/_reset") => {
            shared.ledger.reset();
            Answer::whole(200, JSON, "{}")
        }
        (Method::GET, "/_plan") => json(&*shared.plan()),
        (Method::PUT, "/_plan") => {
            let body = Limited::new(request.into_body(), LARGEST_PLAN).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            match serde_json::from_slice(&body) {
                Ok(plan) => {
                    shared.set_plan(plan);
                    Answer::whole(200, JSON, "{}")
                }
                Err(error) => Answer::whole(400, TEXT, format!("not a plan: {error}")),
            }
        }
        _ => Answer::whole(404, TEXT, "404 page not found"),
    }
}

fn json(value: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("ledgers and plans are plain data with text keys");
    Answer::whole(200, JSON, body)
}
