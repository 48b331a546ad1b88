//! Webhook receivers and providers behind TLS: a certificate that the system trusts is taken, and no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::stand::{Kind, Stand, on_both_stands};
use crate::support::Desk;

/// A certificate with its key.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// What `params` say for `localhost`, signed by `issuer` or by itself.
    fn of(change: impl FnOnce(&mut CertificateParams), issuer: Option<&Issuer<'_, KeyPair>>) -> Self {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = match issuer {
            Some(issuer) => params.signed_by(&key, issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Self {
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

/// A server that answers every request that comes as HTTP/1.1 through TLS with this JSON, and counts them; with its origin.
async fn server(identity: Identity, json: &'static str) -> (String, Arc<AtomicUsize>) {
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate], identity.key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                // A client that does not trust the certificate ends the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut first = [0; 4];
                let asked_for = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                if asked_for.as_deref() == Some(b"http/1.1")
                    && stream.read_exact(&mut first).await.is_ok()
                    && matches!(&first, b"POST" | b"GET ")
                {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let length = json.len();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                         connection: close\r\n\r\n{json}"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    (origin, requests)
}

/// Servers with a certificate that a system with `authority.pem` trusts, and with three that it must not; which is which.
async fn servers(desk: &mut Desk, json: &'static str) -> Vec<(String, Arc<AtomicUsize>, bool)> {
    promptmill_runtime::install_tls();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    desk.write("authority.pem", &authority_certificate.pem());
    desk.set("SSL_CERT_FILE", desk.path("authority.pem").to_str().unwrap());

    let expired = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    };
    let other_host = |params: &mut CertificateParams| {
        *params = CertificateParams::new(vec!["elsewhere.example".to_owned()]).unwrap();
    };
    let mut servers = Vec::new();
    for (identity, trusted) in [
        (Identity::of(|_| {}, Some(&issuer)), true),
        (Identity::of(expired, Some(&issuer)), false),
        (Identity::of(other_host, Some(&issuer)), false),
        (Identity::of(|_| {}, None), false),
    ] {
        let (origin, requests) = server(identity, json).await;
        servers.push((origin, requests, trusted));
    }
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_provider_with_a_trusted_and_current_certificate_is_called() {
    let mut desk = Desk::new();
    for (origin, requests, trusted) in servers(&mut desk, r#"{"data": [{"id": "behind-tls"}]}"#).await {
        desk.set("OPENAI_BASE_URL", &format!("{origin}/v1"));
        let finished = desk.promptmill(&["models", "openai"]);
        if trusted {
            assert!(finished.check_code(0).stdout.contains("openai:behind-tls"));
        } else {
            finished.check_code(1).check_says("the provider cannot be connected to");
        }
        assert_eq!(requests.load(Ordering::SeqCst), usize::from(trusted));
    }
}

on_both_stands! {
    only_a_receiver_with_a_trusted_and_current_certificate_is_told,
}

async fn only_a_receiver_with_a_trusted_and_current_certificate_is_told(kind: Kind) {
    let mut desk = Desk::new();
    let receivers = servers(&mut desk, "{}").await;
    let stand = Stand::start(kind, &mut desk);
    let client = stand.client();
    for (origin, requests, trusted) in &receivers {
        let batch = json!({"model": "demo:any", "webhook_url": format!("{origin}/hook"),
            "rows": [{"messages": [{"role": "user", "content": "Say hello."}]}]});
        let (status, view) = client.post("/v1/batches", &batch).await;
        assert_eq!(status, StatusCode::CREATED, "{view}");
        let path = format!("/v1/batches/{}/deliveries", view["id"].as_str().unwrap());
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        let delivery = loop {
            let (_, list) = client.get(&path).await;
            let delivery = list["data"][0].clone();
            if delivery["attempts"][0].is_object() {
                break delivery;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited a minute for a try: {list}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        let attempt = &delivery["attempts"][0];
        if *trusted {
            assert_eq!((&delivery["state"], &attempt["status"]), (&json!("delivered"), &json!(200)));
        } else {
            assert_eq!(delivery["state"], "pending", "{delivery}");
            assert_eq!(attempt["status"], Value::Null);
            assert_eq!(attempt["error"], "the TLS connection could not be established", "{attempt}");
        }
        assert_eq!(requests.load(Ordering::SeqCst), usize::from(*trusted));
    }
    stand.stop();
}
