//! Redis Cluster: a slot is moved, and a master changes, while a worker drains.

use crate::support::redis::cluster::Cluster;
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::{DRAIN, TestOutbox};

const MASTERS: usize = 3;
const SHORT_TIMEOUTS: &str = "connect_timeout = 1\nsocket_timeout = 2";

/// An outbox whose stream is in the cluster, with the stream's slot and its first node.
async fn test(cluster: &Cluster) -> (TestOutbox, u16, usize) {
    let test = TestOutbox::found_by(cluster.settings(), cluster.nodes[0].server.url()).await;
    let slot = cluster.slot_of(test.stream_name()).await;
    let owner = cluster.first_owner(slot, MASTERS);
    let mut test = test;
    test.read_from(cluster.nodes[owner].server.url());
    (test, slot, owner)
}

#[tokio::test]
async fn a_slot_that_moves_back_and_forth_loses_nothing_and_duplicates_nothing() {
    let cluster = Cluster::start(MASTERS).await;
    let (mut test, slot, mut owner) = test(&cluster).await;
    let worker = test.worker(&test.settings().publisher(SHORT_TIMEOUTS).write(), "worker");
    let meta = format!("{{{}}}:outbox", test.stream_name());
    for round in 0..4 {
        let before = test.length().await;
        test.insert(3_000, 200).await;
        test.wait_length(before + 200).await;
        let target = (owner + 1) % MASTERS;
        cluster.begin_move(slot, owner, target).await;
        // The journal first or the stream first: in between, each node has one of them.
        let mut keys = [meta.as_str(), test.stream_name()];
        keys.rotate_left(round % 2);
        for key in keys {
            cluster.move_key(key, owner, target).await;
            paused_or_idle(&test).await;
        }
        cluster.end_move(slot, target).await;
        owner = target;
        test.read_from(cluster.nodes[owner].server.url());
        test.wait_published().await;
        test.assert_delivered().await;
    }
    assert_eq!(test.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
    let said = worker.stderr();
    assert!(said.contains("unavailable"), "the worker encountered the moves: {said}");
}

#[tokio::test]
async fn partitions_move_with_their_slot() {
    let cluster = Cluster::start(MASTERS).await;
    let (mut test, slot, mut owner) = test(&cluster).await;
    let _worker =
        test.worker(&test.settings().publisher(format!("{SHORT_TIMEOUTS}\npartitions = 3")).write(), "worker");
    let tag = format!("{{{}}}", test.stream_name());
    let partitions = [0, 1, 2].map(|n| format!("{tag}.{n}"));
    for round in 0..2 {
        let before = test.published().await;
        test.insert(3_000, 200).await;
        let published = async || test.published().await >= before + 500;
        eventually("the worker publishes", DRAIN, published).await;
        let target = (owner + 1) % MASTERS;
        cluster.begin_move(slot, owner, target).await;
        let mut keys = [&format!("{tag}:outbox"), &partitions[0], &partitions[1], &partitions[2]];
        keys.rotate_left(2 * round);
        for key in keys {
            cluster.move_key(key, owner, target).await;
            paused_or_idle(&test).await;
        }
        cluster.end_move(slot, target).await;
        owner = target;
        test.read_from(cluster.nodes[owner].server.url());
        test.wait_published().await;
        let mut sent = Vec::new();
        for partition in &partitions {
            sent.extend(redis::event_ids(test.redis_url(), partition).await);
        }
        test.assert_delivered_as(&sent).await;
    }
    assert_eq!(test.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}

/// Waits until the worker has encountered the slot's state, or has nothing to do.
async fn paused_or_idle(test: &TestOutbox) {
    let asked = "SELECT count(*) FROM outbox_workers WHERE backends ->> 'default' <> 'ok'";
    eventually("the worker pauses or is done", PATIENCE, async || {
        test.number(asked).await > 0 || test.unpublished().await == 0
    })
    .await;
}

#[tokio::test]
async fn a_hand_over_to_a_replica_loses_nothing_and_duplicates_nothing() {
    let mut cluster = Cluster::start(MASTERS).await;
    let (mut test, _, owner) = test(&cluster).await;
    let replica = cluster.add_replica_of(owner).await;
    let _worker = test.worker(&test.settings().publisher(SHORT_TIMEOUTS).write(), "worker");
    // Only there and back: Redis 7.0 counts the votes of a node's last election for its next one if they follow each other
    // closely.
    for next in [replica, owner] {
        let before = test.length().await;
        test.insert(3_000, 200).await;
        test.wait_length(before + 200).await;
        cluster.hand_over_to(next).await;
        test.read_from(cluster.nodes[next].server.url());
        test.wait_published().await;
        test.assert_delivered().await;
    }
    assert_eq!(test.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}

#[tokio::test]
async fn events_that_a_replica_confirmed_arrive_once_after_its_master_dies() {
    let mut cluster = Cluster::start(MASTERS).await;
    let (mut test, _, owner) = test(&cluster).await;
    let replica = cluster.add_replica_of(owner).await;
    let publisher = format!("{SHORT_TIMEOUTS}\nwait_replicas = {{ count = 1 }}");
    let _worker = test.worker(&test.settings().publisher(&publisher).write(), "worker");
    test.insert(10_000, 200).await;
    test.wait_length(300).await;
    cluster.nodes[owner].server.kill();
    cluster.wait_master(replica).await;
    cluster.nodes[owner].server.start_again();
    test.read_from(cluster.nodes[replica].server.url());
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(test.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}
