//! Redis behind TLS.

use std::fs;

use promptmill_hub_redis::{ConnectError, RedisHub, RedisHubOptions};
use promptmill_ports::{Queue as _, Signal, Signals as _};
use promptmill_test_servers::RedisServer;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::scene::{LONG, READY, chunk, hub, permit, process, told_by_parent};

#[tokio::test]
async fn a_server_behind_tls_is_a_hub_for_those_who_trust_its_certificate() {
    if let Some(url) = told_by_parent() {
        let hub = hub(&url).await;
        hub.push(&[(chunk(1), 0)]).await.unwrap();
        assert_eq!(hub.pop(9, LONG).await.unwrap(), [(chunk(1), 0)]);
        drop(permit(&hub).await);
        let mut heard = hub.subscribe();
        let signal = Signal::ChunkDone(chunk(1).batch);
        hub.publish(signal.clone()).await.unwrap();
        assert_eq!(tokio::time::timeout(LONG, heard.recv()).await.unwrap().unwrap(), signal);
        println!("\n{READY}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    fs::write(file("authority"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(file("certificate"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(file("key"), key.serialize_pem()).unwrap();
    let server =
        RedisServer::start_with(&["--tls-cert-file", &file("certificate"), "--tls-key-file", &file("key")]);

    let error = RedisHub::connect(&RedisHubOptions::new(server.tls_url())).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unavailable(_)), "{error:?}");

    let test = "tls::a_server_behind_tls_is_a_hub_for_those_who_trust_its_certificate";
    let mut trusting = process(test, &server.tls_url(), Some(&folder.path().join("authority")));
    assert!(trusting.succeeds());
}
