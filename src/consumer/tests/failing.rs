use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::Attempt;

#[actix::test]
async fn a_rejected_event_is_a_dead_letter_after_exactly_max_deliveries_and_holds_no_other_key() {
    let mut stream = Stream::new().await;
    stream.add([1], "poison").await;
    stream.add([2], "poison").await;
    stream.add([3], "other").await;
    let notes = Notes::default();
    let consumer =
        stream.start(notes.handler(|event| if event.seq == 1 { Err("secretly broken")? } else { Ok(()) })).await;
    eventually("all are handled", PATIENCE, async || notes.count(2) == 1 && notes.count(3) == 1).await;
    stream.is_acknowledged().await;
    assert_eq!(notes.count(1), 5);
    let order: Vec<i64> = notes.all().into_iter().filter(|seq| *seq != 3).collect();
    assert_eq!(order, [1, 1, 1, 1, 1, 2], "the key waits for its event");
    let dead = stream.dead_letters().await;
    assert_eq!(dead.len(), 1);
    let fields = ["seq", "dead_stream", "dead_group", "dead_consumer", "dead_deliveries", "dead_reason"];
    let expected = ["1", &stream.name, "mailer", "mailer-1", "5", "handler `noting`: secretly broken"];
    assert_eq!(fields.map(|field| dead[0][field].as_str()), expected);
    consumer.shutdown().await.unwrap();
}

struct Counting(Arc<Mutex<Vec<Attempt>>>);

impl Actor for Counting {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Counting {
    type Result = Answer;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        self.0.lock().unwrap().push(message.attempt);
        Err(HandlerError::retry("no"))
    }
}

#[actix::test]
async fn a_handler_knows_the_number_of_its_attempt() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let attempts = Arc::default();
    let counting = Counting(Arc::clone(&attempts)).start();
    let builder = stream.builder("mailer-1", |settings| settings.max_deliveries = 3);
    let consumer =
        builder.subscribe(Subscribe::new("counting", EventTypes::All, counting.recipient())).start().await.unwrap();
    eventually("it is dead", PATIENCE, async || stream.dead_letters().await.len() == 1).await;
    let attempts: Vec<_> = attempts.lock().unwrap().iter().map(|a| (a.number, a.max, a.is_last())).collect();
    assert_eq!(attempts, [(1, 3, false), (2, 3, false), (3, 3, true)]);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_permanent_error_and_an_entry_without_an_event_are_dead_letters_immediately() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let _: String = ::redis::cmd("XADD")
        .arg(&stream.name)
        .arg(&["*", "some", "thing"])
        .query_async(&mut stream.connection)
        .await
        .unwrap();
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Err(HandlerError::permanent("no such customer")))).await;
    eventually("both are dead", PATIENCE, async || stream.dead_letters().await.len() == 2).await;
    stream.is_acknowledged().await;
    assert_eq!(notes.all(), [1]);
    let mut reasons: Vec<String> = stream.dead_letters().await.iter().map(|dead| dead["dead_reason"].clone()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["handler `noting`: no such customer", "the entry has no field `cloud_event`"]);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn only_the_handlers_that_rejected_an_event_are_asked_again() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let (sound, broken) = (Notes::default(), Notes::default());
    let mut other = sound.handler(|_| Ok(()));
    other.name = "sound".to_owned();
    let builder = stream.builder("mailer-1", |settings| settings.max_deliveries = 3);
    let consumer = builder.subscribe(other).subscribe(broken.handler(|_| Err("no")?)).start().await.unwrap();
    eventually("it is dead", PATIENCE, async || stream.dead_letters().await.len() == 1).await;
    assert_eq!((sound.all(), broken.all()), (vec![1], vec![1, 1, 1]));
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_handler_that_hangs_is_timed_out_and_the_event_delivered_again() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let first = Arc::new(AtomicBool::new(true));
    let handler = notes.worker(move |_| {
        let hangs = first.swap(false, Ordering::Relaxed);
        Box::pin(async move { if hangs { std::future::pending().await } else { Ok(()) } })
    });
    let builder = stream.builder("mailer-1", |_| {}).handler_timeout(Duration::from_millis(50));
    let consumer = builder.subscribe(handler).start().await.unwrap();
    notes.are(&[1, 1]).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_group_that_is_destroyed_is_created_again_and_begins_at_the_first_entry() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    notes.are(&[1]).await;
    stream.is_acknowledged().await;
    let _: usize = ::redis::cmd("XGROUP")
        .arg(&["DESTROY", &stream.name, "mailer"])
        .query_async(&mut stream.connection)
        .await
        .unwrap();
    stream.add([2], "").await;
    notes.are(&[1, 1, 2]).await;
    let _: usize = ::redis::cmd("DEL").arg(&stream.name).query_async(&mut stream.connection).await.unwrap();
    stream.add([3], "").await;
    notes.are(&[1, 1, 2, 3]).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_missing_group_that_may_not_be_created_is_named() {
    let stream = Stream::new().await;
    let builder = stream.builder("mailer-1", |settings| settings.create_group = false);
    let consumer = builder.subscribe(Notes::default().handler(|_| Ok(()))).start().await.unwrap();
    eventually("the problem is known", PATIENCE, async || {
        consumer.health().source.is_err_and(|problem| problem.contains("create it with XGROUP CREATE"))
    })
    .await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_server_that_is_killed_and_comes_back_loses_no_event() {
    let mut server = Server::start(Server::DURABLE);
    let mut stream = Stream::on(server.url()).await;
    stream.add(1..=500, "k").await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("some are handled", PATIENCE, async || notes.all().len() > 50).await;
    server.kill();
    eventually("the problem is known", PATIENCE, async || consumer.health().source.is_err()).await;
    server.start_again();
    let mut stream = Stream { connection: redis::connect(&server.url()).await, ..stream };
    stream.add(501..=510, "k").await;
    eventually("all are handled", PATIENCE, async || notes.all().last() == Some(&510)).await;
    stream.is_acknowledged().await;
    let mut handled = notes.all();
    handled.dedup();
    handled.sort_unstable();
    handled.dedup();
    assert_eq!(handled, (1..=510).collect::<Vec<_>>());
    assert!(consumer.health().is_ok());
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_entry_that_was_trimmed_while_it_was_handled_is_a_dead_letter_with_its_event() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let trimmed = Arc::new(AtomicBool::new(false));
    let may_end = Arc::clone(&trimmed);
    let handler = notes.worker(move |_| {
        let may_end = Arc::clone(&may_end);
        Box::pin(async move {
            while !may_end.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(HandlerError::permanent("never"))
        })
    });
    let consumer = stream.start(handler).await;
    notes.are(&[1]).await;
    let _: usize = ::redis::cmd("XTRIM")
        .arg(&stream.name)
        .arg(&["MAXLEN", "0"])
        .query_async(&mut stream.connection)
        .await
        .unwrap();
    trimmed.store(true, Ordering::Relaxed);
    eventually("it is dead", PATIENCE, async || stream.dead_letters().await.len() == 1).await;
    let dead = stream.dead_letters().await;
    assert!(dead[0]["cloud_event"].contains("\"data\":{\"n\": 1}"), "{dead:?}");
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_key_whose_event_is_retried_later_holds_no_other_key_however_many_of_its_events_wait() {
    let mut stream = Stream::new().await;
    stream.add(1..=1_000, "poison").await;
    stream.add(1_001..=1_100, "other").await;
    let notes = Notes::default();
    let consumer =
        stream
            .start(notes.handler(|event| {
                if event.seq == 1 { Err(HandlerError::after(PATIENCE * 10, "not now")) } else { Ok(()) }
            }))
            .await;
    eventually("the other key is handled", PATIENCE, async || notes.count(1_100) == 1).await;
    assert!((2..=1_000).all(|seq| notes.count(seq) == 0), "the key waits");
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_stream_whose_key_is_replaced_holds_up_no_other_stream() {
    let mut broken = Stream::new().await;
    let mut other = Stream { name: redis::stream(), connection: broken.connection.clone(), ..Stream::new().await };
    broken.add([1, 2], "").await;
    other.add([3], "").await;
    let notes = Notes::default();
    let may_end = Arc::new(Semaphore::new(0));
    let handler = notes.waiter(&may_end, || Ok(()));
    let builder = broken.builder("mailer-1", |settings| settings.streams.push(other.name.clone()));
    let consumer = builder.subscribe(handler).start().await.unwrap();
    eventually("all are being handled", PATIENCE, async || notes.all().len() == 3).await;
    broken.replace(&broken.name.clone()).await;
    may_end.add_permits(1_000);
    other.is_acknowledged().await;
    other.add(10..200, "").await;
    eventually("the other one is read on", PATIENCE, async || notes.all().len() == 193).await;
    other.is_acknowledged().await;
    let problem = consumer.health().source.unwrap_err();
    assert!(problem.contains(&broken.name) && problem.contains("WRONGTYPE"), "{problem}");

    let _: usize = ::redis::cmd("DEL").arg(&broken.name).query_async(&mut broken.connection).await.unwrap();
    broken.add([300], "").await;
    eventually("it is read again", PATIENCE, async || notes.count(300) == 1 && consumer.health().is_ok()).await;
    broken.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_key_that_waits_with_more_events_than_memory_allows_holds_no_other_key_and_stays_in_order() {
    let mut stream = Stream::new().await;
    stream.add(1..=12_000, "waits").await;
    stream.add(12_001..=12_100, "other").await;
    let notes = Notes::default();
    let is_fixed = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&is_fixed);
    let handler = notes.handler(move |event| {
        if event.seq == 1 && !works.load(Ordering::Relaxed) {
            Err(HandlerError::after(Duration::from_millis(200), "not now"))
        } else {
            Ok(())
        }
    });
    let builder = stream.builder("mailer-1", |settings| settings.max_deliveries = u32::MAX);
    let consumer = builder.subscribe(handler).start().await.unwrap();
    eventually("the other key is handled", PATIENCE, async || notes.count(12_100) == 1).await;
    // Others would take what is not renewed.
    let other = Notes::default();
    let second = stream.builder("mailer-2", |_| {}).subscribe(other.handler(|_| Ok(()))).start().await.unwrap();
    tokio::time::sleep(RECLAIM * 3).await;
    assert_eq!(notes.all().iter().filter(|seq| (2..=12_000).contains(*seq)).count(), 0, "the key waits");
    assert!(other.all().is_empty(), "{:?}", other.all());
    is_fixed.store(true, Ordering::Relaxed);
    stream.is_acknowledged().await;
    let of_key: Vec<i64> = notes.all().into_iter().filter(|seq| (2..=12_000).contains(seq)).collect();
    assert!(of_key.iter().copied().eq(2..=12_000), "{} in another order", of_key.len());
    assert!(other.all().is_empty());
    consumer.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[actix::test]
async fn an_entry_that_was_trimmed_is_retried_like_others_and_then_a_dead_letter() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let trimmed = Arc::new(AtomicBool::new(false));
    let may_end = Arc::clone(&trimmed);
    let builder = stream.builder("mailer-1", |settings| settings.max_deliveries = 3);
    let handler = notes.worker(move |_| {
        let may_end = Arc::clone(&may_end);
        Box::pin(async move {
            while !may_end.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err("not now")?
        })
    });
    let consumer = builder.subscribe(handler).start().await.unwrap();
    notes.are(&[1]).await;
    let _: usize = ::redis::cmd("XTRIM")
        .arg(&stream.name)
        .arg(&["MAXLEN", "0"])
        .query_async(&mut stream.connection)
        .await
        .unwrap();
    // The renewal of a slow handler meets it as well.
    tokio::time::sleep(RECLAIM).await;
    trimmed.store(true, Ordering::Relaxed);
    eventually("it is dead", PATIENCE, async || stream.dead_letters().await.len() == 1).await;
    assert_eq!(notes.all(), [1, 1, 1]);
    assert_eq!(stream.dead_letters().await[0]["dead_deliveries"], "3");
    eventually("nothing is in memory", PATIENCE, async || consumer.health().in_flight == 0).await;
    consumer.shutdown().await.unwrap();
}
