//! Entries that wait: how much memory they take, and what they keep from being read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::test_support::proxy::{Passage, Proxy};

const MOST_BYTES: usize = 1_000_000;
const LARGE: usize = 100_000;

/// A stream, and another one on the same server.
async fn pair() -> (Stream, Stream) {
    (Stream::new().await, Stream::new().await)
}

/// Waits until a consumer has at least this many entries, and their number stays the same.
async fn reads_no_more(consumer: &OutboxConsumer, least: usize) {
    eventually("no more is read", PATIENCE, async || {
        let before = consumer.health().in_flight;
        tokio::time::sleep(Duration::from_millis(500)).await;
        before >= least && before == consumer.health().in_flight
    })
    .await;
}

#[actix::test]
async fn entries_that_wait_for_their_keys_are_loaded_as_far_as_the_memory_allows() {
    let mut stream = Stream::new().await;
    let keys: Vec<String> = (0..30).map(|n| format!("k{n}")).collect();
    for (n, key) in (0..).zip(&keys) {
        stream.add([n], key).await;
    }
    for (n, key) in (0..).zip(&keys) {
        stream.add_large([100 + n, 200 + n, 300 + n], key, LARGE).await;
    }
    let notes = Notes::default();
    let is_fixed = Arc::new(AtomicBool::new(false));
    let context = Arc::new(OnceLock::<Arc<crate::consumer::context::ConsumerContext>>::new());
    let most = Arc::new(AtomicUsize::new(0));
    let (works, seen, bytes) = (Arc::clone(&is_fixed), Arc::clone(&context), Arc::clone(&most));
    let handler = notes.handler(move |event| {
        if let Some(context) = seen.get().filter(|_| works.load(Ordering::Relaxed)) {
            bytes.fetch_max(context.held.bytes(), Ordering::Relaxed);
        }
        if event.seq < 100 && !works.load(Ordering::Relaxed) {
            return Err(HandlerError::after(Duration::from_millis(200), "not now"));
        }
        Ok(())
    });
    let builder = stream.builder("mailer-1", |settings| {
        (settings.max_bytes, settings.max_deliveries) = (MOST_BYTES, u32::MAX);
    });
    let consumer = builder.subscribe(handler).start().await.unwrap();
    assert!(context.set(Arc::clone(&consumer.context)).is_ok());
    eventually("all are read", PATIENCE, async || consumer.health().in_flight == 120).await;
    is_fixed.store(true, Ordering::Relaxed);
    stream.is_acknowledged().await;
    for n in 0..30 {
        let of_key: Vec<i64> = notes.all().into_iter().filter(|seq| *seq >= 100 && seq % 100 == n).collect();
        assert_eq!(of_key, [100 + n, 200 + n, 300 + n]);
    }
    let most = most.load(Ordering::Relaxed);
    assert!(most <= 2 * MOST_BYTES + 2 * LARGE, "{most} bytes");
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn entries_that_cannot_be_acknowledged_take_no_memory_from_other_streams() {
    let (mut broken, mut other) = pair().await;
    broken.add_large([1], "", 2 * MOST_BYTES).await;
    let notes = Notes::default();
    let may_end = Arc::new(Semaphore::new(0));
    let handler = notes.waiter(&may_end, || Ok(()));
    let builder = broken.builder("mailer-1", |settings| {
        settings.streams.push(other.name.clone());
        settings.max_bytes = MOST_BYTES;
    });
    let consumer = builder.subscribe(handler).start().await.unwrap();
    notes.are(&[1]).await;
    broken.replace(&broken.name.clone()).await;
    may_end.add_permits(1_000);
    eventually("the refusal is known", PATIENCE, async || consumer.health().source.is_err()).await;
    other.add([2], "").await;
    notes.are(&[1, 2]).await;
    other.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn entries_that_are_too_many_for_a_slow_connection_are_read_in_parts() {
    const ENTRIES: i64 = 40;
    let mut stream = Stream::new().await;
    stream.add_large(1..=ENTRIES, "", 100_000).await;
    let port = url::Url::parse(&stream.url).unwrap().port().unwrap();
    let proxy = Proxy::to(port).await;
    proxy.set(Passage::Slow(1_000_000));
    let through = format!("redis://127.0.0.1:{}", proxy.port());
    let notes = Notes::default();
    let builder = stream.builder("mailer-1", |settings| {
        settings.url = Some(Secret::from(through));
        // Five of them arrive within it.
        settings.socket_timeout = Duration::from_millis(500);
        settings.reclaim_after = Duration::from_secs(2);
    });
    let consumer = builder.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    eventually("all are handled", PATIENCE, async || (1..=ENTRIES).all(|seq| notes.count(seq) > 0)).await;
    proxy.set(Passage::Open);
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_stream_whose_dead_letters_are_refused_rests_alone() {
    let (mut broken, mut other) = pair().await;
    let dead = broken.dead();
    broken.replace(&dead).await;
    broken.add(1..=6_000, "").await;
    let notes = Notes::default();
    let handler = notes.handler(|event| if event.seq <= 6_000 { Err(HandlerError::permanent("no")) } else { Ok(()) });
    let builder = broken.builder("mailer-1", |settings| settings.streams.push(other.name.clone()));
    let consumer = builder.subscribe(handler).start().await.unwrap();
    reads_no_more(&consumer, 1).await;
    other.add(6_001..=6_010, "").await;
    eventually("the other one is read on", PATIENCE, async || notes.count(6_010) == 1).await;
    other.is_acknowledged().await;
    assert!(consumer.health().in_flight < 3_000, "{}", consumer.health().in_flight);
    let problem = consumer.health().source.unwrap_err();
    assert!(problem.contains("WRONGTYPE"), "{problem}");

    let _: usize = ::redis::cmd("DEL").arg(&dead).query_async(&mut broken.connection).await.unwrap();
    eventually("all are dead", PATIENCE, async || redis::length(&mut broken.connection.clone(), &dead).await == 6_000)
        .await;
    eventually("it is well again", PATIENCE, async || consumer.health().is_ok()).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_stream_that_takes_dead_letters_hides_no_other_that_refuses_them() {
    let (mut broken, mut other) = pair().await;
    let (dead, other_dead) = (broken.dead(), other.dead());
    broken.replace(&dead).await;
    broken.add([1], "").await;
    let notes = Notes::default();
    let builder = broken.builder("mailer-1", |settings| settings.streams.push(other.name.clone()));
    let handler = notes.handler(|_| Err(HandlerError::permanent("no")));
    let consumer = builder.subscribe(handler).start().await.unwrap();
    eventually("the refusal is known", PATIENCE, async || consumer.health().source.is_err()).await;
    for seq in 2..10 {
        other.add([seq], "").await;
        let letters = usize::try_from(seq).unwrap() - 1;
        let is_moved = async || redis::length(&mut other.connection.clone(), &other_dead).await == letters;
        eventually("it is a dead letter", PATIENCE, is_moved).await;
        assert!(consumer.health().source.unwrap_err().contains("WRONGTYPE"));
    }
    let _: usize = ::redis::cmd("DEL").arg(&dead).query_async(&mut broken.connection).await.unwrap();
    eventually("it is well again", PATIENCE, async || consumer.health().is_ok()).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn ids_that_wait_behind_a_refused_entry_keep_no_other_stream_from_being_read() {
    let (mut broken, mut other) = pair().await;
    let dead = broken.dead();
    broken.replace(&dead).await;
    // `reclaim_after` of a second allows 10,000 ids.
    broken.add(1..=16_000, "k").await;
    let notes = Notes::default();
    let handler = notes.handler(|event| if event.seq == 1 { Err(HandlerError::permanent("no")) } else { Ok(()) });
    let builder = broken.builder("mailer-1", |settings| settings.streams.push(other.name.clone()));
    let consumer = builder.subscribe(handler).start().await.unwrap();
    reads_no_more(&consumer, 1).await;
    other.add([20_000], "").await;
    eventually("the other one is read on", PATIENCE, async || notes.count(20_000) == 1).await;
    let _: usize = ::redis::cmd("DEL").arg(&dead).query_async(&mut broken.connection).await.unwrap();
    eventually("all are handled", PATIENCE, async || notes.count(16_000) == 1).await;
    let of_key: Vec<i64> = notes.all().into_iter().filter(|seq| *seq <= 16_000).collect();
    assert!(of_key.iter().copied().eq(1..=16_000), "{} in another order", of_key.len());
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_that_is_published_again_while_its_first_entry_is_handled_keeps_its_place_in_its_key() {
    let mut stream = Stream::new().await;
    let again = fixtures::event(1, "k");
    for seq in [1, 2, 3] {
        let event = if seq == 3 { fixtures::event(seq, "k") } else { OutboxEvent { seq, ..again.clone() } };
        let mut add = ::redis::cmd("XADD");
        add.arg(&stream.name).arg("*");
        let fields = entry_fields(&event).unwrap().fields;
        fields.iter().for_each(|(name, value)| _ = add.arg(name.as_ref()).arg(value.as_ref()));
        let _: String = add.query_async(&mut stream.connection).await.unwrap();
    }
    let notes = Notes::default();
    let may_end = Arc::new(Semaphore::new(0));
    let handler = notes.waiter(&may_end, || Ok(()));
    let consumer = stream.start(handler).await;
    eventually("all are read", PATIENCE, async || consumer.health().in_flight == 3).await;
    notes.are(&[1]).await;
    may_end.add_permits(1_000);
    notes.are(&[1, 2, 3]).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_stream_that_may_be_read_and_not_acknowledged_rests_alone() {
    let server = Server::start(&[]);
    let mut broken = Stream::on(server.url()).await;
    let mut other = Stream::on(server.url()).await;
    if redis::version(&mut broken.connection).await.starts_with("6.") {
        // It knows no right to a command for some keys.
        return;
    }
    let mut acl = ::redis::cmd("ACL");
    acl.arg(&["SETUSER", "mailer", "on", ">secret", "~*", "+@all", "-xack"]).arg(format!("(+xack ~{})", other.name));
    let _: () = acl.query_async(&mut broken.connection).await.unwrap();
    broken.add(1..=20_000, "").await;
    let notes = Notes::default();
    let builder = broken.builder("mailer-1", |settings| {
        settings.streams.push(other.name.clone());
        settings.url = Some(Secret::from(server.url().replace("redis://", "redis://mailer:secret@")));
    });
    let consumer = builder.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    eventually("the refusal is known", PATIENCE, async || consumer.health().source.is_err()).await;
    other.add(30_001..=30_010, "").await;
    eventually("the other one is read on", PATIENCE, async || notes.count(30_010) == 1).await;
    other.is_acknowledged().await;
    tokio::time::sleep(RECLAIM * 5).await;
    let in_flight = consumer.health().in_flight;
    assert!((1..10_000).contains(&in_flight), "{in_flight}");
    other.add([30_011], "").await;
    eventually("the other one is still read", PATIENCE, async || notes.count(30_011) == 1).await;

    let grant = ["SETUSER", "mailer", "+xack"];
    let _: () = ::redis::cmd("ACL").arg(&grant).query_async(&mut broken.connection).await.unwrap();
    eventually("all are acknowledged", PATIENCE, async || consumer.acknowledged() == 20_011).await;
    assert_eq!(broken.pending().await, 0);
    let handled: std::collections::BTreeSet<i64> = notes.all().into_iter().collect();
    assert_eq!(handled.len(), 20_011);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_stream_whose_dead_letters_find_no_memory_rests_until_there_is_some() {
    let server = Server::start(&[]);
    let mut stream = Stream::on(server.url()).await;
    let mut connection = stream.connection.clone();
    let mut limit_memory = async |bytes: &str| {
        let limit = ["SET", "maxmemory", bytes];
        let _: () = ::redis::cmd("CONFIG").arg(&limit).query_async(&mut connection).await.unwrap();
    };
    stream.add(1..=6_000, "").await;
    let notes = Notes::default();
    let may_end = Arc::new(Semaphore::new(0));
    let handler = notes.waiter(&may_end, || Err(HandlerError::permanent("no")));
    let consumer = stream.start(handler).await;
    eventually("some are being handled", PATIENCE, async || notes.all().len() > 1).await;
    limit_memory("1").await;
    may_end.add_permits(1_000);
    reads_no_more(&consumer, 500).await;
    assert!(consumer.health().in_flight < 3_000, "{}", consumer.health().in_flight);
    let problem = consumer.health().source.unwrap_err();
    assert!(problem.contains("OOM"), "{problem}");
    limit_memory("0").await;
    eventually("all are dead", PATIENCE, async || {
        redis::length(&mut stream.connection.clone(), &stream.dead()).await == 6_000
    })
    .await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}
