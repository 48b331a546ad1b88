//! The bare loop makes exactly the calls it is asked for, with the bytes somebody else sent before.

use std::time::Duration;

use promptmill_bench::bare::{Kind, measure};
use promptmill_bench::fake::Seen;

use crate::fake::{call, get, with_fake};

#[tokio::test]
async fn the_loop_makes_its_calls_at_once_and_waits_for_every_reply() {
    let latency = Duration::from_millis(20);
    for kind in [Kind::Reqwest, Kind::Hyper] {
        with_fake(latency, async |url| {
            call(&reqwest::Client::new(), &url, "{}").await;
            let taken = measure(kind, &url, 500, 16).await.unwrap();
            assert_eq!(taken.items, 500);
            // 500 calls, 16 at a time, one after the other on each place.
            let least = latency.as_secs_f64() * f64::from(500_u32.div_ceil(16));
            assert!(taken.seconds >= least && taken.p50_ms >= 20.0 && taken.cpu_seconds >= 0.0, "{taken:?}");
            let seen: Seen = get(format!("{url}/_calls")).await;
            // The sample, one to open each connection, and those that were measured.
            assert_eq!(seen.calls, 1 + 16 + 500);
            assert!(seen.most_at_once <= 16, "{seen:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn the_loop_needs_a_call_to_copy_and_a_server_that_answers() {
    with_fake(Duration::ZERO, async |url| {
        let error = measure(Kind::Reqwest, &url, 1, 1).await.unwrap_err().to_string();
        assert!(error.contains("not called yet"), "{error}");
    })
    .await;
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let local = tokio::task::LocalSet::new();
    let error = local.run_until(measure(Kind::Reqwest, &nobody, 1, 1)).await.unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
}
