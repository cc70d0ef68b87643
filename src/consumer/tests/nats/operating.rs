//! Groups, rights and status.

use super::*;

#[actix::test]
async fn a_missing_group_or_stream_and_a_group_of_another_kind_are_named() {
    let stream = JetStream::new().await;
    let problem = async |builder: ConsumerBuilder, text: &str| {
        let consumer = builder.subscribe(Notes::default().handler(|_| Ok(()))).start().await.unwrap();
        eventually(&format!("{text} is known"), PATIENCE, async || {
            consumer.health().source.is_err_and(|problem| problem.contains(text))
        })
        .await;
        consumer.shutdown().await.unwrap();
    };
    let refused = stream.builder(|settings| settings.create_group = false);
    problem(refused, "there is no group mailer of stream EVENTS; set `create_group = true`").await;
    let missing = stream.builder(|settings| settings.streams = vec!["ORDERS".to_owned()]);
    problem(missing, "there is no stream ORDERS").await;
    let of_another_kind = jetstream::consumer::pull::Config {
        durable_name: Some("mailer".to_owned()),
        ack_policy: jetstream::consumer::AckPolicy::All,
        ..jetstream::consumer::pull::Config::default()
    };
    let events = stream.context.get_stream("EVENTS").await.unwrap();
    events.create_consumer(of_another_kind).await.unwrap();
    problem(stream.builder(|_| {}), "nats consumer rm EVENTS mailer").await;
    let bad = stream.builder(|settings| settings.group = Some("a.b".to_owned()));
    let error = bad.start().await.unwrap_err().to_string();
    assert!(error.contains("consumers.mail") && error.contains("\"a.b\""), "{error}");
}

/// The users of a server: one who may do everything, and a consumer with the rights that the chapter lists.
const USERS: &str = r#"
no_auth_user: all
authorization { users = [
  { user: all, password: all }
  { user: mailer, password: mailer, permissions: {
    publish: ["$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.STREAM.CREATE.EVENTS:dead:mailer",
      "$JS.API.CONSUMER.*.EVENTS.mailer", "$JS.API.CONSUMER.*.EVENTS:dead:mailer.mailer",
      "$JS.API.CONSUMER.*.*.EVENTS.mailer", "$JS.API.CONSUMER.*.*.EVENTS:dead:mailer.mailer",
      "$JS.API.CONSUMER.CREATE.>", "$JS.ACK.EVENTS.mailer.>", "$JS.ACK.EVENTS:dead:mailer.mailer.>",
      "EVENTS:dead:mailer.>", "$JS.API.STREAM.PURGE.EVENTS:dead:mailer", "$JS.API.STREAM.MSG.DELETE.EVENTS:dead:mailer"]
    subscribe: ["_INBOX.>"] } }
] }
"#;

#[actix::test]
async fn the_rights_that_the_chapter_lists_are_enough() {
    let stream = JetStream::with(USERS).await;
    stream.add([1, 2], "").await;
    let notes = Notes::default();
    let is_fixed = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&is_fixed);
    let handler = notes.handler(move |event| match event.seq {
        1 if !works.load(Ordering::Relaxed) => Err("no")?,
        _ => Ok(()),
    });
    let mut settings = stream.settings(|settings| settings.max_deliveries = 2);
    let publisher = settings.publishers.get_mut("default").unwrap();
    (publisher.username, publisher.password) = (Some("mailer".to_owned()), Some(Secret::from("mailer".to_owned())));
    let letters = DeadLetters::of(&settings, "mail").unwrap();
    let consumer = OutboxConsumer::builder(settings, "mail").subscribe(handler).start().await.unwrap();
    eventually("it is dead", PATIENCE, async || letters.count().await.is_ok_and(|count| count == 1)).await;
    is_fixed.store(true, Ordering::Relaxed);
    let letter = letters.list(None, 1).await.unwrap().remove(0).id;
    letters.retry(&[letter]).await.unwrap();
    eventually("it is handled", PATIENCE, async || notes.count(1) == 3).await;
    stream.is_acknowledged().await;
    eventually("nothing is left", PATIENCE, async || stream.records().await == 0).await;
    assert!(consumer.health().is_ok(), "{:?}", consumer.health());
    consumer.shutdown().await.unwrap();
    // They are the ones in the chapter.
    let chapter = include_str!("../../../../docs/nats.md");
    let rights = USERS.lines().filter(|line| line.contains("$JS")).flat_map(|line| line.split('"').skip(1).step_by(2));
    rights.for_each(|right| assert!(chapter.contains(&format!("\"{right}\"")), "{right}"));
}

#[actix::test]
async fn a_group_whose_settings_differ_is_changed_and_never_gives_entries_away_earlier() {
    let stream = JetStream::new().await;
    let made = jetstream::consumer::pull::Config {
        durable_name: Some("mailer".to_owned()),
        ack_policy: jetstream::consumer::AckPolicy::Explicit,
        ack_wait: Duration::from_millis(300),
        max_deliver: 2,
        max_ack_pending: 1,
        max_batch: 1,
        headers_only: true,
        ..jetstream::consumer::pull::Config::default()
    };
    stream.context.get_stream("EVENTS").await.unwrap().create_consumer(made).await.unwrap();
    create_group(&stream).await;
    let mut group = stream.group().await;
    let config = group.info().await.unwrap().config.clone();
    assert_eq!((config.ack_wait, config.max_deliver, config.max_ack_pending), (RECLAIM, -1, -1));
    assert!(config.max_batch <= 0 && !config.headers_only, "{config:?}");
    let long = stream.builder(|settings| settings.reclaim_after = RECLAIM * 5);
    for (builder, expected) in [(long, RECLAIM * 5), (stream.builder(|_| {}), RECLAIM * 5)] {
        let consumer = builder.subscribe(Notes::default().handler(|_| Ok(()))).start().await.unwrap();
        eventually("it reads", PATIENCE, async || stream.group().await.info().await.unwrap().num_waiting > 0).await;
        assert_eq!(stream.group().await.info().await.unwrap().config.ack_wait, expected);
        consumer.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn the_status_tells_what_is_left() {
    let stream = JetStream::new().await;
    stream.add(1..=3, "").await;
    let before = stream.status().await;
    assert_eq!((before.streams[0].has_group, before.streams[0].unread), (false, Some(3)));
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("all are handled", PATIENCE, async || notes.all().len() == 3).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
    stream.add(4..=8, "").await;
    stream.read_and_die(2).await;
    let status = stream.status().await;
    let of = &status.streams[0];
    assert_eq!((of.stream.as_str(), of.has_group, of.unread, of.pending), ("EVENTS", true, Some(3), 2));
    assert!(of.oldest_pending_seconds.is_some_and(|age| (0.0..60.0).contains(&age)), "{of:?}");
}

#[actix::test]
async fn a_tail_begins_where_it_is_told_and_writes_nothing() {
    let stream = JetStream::new().await;
    stream.add(1..=3, "").await;
    stream.publish("_outbox.EVENTS.x", HeaderMap::new(), "{}".to_owned()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let middle = chrono::Utc::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    stream.add(4..=5, "").await;
    let tail = |start: &str| {
        let start = start.parse().unwrap();
        StreamTail::of(&stream.settings(|settings| settings.start = start), "mail").unwrap()
    };
    let mut again = tail("0");
    assert_eq!(again.next().await.unwrap().len(), 5);
    let mut last = tail("$");
    assert!(last.next().await.unwrap().is_empty());
    for (start, expected) in [("0".to_owned(), vec![1, 2, 3, 4, 5]), (middle.to_rfc3339(), vec![4, 5])] {
        let read = tail(&start).next().await.unwrap();
        assert_eq!(read.iter().map(|event| event.as_ref().unwrap().seq).collect::<Vec<_>>(), expected, "{start}");
    }
    stream.add([6], "").await;
    let read = last.next().await.unwrap();
    assert_eq!(read.iter().map(|event| event.as_ref().unwrap().seq).collect::<Vec<_>>(), [6]);
    let events = stream.context.get_stream("EVENTS").await.unwrap();
    assert_eq!(events.get_info().await.unwrap().state.consumer_count, 0);
    stream.context.delete_stream("EVENTS").await.unwrap();
    stream.create().await;
    stream.add([8], "").await;
    let read = again.next().await.unwrap();
    assert_eq!(read.iter().map(|event| event.as_ref().unwrap().seq).collect::<Vec<_>>(), [8], "it begins again");
}
