//! Consumers of a real Redis.

mod delivering;
mod entries;
mod failing;
mod leaving;
#[cfg(feature = "nats")]
mod nats;
mod operating;
mod partitions;
mod sharing;
mod waiting;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use actix::{Actor, Context, Handler, ResponseFuture};
use tokio::sync::Semaphore;

use crate::backend::redis::stream::entry::entry_fields;
use crate::consumer::{ConsumerBuilder, OutboxConsumer};
use crate::event::OutboxEvent;
use crate::fixtures;
use crate::handlers::{EventTypes, HandleEvent, HandlerError, Subscribe};
use crate::settings::{ConsumerSettings, RetryBackoff, Secret, Settings};
use crate::test_support::redis::{self, Server};
use crate::test_support::{PATIENCE, eventually};

/// The shortest that the settings allow.
const RECLAIM: Duration = Duration::from_secs(1);

type Answer = Result<(), HandlerError>;
type Work = Arc<dyn Fn(Arc<OutboxEvent>) -> ResponseFuture<Answer> + Send + Sync>;

/// A handler that notes what it is given, in order, and then works.
struct Noting {
    given: Arc<Mutex<Vec<i64>>>,
    work: Work,
}

impl Actor for Noting {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Noting {
    type Result = ResponseFuture<Answer>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        self.given.lock().unwrap().push(message.event.seq);
        (self.work)(message.event)
    }
}

/// A handler's notes.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<i64>>>);

impl Notes {
    fn all(&self) -> Vec<i64> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, seq: i64) -> usize {
        self.all().into_iter().filter(|given| *given == seq).count()
    }

    /// A handler for all events that answers as `answer` does.
    fn handler(&self, answer: impl Fn(&OutboxEvent) -> Answer + Send + Sync + 'static) -> Subscribe {
        self.worker(move |event| {
            let answer = answer(&event);
            Box::pin(async { answer })
        })
    }

    fn worker(&self, work: impl Fn(Arc<OutboxEvent>) -> ResponseFuture<Answer> + Send + Sync + 'static) -> Subscribe {
        let actor = Noting { given: Arc::clone(&self.0), work: Arc::new(work) };
        Subscribe::new("noting", EventTypes::All, actor.start().recipient())
    }

    /// A handler that answers once `may_end` has a permit for the event.
    fn waiter(&self, may_end: &Arc<Semaphore>, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Subscribe {
        let (may_end, answer) = (Arc::clone(may_end), Arc::new(answer));
        self.worker(move |_| {
            let (may_end, answer) = (Arc::clone(&may_end), Arc::clone(&answer));
            Box::pin(async move {
                let _ = may_end.acquire().await;
                answer()
            })
        })
    }

    async fn are(&self, expected: &[i64]) {
        eventually(&format!("the handler has {expected:?}"), PATIENCE, async || self.all() == expected).await;
    }
}

/// A stream with a group.
struct Stream {
    url: String,
    name: String,
    connection: MultiplexedConnection,
}

impl Stream {
    async fn new() -> Self {
        Self::on(redis::url()).await
    }

    async fn on(url: String) -> Self {
        let connection = redis::connect(&url).await;
        Self { url, name: redis::stream(), connection }
    }

    fn settings(&self) -> ConsumerSettings {
        ConsumerSettings {
            url: Some(Secret::from(self.url.clone())),
            streams: vec![self.name.clone()],
            group: Some("mailer".to_owned()),
            reclaim_after: RECLAIM,
            retry_backoff: RetryBackoff {
                base: Duration::from_millis(1),
                max: Duration::from_millis(5),
                ..RetryBackoff::default()
            },
            ..ConsumerSettings::default()
        }
    }

    /// A consumer with its own name and these settings.
    fn builder(&self, member: &str, change: impl FnOnce(&mut ConsumerSettings)) -> ConsumerBuilder {
        let mut consumer = ConsumerSettings { name: Some(member.to_owned()), ..self.settings() };
        change(&mut consumer);
        let settings = Settings { consumers: BTreeMap::from([("mail".to_owned(), consumer)]), ..Settings::default() };
        OutboxConsumer::builder(settings, "mail")
    }

    async fn start(&self, handler: Subscribe) -> OutboxConsumer {
        self.builder("mailer-1", |_| {}).subscribe(handler).start().await.unwrap()
    }

    /// Adds events with these numbers and one key.
    async fn add(&mut self, numbers: impl IntoIterator<Item = i64>, key: &str) {
        self.add_large(numbers, key, 0).await;
    }

    /// Adds events whose entries have this many bytes more.
    async fn add_large(&mut self, numbers: impl IntoIterator<Item = i64>, key: &str, bytes: usize) {
        let padding = "x".repeat(bytes);
        let mut batch = ::redis::pipe();
        for seq in numbers {
            let event = fixtures::event(seq, key);
            let command = batch.cmd("XADD").arg(&self.name).arg("*");
            let fields = entry_fields(&event).unwrap().fields;
            fields.iter().for_each(|(name, value)| _ = command.arg(name.as_ref()).arg(value.as_ref()));
            if bytes > 0 {
                command.arg("padding").arg(&padding);
            }
        }
        let _: ::redis::Value = batch.query_async(&mut self.connection).await.unwrap();
    }

    /// Puts a key of another type in place of this one: commands for the stream are refused.
    async fn replace(&mut self, key: &str) {
        let _: () = ::redis::cmd("SET").arg(&[key, "another type"]).query_async(&mut self.connection).await.unwrap();
    }

    /// How many entries are pending.
    async fn pending(&mut self) -> usize {
        let pending: (usize, ::redis::Value, ::redis::Value, ::redis::Value) =
            ::redis::cmd("XPENDING").arg(&self.name).arg("mailer").query_async(&mut self.connection).await.unwrap();
        pending.0
    }

    /// The entries' deliveries, in their order.
    async fn deliveries(&mut self) -> Vec<u32> {
        let mut pending = ::redis::cmd("XPENDING");
        pending.arg(&self.name).arg("mailer").arg("-").arg("+").arg(1_000);
        let pending: Vec<(String, String, u64, u32)> = pending.query_async(&mut self.connection).await.unwrap();
        pending.into_iter().map(|(_, _, _, deliveries)| deliveries).collect()
    }

    async fn is_acknowledged(&mut self) {
        eventually("everything is acknowledged", PATIENCE, async || self.pending().await == 0).await;
    }

    fn dead(&self) -> String {
        format!("{{{}}}:dead:mailer", self.name)
    }

    async fn dead_letters(&self) -> Vec<BTreeMap<String, String>> {
        redis::entries(&self.url, &self.dead()).await
    }
}
