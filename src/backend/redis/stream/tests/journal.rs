//! The content of the meta key: which fields, for which session, and until when.

use super::*;

#[tokio::test]
async fn two_lanes_and_two_databases_on_one_stream_do_not_disturb_each_other() {
    let mut test = TestStream::new().await;
    let lane = |name: &str| Shard { lane: Arc::from(name), number: 3 };
    let (mut here, mut there) = (test.worker(), test.worker_of(Uuid::now_v7()));
    let mut named_lane = test.worker();
    let all = events(3, "k");
    here.open(&[(lane(""), 5)]).await.unwrap();
    assert!(there.open(&[(lane(""), 1)]).await.unwrap().refused.is_empty());
    assert!(named_lane.open(&[(lane("orders"), 1)]).await.unwrap().refused.is_empty());
    for (worker, name, event) in
        [(&mut here, "", &all[0]), (&mut there, "", &all[1]), (&mut named_lane, "orders", &all[2])]
    {
        send_all(worker, &[OutgoingEvent { shard: lane(name), event: Arc::clone(event) }]).await;
    }
    assert_eq!(test.journal().await.len(), 3);
    assert_eq!(found(&test.worker().open(&[(lane(""), 6)]).await.unwrap()), named(&all[..1]));
    assert_eq!(found(&test.worker().open(&[(lane("orders"), 6)]).await.unwrap()), named(&all[2..]));
    there.settled(&named(&all));
    there.flush().await.unwrap();
    assert_eq!(test.journal().await.len(), 2, "only its own part of the journal was dropped");
}

#[tokio::test]
async fn shards_whose_numbers_begin_alike_keep_their_journals_apart() {
    let test = TestStream::new().await;
    let mut worker = test.worker();
    let events = events(3, "");
    worker.open(&[(shard(1), 1), (shard(12), 1)]).await.unwrap();
    send_all(&mut worker, &[outgoing_event(1, &events[0]), outgoing_event(12, &events[1])]).await;
    let opened = test.worker().open(&[(shard(1), 2)]).await.unwrap();
    assert_eq!(opened.sent, [(shard(1), events[0].id, events[0].seq)]);
}

#[tokio::test]
async fn what_is_settled_leaves_the_journal_with_the_next_batch_or_a_flush() {
    let mut test = TestStream::new().await;
    let mut worker = test.open_worker().await;
    let events = events(4, "");
    send_all(&mut worker, &outgoing(3, &events[..2])).await;
    worker.settled(&named(&events[..1]));
    send_all(&mut worker, &outgoing(3, &events[2..3])).await;
    assert_eq!(test.journal().await.len(), 2, "a field stays while one of its events is not settled");
    worker.settled(&named(&events[1..2]));
    send_all(&mut worker, &outgoing(3, &events[3..])).await;
    assert_eq!(test.journal().await.len(), 2, "the batch took the settled field along");
    worker.settled(&named(&events[2..]));
    worker.flush().await.unwrap();
    let left: Vec<String> = test.meta().await.into_keys().collect();
    assert_eq!(left, [format!("owner/{}/orders/3", test.outbox)]);
}

#[tokio::test]
async fn what_was_settled_before_a_batch_failed_is_dropped_later() {
    let mut test = TestStream::new().await;
    let mut worker = test.open_worker().await;
    let events = events(2, "");
    test.leave_room_for(1).await;
    send_all(&mut worker, &outgoing(3, &events[..1])).await;
    worker.settled(&named(&events[..1]));
    assert!(worker.send(&outgoing(3, &events[1..])).await.unavailable.is_some());
    worker.flush().await.unwrap();
    assert!(test.journal().await.is_empty());
}
