use super::*;
use crate::consumer::{DeadLetters, StreamTail};

impl Stream {
    fn letters(&self) -> DeadLetters {
        DeadLetters::of(&self.builder("operator", |_| {}).settings, "mail").unwrap()
    }
}

#[actix::test]
async fn dead_letters_are_listed_retried_for_their_group_alone_and_deleted() {
    let mut stream = Stream::new().await;
    stream.add(1..=4, "k").await;
    let is_fixed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let works = Arc::clone(&is_fixed);
    let notes = Notes::default();
    let consumer = stream
        .start(notes.handler(move |_| {
            let works = works.load(std::sync::atomic::Ordering::Relaxed);
            if works { Ok(()) } else { Err(HandlerError::permanent("the bank is closed")) }
        }))
        .await;
    let letters = stream.letters();
    eventually("all are dead", PATIENCE, async || letters.count().await.unwrap() == 4).await;
    stream.is_acknowledged().await;
    let listed = letters.list(None, 3).await.unwrap();
    assert_eq!(listed.len(), 3);
    let first = &listed[0];
    assert_eq!((first.reason.as_str(), first.deliveries), ("handler `noting`: the bank is closed", 1));
    assert_eq!((first.stream.as_str(), first.event_type.as_str()), (stream.name.as_str(), "t"));
    let rest = letters.list(Some(&listed[2].id), 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    let shown = letters.get(&rest[0].id).await.unwrap().unwrap();
    assert!(shown.cloud_event.unwrap().contains("\"data\":{\"n\": 4}"));

    let other: ::redis::Value =
        ::redis::cmd("XLEN").arg(&stream.name).query_async(&mut stream.connection).await.unwrap();
    is_fixed.store(true, std::sync::atomic::Ordering::Relaxed);
    let ids: Vec<_> = listed.iter().map(|letter| letter.id.to_string().parse().unwrap()).collect();
    let changed = letters.retry(&ids).await.unwrap();
    assert_eq!((changed.changed, changed.missing.len()), (3, 0));
    notes.are(&[1, 2, 3, 4, 1, 2, 3]).await;
    let length: ::redis::Value =
        ::redis::cmd("XLEN").arg(&stream.name).query_async(&mut stream.connection).await.unwrap();
    assert_eq!(length, other, "other groups see nothing of it");
    let retried = format!("{}:retry", stream.dead());
    eventually("nothing is left of the retried ones", PATIENCE, async || {
        redis::length(&mut stream.connection, &retried).await == 0
    })
    .await;
    let again = letters.retry(&ids[..1]).await.unwrap();
    assert_eq!((again.changed, again.missing.as_slice()), (0, &ids[..1]));

    let deleted = letters.delete(&[rest[0].id.clone(), ids[0].clone()]).await.unwrap();
    assert_eq!((deleted.changed, deleted.missing.as_slice()), (1, &ids[..1]));
    assert_eq!(letters.count().await.unwrap(), 0);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_retried_letter_that_fails_again_is_a_dead_letter_of_its_first_stream() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let consumer = stream.start(Notes::default().handler(|_| Err(HandlerError::permanent("no")))).await;
    let letters = stream.letters();
    eventually("it is dead", PATIENCE, async || letters.count().await.unwrap() == 1).await;
    let first = letters.list(None, 1).await.unwrap().remove(0);
    letters.retry(std::slice::from_ref(&first.id)).await.unwrap();
    eventually("it is dead again", PATIENCE, async || letters.count().await.unwrap() == 1).await;
    let second = letters.list(None, 1).await.unwrap().remove(0);
    assert_eq!((second.stream, second.event_id), (first.stream, first.event_id));
    let fields = &stream.dead_letters().await[0];
    assert_eq!(fields.keys().filter(|name| name.starts_with("dead_")).count(), 6, "{fields:?}");
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn only_streams_of_dead_letters_can_be_named() {
    let stream = Stream::new().await;
    let letters = stream.letters();
    let entry = format!("{}/1-1", stream.name).parse().unwrap();
    let error = letters.delete(&[entry]).await.unwrap_err().to_string();
    assert!(error.contains("does not contain dead letters of this consumer"), "{error}");
    assert!("1-1".parse::<crate::LetterId>().is_err());
}

#[actix::test]
async fn a_limit_of_events_is_kept_exactly() {
    let mut stream = Stream::new().await;
    stream.add(1..=100, "").await;
    let notes = Notes::default();
    let consumer =
        stream.builder("mailer-1", |_| {}).subscribe(notes.handler(|_| Ok(()))).limit(7).start().await.unwrap();
    tokio::time::timeout(PATIENCE, consumer.ended()).await.unwrap();
    assert_eq!(notes.all().len(), 7);
    assert!(stream.deliveries().await.iter().all(|deliveries| *deliveries == 0));
}

#[actix::test]
async fn a_tail_reads_without_a_group() {
    let mut stream = Stream::new().await;
    stream.add([1, 2], "").await;
    let mut settings = stream.builder("tail", |_| {}).settings;
    let all = |tail: Vec<Result<Arc<OutboxEvent>, String>>| {
        tail.into_iter().map(|event| event.unwrap().seq).collect::<Vec<_>>()
    };
    let mut tail = StreamTail::of(&settings, "mail").unwrap();
    assert_eq!(all(tail.next().await.unwrap()), [1, 2]);
    settings.consumers.get_mut("mail").unwrap().start = "$".parse().unwrap();
    let mut later = StreamTail::of(&settings, "mail").unwrap();
    assert_eq!(all(later.next().await.unwrap()), [0_i64; 0]);
    stream.add([3], "").await;
    assert_eq!((all(tail.next().await.unwrap()), all(later.next().await.unwrap())), (vec![3], vec![3]));
    let groups: Vec<::redis::Value> =
        ::redis::cmd("XINFO").arg("GROUPS").arg(&stream.name).query_async(&mut stream.connection).await.unwrap();
    assert_eq!(groups.len(), 0);
}

#[actix::test]
async fn a_retried_dead_letter_waits_while_an_event_of_its_key_is_handled() {
    let mut stream = Stream::new().await;
    stream.add([1], "k").await;
    let (notes, may_end) = (Notes::default(), Arc::new(Semaphore::new(0)));
    let (before, permits) = (notes.clone(), Arc::clone(&may_end));
    let handler = notes.worker(move |event| {
        let (is_first, permits) = (event.seq == 1 && before.count(1) == 1, Arc::clone(&permits));
        Box::pin(async move {
            if is_first {
                return Err(HandlerError::permanent("no"));
            }
            let _ = permits.acquire().await;
            Ok(())
        })
    });
    let consumer = stream.start(handler).await;
    eventually("it is dead", PATIENCE, async || stream.dead_letters().await.len() == 1).await;
    stream.add([2], "k").await;
    notes.are(&[1, 2]).await;
    let letter = stream.letters().list(None, 1).await.unwrap().remove(0).id;
    stream.letters().retry(&[letter]).await.unwrap();
    eventually("it is in memory", PATIENCE, async || consumer.health().in_flight == 2).await;
    notes.are(&[1, 2]).await;
    may_end.add_permits(1);
    notes.are(&[1, 2, 1]).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

/// Redis' own number is unknown or too high then.
#[actix::test]
async fn a_few_unread_entries_are_counted_after_a_restart_of_the_server() {
    let mut server = Server::start(Server::DURABLE);
    let mut stream = Stream::on(server.url()).await;
    let settings = stream.builder("operator", |_| {}).settings;
    stream.add(1..=5, "").await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("all are handled", PATIENCE, async || notes.all().len() == 5).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
    server.kill();
    server.start_again();
    let mut stream = Stream { connection: redis::connect(&server.url()).await, ..stream };
    for unread in [0, 1] {
        let status = crate::ConsumerStatus::of(&settings, "mail").await.unwrap();
        assert_eq!((status.streams[0].unread, status.streams[0].pending), (Some(unread), 0));
        stream.add([6], "").await;
    }
}

#[actix::test]
async fn the_status_says_what_is_unread_pending_and_dead() {
    let mut stream = Stream::new().await;
    let settings = stream.builder("operator", |_| {}).settings;
    let status = async || crate::ConsumerStatus::of(&settings, "mail").await.unwrap();
    assert_eq!(status().await.streams, [], "the stream does not exist");
    stream.add(1..=5, "").await;
    let unread = status().await.streams.remove(0);
    assert_eq!((unread.has_group, unread.unread, unread.pending), (false, Some(5), 0));
    let notes = Notes::default();
    let builder = stream.builder("mailer-1", |settings| settings.shutdown_timeout = Duration::ZERO);
    let hangs = notes.worker(|event| {
        Box::pin(async move {
            if event.seq == 1 { Err(HandlerError::permanent("no")) } else { std::future::pending().await }
        })
    });
    let consumer = builder.subscribe(hangs).start().await.unwrap();
    eventually("one is dead and four hang", PATIENCE, async || {
        let status = status().await;
        assert_eq!((status.name.as_str(), status.group.as_str()), ("mail", "mailer"));
        let stream = &status.streams[0];
        stream.dead_letters == 1 && stream.pending == 4 && stream.oldest_pending_seconds.is_some()
    })
    .await;
    consumer.alive().unwrap();
    consumer.update_gauges().await.unwrap();
    let _ = consumer.shutdown().await;
}

#[actix::test]
async fn a_consumer_is_ready_while_its_streams_can_be_read_and_its_handlers_run() {
    use actix_web::test::{TestRequest, call_service, init_service};

    let mut server = Server::start(&[]);
    let stream = Stream::on(server.url()).await;
    let consumer = stream.start(Notes::default().handler(|_| Ok(()))).await;
    let probes = crate::actix_web::ConsumerProbes::new(&consumer).metrics(|| "metrics".to_owned());
    let app = init_service(actix_web::App::new().configure(|config| probes.configure(config))).await;
    let status = async |path: &str| {
        let response = call_service(&app, TestRequest::get().uri(path).to_request()).await;
        response.status().as_u16()
    };
    assert_eq!([status("/healthz").await, status("/readyz").await, status("/metrics").await], [200; 3]);
    server.kill();
    eventually("it is not ready", PATIENCE, async || status("/readyz").await == 503).await;
    assert_eq!(status("/healthz").await, 200, "a restart would not help");
    server.start_again();
    eventually("it is ready again", PATIENCE, async || status("/readyz").await == 200).await;
    consumer.shutdown().await.unwrap();
}
