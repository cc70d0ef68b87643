use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::error::SystemError;

#[actix::test]
async fn a_shutdown_ends_what_handlers_have_and_leaves_the_rest_to_others_immediately() {
    let mut stream = Stream::new().await;
    stream.add(1..=20, "").await;
    let (first, second) = (Notes::default(), Notes::default());
    let may_end = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&may_end);
    let builder = stream.builder("mailer-1", |settings| {
        (settings.concurrency, settings.reclaim_after) = (2, Duration::from_secs(600));
    });
    let consumer = builder
        .subscribe(first.worker(move |_| {
            let waits = Arc::clone(&waits);
            Box::pin(async move {
                while !waits.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            })
        }))
        .start()
        .await
        .unwrap();
    first.are(&[1, 2]).await;
    let running = Arc::clone(&consumer.context);
    let ending = actix::spawn(async move { consumer.shutdown().await });
    running.stopped().await;
    may_end.store(true, Ordering::Relaxed);
    ending.await.unwrap().unwrap();
    assert_eq!(first.all(), [1, 2]);
    assert!(stream.deliveries().await.iter().all(|deliveries| *deliveries == 0), "none of the others was delivered");
    let builder = stream.builder("mailer-2", |settings| settings.reclaim_after = Duration::from_secs(600));
    let other = builder.subscribe(second.handler(|_| Ok(()))).start().await.unwrap();
    eventually("the rest is handled", PATIENCE, async || second.all().len() == 18).await;
    stream.is_acknowledged().await;
    other.shutdown().await.unwrap();
    let consumers: Vec<::redis::Value> = ::redis::cmd("XINFO")
        .arg(&["CONSUMERS", &stream.name, "mailer"])
        .query_async(&mut stream.connection)
        .await
        .unwrap();
    assert_eq!(consumers.len(), 1, "the last one to leave took its name with it; the first one had entries pending");
}

#[actix::test]
async fn a_shutdown_with_a_handler_that_hangs_ends_in_time() {
    let mut stream = Stream::new().await;
    stream.add([1], "").await;
    let notes = Notes::default();
    let builder = stream.builder("mailer-1", |settings| settings.shutdown_timeout = Duration::from_millis(100));
    let consumer = builder.subscribe(notes.worker(|_| Box::pin(std::future::pending()))).start().await.unwrap();
    notes.are(&[1]).await;
    let ended = consumer.shutdown().await;
    assert!(matches!(ended, Err(SystemError::ShutdownTimeout(_))), "{ended:?}");
    assert_eq!(stream.pending().await, 1);
}
