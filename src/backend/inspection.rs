//! What a backend says about itself, for `outbox doctor`. A fact that this user may not see is missing.

use chrono::{DateTime, Utc};

#[derive(Debug, Clone, Default)]
pub(crate) struct BackendFacts {
    /// The major and the minor version.
    pub(crate) version: Option<(u32, u32)>,
    pub(crate) clock: Option<DateTime<Utc>>,
    /// How keys are evicted, and the memory limit in bytes; 0: none.
    pub(crate) eviction: Option<(String, u64)>,
    pub(crate) has_append_only_file: Option<bool>,
    /// When snapshots are saved; empty: never.
    pub(crate) snapshots: Option<String>,
    /// Connected replicas.
    pub(crate) replicas: Option<u32>,
    /// Streams that events went to.
    pub(crate) streams: u64,
    /// Groups that read them.
    pub(crate) groups: Vec<GroupFacts>,
    /// Questions that this user may not ask.
    pub(crate) forbidden: Vec<&'static str>,
}

/// A consumer group.
#[derive(Debug, Clone)]
pub(crate) struct GroupFacts {
    pub(crate) stream: String,
    pub(crate) name: String,
    /// Entries that it has not read; `None`: unknown.
    pub(crate) lag: Option<u64>,
    /// Entries that it has read and not acknowledged.
    pub(crate) pending: u64,
}
