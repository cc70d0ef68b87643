//! The backend against real brokers.

mod conformance;
mod faults;
mod refusals;

use std::sync::Arc;

use super::RabbitMq;
use crate::backend::{BackendError, PublisherBackend};
use crate::event::OutboxEvent;
use crate::fixtures;
use crate::settings::{PublisherSettings, TlsSettings};
use crate::test_support::rabbitmq::{self, Queue, Server, ids};

fn settings(url: &str, exchange: &str) -> PublisherSettings {
    PublisherSettings {
        backend: "rabbitmq".to_owned(),
        url: Some(url.to_owned().into()),
        exchange: exchange.to_owned(),
        ..PublisherSettings::default()
    }
}

fn backend(server: &Server, exchange: &str) -> RabbitMq {
    RabbitMq::new(&settings(&server.url(), exchange)).unwrap()
}

/// Events of these types and keys.
fn events(kinds: &[(&str, &str)]) -> Vec<Arc<OutboxEvent>> {
    let event = |(seq, (event_type, key)): (i64, &(&str, &str))| {
        Arc::new(OutboxEvent { event_type: (*event_type).to_owned(), ..fixtures::event(seq, key) })
    };
    (1..).zip(kinds).map(event).collect()
}

fn id(event: &OutboxEvent) -> String {
    event.id.to_string()
}

async fn unavailable(backend: &RabbitMq, events: &[Arc<OutboxEvent>]) -> String {
    let results = backend.publish_batch(events).await;
    match &results[0] {
        Some(Err(BackendError::Unavailable(reason))) => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_batch_arrives_persistent_under_the_events_ids_and_in_order_of_each_key() {
    let server = rabbitmq::shared();
    let queue = Queue::new(server).await;
    let backend = backend(server, &queue.name);
    backend.health_check().await.unwrap();
    let keys = ["a", "b", "", "a", "a", "b", ""];
    let events = events(&keys.map(|key| ("thing.happened", key)));
    assert!(backend.publish_batch(&events).await.iter().all(|result| *result == Some(Ok(()))));
    let messages = queue.take().await;
    let arrived = ids(&messages);
    for key in ["a", "b"] {
        let of_key: Vec<String> =
            events.iter().filter(|event| event.partition_key == key).map(|event| id(event)).collect();
        assert_eq!(arrived.iter().filter(|id| of_key.contains(id)).cloned().collect::<Vec<_>>(), of_key);
    }
    assert_eq!(messages.len(), events.len());
    for message in &messages {
        assert_eq!((message.routing_key.as_str(), *message.properties.delivery_mode()), ("thing.happened", Some(2)));
    }
    backend.publish(&events[0]).await.unwrap();
    assert_eq!(ids(&queue.take().await), [id(&events[0])], "repeated under the same id");
}

#[tokio::test]
async fn the_default_exchange_leads_to_a_queue_by_its_name() {
    let server = rabbitmq::shared();
    let queue = Queue::new(server).await;
    let fixed = PublisherSettings { routing_key: queue.name.clone(), ..settings(&server.url(), "") };
    let backend = RabbitMq::new(&fixed).unwrap();
    backend.health_check().await.unwrap();
    backend.publish(&fixtures::event(1, "")).await.unwrap();
    assert_eq!(queue.take().await.len(), 1);
}

#[tokio::test]
async fn tls_verifies_the_broker() {
    let server = rabbitmq::shared();
    let queue = Queue::new(server).await;
    let at = |host: &str| settings(&format!("amqps://guest:guest@{host}:{}/%2f", server.tls_port()), &queue.name);
    let known = |host: &str| PublisherSettings {
        tls: Some(TlsSettings { ca_file: Some(server.identity().authority.clone()), ..TlsSettings::default() }),
        ..at(host)
    };
    let events = events(&[("t", "")]);
    for unverified in [at("localhost"), known("127.0.0.1")] {
        let reason = unavailable(&RabbitMq::new(&unverified).unwrap(), &events).await;
        assert!(reason.contains("certificate"), "{reason}");
    }
    let backend = RabbitMq::new(&known("localhost")).unwrap();
    assert_eq!(backend.publish_batch(&events).await, [Some(Ok(()))]);
    assert_eq!(ids(&queue.take().await), [id(&events[0])]);
}

/// Through real waves of several hundred confirms, which the broker acknowledges together.
#[tokio::test]
async fn only_the_messages_that_came_back_count_as_returned() {
    let server = rabbitmq::shared();
    let queue = Queue::bound(server, "known", lapin::types::FieldTable::default()).await;
    let backend = backend(server, &queue.name);
    for round in 0..5 {
        let kinds: Vec<_> = (0..500).map(|n| (if (n + round) % 7 == 0 { "unknown" } else { "known" }, "")).collect();
        let events = events(&kinds);
        let results = backend.publish_batch(&events).await;
        for (event, result) in events.iter().zip(results) {
            match event.event_type.as_str() {
                "known" => assert_eq!(result, Some(Ok(()))),
                _ => assert!(matches!(result, Some(Err(BackendError::Rejected(_)))), "{result:?}"),
            }
        }
    }
}
