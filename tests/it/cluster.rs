//! Redis Cluster: a slot that moves, and a master that changes, while a worker drains.

use crate::scene::Scene;
use crate::support::redis::cluster::Cluster;
use crate::support::{PATIENCE, eventually};

const MASTERS: usize = 3;
const SHORT_TIMEOUTS: &str = "connect_timeout = 1\nsocket_timeout = 2";

/// A scene whose stream is in the cluster, and the slot and the node that it begins on.
async fn scene(cluster: &Cluster) -> (Scene, u16, usize) {
    let scene = Scene::found_by(cluster.settings(), cluster.nodes[0].server.url()).await;
    let slot = cluster.slot_of(scene.stream_name()).await;
    let owner = cluster.first_owner(slot, MASTERS);
    let mut scene = scene;
    scene.read_from(cluster.nodes[owner].server.url());
    (scene, slot, owner)
}

#[tokio::test]
async fn a_slot_that_moves_back_and_forth_under_a_worker_loses_nothing_and_doubles_nothing() {
    let cluster = Cluster::start(MASTERS).await;
    let (mut scene, slot, mut owner) = scene(&cluster).await;
    let worker = scene.worker(&scene.settings("", SHORT_TIMEOUTS), "worker");
    let meta = format!("{{{}}}:outbox", scene.stream_name());
    for round in 0..4 {
        let before = scene.length().await;
        scene.insert(3_000, 200).await;
        scene.wait_length(before + 200).await;
        let target = (owner + 1) % MASTERS;
        cluster.begin_move(slot, owner, target).await;
        // The journal first or the stream first: either way there is a moment in which one node has one of them.
        let mut keys = [meta.as_str(), scene.stream_name()];
        keys.rotate_left(round % 2);
        for key in keys {
            cluster.move_key(key, owner, target).await;
            paused_or_idle(&scene).await;
        }
        cluster.end_move(slot, target).await;
        owner = target;
        scene.read_from(cluster.nodes[owner].server.url());
        scene.wait_published().await;
        scene.assert_delivered().await;
    }
    assert_eq!(scene.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
    let said = worker.stderr();
    assert!(said.contains("unavailable"), "the moves were met: {said}");
}

/// Waits until the worker has met the slot in its present state, or has nothing to do.
async fn paused_or_idle(scene: &Scene) {
    let asked = "SELECT count(*) FROM outbox_workers WHERE backends ->> 'default' <> 'ok'";
    eventually("the worker pauses or is done", PATIENCE, async || {
        scene.number(asked).await > 0 || scene.unpublished().await == 0
    })
    .await;
}

#[tokio::test]
async fn a_master_that_hands_over_to_its_replica_under_a_worker_loses_nothing_and_doubles_nothing() {
    let mut cluster = Cluster::start(MASTERS).await;
    let (mut scene, _, owner) = scene(&cluster).await;
    let replica = cluster.add_replica_of(owner).await;
    let _worker = scene.worker(&scene.settings("", SHORT_TIMEOUTS), "worker");
    // There and back, but not there again: Redis 7.0 counts the votes of a node's last election for its next one when
    // the two follow each other closely.
    for next in [replica, owner] {
        let before = scene.length().await;
        scene.insert(3_000, 200).await;
        scene.wait_length(before + 200).await;
        cluster.hand_over_to(next).await;
        scene.read_from(cluster.nodes[next].server.url());
        scene.wait_published().await;
        scene.assert_delivered().await;
    }
    assert_eq!(scene.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}

#[tokio::test]
async fn a_master_killed_under_a_worker_is_followed_to_its_replica_and_what_a_replica_confirmed_is_there_once() {
    let mut cluster = Cluster::start(MASTERS).await;
    let (mut scene, _, owner) = scene(&cluster).await;
    let replica = cluster.add_replica_of(owner).await;
    let publisher = format!("{SHORT_TIMEOUTS}\nwait_replicas = {{ count = 1 }}");
    let _worker = scene.worker(&scene.settings("", &publisher), "worker");
    scene.insert(10_000, 200).await;
    scene.wait_length(300).await;
    cluster.nodes[owner].server.kill();
    cluster.wait_master(replica).await;
    cluster.nodes[owner].server.start_again();
    scene.read_from(cluster.nodes[replica].server.url());
    scene.wait_published().await;
    scene.assert_delivered().await;
    assert_eq!(scene.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}
