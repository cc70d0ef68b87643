//! A stream without sessions, used by `outbox bench`: one of its own, filled at full speed, read, and removed.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError};
use uuid::Uuid;

use super::streams::{Streams, partition};
use super::{entry, meta_key};
use crate::backend::BackendError;
use crate::backend::redis::{Address, errors};
use crate::event::{JsonText, OutboxEvent};
use crate::fixtures;
use crate::opaque_debug::opaque_debug;
use crate::settings::PublisherSettings;
use crate::settings::partitions::{MAX_PARTITIONS, partition_name};

/// The most entries in one read.
const PAGE: u32 = 1_000;

/// How long a read waits for an entry; less than the connection waits for an answer.
const BLOCK_MS: u32 = 100;

/// The group of the consumer that `outbox bench` measures.
pub const MEASURED_GROUP: &str = "measured";

/// A connection to one stream, or to its partitions.
pub struct RawStream {
    connection: MultiplexedConnection,
    name: String,
    streams: Vec<String>,
    max_len: u64,
    /// The last entry that was read from each stream.
    last: Vec<String>,
}

opaque_debug!(RawStream);

/// The result of XREAD: the entries of each stream, each with its id and its fields; `None` if there are none.
type Read = Option<Vec<(String, Vec<(String, Vec<String>)>)>>;

impl RawStream {
    /// Connects with a publisher's settings.
    ///
    /// # Errors
    /// If Redis cannot be reached.
    pub async fn connect(settings: &PublisherSettings) -> Result<Self, BackendError> {
        let mut address = Address::new(settings).map_err(BackendError::Unavailable)?;
        let connection = address.connect().await?;
        let name = settings.stream_name.clone();
        let streams = match Streams::new(settings) {
            Streams::Partitions(partitions) => partitions,
            _ => vec![name.clone()],
        };
        let last = vec!["0".to_owned(); streams.len()];
        Ok(Self { connection, name, streams, max_len: settings.max_len, last })
    }

    /// Removes the stream, whatever its number of partitions, and its meta key, without blocking the server.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn remove(&mut self) -> Result<(), BackendError> {
        let mut request = redis::cmd("UNLINK");
        let partitions = (0..MAX_PARTITIONS).map(|n| partition_name(&self.name, n));
        request.arg(&self.name).arg(partitions.collect::<Vec<_>>()).arg(meta_key(&self.name));
        // Those of the consumer that is measured.
        let dead = format!("{{{}}}:dead:{MEASURED_GROUP}", self.name);
        request.arg(&dead).arg(format!("{dead}:retry"));
        request.query_async(&mut self.connection).await.map_err(unavailable)
    }

    /// The ids of the events that arrived since the last call, as soon as there are any; empty if none arrives in time.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn next_ids(&mut self) -> Result<Vec<Uuid>, BackendError> {
        let mut request = redis::cmd("XREAD");
        request.arg("COUNT").arg(PAGE).arg("BLOCK").arg(BLOCK_MS).arg("STREAMS").arg(&self.streams).arg(&self.last);
        let read: Read = request.query_async(&mut self.connection).await.map_err(unavailable)?;
        let entries = read.into_iter().flatten().flat_map(|(stream, entries)| {
            let n = self.streams.iter().position(|other| *other == stream);
            entries.into_iter().map(move |entry| (n, entry))
        });
        let mut ids = Vec::new();
        for (n, (place, fields)) in entries {
            if let Some(last) = n.and_then(|n| self.last.get_mut(n)) {
                *last = place;
            }
            let pairs = fields.chunks_exact(2).find(|pair| pair[0] == "event_id");
            ids.extend(pairs.and_then(|pair| Uuid::parse_str(&pair[1]).ok()));
        }
        Ok(ids)
    }

    /// The processor time that the server has used; `None`: it does not tell.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn cpu(&mut self) -> Result<Option<Duration>, BackendError> {
        let info: String =
            redis::cmd("INFO").arg("cpu").query_async(&mut self.connection).await.map_err(unavailable)?;
        let seconds = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Duration::try_from_secs_f64(line?.trim().parse().ok()?).ok()
        };
        Ok(seconds("used_cpu_user").zip(seconds("used_cpu_sys")).map(|(user, system)| user + system))
    }

    /// Adds the entries of these events in one pipeline.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn add(&mut self, events: &[Arc<OutboxEvent>]) -> Result<(), BackendError> {
        let mut pipeline = Pipeline::with_capacity(events.len());
        for event in events {
            let request = pipeline.cmd("XADD").arg(&self.streams[partition(event, self.streams.len())]);
            if self.max_len > 0 {
                request.arg("MAXLEN").arg("~").arg(self.max_len);
            }
            request.arg("*");
            for (name, value) in entry::entry_fields(event).map_err(BackendError::Invalid)?.fields {
                request.arg(name.as_bytes()).arg(value.as_bytes());
            }
            request.ignore();
        }
        pipeline.query_async(&mut self.connection).await.map_err(unavailable)
    }

    /// Adds this many events of 60 bytes to the first stream, each with an id of its own, spread over keys. None is trimmed.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn fill(&mut self, events: u32, keys: u32) -> Result<(), BackendError> {
        self.streams.truncate(1);
        self.max_len = 0;
        let numbers: Vec<u32> = (0..events).collect();
        for page in numbers.chunks(PAGE as usize) {
            let event = |n: &u32| {
                let key = if keys == 0 { String::new() } else { format!("key-{}", n % keys) };
                let mut event = fixtures::event(i64::from(*n), &key);
                event.data = Some(JsonText::new(format!("\"{}\"", "x".repeat(58))));
                Arc::new(event)
            };
            self.add(&page.iter().map(event).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Reads this many entries of the first stream in a group, and acknowledges each page: what a consumer cannot do without.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn read_in_group(&mut self, events: u32) -> Result<(), BackendError> {
        let stream = &self.streams[0];
        let mut create = redis::cmd("XGROUP");
        create.arg(&["CREATE", stream, "alone", "0"]);
        create.query_async::<()>(&mut self.connection).await.map_err(unavailable)?;
        let mut left = events as usize;
        while left > 0 {
            let mut request = redis::cmd("XREADGROUP");
            request.arg(&["GROUP", "alone", "alone"]).arg("COUNT").arg(PAGE).arg("STREAMS").arg(stream).arg(">");
            let read: Read = request.query_async(&mut self.connection).await.map_err(unavailable)?;
            let ids: Vec<String> =
                read.into_iter().flatten().flat_map(|(_, entries)| entries).map(|(id, _)| id).collect();
            if ids.is_empty() {
                return Ok(());
            }
            left = left.saturating_sub(ids.len());
            let mut request = redis::cmd("XACK");
            request.arg(stream).arg("alone").arg(ids);
            request.query_async::<()>(&mut self.connection).await.map_err(unavailable)?;
        }
        Ok(())
    }

    /// The server's version, for the report.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn version(&mut self) -> Result<String, BackendError> {
        let asked = redis::cmd("INFO").arg("server").query_async::<String>(&mut self.connection).await;
        let info = asked.map_err(unavailable)?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.unwrap_or("unknown").to_owned())
    }
}

fn unavailable(error: RedisError) -> BackendError {
    errors::unavailable(&error)
}
