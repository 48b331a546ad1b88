use crate::desk::*;
use serde_json::json;
#[tokio::test(flavor = "multi_thread")]
async fn measure() {
    let service = idle().await;
    let template = json!({"name": "long", "messages": [{"role": "user", "content": "{{ text }}"}]});
    let id = made(&service.post("/v1/batches", &json!({"template": template, "model": "stage:quick"})).await);
    let n = 1_000_000u64;
    let stream = futures_util::stream::iter((0..n / 1000).map(move |c| {
        let mut s = String::new();
        for r in 0..1000 { let k = (c * 1000 + r).wrapping_mul(0x9e37_79b9_7f4a_7c15); s.push_str(&format!("{{\"text\":\"{k:016x} {:0150}\"}}\n", k)); }
        Ok::<_, std::io::Error>(s.into_bytes())
    }));
    let rss = || std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS")).collect::<Vec<_>>().join(" ");
    println!("before {}", rss());
    let began = std::time::Instant::now();
    let request = service.request(reqwest::Method::PUT, &format!("/v1/batches/{id}/rows/0")).header("content-type", "application/x-ndjson").body(reqwest::Body::wrap_stream(stream));
    let answer = crate::support::send(request).await;
    println!("{:?} {} {}", began.elapsed(), answer.text, rss());
    let began = std::time::Instant::now();
    let answer = service.post(&format!("/v1/batches/{id}/submit"), &serde_json::Value::Null).await;
    println!("submit {:?} {} {}", began.elapsed(), answer.status, rss());
}
