//! A Redis server as a test uses it.

use promptmill_test_servers::RedisServer;

#[test]
fn a_restarted_redis_is_empty_and_on_its_old_port() {
    let mut server = RedisServer::start();
    let (port, process) = (server.port(), server.process_id());
    server.command(&["SET", "key", "value"]);
    assert_eq!(server.command(&["GET", "key"]), "value");

    server.restart();

    assert_eq!(server.port(), port);
    assert_ne!(server.process_id(), process);
    assert_eq!(server.command(&["GET", "key"]), "");
}

#[test]
fn arguments_and_a_password_reach_redis() {
    let server = RedisServer::start_with(&["--requirepass", "secret", "--maxmemory-policy", "allkeys-lru"]);
    assert_eq!(server.command(&["CONFIG", "GET", "maxmemory-policy"]), "maxmemory-policy\nallkeys-lru");
    server.command(&["SET", "key", "value"]);
    server.flush();
    assert_eq!(server.command(&["DBSIZE"]), "0");
}

#[test]
fn servers_of_one_test_do_not_share_a_port() {
    let servers: Vec<_> = (0..8).map(|_| RedisServer::start()).collect();
    for (n, server) in servers.iter().enumerate() {
        server.command(&["SET", "which", &n.to_string()]);
    }
    for (n, server) in servers.iter().enumerate() {
        assert_eq!(server.command(&["GET", "which"]), n.to_string());
    }
}
