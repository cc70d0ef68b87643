//! `wait_replicas`

use super::*;
use crate::settings::WaitReplicas;

/// Also on a busy machine.
const ENOUGH_FOR_A_REPLICA_THAT_RUNS: Duration = Duration::from_secs(2);

/// A server, a replica of it, and a worker that waits for that replica.
async fn replicated() -> (TestStream, Server, RedisStream) {
    let mut test = TestStream::alone().await;
    let replica = Server::replica_of(test.server(), &[]).await;
    let worker = waiting(&test);
    (test, replica, worker)
}

fn waiting(test: &TestStream) -> RedisStream {
    let wait_replicas = Some(WaitReplicas { count: 1, timeout: ENOUGH_FOR_A_REPLICA_THAT_RUNS });
    let settings = PublisherSettings { wait_replicas, ..settings(&test.url, &test.stream) };
    RedisStream::new(&settings, test.outbox).unwrap()
}

#[tokio::test]
async fn events_are_accepted_or_found_in_the_journal_only_if_replicated() {
    let (test, mut replica, mut worker) = replicated().await;
    let events = events(3, "k");
    eventually("the replica confirms in time", PATIENCE, async || worker.open(&[(shard(3), 1)]).await.is_ok()).await;
    send_all(&mut worker, &outgoing(3, &events[..1])).await;

    replica.signal(Signal::STOP);
    let sent = worker.send(&outgoing(3, &events[1..])).await;
    assert_eq!((sent.answers, sent.closed), (vec![SendResult::NotSent; 2], vec![shard(3)]));
    let reason = sent.unavailable.unwrap().reason;
    assert!(reason.contains("0 of its replicas confirmed within 2s, and `wait_replicas` wants 1"), "{reason}");
    for mut anyone in [worker, waiting(&test)] {
        assert!(anyone.open(&[(shard(3), 2)]).await.unwrap_err().is_unavailable());
        assert_eq!(anyone.send(&outgoing(3, &events)).await.closed, [shard(3)], "nothing is open");
    }
    assert_eq!(test.sent_ids().await, ids(&events), "the master has them");

    replica.signal(Signal::CONT);
    let (mut worker, mut opened) = (waiting(&test), None);
    eventually("the replica is back", PATIENCE, async || {
        opened = worker.open(&[(shard(3), 3)]).await.ok();
        opened.is_some()
    })
    .await;
    assert_eq!(found(&opened.unwrap()), named(&events));
    assert_eq!(redis::event_ids(&replica.url(), &test.stream).await, ids(&events));
}

#[tokio::test]
async fn a_batch_that_stopped_half_way_waits_for_the_replica_as_well() {
    let (mut test, mut replica, mut worker) = replicated().await;
    let events = events(2, "");
    test.leave_room_for(1).await;
    eventually("the replica confirms in time", PATIENCE, async || worker.open(&[(shard(3), 1)]).await.is_ok()).await;
    replica.signal(Signal::STOP);
    assert_eq!(worker.send(&outgoing(3, &events)).await.answers, vec![SendResult::NotSent; 2]);
    assert_eq!(redis::length(&mut test.connection, &test.stream).await, 1);
    replica.signal(Signal::CONT);
}

#[tokio::test]
async fn a_server_without_a_replica_is_not_well_where_one_is_wanted() {
    let test = TestStream::new().await;
    let error = waiting(&test).health_check().await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("`wait_replicas` wants 1"), "{error}");
}
