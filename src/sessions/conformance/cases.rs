//! The cases, one obligation each.

use super::*;

/// Whether the rest of a case is for backends with the stronger promise.
fn is_weaker<T: Target>() -> bool {
    let is_weaker = T::PROMISE == Promise::AtLeastOnce;
    if is_weaker {
        println!("not checked: the backend promises to deliver at least once");
    }
    is_weaker
}

pub async fn accepted_events_arrive_once_and_in_order<T: Target>() {
    let bench = Bench::<T>::new().await;
    let mut session = bench.open_session().await;
    let events = events(3, "k", 1..=5);
    send_all(&mut *session, &events[..2]).await;
    send_all(&mut *session, &events[2..]).await;
    session.health_check().await.expect("a healthy backend");
    session.is_alive().await.expect("an answer");
    bench.assert_received(&events).await;
}

pub async fn a_large_batch_arrives_whole_and_in_order<T: Target>() {
    let bench = Bench::<T>::new().await;
    let mut session = bench.session();
    let shards: Vec<(Shard, i64)> = (0..32).map(|number| (shard(number), 1)).collect();
    session.open(&shards).await.expect("an open");
    let batch: Vec<OutgoingEvent> =
        (1..=2_500).map(|seq| outgoing((seq % 32) as i16, fixtures::event(seq, &format!("k{}", seq % 320)))).collect();
    send_all(&mut *session, &batch).await;
    let received = bench.target.received().await;
    let numbers: HashMap<Uuid, (String, i64)> =
        batch.iter().map(|one| (one.event.id, (one.event.partition_key.clone(), one.event.seq))).collect();
    assert_eq!(received.len(), batch.len());
    assert!(by_key(&received, &numbers).values().all(|seqs| seqs.is_sorted()));
}

pub async fn a_refused_event_holds_back_its_key_alone<T: Target>() {
    let bench = Bench::<T>::new().await;
    let Some(bytes) = bench.target.too_large() else { return println!("not checked: every event fits") };
    let mut session = bench.open_session().await;
    let mut batch = events(3, "other", 1..=1);
    batch.push(large(3, 2, "k", bytes));
    batch.extend(events(3, "k", 3..=3));
    batch.extend(events(3, "other", 4..=4));
    let sent = session.send(&batch).await;
    assert!(sent.unavailable.is_none(), "{sent:?}");
    assert!(matches!(sent.answers[1], SendResult::Invalid(_) | SendResult::Rejected(_)), "{sent:?}");
    assert_eq!(sent.answers[2], SendResult::NotSent, "it may not overtake the event before it");
    // What was not sent is sent by a session that opens its shards again, if they were closed.
    if !sent.closed.is_empty() {
        open_eventually(&mut *session, &[(shard(3), 2)]).await;
    }
    let rest: Vec<OutgoingEvent> = [0, 3]
        .into_iter()
        .filter(|index| sent.answers[*index] == SendResult::NotSent)
        .map(|index| batch[index].clone())
        .collect();
    if !rest.is_empty() {
        send_all(&mut *session, &rest).await;
    }
    bench.assert_received(&[batch[0].clone(), batch[3].clone()]).await;
}

pub async fn an_earlier_session_can_send_nothing_more<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    let bench = Bench::<T>::new().await;
    let (mut old, mut new) = (bench.open_session().await, bench.session());
    let events = events(3, "k", 1..=3);
    send_all(&mut *old, &events[..1]).await;
    assert_eq!(found(&mut *new, &[(shard(3), 2)]).await, names(&events[..1]));

    let late = old.send(&events[1..2]).await;
    assert_eq!((late.answers, late.closed), (vec![SendResult::NotSent], vec![shard(3)]));
    assert!(late.unavailable.is_none(), "the backend is there, the shard is another's");
    send_all(&mut *new, &events[1..]).await;
    bench.assert_received(&events).await;
}

pub async fn a_request_that_arrives_late_is_refused<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    let bench = Bench::<T>::new().await;
    let (proxy, mut old) = bench.session_through(SHORT).await;
    let events = events(3, "k", 1..=3);
    assert!(found(&mut *old, &[(shard(3), 1)]).await.is_empty());
    send_all(&mut *old, &events[..1]).await;
    proxy.set(Passage::HoldRequests);
    let given_up = old.send(&events[1..]).await;
    assert_eq!(given_up.answers, vec![SendResult::NotSent; 2]);
    assert!(given_up.unavailable.is_some());

    let mut new = bench.session();
    assert_eq!(found(&mut *new, &[(shard(3), 2)]).await, names(&events[..1]));
    send_all(&mut *new, &events[1..]).await;
    let before = proxy.replies();
    proxy.set(Passage::Open);
    // Whatever the server answers to it; a server that needs not answer is given the time.
    for _ in 0..100 {
        if proxy.replies() > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.assert_received(&events).await;
    assert_eq!(found(&mut *new, &[(shard(3), 3)]).await, names(&events));
}

pub async fn what_arrived_when_the_reply_was_lost_is_named_by_the_next_open<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    for loss in [Passage::CutAtReply, Passage::LoseReplies] {
        let bench = Bench::<T>::new().await;
        let (proxy, mut session) = bench.session_through(SHORT).await;
        let shards = [(shard(3), 1), (shard(4), 1)];
        assert!(found(&mut *session, &shards).await.is_empty());
        let mut batch = events(3, "k", 1..=2);
        batch.extend(events(4, "l", 3..=3));
        proxy.set(loss);
        let sent = session.send(&batch).await;
        assert_eq!(sent.answers, vec![SendResult::NotSent; 3], "{loss:?}: their fate is not known");
        assert_eq!(sent.closed, [shard(3), shard(4)]);
        assert!(sent.unavailable.is_some(), "{loss:?}");

        proxy.set(Passage::Open);
        let again = session.send(&batch).await;
        assert_eq!(again.answers, vec![SendResult::NotSent; 3], "{loss:?}: nothing is sent before the next open");
        let mut named = open_eventually(&mut *session, &shards).await;
        named.sort_by_key(|(_, seq)| *seq);
        let received = bench.target.received().await;
        assert_eq!(received.len(), named.len(), "{loss:?}: the journal names what has arrived");
        let rest: Vec<OutgoingEvent> = batch.iter().filter(|one| !received.contains(&one.event.id)).cloned().collect();
        if !rest.is_empty() {
            send_all(&mut *session, &rest).await;
        }
        bench.assert_received(&batch).await;
    }
}

pub async fn a_batch_that_was_cut_is_named_as_far_as_it_arrived<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    for share in [1, 64, 128, 192, 255] {
        let bench = Bench::<T>::new().await;
        let (proxy, mut session) = bench.session_through(SHORT).await;
        assert!(found(&mut *session, &[(shard(3), 1)]).await.is_empty());
        let batch = events(3, "k", 1..=40);
        proxy.set(Passage::CutInRequest(share));
        let sent = session.send(&batch).await;
        assert!(sent.unavailable.is_some(), "{sent:?}");
        proxy.set(Passage::Open);
        let named = open_eventually(&mut *session, &[(shard(3), 1)]).await;
        let received = bench.target.received().await;
        assert_eq!(received.len(), named.len(), "{share}: the journal names what has arrived");
        send_all(&mut *session, &batch[received.len()..]).await;
        bench.assert_received(&batch).await;
    }
}

pub async fn an_open_whose_reply_was_lost_is_followed_by_another<T: Target>() {
    let bench = Bench::<T>::new().await;
    let (proxy, mut session) = bench.session_through(SHORT).await;
    session.health_check().await.expect("a healthy backend");
    proxy.set(Passage::CutAtReply);
    assert!(session.open(&[(shard(3), 1)]).await.is_err());
    let events = events(3, "", 1..=1);
    assert_ne!(session.send(&events).await.answers, [SendResult::Accepted], "nothing is open yet");
    proxy.set(Passage::Open);
    open_eventually(&mut *session, &[(shard(3), 1)]).await;
    send_all(&mut *session, &events).await;
    bench.assert_received(&events).await;
}

pub async fn an_older_token_is_refused_with_the_epoch_that_stands<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    let bench = Bench::<T>::new().await;
    let (mut old, mut new) = (bench.session(), bench.session());
    let events = events(3, "", 1..=1);
    new.open(&[(shard(3), 10), (shard(4), 1)]).await.expect("an open");
    send_all(&mut *new, &events).await;
    // As numbers, not as texts.
    let opened = old.open(&[(shard(3), 9), (shard(5), 9)]).await.expect("an answer");
    assert_eq!(opened.refused, [(shard(3), 10)]);
    assert!(opened.sent.is_empty(), "the journal of a refused shard is another's");
    assert_eq!(old.send(&events).await.closed, [shard(3)]);
    send_all(&mut *old, &super::events(5, "", 2..=2)).await;
}

pub async fn outboxes_do_not_meet<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    let bench = Bench::<T>::new().await;
    let mut one = bench.open_session().await;
    let mut other = bench.target.session(Uuid::now_v7(), bench.target.port(), LONG);
    let events = events(3, "k", 1..=2);
    send_all(&mut *one, &events[..1]).await;
    assert!(found(&mut *other, &[(shard(3), 7)]).await.is_empty(), "the other outbox has sent nothing");
    send_all(&mut *one, &events[1..]).await;
    bench.assert_received(&events).await;
}

pub async fn settled_events_leave_the_journal<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    let bench = Bench::<T>::new().await;
    let mut session = bench.open_session().await;
    let events = events(3, "k", 1..=3);
    send_all(&mut *session, &events).await;
    session.settled(&names(&events[..2]));
    session.flush().await.expect("a flush");
    let mut next = bench.session();
    let named = found(&mut *next, &[(shard(3), 2)]).await;
    // A backend may name more than it must, whole batches say.
    assert!(names(&events[2..]).iter().all(|event| named.contains(event)), "{named:?}");
    next.settled(&names(&events));
    next.flush().await.expect("a flush");
    assert!(found(&mut *bench.session(), &[(shard(3), 3)]).await.is_empty());
}

pub async fn the_journal_is_bounded_by_what_is_in_flight<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    let bench = Bench::<T>::new().await;
    let mut session = bench.open_session().await;
    for round in 0..200 {
        let batch = events(3, "k", round * 10 + 1..=round * 10 + 10);
        send_all(&mut *session, &batch).await;
        session.settled(&names(&batch));
    }
    session.flush().await.expect("a flush");
    let entries = session.entries().await.expect("the entries");
    let bytes: usize = entries.iter().map(|entry| entry.field.len() + entry.value.len()).sum();
    assert!(entries.len() <= 2 && bytes < 2_000, "{} entries of {bytes} bytes", entries.len());
}

pub async fn entries_are_removed_only_as_they_were_read<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    let bench = Bench::<T>::new().await;
    let (mut session, mut operator) = (bench.open_session().await, bench.session());
    let batch = events(3, "k", 1..=2);
    send_all(&mut *session, &batch[..1]).await;
    let read = operator.entries().await.expect("the entries");
    let named: Vec<(Uuid, i64)> = read.iter().flat_map(|entry| entry.sent.clone().unwrap_or_default()).collect();
    assert_eq!(named, names(&batch[..1]));
    assert!(read.iter().all(|entry| entry.outbox == bench.outbox && entry.shard == shard(3)), "{read:?}");

    // What the session has written meanwhile stays.
    session.settled(&names(&batch[..1]));
    send_all(&mut *session, &batch[1..]).await;
    operator.remove(&read).await.expect("an answer");
    let read = operator.entries().await.expect("the entries");
    let named: Vec<(Uuid, i64)> = read.iter().flat_map(|entry| entry.sent.clone().unwrap_or_default()).collect();
    assert!(named.contains(&names(&batch[1..])[0]), "{named:?}");
    assert_eq!(operator.remove(&read).await.expect("an answer"), read.len());
    assert!(operator.entries().await.expect("the entries").is_empty());
    // The session finds that its token is gone, and opens the shard again.
    let more = events(3, "k", 3..=3);
    assert_eq!(session.send(&more).await.closed, [shard(3)]);
    assert!(found(&mut *session, &[(shard(3), 1)]).await.is_empty());
    send_all(&mut *session, &more).await;
}

pub async fn the_journal_survives_the_death_of_the_server<T: Target>() {
    if is_weaker::<T>() {
        return;
    }
    let mut bench = Bench::<T>::new().await;
    let mut session = bench.open_session().await;
    let events = events(3, "k", 1..=4);
    send_all(&mut *session, &events[..2]).await;
    bench.target.kill().await;
    bench.target.start_again().await;
    let mut next = bench.session();
    let mut named = open_eventually(&mut *next, &[(shard(3), 2)]).await;
    named.sort_by_key(|(_, seq)| *seq);
    assert_eq!(named, names(&events[..2]));
    send_all(&mut *next, &events[2..]).await;
    bench.assert_received(&events).await;
}

pub async fn an_outage_is_no_events_fault<T: Target>() {
    let mut bench = Bench::<T>::new().await;
    let mut session = bench.target.session(bench.outbox, bench.target.port(), SHORT);
    open_eventually(&mut *session, &[(shard(3), 1)]).await;
    let events = events(3, "k", 1..=2);
    send_all(&mut *session, &events[..1]).await;
    bench.target.kill().await;
    for _ in 0..3 {
        let sent = session.send(&events[1..]).await;
        let costs_nothing = matches!(sent.answers[..], [SendResult::NotSent | SendResult::Deferred(..)]);
        assert!(costs_nothing, "no retry is spent: {sent:?}");
        if T::PROMISE == Promise::Once {
            assert!(session.health_check().await.is_err());
            assert!(session.open(&[(shard(3), 1)]).await.is_err());
        }
    }
    bench.target.start_again().await;
    send_eventually(&mut *session, &events[1..]).await;
    bench.assert_received(&events).await;
}
