//! The session against real servers, one at a time.

mod batches;
mod conformance;
mod journal;
mod outages;
mod partitions;
mod replicas;
mod sessions;
mod slots;
mod streams;
mod trimming;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use uuid::Uuid;

use super::batch::EncodedBatch;
use super::streams::BatchStreams;
use super::{PUBLISH, RedisStream, meta_key};
use crate::backend::session::{BackendSession, OutgoingEvent, SendResult, ShardsOpened};
use crate::event::{JsonText, OutboxEvent};
use crate::fixtures;
use crate::settings::{PublisherSettings, Secret};
use crate::store::Shard;
use crate::test_support::process::Signal;
use crate::test_support::proxy::{Passage, Proxy};
use crate::test_support::redis::{self, Server};
use crate::test_support::{PATIENCE, eventually};

fn settings(url: &str, stream: &str) -> PublisherSettings {
    PublisherSettings {
        url: Some(Secret::from(url.to_owned())),
        stream_name: stream.to_owned(),
        socket_timeout: PATIENCE,
        ..PublisherSettings::default()
    }
}

fn shard(number: i16) -> Shard {
    Shard { lane: Arc::from("orders"), number }
}

fn outgoing_event(number: i16, event: &Arc<OutboxEvent>) -> OutgoingEvent {
    OutgoingEvent { shard: shard(number), event: Arc::clone(event) }
}

fn events(count: i64, key: &str) -> Vec<Arc<OutboxEvent>> {
    (1..=count).map(|seq| Arc::new(fixtures::event(seq, key))).collect()
}

fn outgoing(number: i16, events: &[Arc<OutboxEvent>]) -> Vec<OutgoingEvent> {
    events.iter().map(|event| outgoing_event(number, event)).collect()
}

fn ids(events: &[Arc<OutboxEvent>]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

fn named(events: &[Arc<OutboxEvent>]) -> Vec<(Uuid, i64)> {
    events.iter().map(|event| (event.id, event.seq)).collect()
}

/// What an open found, in the events' own order.
fn found(opened: &ShardsOpened) -> Vec<(Uuid, i64)> {
    let mut found: Vec<(Uuid, i64)> = opened.sent.iter().map(|(_, id, seq)| (*id, *seq)).collect();
    found.sort_by_key(|(_, seq)| *seq);
    found
}

/// Sends a batch of which every event is accepted.
async fn send_all(worker: &mut RedisStream, batch: &[OutgoingEvent]) {
    let sent = worker.send(batch).await;
    assert!(sent.unavailable.is_none() && sent.closed.is_empty(), "{sent:?}");
    assert!(sent.answers.iter().all(|answer| *answer == SendResult::Accepted), "{sent:?}");
}

/// One stream on one server, for one outbox.
struct TestStream {
    url: String,
    stream: String,
    outbox: Uuid,
    connection: MultiplexedConnection,
    /// The server, if no other test uses it.
    server: Option<Server>,
}

impl TestStream {
    async fn new() -> Self {
        Self::on(&redis::url(), &redis::stream()).await
    }

    async fn on(url: &str, stream: &str) -> Self {
        let connection = redis::connect(url).await;
        Self { url: url.to_owned(), stream: stream.to_owned(), outbox: Uuid::now_v7(), connection, server: None }
    }

    /// A stream on a server of its own, which the test configures and stops.
    async fn alone() -> Self {
        let server = Server::start(&[]);
        let test = Self::on(&server.url(), "events").await;
        Self { server: Some(server), ..test }
    }

    fn server(&mut self) -> &mut Server {
        self.server.as_mut().unwrap()
    }

    fn worker(&self) -> RedisStream {
        self.worker_of(self.outbox)
    }

    /// A worker that has shard 3 open under epoch 1.
    async fn open_worker(&self) -> RedisStream {
        let mut worker = self.worker();
        worker.open(&[(shard(3), 1)]).await.unwrap();
        worker
    }

    fn worker_of(&self, outbox: Uuid) -> RedisStream {
        RedisStream::new(&settings(&self.url, &self.stream), outbox).unwrap()
    }

    fn worker_through(&self, proxy: &Proxy, timeout: Duration) -> RedisStream {
        let url = format!("redis://127.0.0.1:{}/0", proxy.port());
        let settings = PublisherSettings { socket_timeout: timeout, ..settings(&url, &self.stream) };
        RedisStream::new(&settings, self.outbox).unwrap()
    }

    /// A proxy to the server.
    async fn proxy(&self) -> Proxy {
        Proxy::to(url::Url::parse(&self.url).unwrap().port().unwrap_or(6379)).await
    }

    async fn sent_ids(&self) -> Vec<String> {
        redis::event_ids(&self.url, &self.stream).await
    }

    async fn command<T: ::redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = ::redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection).await.unwrap()
    }

    async fn meta(&mut self) -> BTreeMap<String, Vec<u8>> {
        let mut command = ::redis::cmd("HGETALL");
        command.arg(meta_key(&self.stream));
        command.query_async(&mut self.connection).await.unwrap()
    }

    async fn journal(&mut self) -> Vec<Vec<u8>> {
        self.meta().await.into_iter().filter(|(name, _)| name.starts_with("sent/")).map(|(_, value)| value).collect()
    }

    /// Whether the server is a Redis 5, which a test makes refuse something by other means.
    async fn is_version_5(&mut self) -> bool {
        let version = redis::version(&mut self.connection).await;
        println!("on Redis {version}");
        version.starts_with("5.")
    }

    /// Whether the server trims by age, as from Redis 6.2 on.
    async fn knows_min_id(&mut self) -> bool {
        let version = redis::version(&mut self.connection).await;
        println!("on Redis {version}");
        !["5.", "6.0."].iter().any(|old| version.starts_with(old))
    }

    /// Leaves space for this many more entries in the stream, whatever else there is; returns the error of the next.
    async fn leave_room_for(&mut self, entries: u64) -> &'static str {
        if self.is_version_5().await {
            return self.have_scripts_spoil_entries_beyond(entries).await;
        }
        let (stream, last) = (self.stream.clone(), format!("{}-{}", u64::MAX, u64::MAX - entries));
        let () = self.command(&["XGROUP", "CREATE", &stream, "group", "$", "MKSTREAM"]).await;
        let () = self.command(&["XSETID", &stream, &last]).await;
        "exhausted the last possible ID"
    }

    /// Redis 5 restarts exhausted sequence numbers, but lets a script change what others call.
    async fn have_scripts_spoil_entries_beyond(&mut self, entries: u64) -> &'static str {
        let spoil = "local call, stream, entries = redis.call, ARGV[1], tonumber(ARGV[2])
            redis.call = function(command, key, ...)
                if command == 'XADD' and key == stream and call('XLEN', stream) >= entries then
                    return call('XADD', stream)
                end
                return call(command, key, ...)
            end";
        let (stream, entries) = (self.stream.clone(), entries.to_string());
        let () = self.command(&["EVAL", spoil, "0", &stream, &entries]).await;
        "Wrong number of args"
    }
}
