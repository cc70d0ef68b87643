//! What a backend says about itself, for `outbox doctor`. A fact that this user may not see is missing.

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
    /// Questions that this user may not ask.
    pub forbidden: Vec<&'static str>,
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
