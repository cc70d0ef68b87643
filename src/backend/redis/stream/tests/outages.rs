//! Failures of Redis itself.

use super::*;

#[tokio::test]
async fn a_redis_that_was_emptied_closes_the_session_and_the_next_one_works() {
    let mut test = TestStream::alone().await;
    let mut worker = test.open_worker().await;
    let events = events(2, "k");
    send_all(&mut worker, &outgoing(3, &events[..1])).await;
    let () = test.command(&["FLUSHALL"]).await;
    let sent = worker.send(&outgoing(3, &events[1..])).await;
    assert_eq!((sent.answers, sent.closed), (vec![SendResult::NotSent], vec![shard(3)]));
    assert!(sent.unavailable.is_none());
    let opened = worker.open(&[(shard(3), 1)]).await.unwrap();
    assert!(opened.refused.is_empty() && opened.sent.is_empty());
    send_all(&mut worker, &outgoing(3, &events[1..])).await;
    assert_eq!(test.sent_ids().await, ids(&events[1..]));
}

#[tokio::test]
async fn a_redis_that_forgot_the_scripts_is_told_them_again() {
    let mut test = TestStream::alone().await;
    let mut worker = test.open_worker().await;
    let events = events(2, "");
    send_all(&mut worker, &outgoing(3, &events[..1])).await;
    let () = test.command(&["SCRIPT", "FLUSH"]).await;
    send_all(&mut worker, &outgoing(3, &events[1..])).await;
    let () = test.command(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(found(&worker.open(&[(shard(3), 2)]).await.unwrap()), named(&events));
    assert_eq!(test.sent_ids().await, ids(&events));
}

#[tokio::test]
async fn a_redis_out_of_memory_takes_nothing_and_leaves_nothing_in_the_journal() {
    let mut test = TestStream::alone().await;
    let mut worker = test.open_worker().await;
    let events = events(3, "k");
    let () = test.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let sent = worker.send(&outgoing(3, &events)).await;
    assert_eq!(sent.answers, vec![SendResult::NotSent; 3]);
    assert!(sent.unavailable.unwrap().reason.contains("OOM"));
    let refused = worker.open(&[(shard(3), 1)]).await.unwrap_err();
    assert!(refused.is_unavailable() && refused.to_string().contains("OOM"), "{refused}");
    let unwell = worker.health_check().await.unwrap_err();
    assert!(unwell.is_unavailable() && unwell.to_string().contains("OOM"), "{unwell}");
    worker.is_alive().await.unwrap();
    assert!(test.journal().await.is_empty());

    let () = test.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(worker.open(&[(shard(3), 1)]).await.unwrap().sent.is_empty());
    send_all(&mut worker, &outgoing(3, &events)).await;
    assert_eq!(test.sent_ids().await, ids(&events));
}

#[tokio::test]
async fn out_of_memory_is_blamed_on_an_event_only_if_it_exceeds_the_limit() {
    let mut test = TestStream::alone().await;
    let text = |bytes: usize| Some(JsonText::new(format!("\"{}\"", "x".repeat(bytes))));
    let mut events = events(3, "k");
    Arc::make_mut(&mut events[0]).data = text(12 << 20);
    Arc::make_mut(&mut events[1]).data = text(6 << 20);
    let () = test.command(&["SET", "another's", &"x".repeat(6 << 20)]).await;
    for (event, limit, is_its_state) in [(0, "10mb", false), (1, "10mb", true), (2, "1", false)] {
        let mut worker = test.open_worker().await;
        let () = test.command(&["CONFIG", "SET", "maxmemory", limit]).await;
        let sent = worker.send(&outgoing(3, &events[event..=event])).await;
        assert_eq!(sent.answers, [SendResult::NotSent]);
        let unavailable = sent.unavailable.unwrap();
        assert!(unavailable.reason.contains("OOM"), "{unavailable:?}");
        assert_eq!(unavailable.is_its_state, is_its_state, "event {event} at {limit}");
        let () = test.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    }
}

#[tokio::test]
async fn settled_fields_do_not_open_a_way_around_the_memory_limit() {
    let mut test = TestStream::alone().await;
    let mut worker = test.open_worker().await;
    let events = events(2, "k");
    send_all(&mut worker, &outgoing(3, &events[..1])).await;
    worker.settled(&named(&events[..1]));
    let () = test.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(worker.send(&outgoing(3, &events[1..])).await.unavailable.is_some());
    assert_eq!(test.sent_ids().await, ids(&events[..1]));
    worker.flush().await.unwrap();
    assert!(test.journal().await.is_empty(), "dropping needs no memory");
}

#[tokio::test]
async fn a_redis_that_may_not_be_written_to_is_unavailable() {
    let mut test = TestStream::alone().await;
    let mut worker = test.open_worker().await;
    let events = events(2, "");
    send_all(&mut worker, &outgoing(3, &events[..1])).await;
    // It requires replicas if a client writes, and not if a script does.
    let lets_scripts_write_without_replicas = test.is_version_5().await;
    for (forbid, allow, error) in [
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"][..],
            &["CONFIG", "SET", "min-replicas-to-write", "0"][..],
            "NOREPLICAS",
        ),
        (&["REPLICAOF", "127.0.0.1", "1"][..], &["REPLICAOF", "NO", "ONE"][..], "READONLY"),
    ] {
        if error == "NOREPLICAS" && lets_scripts_write_without_replicas {
            continue;
        }
        let () = test.command(forbid).await;
        let sent = worker.send(&outgoing(3, &events[1..])).await;
        assert_eq!(sent.answers, [SendResult::NotSent]);
        let unavailable = sent.unavailable.unwrap();
        assert!(unavailable.reason.contains(error) && unavailable.is_its_state, "{error}: {unavailable:?}");
        assert!(worker.open(&[(shard(3), 1)]).await.unwrap_err().is_unavailable());
        let unwell = worker.health_check().await.unwrap_err().to_string();
        assert!(unwell.to_uppercase().contains(error), "{error}: {unwell}");
        let () = test.command(allow).await;
        let opened = worker.open(&[(shard(3), 1)]).await.unwrap();
        assert_eq!(found(&opened), named(&events[..1]), "{error}: nothing else was written down");
    }
    send_all(&mut worker, &outgoing(3, &events[1..])).await;
    assert_eq!(test.sent_ids().await, ids(&events));
}

#[tokio::test]
async fn a_redis_that_does_not_answer_is_unavailable_after_the_socket_timeout() {
    let mut test = TestStream::alone().await;
    let limit = Duration::from_millis(200);
    let settings = PublisherSettings { socket_timeout: limit, connect_timeout: limit, ..settings(&test.url, "events") };
    let mut worker = RedisStream::new(&settings, test.outbox).unwrap();
    let events = events(1, "");
    worker.open(&[(shard(3), 1)]).await.unwrap();
    test.server().signal(Signal::STOP);
    let began = std::time::Instant::now();
    let sent = worker.send(&outgoing(3, &events)).await;
    assert!(began.elapsed() >= limit);
    assert_eq!(sent.answers, [SendResult::NotSent]);
    assert!(sent.unavailable.is_some());
    assert!(worker.open(&[(shard(3), 1)]).await.unwrap_err().is_unavailable());
    assert!(worker.health_check().await.unwrap_err().is_unavailable());
    test.server().signal(Signal::CONT);
    // The journal shows whether the stopped server read the batch before its connection ended.
    let mut patient = test.worker();
    let sent_before = found(&patient.open(&[(shard(3), 2)]).await.unwrap());
    let expected: Vec<String> = sent_before.iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(test.sent_ids().await, expected);
}

#[tokio::test]
async fn an_error_names_no_password() {
    let server = Server::start(&[("requirepass", "right")]);
    let wrong = format!("redis://:hunter2@127.0.0.1:{}/0", server.port());
    let closed_port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let nobody = format!("redis://:hunter2@127.0.0.1:{closed_port}/0");
    for url in [wrong, nobody] {
        let mut worker = RedisStream::new(&settings(&url, "events"), Uuid::now_v7()).unwrap();
        for error in [worker.open(&[(shard(3), 1)]).await.unwrap_err(), worker.health_check().await.unwrap_err()] {
            assert!(error.is_unavailable());
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
    let right = format!("redis://:right@127.0.0.1:{}/0", server.port());
    let mut worker = RedisStream::new(&settings(&right, "events"), Uuid::now_v7()).unwrap();
    worker.health_check().await.unwrap();
}
