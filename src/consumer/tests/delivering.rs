use super::*;
use crate::error::SystemError;

#[actix::test]
async fn every_event_reaches_its_handlers_and_is_acknowledged() {
    let mut stream = Stream::new().await;
    stream.add(1..=100, "").await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    stream.add(101..=200, "").await;
    eventually("all are handled", PATIENCE, async || notes.all().len() == 200).await;
    stream.is_acknowledged().await;
    let mut given = notes.all();
    given.sort_unstable();
    assert_eq!(given, (1..=200).collect::<Vec<_>>());
    assert!(consumer.health().is_ok(), "{:?}", consumer.health());
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn the_events_of_a_key_are_handled_one_after_the_other() {
    let mut stream = Stream::new().await;
    for seq in 1..=40 {
        stream.add([seq], if seq % 2 == 0 { "even" } else { "odd" }).await;
    }
    let notes = Notes::default();
    let running = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let at_once = Arc::new(Mutex::new(0));
    let (most, now) = (Arc::clone(&at_once), Arc::clone(&running));
    let handler = notes.worker(move |event| {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        Box::pin(async move {
            let key = event.partition_key.clone();
            {
                let mut now = now.lock().unwrap();
                *now.entry(key.clone()).or_default() += 1;
                let mut most = most.lock().unwrap();
                *most = (*most).max(now[&key]);
            }
            tokio::task::yield_now().await;
            *now.lock().unwrap().get_mut(&key).unwrap() -= 1;
            Ok(())
        })
    });
    let consumer = stream.start(handler).await;
    eventually("all are handled", PATIENCE, async || notes.all().len() == 40).await;
    for parity in [0, 1] {
        let of_key: Vec<i64> = notes.all().into_iter().filter(|seq| seq % 2 == parity).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    assert_eq!(*at_once.lock().unwrap(), 1);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_is_given_to_each_handler_of_its_type_and_to_no_other() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let (first, second, other) = (Notes::default(), Notes::default(), Notes::default());
    let named = |notes: &Notes, name: &str, types: &str| {
        let mut handler = notes.handler(|_| Ok(()));
        (handler.name, handler.events) = (name.to_owned(), types.into());
        handler
    };
    let builder = stream.builder("mailer-1", |_| {});
    let builder = builder.subscribe(named(&first, "first", "t")).subscribe(named(&second, "second", "t*"));
    let consumer = builder.subscribe(named(&other, "other", "u")).start().await.unwrap();
    stream.add([2], "").await;
    eventually("both are given", PATIENCE, async || first.all().len() == 2 && second.all().len() == 2).await;
    stream.is_acknowledged().await;
    assert!(other.all().is_empty());
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_stream_begins_where_the_settings_say() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let later = stream.builder("mailer-1", |settings| settings.start = "$".parse().unwrap());
    let consumer = later.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    eventually("the group is there", PATIENCE, async || {
        let groups: ::redis::Value =
            ::redis::cmd("XINFO").arg("GROUPS").arg(&stream.name).query_async(&mut stream.connection).await.unwrap();
        groups != ::redis::Value::Array(Vec::new())
    })
    .await;
    stream.add([2], "").await;
    notes.are(&[2]).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn streams_are_found_by_globs_and_dead_letters_are_not_among_them() {
    let mut stream = Stream::new().await;
    let base = stream.name.clone();
    let notes = Notes::default();
    let named = |n: usize| format!("{{{base}}}.{n}");
    let globbing = stream.builder("mailer-1", |settings| settings.streams = vec![format!("{{{base}}}.*")]);
    stream.name = named(1);
    stream.add([1], "").await;
    // Of another group.
    stream.name = format!("{}:dead:other", named(1));
    stream.add([99], "").await;
    let consumer = globbing.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    notes.are(&[1]).await;
    stream.name = named(2);
    stream.add([2], "").await;
    notes.are(&[1, 2]).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn settings_that_describe_no_consumer_are_named() {
    let stream = Stream::new().await;
    let unnamed = OutboxConsumer::builder(Settings::default(), "mail").start().await;
    assert!(matches!(unnamed, Err(SystemError::Settings(_))));
    let notes = Notes::default();
    let twice =
        stream.builder("mailer-1", |_| {}).subscribe(notes.handler(|_| Ok(()))).subscribe(notes.handler(|_| Ok(())));
    assert!(matches!(twice.start().await, Err(SystemError::HandlerNameTaken { .. })));
}
