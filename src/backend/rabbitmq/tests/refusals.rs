//! What the broker refuses: an event, or everything for a reason that an operator can remove.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable, LongString};

use super::*;
use crate::event::JsonText;
use crate::settings::ContentMode;
use crate::test_support::unique;

#[tokio::test]
async fn an_event_that_no_queue_is_bound_for_is_rejected_and_its_keys_later_events_wait() {
    let server = rabbitmq::shared();
    let queue = Queue::bound(server, "known", FieldTable::default()).await;
    let backend = backend(server, &queue.name);
    let events = events(&[("unknown", "k"), ("known", "k"), ("known", "other"), ("known", "other")]);
    let results = backend.publish_batch(&events).await;
    let Some(Err(BackendError::Rejected(reason))) = &results[0] else { panic!("{results:?}") };
    assert!(reason.contains(&format!("exchange `{}`", queue.name)) && reason.contains("`unknown`"), "{reason}");
    assert_eq!(results[1..], [None, Some(Ok(())), Some(Ok(()))]);
    assert_eq!(ids(&queue.take().await), [id(&events[2]), id(&events[3])]);
    // In order once a queue is bound.
    queue.bind("unknown").await;
    assert_eq!(backend.publish_batch(&events[..2]).await, [Some(Ok(())), Some(Ok(()))]);
    assert_eq!(ids(&queue.take().await), [id(&events[0]), id(&events[1])]);
}

#[tokio::test]
async fn an_event_for_a_full_queue_waits_without_a_retry_until_the_limit() {
    let server = rabbitmq::shared();
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongInt(1));
    full.insert("x-overflow".into(), AMQPValue::LongString(LongString::from("reject-publish")));
    let queue = Queue::bound(server, "#", full).await;
    let events: Vec<_> = events(&[("t", "a"), ("t", "b"), ("t", "b")])
        .iter()
        .map(|event| Arc::new(OutboxEvent { created_at: chrono::Utc::now(), ..(**event).clone() }))
        .collect();
    let long = backend(server, &queue.name);
    assert_eq!(long.publish_batch(&events[..1]).await, [Some(Ok(()))]);
    let results = long.publish_batch(&events[1..]).await;
    let Some(Err(BackendError::Deferred { delay, reason })) = &results[0] else { panic!("{results:?}") };
    assert!(*delay >= Duration::from_secs(1) && reason.contains("queue"), "{delay:?}: {reason}");
    assert_eq!(results[1], None);
    let short = PublisherSettings { unavailable_limit: Duration::ZERO, ..settings(&server.url(), &queue.name) };
    let results = RabbitMq::new(&short).unwrap().publish_batch(&events[1..]).await;
    assert!(matches!(results[0], Some(Err(BackendError::Rejected(_)))), "{results:?}");
    queue.purge().await;
    assert_eq!(long.publish_batch(&events[1..2]).await, [Some(Ok(()))]);
}

#[tokio::test]
async fn a_missing_exchange_is_named_with_the_command_that_declares_it() {
    let server = rabbitmq::shared();
    let queue = Queue::new(server).await;
    let backend = backend(server, &queue.name);
    let events = events(&[("t", "k"), ("t", "k"), ("t", "")]);
    backend.health_check().await.unwrap();
    queue.delete_exchange().await;
    let declare = format!("declare exchange name={}", queue.name);
    let reason = unavailable(&backend, &events).await;
    assert!(reason.contains(&declare), "{reason}");
    for _ in 0..2 {
        let reason = backend.health_check().await.unwrap_err().to_string();
        assert!(reason.contains(&declare), "{reason}");
    }
    queue.declare_exchange().await;
    queue.bind("#").await;
    backend.health_check().await.unwrap();
    assert!(backend.publish_batch(&events).await.iter().all(|result| *result == Some(Ok(()))));
}

#[tokio::test]
async fn a_refused_login_or_permission_says_whose_and_shows_no_password() {
    let server = rabbitmq::shared();
    let queue = Queue::new(server).await;
    let user = unique("writer");
    server.control(&["add_user", &user, "s3cret"]);
    server.control(&["set_permissions", &user, "", ".*", ""]);
    let events = events(&[("t", "")]);
    let at = |password: &str, vhost: &str| {
        let url = format!("amqp://{user}:{password}@127.0.0.1:{}/{vhost}", server.port());
        RabbitMq::new(&settings(&url, &queue.name)).unwrap()
    };
    for (wrong, words) in [(at("wr0ng", "%2f"), "login as"), (at("s3cret", "none"), "virtual host `none` refused")] {
        let reason = unavailable(&wrong, &events).await;
        assert!(reason.contains(words) && !reason.contains("wr0ng") && !reason.contains("s3cret"), "{reason}");
    }
    let backend = at("s3cret", "%2f");
    assert_eq!(backend.publish_batch(&events).await, [Some(Ok(()))]);
    server.control(&["set_permissions", &user, "", "", ""]);
    let reason = unavailable(&at("s3cret", "%2f"), &events).await;
    assert!(reason.contains(&format!("user `{user}` may not write to exchange `{}`", queue.name)), "{reason}");
    server.control(&["set_permissions", &user, "", ".*", ""]);
    assert_eq!(at("s3cret", "%2f").publish_batch(&events).await, [Some(Ok(()))]);
}

#[tokio::test]
async fn an_event_that_is_too_large_for_the_broker_is_rejected_for_good_and_others_pass() {
    let server = rabbitmq::shared();
    let queue = Queue::new(server).await;
    let backend = backend(server, &queue.name);
    let large = |seq: i64| {
        let data = JsonText::new(format!("\"{}\"", "x".repeat(rabbitmq::MAX_MESSAGE)));
        Arc::new(OutboxEvent { data: Some(data), ..fixtures::event(seq, "large") })
    };
    let small = |seq: i64| Arc::new(fixtures::event(seq, "small"));
    let mut waiting = vec![small(1), large(2), small(3), small(4)];
    let (mut refused, mut rounds) = (0, 0);
    while !waiting.is_empty() {
        let results = backend.publish_batch(&waiting).await;
        let mut left = Vec::new();
        for (event, result) in waiting.into_iter().zip(results) {
            match result {
                Some(Ok(())) => {}
                Some(Err(BackendError::Invalid(reason))) => {
                    assert!(reason.contains("larger than configured max size"), "{reason}");
                    refused += 1;
                }
                None => left.push(event),
                Some(Err(error)) => panic!("{error}"),
            }
        }
        (waiting, rounds) = (left, rounds + 1);
        assert!(rounds < 5);
    }
    // Those that were on their way when the broker closed the channel may arrive twice.
    let mut arrived = ids(&queue.take().await);
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!((refused, arrived.len()), (1, 3));
}

#[tokio::test]
async fn attributes_that_fit_into_no_frame_are_refused_before_they_break_the_connection() {
    let server = rabbitmq::shared();
    let queue = Queue::new(server).await;
    let binary = PublisherSettings { mode: ContentMode::Binary, ..settings(&server.url(), &queue.name) };
    let backend = RabbitMq::new(&binary).unwrap();
    let tenant = |size: usize| {
        let extensions = JsonText::new(format!("{{\"tenant\": \"{}\"}}", "x".repeat(size)));
        Arc::new(OutboxEvent { extensions, ..fixtures::event(1, "") })
    };
    let results = backend.publish_batch(&[tenant(140_000), tenant(120_000)]).await;
    assert!(matches!(results[0], Some(Err(BackendError::Invalid(_)))), "{:?}", results[0]);
    assert_eq!(results[1], Some(Ok(())));
    assert_eq!(queue.take().await.len(), 1);
}
