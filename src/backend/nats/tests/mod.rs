//! The session against real servers.

mod conformance;
mod connecting;
mod sending;
mod streams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, RawMessageErrorKind};
use uuid::Uuid;

use super::{Nats, subject};
use crate::backend::session::{BackendSession, OutgoingEvent, SendResult};
use crate::event::OutboxEvent;
use crate::fixtures;
use crate::settings::{PublisherSettings, Secret};
use crate::store::Shard;
use crate::test_support::PATIENCE;
use crate::test_support::nats::Server;

fn settings(port: u16) -> PublisherSettings {
    PublisherSettings {
        backend: "nats".to_owned(),
        url: Some(Secret::from(format!("nats://127.0.0.1:{port}"))),
        connect_timeout: PATIENCE,
        socket_timeout: PATIENCE,
        ..PublisherSettings::default()
    }
}

/// A stream that takes atomic batches, and that forgets the ids of messages immediately: nothing but the journal keeps an event
/// from arriving twice.
fn stream() -> Config {
    Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned(), subject::of_journals("EVENTS")],
        allow_rollup: true,
        allow_atomic_publish: true,
        duplicate_window: Duration::from_millis(100),
        ..Config::default()
    }
}

async fn context(url: &str) -> jetstream::Context {
    jetstream::new(async_nats::connect(url).await.unwrap())
}

/// Creates a stream as soon as the server can: it may still be removing the files of one that was deleted under this name, and
/// a cluster may have elected no leader of its own yet.
pub(crate) async fn create_stream(context: &jetstream::Context, config: Config) {
    let started = Instant::now();
    while let Err(error) = context.create_stream(config.clone()).await {
        assert!(started.elapsed() < PATIENCE, "stream {}: {error}", config.name);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server with this stream.
async fn server_with(config: Config) -> (Server, jetstream::Context) {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let context = context(&server.url()).await;
    create_stream(&context, config).await;
    (server, context)
}

fn session(settings: &PublisherSettings) -> Nats {
    Nats::new(settings, Uuid::now_v7()).unwrap()
}

fn shard(number: i16) -> Shard {
    Shard { lane: Arc::from("orders"), number }
}

fn outgoing(event: OutboxEvent) -> OutgoingEvent {
    OutgoingEvent { shard: shard(3), event: Arc::new(event) }
}

fn events(seqs: std::ops::RangeInclusive<i64>) -> Vec<OutgoingEvent> {
    seqs.map(|seq| outgoing(fixtures::event(seq, "k"))).collect()
}

fn names(events: &[OutgoingEvent]) -> Vec<(Uuid, i64)> {
    events.iter().map(|one| (one.event.id, one.event.seq)).collect()
}

async fn send_all(session: &mut Nats, batch: &[OutgoingEvent]) {
    let sent = session.send(batch).await;
    assert!(sent.unavailable.is_none() && sent.closed.is_empty(), "{sent:?}");
    assert!(sent.answers.iter().all(|answer| *answer == SendResult::Accepted), "{sent:?}");
}

async fn reason_of_no_open(settings: &PublisherSettings) -> String {
    session(settings).open(&[(shard(3), 1)]).await.unwrap_err().to_string()
}

/// The stream's messages outside its journals, in order.
async fn messages(context: &jetstream::Context) -> Vec<jetstream::message::StreamMessage> {
    let stream = context.get_stream("EVENTS").await.unwrap();
    let state = stream.cached_info().state.clone();
    let mut messages = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        match stream.get_raw_message(sequence).await {
            Ok(message) if message.subject.starts_with("events.") => messages.push(message),
            Ok(_) => {}
            // A journal that was rolled up.
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
            Err(error) => panic!("{error}"),
        }
    }
    messages
}

async fn received(context: &jetstream::Context) -> Vec<Uuid> {
    let id = |payload: &[u8]| {
        let event: serde_json::Value = serde_json::from_slice(payload).unwrap();
        event["id"].as_str().unwrap().parse().unwrap()
    };
    messages(context).await.iter().map(|message| id(&message.payload)).collect()
}
