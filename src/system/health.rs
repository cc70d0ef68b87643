//! The health of the system: what applications ask for, and what they are told.

use std::collections::BTreeMap;

use actix::Message;
use serde::{Serialize, Serializer};

/// Requests a health report.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "HealthReport")]
pub struct Health;

/// The health of the system.
///
/// As JSON, each part is `"ok"` or the problem. Problems name servers, so they are for operators, not for the public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HealthReport {
    /// Whether the database answers.
    #[serde(serialize_with = "as_state")]
    pub database: Result<(), String>,
    /// Each publisher: whether its backend accepts events, or why not.
    #[serde(serialize_with = "as_states")]
    pub backends: BTreeMap<String, Result<(), String>>,
    /// Shards owned, by the value of `publisher_backend` that their events carry.
    pub shards: BTreeMap<String, usize>,
    /// Why this worker leaves a lane to other workers, by lane.
    pub standing_by: BTreeMap<String, String>,
    /// Each handler of this process: whether its actor is running, or why its events wait.
    #[serde(serialize_with = "as_states")]
    pub handlers: BTreeMap<String, Result<(), String>>,
    /// Events in memory: read and not yet settled, or settled a moment ago.
    pub in_flight: usize,
    /// Whether the database answered a heartbeat within the lease time; always `Ok` in a process that delivers nothing.
    #[serde(serialize_with = "as_state")]
    pub leases: Result<(), String>,
}

impl HealthReport {
    /// Whether the database answers, every backend accepts events and every handler is running.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.database.is_ok() && self.backends.values().chain(self.handlers.values()).all(Result::is_ok)
    }

    /// Whether it is ok and the leases are kept.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ok() && self.leases.is_ok()
    }
}

/// What works, as JSON; a problem is its text.
const OK: &str = "ok";

fn state(part: &Result<(), String>) -> &str {
    part.as_ref().err().map_or(OK, String::as_str)
}

fn as_state<S: Serializer>(part: &Result<(), String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state(part))
}

fn as_states<S: Serializer>(parts: &BTreeMap<String, Result<(), String>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(parts.iter().map(|(name, part)| (name, state(part))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_report_in_json_is_ok_or_its_problem() {
        let report = HealthReport {
            database: Ok(()),
            backends: BTreeMap::from([("default".to_owned(), Err("refused".to_owned()))]),
            shards: BTreeMap::from([(String::new(), 32)]),
            standing_by: BTreeMap::new(),
            handlers: BTreeMap::from([("mailer".to_owned(), Ok(()))]),
            in_flight: 3,
            leases: Ok(()),
        };
        let expected = serde_json::json!({
            "database": "ok", "backends": {"default": "refused"}, "shards": {"": 32}, "standing_by": {},
            "handlers": {"mailer": "ok"}, "in_flight": 3, "leases": "ok",
        });
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    }
}
