//! Partitions of one stream.

use super::*;
use crate::settings::partitions::partition_name;
use crate::store::shard_of;
use crate::test_support::redis::cluster::Cluster;

const PARTITIONS: u32 = 4;

fn partitioned(settings: PublisherSettings) -> PublisherSettings {
    PublisherSettings { partitions: PARTITIONS, ..settings }
}

async fn open_worker(test: &TestStream) -> RedisStream {
    let mut worker = RedisStream::new(&partitioned(settings(&test.url, &test.stream)), test.outbox).unwrap();
    worker.open(&[(shard(3), 1)]).await.unwrap();
    worker
}

/// Events of 20 keys and some without a key.
fn of_many_keys(count: i64) -> Vec<Arc<OutboxEvent>> {
    let key = |seq: i64| if seq % 5 == 0 { String::new() } else { format!("k{}", seq % 20) };
    (1..=count).map(|seq| Arc::new(fixtures::event(seq, &key(seq)))).collect()
}

/// The events of each partition, in order.
fn spread(events: &[Arc<OutboxEvent>]) -> Vec<Vec<String>> {
    let mut spread = vec![Vec::new(); PARTITIONS as usize];
    for event in events {
        spread[(shard_of(&event.partition_key, event.id) % PARTITIONS) as usize].push(event.id.to_string());
    }
    spread
}

async fn sent(url: &str, stream: &str) -> Vec<Vec<String>> {
    let mut sent = Vec::new();
    for n in 0..PARTITIONS {
        sent.push(redis::event_ids(url, &partition_name(stream, n)).await);
    }
    sent
}

#[tokio::test]
async fn a_batch_is_spread_by_keys_together_with_its_journal() {
    let mut test = TestStream::new().await;
    let mut worker = open_worker(&test).await;
    let all = of_many_keys(200);
    send_all(&mut worker, &outgoing(3, &all[..1])).await;
    send_all(&mut worker, &outgoing(3, &all[1..])).await;
    assert_eq!(sent(&test.url, &test.stream).await, spread(&all));
    assert!(spread(&all).iter().all(|events| !events.is_empty()));
    assert!(test.sent_ids().await.is_empty(), "nothing is in a stream of the name itself");
    assert_eq!(test.journal().await.iter().map(Vec::len).sum::<usize>(), 200 * 24, "one meta key has all");
    let names: Vec<String> = (0..PARTITIONS).map(|n| format!("{{{}}}.{n}", test.stream)).collect();
    assert_eq!(worker.streams().await.unwrap(), names);
    assert_eq!(worker.inspect().await.unwrap().streams, 4);
}

#[tokio::test]
async fn a_partition_that_is_not_a_stream_makes_the_backend_unavailable() {
    let mut test = TestStream::new().await;
    let all = of_many_keys(50);
    let odd = partition_name(&test.stream, shard_of("k1", all[0].id) % PARTITIONS);
    let () = test.command(&["SET", &odd, ""]).await;
    let mut worker = open_worker(&test).await;
    let answers = worker.send(&outgoing(3, &all)).await;
    assert!(answers.unavailable.is_some_and(|unavailable| unavailable.reason.contains("WRONGTYPE")));
    assert!(answers.answers.iter().all(|answer| matches!(answer, SendResult::Accepted | SendResult::NotSent)));
    let () = test.command(&["DEL", &odd]).await;
    let named = found(&worker.open(&[(shard(3), 1)]).await.unwrap());
    let rest: Vec<_> = all.iter().filter(|event| !named.contains(&(event.id, event.seq))).cloned().collect();
    send_all(&mut worker, &outgoing(3, &rest)).await;
    assert_eq!(sent(&test.url, &test.stream).await, spread(&all));
}

#[tokio::test]
async fn a_right_that_is_missing_for_one_partition_is_found_before_anything_is_sent() {
    let mut test = TestStream::alone().await;
    if test.is_version_5().await {
        return;
    }
    let keys = ["~{events}:outbox", "~{events}.0", "~{events}.1", "~{events}.2"];
    let () = test.command(&[&["ACL", "SETUSER", "worker", "on", ">pw", "+@all"], &keys[..]].concat()).await;
    let url = test.url.replace("redis://", "redis://worker:pw@");
    let mut worker = RedisStream::new(&partitioned(settings(&url, "events")), test.outbox).unwrap();
    assert!(worker.open(&[(shard(3), 1)]).await.is_err() && worker.health_check().await.is_err());
    let () = test.command(&["ACL", "SETUSER", "worker", "~{events}.3"]).await;
    worker.open(&[(shard(3), 1)]).await.unwrap();
    send_all(&mut worker, &outgoing(3, &of_many_keys(20))).await;
}

#[tokio::test]
async fn in_a_cluster_all_partitions_are_in_the_slot_of_the_stream() {
    let cluster = Cluster::start(3).await;
    for stream in ["events", "{shop}.events", "a{b"] {
        let nodes = cluster.nodes.iter().map(|node| Secret::from(node.server.url())).collect();
        let settings = PublisherSettings { nodes, url: None, ..partitioned(settings("", stream)) };
        let mut worker = RedisStream::new(&settings, Uuid::now_v7()).unwrap();
        worker.open(&[(shard(3), 1)]).await.unwrap();
        let all = of_many_keys(100);
        send_all(&mut worker, &outgoing(3, &all)).await;
        let owner = cluster.first_owner(cluster.slot_of(stream).await, 3);
        assert_eq!(sent(&cluster.nodes[owner].server.url(), stream).await, spread(&all), "{stream}");
    }
}
