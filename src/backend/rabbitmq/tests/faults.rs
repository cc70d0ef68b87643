//! Brokers and connections that fail.

use std::time::{Duration, Instant};

use super::*;
use crate::test_support::proxy::{Passage, Proxy};
use crate::test_support::{PATIENCE, eventually, free_port};

fn impatient(port: u16, exchange: &str) -> RabbitMq {
    let limit = Duration::from_secs(1);
    let settings = PublisherSettings {
        connect_timeout: limit,
        socket_timeout: limit,
        ..settings(&rabbitmq::url_at(port), exchange)
    };
    RabbitMq::new(&settings).unwrap()
}

#[tokio::test]
async fn a_broker_that_is_unreachable_or_silent_is_unavailable_within_the_limit() {
    let server = rabbitmq::shared();
    let queue = Queue::new(server).await;
    let events = events(&[("t", "a"), ("t", "a"), ("t", "b")]);
    let reason = unavailable(&impatient(free_port(), &queue.name), &events).await;
    assert!(reason.contains("refused"), "{reason}");

    let proxy = Proxy::to(server.port()).await;
    proxy.set(Passage::HoldReplies);
    let backend = impatient(proxy.port(), &queue.name);
    let started = Instant::now();
    let reason = unavailable(&backend, &events).await;
    assert!(reason.contains("no connection within 1s"), "{reason}");
    assert!(backend.health_check().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    proxy.set(Passage::Open);
    eventually("the abandoned connections end", PATIENCE, async || proxy.open() == 0).await;
    assert!(backend.publish_batch(&events).await.iter().all(|result| *result == Some(Ok(()))));
}

#[tokio::test]
async fn a_lost_confirm_sends_the_event_again_and_keeps_the_order_of_its_key() {
    let server = rabbitmq::shared();
    for passage in [
        Passage::LoseReplies,
        Passage::CutAtReply,
        Passage::CutInRequest(100),
        Passage::CutInReply(128),
        Passage::HoldReplies,
    ] {
        let queue = Queue::new(server).await;
        let proxy = Proxy::to(server.port()).await;
        let backend = impatient(proxy.port(), &queue.name);
        backend.health_check().await.unwrap();
        proxy.set(passage);
        let events = events(&[("t", "k"), ("t", "k"), ("t", "k"), ("t", "")]);
        let mut results = backend.publish_batch(&events).await;
        assert!(results.iter().flatten().any(Result::is_err), "{passage:?}: {results:?}");
        assert!(results[1..3].iter().all(Option::is_none), "{passage:?}: {results:?}");
        proxy.set(Passage::Open);
        let mut tries = 0;
        while results.iter().any(|result| *result != Some(Ok(()))) {
            let waiting: Vec<usize> = (0..4).filter(|n| results[*n] != Some(Ok(()))).collect();
            let batch: Vec<_> = waiting.iter().map(|n| Arc::clone(&events[*n])).collect();
            for (n, result) in waiting.into_iter().zip(backend.publish_batch(&batch).await) {
                results[n] = result;
            }
            tries += 1;
            assert!(tries < 5, "{passage:?}: {results:?}");
        }
        let mut arrived = ids(&queue.take().await);
        arrived.retain(|id| *id != events[3].id.to_string());
        arrived.dedup();
        assert_eq!(arrived, events[..3].iter().map(|event| id(event)).collect::<Vec<_>>(), "{passage:?}");
    }
}

/// On a broker of its own, since its alarms and restarts concern all clients.
#[tokio::test]
async fn alarms_closed_connections_and_restarts_are_outages_with_a_reason() {
    let mut server = Server::start();
    let queue = Queue::new(&server).await;
    let backend = impatient(server.port(), &queue.name);
    let events = events(&[("t", "a"), ("t", "b"), ("t", "a")]);
    let all = |results: Vec<Option<Result<(), BackendError>>>| results.iter().all(|result| *result == Some(Ok(())));
    assert!(all(backend.publish_batch(&events).await));

    server.control(&["set_vm_memory_high_watermark", "0"]);
    let mut reason = String::new();
    eventually("the alarm is the reason", PATIENCE, async || {
        let results = backend.publish_batch(&events).await;
        let error = results.into_iter().flatten().find_map(Result::err);
        reason = error.map(|error| error.to_string()).unwrap_or_default();
        reason.contains("blocks publishers")
    })
    .await;
    assert!(reason.contains("memory"), "{reason}");
    let health = backend.health_check().await.unwrap_err().to_string();
    assert!(health.contains("memory"), "{health}");
    server.control(&["set_vm_memory_high_watermark", "0.8"]);
    eventually("the broker accepts events again", PATIENCE, async || backend.health_check().await.is_ok()).await;
    assert!(all(backend.publish_batch(&events).await));

    server.control(&["close_all_connections", "maintenance"]);
    let reason = unavailable_or_sent(&backend, &events).await;
    assert!(reason.is_empty() || reason.contains("clos") || reason.contains("maintenance"), "{reason}");
    assert!(all(backend.publish_batch(&events).await));

    server.kill();
    let reason = unavailable(&backend, &events).await;
    assert!(!reason.is_empty());
    assert!(backend.health_check().await.is_err());
    server.start_again();
    backend.health_check().await.unwrap();
    assert!(all(backend.publish_batch(&events).await));
}

/// The reason if the first event was not accepted.
async fn unavailable_or_sent(backend: &RabbitMq, events: &[Arc<OutboxEvent>]) -> String {
    match backend.publish_batch(events).await.remove(0) {
        Some(Ok(())) => String::new(),
        Some(Err(BackendError::Unavailable(reason))) => reason,
        other => panic!("{other:?}"),
    }
}
