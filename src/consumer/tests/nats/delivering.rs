//! Entries and handlers.

use super::*;

#[actix::test]
async fn every_event_reaches_its_handler_in_the_order_of_its_key_and_is_acknowledged() {
    let stream = JetStream::new().await;
    stream.add(1..=50, "k").await;
    // A journal is no event.
    stream.publish("_outbox.EVENTS.x", HeaderMap::new(), "{}".to_owned()).await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    stream.add(51..=100, "k").await;
    notes.are(&(1..=100).collect::<Vec<_>>()).await;
    stream.is_acknowledged().await;
    assert!(consumer.health().is_ok(), "{:?}", consumer.health());
    consumer.shutdown().await.unwrap();
    assert_eq!((stream.dead_letters().await.len(), stream.records().await), (0, 0));
}

/// What the acknowledging task relies on when it repeats a call.
#[actix::test]
async fn a_server_answers_an_acknowledgement_that_it_has() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add([1], "").await;
    let mut batch = stream.group().await.fetch().max_messages(1).messages().await.unwrap();
    let message = batch.next().await.unwrap().unwrap();
    for _ in 0..2 {
        message.double_ack().await.unwrap();
    }
    message.double_ack_with(jetstream::AckKind::Progress).await.unwrap();
    assert_eq!(stream.left().await, 0);
}

#[actix::test]
async fn a_journal_among_the_subjects_of_events_is_no_event() {
    let stream = JetStream::new().await;
    let config = Config {
        name: "ALL".to_owned(),
        subjects: vec!["all.>".to_owned(), "_outbox.ALL.*".to_owned()],
        ..Config::default()
    };
    create_stream(&stream.context, config).await;
    stream.publish("_outbox.ALL.x", HeaderMap::new(), "{}".to_owned()).await;
    let mut headers = HeaderMap::new();
    headers.insert("outbox-seq", "1");
    stream.publish("all.t", headers, fixtures::event(1, "").to_cloud_event_json()).await;
    let notes = Notes::default();
    let builder = stream.builder(|settings| settings.streams = vec!["ALL".to_owned()]);
    let consumer = builder.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    notes.are(&[1]).await;
    let mut group: PullConsumer = stream.context.get_consumer_from_stream("mailer", "ALL").await.unwrap();
    eventually("both are acknowledged", PATIENCE, async || group.info().await.unwrap().num_ack_pending == 0).await;
    assert!(stream.context.get_stream("ALL:dead:mailer").await.unwrap().cached_info().state.messages == 0);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_in_binary_mode_is_the_same_event() {
    let stream = JetStream::new().await;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "order-7"),
        ("ce-type", "order.placed"),
        ("ce-source", "/shop"),
        ("ce-subject", "a%20b"),
        ("ce-tenant", "acme"),
        ("ce-datacontenttype", "application/json"),
        ("outbox-seq", "7"),
    ] {
        headers.insert(name, value);
    }
    stream.publish("events.order.placed", headers, r#"{"n": 1}"#.to_owned()).await;
    let seen = Arc::new(Mutex::new(String::new()));
    let notes = Notes::default();
    let noted = Arc::clone(&seen);
    let handler = notes.handler(move |event| {
        *noted.lock().unwrap() = event.to_cloud_event_json();
        Ok(())
    });
    let consumer = stream.start(handler).await;
    notes.are(&[7]).await;
    let event: serde_json::Value = serde_json::from_str(&seen.lock().unwrap()).unwrap();
    for (name, value) in [("id", "order-7"), ("type", "order.placed"), ("subject", "a b"), ("tenant", "acme")] {
        assert_eq!(event[name], value);
    }
    assert_eq!(event["data"]["n"], 1);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_handler_that_takes_several_times_reclaim_after_is_run_once() {
    let stream = JetStream::new().await;
    stream.add([1], "").await;
    let (slow, other) = (Notes::default(), Notes::default());
    let first = stream
        .start(slow.worker(|_| {
            Box::pin(async {
                tokio::time::sleep(RECLAIM * 4).await;
                Ok(())
            })
        }))
        .await;
    slow.are(&[1]).await;
    let second = stream.start(other.handler(|_| Ok(()))).await;
    stream.is_acknowledged().await;
    assert_eq!((slow.all(), other.all()), (vec![1], vec![]));
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[actix::test]
async fn the_entries_of_a_consumer_that_died_are_handled_by_another_one_in_order() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add(1..=20, "k").await;
    stream.read_and_die(20).await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    notes.are(&(1..=20).collect::<Vec<_>>()).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn what_was_read_and_not_begun_is_given_back_when_a_consumer_stops() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add(1..=10, "k").await;
    let (first, second) = (Notes::default(), Notes::default());
    let may_end = Arc::new(Semaphore::new(0));
    let long = |settings: &mut ConsumerSettings| {
        (settings.reclaim_after, settings.max_deliveries) = (PATIENCE * 10, 1);
    };
    let consumer = stream.builder(long).subscribe(first.waiter(&may_end, || Ok(()))).start().await.unwrap();
    eventually("all are read", PATIENCE, async || consumer.health().in_flight == 10).await;
    first.are(&[1]).await;
    let running = Arc::clone(&consumer.context);
    let stopping = actix::spawn(async move { consumer.shutdown().await });
    running.stopped().await;
    may_end.add_permits(1);
    stopping.await.unwrap().unwrap();
    let consumer = stream.builder(long).subscribe(second.handler(|_| Ok(()))).start().await.unwrap();
    eventually("the others are handled", PATIENCE, async || stream.left().await == 0).await;
    assert_eq!(second.all(), (2..=10).collect::<Vec<_>>());
    assert_eq!((first.all(), stream.dead_letters().await.len()), (vec![1], 0), "no delivery was counted");
    eventually("nothing is left of the counts", PATIENCE, async || stream.records().await == 0).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_subject_that_the_stream_takes_later_is_read() {
    let stream = JetStream::new().await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("the group exists", PATIENCE, async || stream.status().await.streams[0].has_group).await;
    let mut config = stream.context.get_stream("EVENTS").await.unwrap().cached_info().config.clone();
    config.subjects.push("orders.>".to_owned());
    stream.context.update_stream(config).await.unwrap();
    eventually("the group has the subject", PATIENCE, async || {
        stream.group().await.cached_info().config.filter_subjects.contains(&"orders.>".to_owned())
    })
    .await;
    let mut headers = HeaderMap::new();
    headers.insert("outbox-seq", "7");
    stream.publish("orders.x", headers, fixtures::event(7, "").to_cloud_event_json()).await;
    notes.are(&[7]).await;
    consumer.shutdown().await.unwrap();
}
