//! Consumers of a real JetStream.

mod delivering;
mod failing;
mod operating;

use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::Config;
use futures_util::StreamExt;

use super::*;
use crate::backend::nats::tests::create_stream;
use crate::consumer::{ConsumerStatus, DeadLetters, LetterFacts, StreamTail};
use crate::settings::PublisherSettings;
use crate::test_support::nats::{CURRENT, Server as NatsServer};

const SUBJECTS: [&str; 2] = ["events.>", "_outbox.EVENTS.>"];

/// A server with a stream as a worker creates it.
struct JetStream {
    server: NatsServer,
    context: jetstream::Context,
}

impl JetStream {
    async fn new() -> Self {
        Self::with("").await
    }

    /// A server with more in its configuration.
    async fn with(configuration: &'static str) -> Self {
        let start = move || NatsServer::with(CURRENT, configuration);
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let stream = Self { server, context };
        stream.create().await;
        stream
    }

    async fn create(&self) {
        let subjects = SUBJECTS.map(str::to_owned).to_vec();
        let config = Config { name: "EVENTS".to_owned(), subjects, ..Config::default() };
        create_stream(&self.context, config).await;
    }

    fn settings(&self, change: impl FnOnce(&mut ConsumerSettings)) -> Settings {
        let publisher = PublisherSettings {
            backend: "nats".to_owned(),
            url: Some(Secret::from(self.server.url())),
            ..PublisherSettings::default()
        };
        let mut consumer = ConsumerSettings {
            source: Some("default".to_owned()),
            group: Some("mailer".to_owned()),
            reclaim_after: RECLAIM,
            retry_backoff: RetryBackoff {
                base: Duration::from_millis(1),
                max: Duration::from_millis(5),
                ..RetryBackoff::default()
            },
            ..ConsumerSettings::default()
        };
        change(&mut consumer);
        Settings {
            publishers: BTreeMap::from([("default".to_owned(), publisher)]),
            consumers: BTreeMap::from([("mail".to_owned(), consumer)]),
            ..Settings::default()
        }
    }

    fn builder(&self, change: impl FnOnce(&mut ConsumerSettings)) -> ConsumerBuilder {
        OutboxConsumer::builder(self.settings(change), "mail")
    }

    async fn start(&self, handler: Subscribe) -> OutboxConsumer {
        self.builder(|_| {}).subscribe(handler).start().await.unwrap()
    }

    /// Adds events with these numbers and one key.
    async fn add(&self, numbers: impl IntoIterator<Item = i64>, key: &str) {
        for seq in numbers {
            let mut headers = HeaderMap::new();
            headers.insert("Content-Type", "application/cloudevents+json");
            headers.insert("outbox-seq", seq.to_string());
            self.publish("events.t", headers, fixtures::event(seq, key).to_cloud_event_json()).await;
        }
    }

    async fn publish(&self, subject: &str, headers: HeaderMap, payload: String) {
        let sent = self.context.publish_with_headers(subject.to_owned(), headers, payload.into()).await;
        sent.unwrap().await.unwrap();
    }

    async fn group(&self) -> PullConsumer {
        self.context.get_consumer_from_stream("mailer", "EVENTS").await.unwrap()
    }

    /// How many entries are pending or unread.
    async fn left(&self) -> u64 {
        let mut group = self.group().await;
        let info = group.info().await.unwrap();
        info.num_pending + info.num_ack_pending as u64
    }

    async fn is_acknowledged(&self) {
        eventually("everything is acknowledged", PATIENCE, async || self.left().await == 0).await;
    }

    fn letters(&self) -> DeadLetters {
        DeadLetters::of(&self.settings(|_| {}), "mail").unwrap()
    }

    async fn dead_letters(&self) -> Vec<LetterFacts> {
        self.letters().list(None, 100).await.unwrap()
    }

    /// How many records of the group there are, of all kinds.
    async fn records(&self) -> u64 {
        let stream = self.context.get_stream("EVENTS:dead:mailer").await.unwrap();
        stream.get_info().await.unwrap().state.messages
    }

    async fn status(&self) -> ConsumerStatus {
        ConsumerStatus::of(&self.settings(|_| {}), "mail").await.unwrap()
    }

    /// Reads as a process of the group that then dies. The group must exist.
    async fn read_and_die(&self, count: usize) {
        assert_eq!(self.read(count).await, count);
    }

    /// Likewise, as many as there are.
    async fn read(&self, most: usize) -> usize {
        self.group().await.fetch().max_messages(most).messages().await.unwrap().count().await
    }
}

/// Work that takes a permit and keeps it.
fn forgetting(may_end: &Arc<Semaphore>) -> impl Fn(Arc<OutboxEvent>) -> ResponseFuture<Answer> + Send + Sync + 'static {
    let may_end = Arc::clone(may_end);
    move |_| {
        let may_end = Arc::clone(&may_end);
        Box::pin(async move {
            may_end.acquire().await.unwrap().forget();
            Ok(())
        })
    }
}

/// The number of a dead letter's message in the stream of events.
fn number(letter: &LetterFacts) -> u64 {
    letter.entry.rsplit('-').next().unwrap().parse().unwrap()
}

/// Starts a consumer that creates the group of an empty stream.
async fn create_group(stream: &JetStream) {
    let consumer = stream.start(Notes::default().handler(|_| Ok(()))).await;
    eventually("the group exists", PATIENCE, async || stream.status().await.streams[0].has_group).await;
    consumer.shutdown().await.unwrap();
}
