//! What a backend says about itself, for `outbox doctor`. A fact that this user may not see is missing.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// What a backend says about itself.
#[derive(Debug, Clone, Default)]
pub struct BackendFacts {
    /// The major and the minor version.
    pub version: Option<(u32, u32)>,
    /// Its clock.
    pub clock: Option<DateTime<Utc>>,
    /// How keys are evicted, and the memory limit in bytes; 0: none.
    pub eviction: Option<(String, u64)>,
    /// Whether it writes each change to a file.
    pub has_append_only_file: Option<bool>,
    /// When snapshots are saved; empty: never.
    pub snapshots: Option<String>,
    /// Connected replicas.
    pub replicas: Option<u32>,
    /// Streams that events went to.
    pub streams: u64,
    /// Groups that read them.
    pub groups: Vec<GroupFacts>,
    /// The stream that all events go to, of a backend that has one.
    pub stream: Option<StreamFacts>,
    /// Questions that this user may not ask.
    pub forbidden: Vec<&'static str>,
}

/// A stream of JetStream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    /// Its name.
    pub name: String,
    /// Whether a restart loses it.
    pub is_in_memory: bool,
    /// Whether one server of a cluster has it alone.
    pub has_lone_copy: bool,
    /// How long it knows an event again.
    pub duplicate_window: Duration,
    /// The limits beyond which it takes no events.
    pub limits: Vec<StreamLimit>,
}

/// A limit of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLimit {
    /// What is limited.
    pub what: &'static str,
    /// The option of `nats stream edit` that changes it.
    pub option: &'static str,
    /// What the stream has of it.
    pub used: u64,
    /// The most that it may have.
    pub most: u64,
}

/// A consumer group.
#[derive(Debug, Clone)]
pub struct GroupFacts {
    /// The stream that it reads.
    pub stream: String,
    /// Its name.
    pub name: String,
    /// Entries that it has not read; `None`: unknown.
    pub lag: Option<u64>,
    /// Entries that it has read and not acknowledged.
    pub pending: u64,
}
