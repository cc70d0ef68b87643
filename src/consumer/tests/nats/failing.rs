//! Rejected events, and what ends or is deleted meanwhile.

use super::*;

#[actix::test]
async fn a_rejected_event_is_a_dead_letter_after_exactly_max_deliveries_and_holds_no_other_key() {
    let stream = JetStream::new().await;
    stream.add([1, 2], "poison").await;
    stream.add([3], "other").await;
    stream.publish("events.t", HeaderMap::new(), "no event".to_owned()).await;
    let notes = Notes::default();
    let consumer =
        stream.start(notes.handler(|event| if event.seq == 1 { Err("broken\nbadly")? } else { Ok(()) })).await;
    eventually("all are handled", PATIENCE, async || notes.count(2) == 1 && notes.count(3) == 1).await;
    stream.is_acknowledged().await;
    let order: Vec<i64> = notes.all().into_iter().filter(|seq| *seq != 3).collect();
    assert_eq!(order, [1, 1, 1, 1, 1, 2], "the key waits for its event");
    let mut dead = stream.dead_letters().await;
    dead.sort_by_key(number);
    let told: Vec<_> = dead.iter().map(|letter| (number(letter), letter.deliveries, &*letter.reason)).collect();
    let broken = "handler `noting`: broken\nbadly";
    assert_eq!(told, [(1, 5, broken), (4, 1, "its CloudEvent is not a JSON object")]);
    assert_eq!((dead[0].stream.as_str(), dead[0].event_type.as_str()), ("EVENTS", "t"));
    consumer.shutdown().await.unwrap();
    assert_eq!(stream.records().await, 2, "nothing is left of the tries");
}

#[actix::test]
async fn dead_letters_are_retried_for_their_group_alone_and_deleted() {
    let stream = JetStream::new().await;
    stream.add(1..=4, "k").await;
    let is_fixed = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&is_fixed);
    let notes = Notes::default();
    let handler = notes.handler(move |_| match works.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(HandlerError::permanent("the bank is closed")),
    });
    let consumer = stream.start(handler).await;
    let letters = stream.letters();
    eventually("all are dead", PATIENCE, async || letters.count().await.unwrap() == 4).await;
    stream.is_acknowledged().await;
    let listed = letters.list(None, 3).await.unwrap();
    assert_eq!(listed.len(), 3);
    let rest = letters.list(Some(&listed[2].id), 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    let shown = letters.get(&rest[0].id).await.unwrap().unwrap();
    assert!(shown.cloud_event.unwrap().contains("\"data\":{\"n\": 4}"));

    // One that fails again is a dead letter of the same entry.
    letters.retry(std::slice::from_ref(&listed[0].id)).await.unwrap();
    eventually("it is dead again", PATIENCE, async || letters.count().await.unwrap() == 4).await;
    let again = stream.dead_letters().await.into_iter().find(|letter| letter.entry == listed[0].entry).unwrap();
    assert_eq!((again.stream.as_str(), again.event_id.as_str()), ("EVENTS", listed[0].event_id.as_str()));

    is_fixed.store(true, Ordering::Relaxed);
    let ids: Vec<_> = [&again.id, &listed[1].id].map(|id| id.to_string().parse().unwrap()).to_vec();
    let changed = letters.retry(&ids).await.unwrap();
    assert_eq!((changed.changed, changed.missing.len()), (2, 0));
    notes.are(&[1, 2, 3, 4, 1, 1, 2]).await;
    let changed = letters.retry(&ids[..1]).await.unwrap();
    assert_eq!((changed.changed, changed.missing.as_slice()), (0, &ids[..1]));
    let deleted = letters.delete(&[listed[2].id.clone(), rest[0].id.clone(), ids[0].clone()]).await.unwrap();
    assert_eq!((deleted.changed, deleted.missing.as_slice()), (2, &ids[..1]));
    assert_eq!(letters.count().await.unwrap(), 0);
    eventually("nothing is left of them", PATIENCE, async || stream.records().await == 0).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_whose_consumers_ended_is_a_dead_letter_after_max_deliveries_and_one_that_only_waited_is_none() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add([1], "").await;
    let three = |settings: &mut ConsumerSettings| {
        (settings.max_deliveries, settings.shutdown_timeout) = (3, Duration::ZERO);
    };
    for _ in 0..3 {
        let notes = Notes::default();
        let handler = notes.worker(|_| Box::pin(std::future::pending()));
        let consumer = stream.builder(three).subscribe(handler).start().await.unwrap();
        notes.are(&[1]).await;
        consumer.shutdown().await.unwrap_err();
    }
    let notes = Notes::default();
    let consumer = stream.builder(three).subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    eventually("it is dead", PATIENCE, async || stream.dead_letters().await.len() == 1).await;
    stream.is_acknowledged().await;
    eventually("nothing is left of it", PATIENCE, async || consumer.health().in_flight == 0).await;
    consumer.shutdown().await.unwrap_err();
    let dead = stream.dead_letters().await.remove(0);
    assert_eq!((dead.deliveries, dead.reason.as_str()), (3, "its consumers ended before they answered"));
    assert_eq!(stream.records().await, 1, "nothing is left of the tries");
    stream.add([2], "").await;
    for _ in 0..4 {
        eventually("it is delivered", PATIENCE, async || stream.read(1).await == 1).await;
    }
    let consumer = stream.builder(three).subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    notes.are(&[2]).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap_err();
}

#[actix::test]
async fn an_entry_whose_dead_letter_is_stored_is_acknowledged_and_not_delivered() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    stream.add([1, 2], "k").await;
    stream.read_and_die(2).await;
    let events = stream.context.get_stream("EVENTS").await.unwrap();
    let at = async |number: u64| events.get_raw_message(number).await.unwrap().time.timestamp_millis();
    // The second letter is of another message with this number, in a stream that was deleted.
    for (millis, number) in [(at(1).await, 1), (at(2).await - 1, 2)] {
        let subject = format!("EVENTS:dead:mailer.dead.{millis}-{number}");
        stream.publish(&subject, HeaderMap::new(), "the letter".to_owned()).await;
    }
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    notes.are(&[2]).await;
    stream.is_acknowledged().await;
    assert_eq!((notes.all(), stream.dead_letters().await.len()), (vec![2], 2));
    consumer.shutdown().await.unwrap();
}

/// An operator's process that retries a letter stores the retry first. Here it stands still after that.
#[actix::test]
async fn a_retry_whose_letter_is_not_deleted_yet_is_delivered() {
    let stream = JetStream::new().await;
    create_group(&stream).await;
    let headers = || {
        HeaderMap::from_iter([(
            "Content-Type".parse::<async_nats::HeaderName>().unwrap(),
            "application/cloudevents+json".parse::<async_nats::HeaderValue>().unwrap(),
        )])
    };
    for kind in ["dead", "retry"] {
        let subject = format!("EVENTS:dead:mailer.{kind}.1000-1");
        stream.publish(&subject, headers(), fixtures::event(7, "").to_cloud_event_json()).await;
    }
    let retried: PullConsumer = stream.context.get_consumer_from_stream("mailer", "EVENTS:dead:mailer").await.unwrap();
    let read = retried.fetch().max_messages(1).messages().await.unwrap().count().await;
    assert_eq!(read, 1, "by a process that then dies");
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("its event is handled", PATIENCE, async || notes.all().len() == 1).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_entry_that_was_not_renewed_in_time_is_neither_retried_nor_set_aside() {
    let mut stream = JetStream::new().await;
    stream.add([1], "").await;
    let (first, second) = (Notes::default(), Notes::default());
    let may_end = Arc::new(Semaphore::new(0));
    let handler = first.waiter(&may_end, || Err(HandlerError::permanent("too late")));
    let consumer = stream.start(handler).await;
    first.are(&[1]).await;
    stream.server.signal(crate::test_support::process::Signal::STOP);
    tokio::time::sleep(RECLAIM * 2).await;
    may_end.add_permits(1);
    eventually("it is forgotten", PATIENCE, async || consumer.health().in_flight == 0).await;
    stream.server.signal(crate::test_support::process::Signal::CONT);
    consumer.shutdown().await.unwrap();
    let consumer = stream.start(second.handler(|_| Ok(()))).await;
    second.are(&[1]).await;
    stream.is_acknowledged().await;
    assert_eq!(stream.dead_letters().await.len(), 0);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_server_that_is_killed_and_comes_back_loses_no_event() {
    let mut stream = JetStream::new().await;
    stream.add(1..=300, "k").await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("some are handled", PATIENCE, async || notes.all().len() > 50).await;
    stream.server.kill();
    eventually("that is known", PATIENCE, async || consumer.health().source.is_err()).await;
    stream.server.start_again();
    eventually("all are handled", PATIENCE, async || notes.count(300) > 0).await;
    stream.is_acknowledged().await;
    // Those that were not acknowledged are handled again, and none is left out.
    let mut firsts = Vec::new();
    notes.all().into_iter().for_each(|seq| {
        if !firsts.contains(&seq) {
            firsts.push(seq)
        }
    });
    assert_eq!(firsts, (1..=300).collect::<Vec<_>>());
    eventually("it is well", PATIENCE, async || consumer.health().is_ok()).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_group_or_a_stream_that_is_deleted_is_created_again_and_begins_at_the_first_entry() {
    let stream = JetStream::new().await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let builder = stream.builder(|settings| settings.start = "0".parse().unwrap());
    let consumer = builder.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    notes.are(&[1]).await;
    stream.is_acknowledged().await;
    stream.context.get_stream("EVENTS").await.unwrap().delete_consumer("mailer").await.unwrap();
    stream.add([2], "").await;
    notes.are(&[1, 1, 2]).await;
    stream.is_acknowledged().await;
    stream.context.delete_stream("EVENTS").await.unwrap();
    stream.create().await;
    stream.add([3], "").await;
    notes.are(&[1, 1, 2, 3]).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_answer_for_an_entry_of_a_deleted_stream_is_none_for_the_one_that_has_its_number_now() {
    let stream = JetStream::new().await;
    stream.add([1], "").await;
    let (notes, may_end) = (Notes::default(), Arc::new(Semaphore::new(0)));
    let consumer = stream.start(notes.worker(forgetting(&may_end))).await;
    notes.are(&[1]).await;
    stream.context.delete_stream("EVENTS").await.unwrap();
    stream.create().await;
    stream.add([2], "").await;
    notes.are(&[1, 2]).await;
    may_end.add_permits(1);
    eventually("the first is answered for", PATIENCE, async || consumer.health().in_flight == 1).await;
    assert_eq!(stream.left().await, 1, "the second waits for its handler");
    may_end.add_permits(1);
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}
