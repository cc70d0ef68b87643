//! Several streams by template.

use super::*;
use crate::test_support::redis::cluster::Cluster;

fn template(test: &TestStream) -> String {
    format!("{}.{{type}}", test.stream)
}

fn worker_with(test: &TestStream, max_streams: u64) -> RedisStream {
    let settings = PublisherSettings { max_streams, ..settings(&test.url, &template(test)) };
    RedisStream::new(&settings, test.outbox).unwrap()
}

async fn open(mut worker: RedisStream) -> RedisStream {
    worker.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
    worker
}

fn typed(seq: i64, event_type: &str, key: &str) -> Arc<OutboxEvent> {
    Arc::new(OutboxEvent { event_type: event_type.to_owned(), ..fixtures::event(seq, key) })
}

async fn sent_to(test: &TestStream, event_type: &str) -> Vec<String> {
    redis::event_ids(&test.url, &format!("{}.{event_type}", test.stream)).await
}

/// The fields of the meta key that all streams of the template share.
async fn meta_of(test: &mut TestStream) -> BTreeMap<String, Vec<u8>> {
    let meta = format!("{{{}.<type>}}:outbox", test.stream);
    test.command(&["HGETALL", &meta]).await
}

#[tokio::test]
async fn a_batch_goes_to_several_streams_together_with_its_journal() {
    let mut test = TestStream::new().await;
    let proxy = test.proxy().await;
    let url = format!("redis://127.0.0.1:{}/0", proxy.port());
    let settings = PublisherSettings { url: Some(url.into()), ..settings(&test.url, &template(&test)) };
    let mut worker = open(RedisStream::new(&settings, test.outbox).unwrap()).await;
    let all = [typed(1, "a", "k"), typed(2, "b", "k"), typed(3, "a", "l"), typed(4, "c", "k")];
    let batch = [outgoing_event(3, &all[0]), outgoing_event(4, &all[1]), outgoing_event(3, &all[2])];
    send_all(&mut worker, &batch).await;
    assert_eq!(sent_to(&test, "a").await, [all[0].id.to_string(), all[2].id.to_string()]);
    assert_eq!(sent_to(&test, "b").await, [all[1].id.to_string()]);
    let journal = meta_of(&mut test).await.into_iter().filter(|(field, _)| field.starts_with("sent/"));
    assert_eq!(journal.map(|(_, value)| value.len()).collect::<Vec<_>>(), [48, 24]);

    // The list of streams is complete, so that only the batch itself is sent.
    proxy.set(Passage::CutAtReply);
    let sent = worker.send(&[outgoing_event(3, &all[0]), outgoing_event(3, &all[1])]).await;
    assert_eq!(sent.answers, vec![SendResult::NotSent; 2]);
    proxy.set(Passage::Open);
    let opened = worker.open(&[(shard(3), 2)]).await.unwrap();
    let expected = [&all[0], &all[0], &all[1], &all[2]].map(|event| (event.id, event.seq));
    assert_eq!(found(&opened), expected, "what was sent is known, also if the answer was lost");
    assert_eq!(worker.streams().await.unwrap(), ["a", "b"].map(|name| format!("{}.{name}", test.stream)));
}

#[tokio::test]
async fn a_batch_that_fails_midway_says_what_each_stream_has() {
    let mut test = TestStream::new().await;
    let mut worker = open(worker_with(&test, 0)).await;
    let odd = format!("{}.odd", test.stream);
    let () = test.command(&["SET", &odd, ""]).await;
    let all = [typed(1, "a", "k"), typed(2, "odd", "k"), typed(3, "b", "l")];
    let sent = worker.send(&outgoing(3, &all)).await;
    assert!(
        matches!(&sent.answers[..], [SendResult::Accepted, SendResult::Rejected(reason), SendResult::NotSent]
            if reason.contains("WRONGTYPE")),
        "{sent:?}"
    );
    assert_eq!((sent.unavailable, sent.closed), (None, vec![shard(3)]), "the other streams continue");
    assert_eq!(found(&worker.open(&[(shard(3), 1)]).await.unwrap()), named(&all[..1]));
    send_all(&mut worker, &outgoing(3, &all[2..])).await;
    assert_eq!(sent_to(&test, "b").await, [all[2].id.to_string()]);
}

#[tokio::test]
async fn all_workers_together_write_to_no_more_streams_than_they_may() {
    let mut test = TestStream::new().await;
    let mut first = open(worker_with(&test, 2)).await;
    send_all(&mut first, &outgoing(3, &[typed(1, "a", "")])).await;
    let mut second = worker_with(&test, 2);
    second.open(&[(shard(4), 2)]).await.unwrap();
    send_all(&mut second, &outgoing(4, &[typed(2, "b", "")])).await;
    for worker in [&mut first, &mut open(worker_with(&test, 2)).await] {
        worker.open(&[(shard(3), 9)]).await.unwrap();
        let batch = [typed(3, "a", "k"), typed(4, "c", "k"), typed(5, "a", "k"), typed(6, "b", "l")];
        let sent = worker.send(&outgoing(3, &batch)).await;
        let name = format!("{}.c", test.stream);
        assert!(
            matches!(
                &sent.answers[..],
                [SendResult::Accepted, SendResult::Invalid(reason), SendResult::NotSent, SendResult::Accepted]
                    if reason.contains(&name) && reason.contains("`max_streams`, 2")
            ),
            "{sent:?}"
        );
        assert!(sent.closed.is_empty() && sent.unavailable.is_none());
    }
    let () = test
        .command(&["HDEL", &format!("{{{}.<type>}}:outbox", test.stream), &format!("stream/{}.b", test.stream)])
        .await;
    let mut third = open(worker_with(&test, 2)).await;
    third.open(&[(shard(3), 99)]).await.unwrap();
    send_all(&mut third, &outgoing(3, &[typed(7, "c", "")])).await;
}

#[tokio::test]
async fn streams_are_listed_again_after_redis_was_emptied() {
    let mut test = TestStream::alone().await;
    let mut worker = open(worker_with(&test, 1)).await;
    send_all(&mut worker, &outgoing(3, &[typed(1, "a", "")])).await;
    let () = test.command(&["FLUSHALL"]).await;
    assert_eq!(worker.send(&outgoing(3, &[typed(2, "a", "")])).await.closed, [shard(3)]);
    worker.open(&[(shard(3), 1)]).await.unwrap();
    send_all(&mut worker, &outgoing(3, &[typed(2, "a", "")])).await;
    assert!(meta_of(&mut test).await.contains_key("stream/events.a"));
}

#[tokio::test]
async fn an_event_whose_stream_has_no_name_is_invalid() {
    let test = TestStream::new().await;
    let settings = PublisherSettings { stream_name: "{key}".to_owned(), ..settings(&test.url, "") };
    let mut worker = RedisStream::new(&settings, test.outbox).unwrap();
    worker.open(&[(shard(3), 1)]).await.unwrap();
    let sent = worker.send(&outgoing(3, &[typed(1, "a", ""), typed(2, "a", &redis::stream())])).await;
    assert!(matches!(&sent.answers[..], [SendResult::Invalid(_), SendResult::Accepted]), "{sent:?}");
}

#[tokio::test]
async fn in_a_cluster_all_streams_are_in_the_slot_of_their_tag() {
    let cluster = Cluster::start(3).await;
    let nodes = cluster.nodes.iter().map(|node| Secret::from(node.server.url())).collect();
    let settings = PublisherSettings { nodes, url: None, ..settings("", "{shop}.{type}") };
    let mut worker = RedisStream::new(&settings, Uuid::now_v7()).unwrap();
    worker.open(&[(shard(3), 1)]).await.unwrap();
    let all: Vec<_> = (0..50).map(|n| typed(n, &format!("type-{{{n}}}"), "k")).collect();
    send_all(&mut worker, &outgoing(3, &all)).await;
    let owner = cluster.first_owner(cluster.slot_of("{shop}").await, 3);
    let url = cluster.nodes[owner].server.url();
    assert_eq!(redis::event_ids(&url, "{shop}.type-%7B49%7D").await, [all[49].id.to_string()]);
    assert_eq!(worker.streams().await.unwrap().len(), 50);

    // The settings do not show that this address leads into a cluster.
    let name = "{shop-{type}}";
    let meta = cluster.slot_of("{shop-<type>}").await;
    let url = cluster.nodes[cluster.first_owner(meta, 3)].server.url();
    let mut worker = RedisStream::new(&super::settings(&url, name), Uuid::now_v7()).unwrap();
    worker.open(&[(shard(3), 1)]).await.unwrap();
    let unavailable = worker.send(&outgoing(3, &all[..2])).await.unavailable.unwrap();
    assert!(unavailable.reason.contains("needs a hash tag") && unavailable.is_its_state, "{unavailable:?}");
}
