//! The outcomes of the events of a batch.

use super::*;

#[tokio::test]
async fn a_batch_that_fails_midway_leaves_only_sent_events_in_the_journal() {
    let mut test = TestStream::new().await;
    let mut worker = test.worker();
    let (keyed, other) = (events(3, "k"), Arc::new(fixtures::event(9, "l")));
    worker.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
    let error = test.leave_room_for(2).await;

    let batch = [
        outgoing_event(3, &keyed[0]),
        outgoing_event(3, &keyed[1]),
        outgoing_event(4, &other),
        outgoing_event(3, &keyed[2]),
    ];
    let sent = worker.send(&batch).await;
    assert_eq!(sent.answers, [SendResult::Accepted, SendResult::Accepted, SendResult::NotSent, SendResult::NotSent]);
    assert_eq!(sent.closed, [shard(3), shard(4)]);
    assert!(sent.unavailable.unwrap().reason.contains(error));
    let journal = test.journal().await;
    assert_eq!(journal.iter().map(Vec::len).collect::<Vec<_>>(), [48], "two events of one shard, none of the other");

    // The session has closed itself: events queued behind the batch are refused.
    let stream = test.stream.clone();
    let entries: Vec<(String, BTreeMap<String, String>)> = test.command(&["XRANGE", &stream, "-", "+"]).await;
    let there: Vec<&str> = entries.iter().map(|(_, fields)| fields["event_id"].as_str()).collect();
    assert_eq!(there, ids(&keyed[..2]));
    let () = test.command(&["DEL", &stream]).await;
    let tokens: Vec<String> = test
        .meta()
        .await
        .into_iter()
        .filter(|(name, _)| name.starts_with("owner/"))
        .map(|(_, token)| String::from_utf8(token).unwrap())
        .collect();
    assert!(tokens.iter().all(|token| token.ends_with(":closed")), "{tokens:?}");
    let opened = worker.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
    assert!(opened.refused.is_empty());
    assert_eq!(found(&opened), named(&keyed[..2]));
    send_all(&mut worker, &batch[2..]).await;
    assert_eq!(test.sent_ids().await, [other.id.to_string(), keyed[2].id.to_string()]);
}

/// A worker as a user that may do everything except what these rules forbid.
async fn worker_as(test: &mut TestStream, user: &str, rules: &[&str]) -> RedisStream {
    let all = [&["ACL", "SETUSER", user, "on", ">secret", "~*", "+@all"], rules].concat();
    let () = test.command(&all).await;
    let url = test.url.replace("redis://", &format!("redis://{user}:secret@"));
    RedisStream::new(&settings(&url, &test.stream), test.outbox).unwrap()
}

#[tokio::test]
async fn a_user_without_a_right_opens_no_shard_and_its_errors_name_the_right() {
    let mut test = TestStream::alone().await;
    if test.is_version_5().await {
        return;
    }
    for right in ["hset", "hdel", "xadd"] {
        let mut worker = worker_as(&mut test, right, &[&format!("-{right}")]).await;
        for error in [worker.open(&[(shard(3), 1)]).await.unwrap_err(), worker.health_check().await.unwrap_err()] {
            let text = error.to_string();
            assert!(error.is_unavailable() && text.contains(&right.to_uppercase()), "{text}");
        }
        assert!(test.meta().await.keys().all(|field| field == "probe"), "no token is there");
        assert!(worker.is_alive().await.is_ok(), "it answers all the same");
    }
}

#[tokio::test]
async fn a_failed_batch_of_a_user_without_hdel_leaves_no_event_in_the_journal() {
    let mut test = TestStream::alone().await;
    if test.is_version_5().await {
        return;
    }
    let mut worker = worker_as(&mut test, "worker", &[]).await;
    worker.open(&[(shard(3), 1)]).await.unwrap();
    // Revoked after the open, which tests it.
    let () = test.command(&["ACL", "SETUSER", "worker", "-hdel"]).await;
    test.leave_room_for(0).await;
    let events = events(3, "k");
    let sent = worker.send(&outgoing(3, &events)).await;
    assert_eq!(sent.answers, vec![SendResult::NotSent; 3], "{sent:?}");
    assert!(test.journal().await.iter().all(Vec::is_empty), "an event that was not sent stands there");

    let stream = test.stream.clone();
    let () = test.command(&["DEL", &stream]).await;
    let () = test.command(&["ACL", "SETUSER", "worker", "+hdel"]).await;
    assert!(found(&worker.open(&[(shard(3), 1)]).await.unwrap()).is_empty());
    send_all(&mut worker, &outgoing(3, &events)).await;
    assert_eq!(test.sent_ids().await, ids(&events));
    worker.settled(&named(&events));
    worker.flush().await.unwrap();
    assert!(test.journal().await.is_empty(), "the empty field is gone, too");
}

#[test]
fn only_an_error_about_the_event_rejects_it() {
    let outgoing = outgoing(3, &events(3, "k"));
    for (error, rejected) in [
        ("ERR Elements are too large to be stored", true),
        ("OOM command not allowed when used memory > 'maxmemory'.", false),
        ("MISCONF Redis is configured to save RDB snapshots", false),
        ("an unknown error", false),
    ] {
        let streams = BatchStreams::default();
        let mut batch = EncodedBatch::encode(&outgoing, &streams);
        batch.accept(1);
        let unavailable = batch.fail(1, error);
        let sent = batch.into_sent(unavailable, Vec::new());
        assert_eq!(sent.answers[0], SendResult::Accepted);
        assert_eq!(sent.answers[2], SendResult::NotSent);
        assert_eq!(matches!(sent.answers[1], SendResult::Rejected(_)), rejected, "{error}");
        assert_eq!(sent.unavailable.is_none(), rejected, "{error}");
        assert!(format!("{sent:?}").contains(error), "the text is shown");
    }
}

#[tokio::test]
#[ignore = "takes 8 GB of memory; cargo test --lib -- --ignored runs it"]
async fn an_event_that_redis_refuses_is_rejected_and_later_ones_can_be_sent() {
    let mut test = TestStream::alone().await;
    let mut worker = test.open_worker().await;
    let mut batch = events(3, "");
    let value = "x".repeat(400 << 20);
    let config = format!(r#"{{"a": "{value}", "b": "{value}", "c": "{value}"}}"#);
    Arc::make_mut(&mut batch[1]).publisher_config = JsonText::new(config);
    let sent = worker.send(&outgoing(3, &batch)).await;
    assert!(matches!(&sent.answers[1], SendResult::Rejected(reason) if reason.contains("too large")), "{sent:?}");
    assert_eq!((&sent.answers[0], &sent.answers[2]), (&SendResult::Accepted, &SendResult::NotSent));
    assert_eq!((sent.closed, sent.unavailable), (vec![shard(3)], None));
    assert_eq!(test.journal().await.iter().map(Vec::len).collect::<Vec<_>>(), [24], "the first event alone");
    assert_eq!(found(&worker.open(&[(shard(3), 1)]).await.unwrap()), named(&batch[..1]));
    send_all(&mut worker, &outgoing(3, &batch[2..])).await;
    assert_eq!(test.sent_ids().await, [batch[0].id.to_string(), batch[2].id.to_string()]);
}

#[tokio::test]
async fn an_event_that_cannot_be_an_entry_is_invalid_and_blocks_only_its_key() {
    let test = TestStream::new().await;
    let mut worker = test.open_worker().await;
    let mut batch = events(4, "k");
    Arc::make_mut(&mut batch[1]).publisher_config = JsonText::new(r#"{"list": [1]}"#.to_owned());
    Arc::make_mut(&mut batch[3]).partition_key = "l".to_owned();
    let sent = worker.send(&outgoing(3, &batch)).await;
    assert!(
        matches!(
            &sent.answers[..],
            [SendResult::Accepted, SendResult::Invalid(_), SendResult::NotSent, SendResult::Accepted]
        ),
        "{sent:?}"
    );
    assert_eq!(test.sent_ids().await, [batch[0].id.to_string(), batch[3].id.to_string()]);
}

#[tokio::test]
async fn an_entry_has_the_events_seq_whatever_its_writer_configured() {
    let mut test = TestStream::new().await;
    let mut worker = test.open_worker().await;
    let mut batch = events(2, "k");
    Arc::make_mut(&mut batch[0]).seq = 0;
    Arc::make_mut(&mut batch[1]).publisher_config = JsonText::new(r#"{"seq": [7], "tenant": "a"}"#.to_owned());
    send_all(&mut worker, &outgoing(3, &batch)).await;
    let stream = test.stream.clone();
    let entries: Vec<(String, Vec<String>)> = test.command(&["XRANGE", &stream, "-", "+"]).await;
    let behind: Vec<&[String]> = entries.iter().map(|(_, fields)| &fields[10..]).collect();
    assert_eq!(behind, [vec!["seq", "0"], vec!["seq", "2", "tenant", "a"]]);
}

#[tokio::test]
async fn a_stream_key_of_another_type_makes_the_backend_unavailable() {
    let mut test = TestStream::new().await;
    let stream = test.stream.clone();
    let () = test.command(&["SET", &stream, "no stream"]).await;
    let mut worker = test.open_worker().await;
    let sent = worker.send(&outgoing(3, &events(2, ""))).await;
    assert_eq!(sent.answers, [SendResult::NotSent, SendResult::NotSent]);
    assert!(sent.unavailable.unwrap().reason.contains("WRONGTYPE"));
    assert!(test.journal().await.is_empty());
}

#[tokio::test]
async fn a_stream_is_trimmed_to_about_its_length_or_not_at_all() {
    for (max_len, least, most) in [(100, 100, 400), (0, 1_000, 1_000)] {
        let mut test = TestStream::new().await;
        let settings = PublisherSettings { max_len, ..settings(&test.url, &test.stream) };
        let mut worker = RedisStream::new(&settings, test.outbox).unwrap();
        worker.open(&[(shard(3), 1)]).await.unwrap();
        send_all(&mut worker, &outgoing(3, &events(1_000, ""))).await;
        let stream = test.stream.clone();
        let length = redis::length(&mut test.connection, &stream).await;
        assert!((least..=most).contains(&length), "{length}");
    }
}
