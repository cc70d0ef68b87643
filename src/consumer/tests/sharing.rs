use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Gives an entry to another consumer, as if this one had been silent.
async fn take_from(stream: &mut Stream, entry: &str, consumer: &str) {
    let mut claim = ::redis::cmd("XCLAIM");
    claim.arg(&[&stream.name, "mailer", consumer, "0", entry, "JUSTID"]);
    let claimed: Vec<String> = claim.query_async(&mut stream.connection).await.unwrap();
    assert_eq!(claimed, [entry]);
}

async fn only_entry(stream: &mut Stream) -> String {
    let pending: Vec<(String, String, u64, u32)> = ::redis::cmd("XPENDING")
        .arg(&[&stream.name, "mailer", "-", "+", "1"])
        .query_async(&mut stream.connection)
        .await
        .unwrap();
    pending[0].0.clone()
}

/// Reads as a consumer that then dies.
async fn read_and_die(stream: &mut Stream, count: usize) {
    let create = &["CREATE", &stream.name, "mailer", "0"];
    let _: Result<(), _> = ::redis::cmd("XGROUP").arg(create).query_async(&mut stream.connection).await;
    let mut read = ::redis::cmd("XREADGROUP");
    read.arg(&["GROUP", "mailer", "dead"]).arg("COUNT").arg(count).arg(&["STREAMS", &stream.name, ">"]);
    let _: ::redis::Value = read.query_async(&mut stream.connection).await.unwrap();
}

#[actix::test]
async fn a_handler_that_takes_several_times_reclaim_after_is_run_once() {
    let mut stream = Stream::new().await;
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
    let second = stream.builder("mailer-2", |_| {}).subscribe(other.handler(|_| Ok(()))).start().await.unwrap();
    stream.is_acknowledged().await;
    assert_eq!((slow.all(), other.all()), (vec![1], vec![]));
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[actix::test]
async fn the_entries_of_a_consumer_that_died_are_handled_by_another_one() {
    let mut stream = Stream::new().await;
    stream.add(1..=20, "k").await;
    read_and_die(&mut stream, 20).await;
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    notes.are(&(1..=20).collect::<Vec<_>>()).await;
    stream.is_acknowledged().await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_whose_consumers_died_is_a_dead_letter_after_max_deliveries() {
    let mut stream = Stream::new().await;
    stream.add([1, 2], "").await;
    read_and_die(&mut stream, 1).await;
    let poison = only_entry(&mut stream).await;
    let mut claim = ::redis::cmd("XCLAIM");
    claim.arg(&[&stream.name, "mailer", "dead", "0", &poison, "RETRYCOUNT", "5", "JUSTID"]);
    let _: Vec<String> = claim.query_async(&mut stream.connection).await.unwrap();
    let notes = Notes::default();
    let consumer = stream.start(notes.handler(|_| Ok(()))).await;
    eventually("it is dead", PATIENCE, async || stream.dead_letters().await.len() == 1).await;
    assert_eq!(notes.all(), [2]);
    assert_eq!(stream.dead_letters().await[0]["dead_reason"], "its consumers ended before they answered");
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn an_entry_that_another_consumer_took_is_neither_retried_nor_set_aside() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let taken = Arc::new(AtomicBool::new(false));
    let may_end = Arc::clone(&taken);
    let consumer = stream
        .start(notes.worker(move |_| {
            let may_end = Arc::clone(&may_end);
            Box::pin(async move {
                while !may_end.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err("no")?
            })
        }))
        .await;
    notes.are(&[1]).await;
    let entry = only_entry(&mut stream).await;
    take_from(&mut stream, &entry, "other").await;
    taken.store(true, Ordering::Relaxed);
    eventually("it is forgotten", PATIENCE, async || consumer.health().in_flight == 0).await;
    assert_eq!((notes.all(), stream.deliveries().await), (vec![1], vec![1]));
    assert_eq!(stream.dead_letters().await, []);
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn several_consumers_share_the_entries_of_a_group() {
    let mut stream = Stream::new().await;
    let notes = [Notes::default(), Notes::default(), Notes::default()];
    let mut consumers = Vec::new();
    for (n, notes) in notes.iter().enumerate() {
        let slow = notes.worker(|_| {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(())
            })
        });
        let builder = stream.builder(&format!("mailer-{n}"), |settings| settings.concurrency = 1);
        consumers.push(builder.subscribe(slow).start().await.unwrap());
    }
    stream.add(1..=600, "").await;
    let count = || notes.iter().map(|notes| notes.all().len()).sum::<usize>();
    eventually("all are handled", PATIENCE, async || count() == 600).await;
    stream.is_acknowledged().await;
    assert!(notes.iter().all(|notes| notes.all().len() > 50), "{:?}", notes.each_ref().map(|notes| notes.all().len()));
    for consumer in consumers {
        consumer.shutdown().await.unwrap();
    }
}
