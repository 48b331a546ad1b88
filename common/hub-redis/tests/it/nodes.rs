//! Several nodes: a cluster, and a failover that Sentinel makes.

use promptmill_hub_redis::{RedisHub, RedisHubOptions};
use promptmill_ports::Queue as _;
use promptmill_ports::conformance::hub as cases;
use promptmill_test_servers::{RedisSentinel, RedisServer};

use crate::scene::{chunk, permit_after_failures, until};

/// Two nodes with half of the slots each.
async fn cluster() -> Vec<RedisServer> {
    let nodes: Vec<_> = (0..2).map(|_| RedisServer::start_with(&["--cluster-enabled", "yes"])).collect();
    nodes[0].command(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    nodes[1].command(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &nodes[1].port().to_string()]);
    until("the nodes to know each other", async || {
        let knows_all = |node: &RedisServer| {
            let state = node.command(&["CLUSTER", "INFO"]);
            state.contains("cluster_state:ok") && state.contains("cluster_slots_assigned:16384")
        };
        nodes.iter().all(knows_all).then_some(())
    })
    .await;
    nodes
}

#[tokio::test]
async fn a_cluster_is_a_hub() {
    let nodes = cluster().await;
    let url = format!("redis+cluster://127.0.0.1:{},127.0.0.1:{}", nodes[1].port(), nodes[0].port());
    let hub = RedisHub::connect(&RedisHubOptions::new(url.clone())).await.unwrap();
    cases::hints_come_by_priority_then_arrival(&hub).await;
    cases::a_waiting_pop_gets_what_is_pushed(&hub).await;
    // Each on a lane of its own, which lies on one of the nodes.
    for _ in 0..4 {
        cases::a_lane_runs_no_more_calls_than_its_limit(&hub).await;
        cases::a_raised_limit_lets_the_waiting_go(&hub).await;
        cases::the_later_of_two_pauses_holds(&hub).await;
    }
    cases::every_subscriber_hears_a_signal(&hub).await;
    // On a channel of its own: the pauses above may still be on their way from node to node.
    let options = RedisHubOptions { prefix: "another".to_owned(), ..RedisHubOptions::new(url) };
    cases::a_pause_is_told_to_subscribers(&RedisHub::connect(&options).await.unwrap()).await;
    let used = nodes.iter().filter(|node| node.command(&["DBSIZE"]) != "0").count();
    assert_eq!(used, 2, "every lane lay on one node");
}

#[tokio::test]
async fn a_new_master_is_found_through_sentinel() {
    let mut master = RedisServer::start();
    let replica = RedisServer::start();
    replica.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    let sentinel = RedisSentinel::start(&master);
    until("the sentinel to know the replica", async || sentinel.has_replica(&replica).then_some(())).await;
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port());
    let hub = RedisHub::connect(&RedisHubOptions::new(url)).await.unwrap();
    hub.push(&[(chunk(1), 0)]).await.unwrap();
    assert_eq!(master.command(&["DBSIZE"]), "2");

    master.kill();

    until("the new master", async || hub.push(&[(chunk(2), 0)]).await.ok()).await;
    assert!(replica.command(&["ROLE"]).starts_with("master"));
    drop(permit_after_failures(&hub).await);
}
