//! Fencing: tokens, opens, and commands that arrive late.

use super::*;

/// Lets the delayed command arrive, and waits until the server has answered it.
async fn let_through(proxy: &Proxy) {
    let before = proxy.replies();
    proxy.set(Passage::Open);
    eventually("the late command is answered", PATIENCE, async || proxy.replies() > before).await;
}

#[tokio::test]
async fn an_earlier_session_can_send_nothing_more() {
    let test = TestStream::new().await;
    let (mut old, mut new) = (test.open_worker().await, test.worker());
    let events = events(2, "");
    send_all(&mut old, &outgoing(3, &events[..1])).await;
    let opened = new.open(&[(shard(3), 2)]).await.unwrap();
    assert_eq!(found(&opened), named(&events[..1]));

    let late = old.send(&outgoing(3, &events[1..])).await;
    assert_eq!((late.answers, late.closed), (vec![SendResult::NotSent], vec![shard(3)]));
    assert!(late.unavailable.is_none(), "Redis is there, the shard is another's");
    assert_eq!(test.sent_ids().await, ids(&events[..1]));
    send_all(&mut new, &outgoing(3, &events[1..])).await;
}

#[tokio::test]
async fn a_command_that_arrives_after_a_newer_session_opened_is_refused() {
    let mut test = TestStream::new().await;
    let proxy = test.proxy().await;
    let (mut old, mut new) = (test.worker_through(&proxy, Duration::from_millis(300)), test.worker());
    let events = events(3, "k");
    old.open(&[(shard(3), 1)]).await.unwrap();
    send_all(&mut old, &outgoing(3, &events[..1])).await;

    proxy.set(Passage::HoldRequests);
    let given_up = old.send(&outgoing(3, &events[1..])).await;
    assert_eq!(given_up.answers, [SendResult::NotSent, SendResult::NotSent]);
    assert!(given_up.unavailable.is_some());
    assert_eq!(proxy.held(), 1);

    assert_eq!(found(&new.open(&[(shard(3), 2)]).await.unwrap()), named(&events[..1]));
    send_all(&mut new, &outgoing(3, &events[1..])).await;
    let_through(&proxy).await;
    assert_eq!(test.sent_ids().await, ids(&events));
    assert_eq!(test.journal().await.len(), 2);
}

#[tokio::test]
async fn a_late_command_of_the_same_process_is_refused_after_a_reopen() {
    let test = TestStream::new().await;
    let proxy = test.proxy().await;
    let mut worker = test.worker_through(&proxy, Duration::from_millis(300));
    let events = events(2, "k");
    worker.open(&[(shard(3), 1)]).await.unwrap();
    send_all(&mut worker, &outgoing(3, &events[..1])).await;
    proxy.set(Passage::HoldRequests);
    assert!(worker.send(&outgoing(3, &events[1..])).await.unavailable.is_some());

    let mut reconnected = test.open_worker().await;
    send_all(&mut reconnected, &outgoing(3, &events[1..])).await;
    let_through(&proxy).await;
    assert_eq!(test.sent_ids().await, ids(&events));
}

#[tokio::test]
async fn what_was_sent_when_the_reply_was_lost_is_named_by_the_next_open() {
    for loss in [Passage::CutAtReply, Passage::LoseReplies] {
        let mut test = TestStream::new().await;
        let proxy = test.proxy().await;
        let mut worker = test.worker_through(&proxy, Duration::from_millis(500));
        let events = events(4, "k");
        worker.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
        send_all(&mut worker, &outgoing(3, &events[..1])).await;

        proxy.set(loss);
        let batch = [outgoing_event(3, &events[1]), outgoing_event(4, &events[2]), outgoing_event(3, &events[3])];
        let sent = worker.send(&batch).await;
        assert_eq!(sent.answers, vec![SendResult::NotSent; 3], "{loss:?}: their fate is not known");
        assert_eq!(sent.closed, [shard(3), shard(4)]);
        assert!(sent.unavailable.is_some());

        proxy.set(Passage::Open);
        let again = worker.send(&batch).await;
        assert_eq!((again.answers, again.closed), (vec![SendResult::NotSent; 3], vec![shard(3), shard(4)]));
        let opened = worker.open(&[(shard(3), 1), (shard(4), 1)]).await.unwrap();
        assert!(opened.refused.is_empty());
        assert_eq!(found(&opened), named(&events));
        assert_eq!(test.sent_ids().await, ids(&events));

        worker.settled(&named(&events));
        worker.flush().await.unwrap();
        assert!(test.journal().await.is_empty());
    }
}

#[tokio::test]
async fn an_open_whose_reply_was_lost_is_followed_by_another() {
    let test = TestStream::new().await;
    let proxy = test.proxy().await;
    let mut worker = test.worker_through(&proxy, PATIENCE);
    worker.health_check().await.unwrap();
    proxy.set(Passage::CutAtReply);
    assert!(worker.open(&[(shard(3), 1)]).await.is_err());
    let events = events(1, "");
    assert_eq!(worker.send(&outgoing(3, &events)).await.closed, [shard(3)], "nothing is open yet");
    proxy.set(Passage::Open);
    assert!(worker.open(&[(shard(3), 1)]).await.unwrap().refused.is_empty());
    send_all(&mut worker, &outgoing(3, &events)).await;
}

#[tokio::test]
async fn an_open_by_an_older_token_is_refused_with_the_epoch_that_stands() {
    let test = TestStream::new().await;
    let (mut old, mut new) = (test.worker(), test.worker());
    let events = events(1, "");
    new.open(&[(shard(3), 7), (shard(4), 1)]).await.unwrap();
    send_all(&mut new, &outgoing(3, &events)).await;
    let opened = old.open(&[(shard(3), 6), (shard(5), 6)]).await.unwrap();
    assert_eq!(opened.refused, [(shard(3), 7)]);
    assert!(opened.sent.is_empty(), "the journal of a refused shard is another's");
    assert_eq!(old.send(&outgoing(3, &events)).await.closed, [shard(3)]);
    // The other shard of that open is open.
    send_all(&mut old, &outgoing(5, &events)).await;
}

#[tokio::test]
async fn an_equal_token_is_refused() {
    let mut test = TestStream::new().await;
    test.worker().open(&[(shard(3), 7)]).await.unwrap();
    let (meta, outbox) = (meta_key(&test.stream), test.outbox.to_string());
    let standing = String::from_utf8(test.meta().await.into_values().next().unwrap()).unwrap();
    let counter = standing.split_once(':').unwrap().1.to_owned();
    let stream = test.stream.clone();
    let script = concat!(include_str!("../refusal.lua"), include_str!("../open.lua"));
    let open: Vec<&str> = vec!["EVAL", script, "2", &meta, &stream, &outbox, "0", "orders/3", "7", &counter];
    let [refused, journal]: [Vec<String>; 2] = test.command(&open).await;
    assert_eq!(refused, ["orders/3", "7"]);
    assert!(journal.is_empty());
}

#[tokio::test]
async fn epochs_are_compared_as_numbers() {
    let test = TestStream::new().await;
    let mut worker = test.worker();
    assert!(worker.open(&[(shard(3), 9)]).await.unwrap().refused.is_empty());
    assert!(worker.open(&[(shard(3), 10)]).await.unwrap().refused.is_empty());
    assert_eq!(worker.open(&[(shard(3), 9)]).await.unwrap().refused, [(shard(3), 10)]);
}

#[tokio::test]
async fn a_raw_command_under_an_older_token_does_nothing() {
    let mut test = TestStream::new().await;
    let mut new = test.worker();
    let events = events(1, "");
    test.open_worker().await;
    let old_token = String::from_utf8(test.meta().await.into_values().next().unwrap()).unwrap();
    new.open(&[(shard(3), 2)]).await.unwrap();
    send_all(&mut new, &outgoing(3, &events)).await;
    let before = test.meta().await;
    let mut late = PUBLISH.request();
    late.arg(2).arg(&test.stream).arg(meta_key(&test.stream)).arg(&["0", "1", "1", "0", "0"]);
    late.arg(format!("owner/{}/orders/3", test.outbox)).arg(old_token).arg("sent/late").arg(&[0_u8; 24][..]);
    late.arg(&["1", "2", "event_id", "late"]);
    let answer: Vec<String> = late.query_async(&mut test.connection).await.unwrap();
    assert_eq!(answer, ["closed"]);
    assert_eq!(test.meta().await, before);
    assert_eq!(test.sent_ids().await, ids(&events));
}
