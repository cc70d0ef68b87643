//! The health of a consumer.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// The health of a consumer. As JSON, each part is `"ok"` or the problem. Problems name servers, so they are for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConsumerHealth {
    /// Whether the streams can be read.
    #[serde(serialize_with = "as_state")]
    pub source: Result<(), String>,
    /// Each handler: whether its actor is running.
    #[serde(serialize_with = "as_states")]
    pub handlers: BTreeMap<String, Result<(), String>>,
    /// Entries in memory: read and not yet acknowledged.
    pub in_flight: usize,
    /// The partitions that it reads, and no other consumer of the group.
    pub partitions: Vec<String>,
}

impl ConsumerHealth {
    /// Whether the streams can be read and every handler is running.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.source.is_ok() && self.handlers.values().all(Result::is_ok)
    }
}

fn state(part: &Result<(), String>) -> &str {
    part.as_ref().err().map_or("ok", String::as_str)
}

fn as_state<S: Serializer>(part: &Result<(), String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state(part))
}

fn as_states<S: Serializer>(parts: &BTreeMap<String, Result<(), String>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(parts.iter().map(|(name, part)| (name, state(part))))
}
