//! `[consumers.NAME]`: who reads streams, and how.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

#[cfg(feature = "consumer")]
use super::PublisherSettings;
use super::check::expected::FROM_ONE;
use super::declare::table;
use super::node::{Node, Result};
use super::read::{retry_backoff, string_as_list};
use super::{RetryBackoff, Secret, Settings, TlsSettings};
use crate::error::SettingsError;

table! {
    /// `[consumers.NAME]`
    #[derive(Debug, Clone, PartialEq)]
    pub struct ConsumerSettings {
        /// The publisher whose server and streams are read, instead of `url` and `streams`; its backend is `redis_stream` or
        /// `nats`.
        source: Option<String> = None, |node| node.string().map(Some);
        /// `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS.
        url: Option<Secret> = None, |node| node.secret().map(Some),
            or url_file by |node| node.secret_file().map(Some),
            or url_command by |node| node.secret_command().map(Some);
        /// Files for TLS, with a `rediss://` address; none: the system's authorities and no certificate of a client.
        tls: Option<TlsSettings> = None, |node| TlsSettings::read(node.clone()).map(Some);
        /// The streams to read: names, or globs as Redis knows them; none: those of `source`. Of NATS, one stream's name.
        streams: Vec<String> = Vec::new(), Node::strings, or stream by string_as_list;
        /// The group; none: the consumer's NAME. The consumers of a group share its entries.
        group: Option<String> = None, |node| node.string().map(Some);
        /// The name of this process in the group; none: the host's name and the process id.
        name: Option<String> = None, |node| node.string().map(Some);
        /// Where a group that does not exist yet begins to read.
        start: StartAt = StartAt::First, start_at;
        /// The most events that handlers have at a time.
        concurrency: usize = 16, |node| node.integer(FROM_ONE);
        /// Nothing is read while handlers, or events that wait for another try, have more bytes than this.
        max_bytes: usize = 16 << 20, Node::size;
        /// The time limit of a handler for one event.
        handler_timeout: Duration = Duration::from_secs(30), Node::duration;
        /// How long a consumer may be silent before another one takes its entries.
        reclaim_after: Duration = Duration::from_secs(10), Node::duration;
        /// How long a partition stays with a consumer that is silent.
        lease: Duration = Duration::from_secs(5), Node::duration;
        /// The deliveries after which an event that its handlers reject is set aside as a dead letter.
        max_deliveries: u32 = 5, |node| node.integer(FROM_ONE);
        /// The delay before a rejected event is delivered again.
        retry_backoff: RetryBackoff = RetryBackoff::default(), retry_backoff;
        /// The stream of dead letters. `{stream}` is the entry's stream, in braces unless it has a hash tag of its own, so that
        /// both are in one slot of a Redis Cluster; `{group}` is the group. Of NATS, `{stream}` is its plain name.
        dead_letters: String = "{stream}:dead:{group}".to_owned(), Node::string;
        /// Whether a missing group is created.
        create_group: bool = true, Node::bool;
        /// The time limit for connecting.
        connect_timeout: Duration = Duration::from_secs(5), Node::duration;
        /// The time limit for one reply.
        socket_timeout: Duration = Duration::from_secs(5), Node::duration;
        /// The time limit for finishing the events that handlers have.
        shutdown_timeout: Duration = Duration::from_secs(30), Node::duration;
    }
}

/// Where a new group begins to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// At the first entry of the stream.
    #[default]
    First,
    /// At the next entry.
    Next,
    /// At the first entry that was added at this time or later, by the clock of the server.
    Time(DateTime<Utc>),
}

/// What a place to start is written as.
const STARTS: &str = "\"0\" (the first entry), \"$\" (the next one), or a time such as \"2026-01-31T12:00:00Z\"";

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Self::First),
            "$" => Ok(Self::Next),
            _ => DateTime::parse_from_rfc3339(text)
                .map(|time| Self::Time(time.to_utc()))
                .map_err(|_| format!("must be {STARTS}")),
        }
    }
}

fn start_at(node: &Node<'_>) -> Result<StartAt> {
    node.string()?.parse().map_err(|_| node.expected(STARTS))
}

impl Settings {
    /// The settings of a consumer.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn consumer(&self, name: &str) -> Result<&ConsumerSettings> {
        self.consumers.get(name).ok_or_else(|| {
            let names: Vec<_> = self.consumers.keys().map(|name| format!("`{name}`")).collect();
            let known =
                if names.is_empty() { "there is none".to_owned() } else { format!("there are {}", names.join(", ")) };
            SettingsError::Missing {
                key: format!("consumers.{name}"),
                remedy: format!("no consumer is named `{name}`, {known}: add [consumers.{name}]"),
            }
        })
    }

    /// The server of a consumer, as settings of a publisher to it.
    #[cfg(feature = "consumer")]
    pub(crate) fn server_of(&self, consumer: &ConsumerSettings) -> PublisherSettings {
        let named = consumer.source.as_ref().and_then(|source| self.publishers.get(source));
        let mut server = named.cloned().unwrap_or_default();
        if consumer.url.is_some() {
            server.url.clone_from(&consumer.url);
            server.tls.clone_from(&consumer.tls);
        }
        server.wait_replicas = None;
        server.connect_timeout = consumer.connect_timeout;
        server.socket_timeout = consumer.socket_timeout;
        server
    }
}
