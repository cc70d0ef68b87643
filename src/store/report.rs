//! A worker's report of a lane's backend in each heartbeat; `outbox_workers.backends` stores it as JSON.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const WELL: &str = "ok";
const STUCK: &str = "the worker's loop is stuck";

/// A worker's report of one lane's backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Said")]
pub(crate) struct LaneHealth {
    /// `"ok"`, or why the backend is unavailable.
    pub(crate) health: String,
    /// Since when the backend has been unavailable, by the worker's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<DateTime<Utc>>,
    /// The backend refused events and now reports that it is healthy; the next event tests it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) trying: bool,
    /// Why this worker leaves the lane to other workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) standing_by: Option<String>,
    /// An operator's command, not a worker: the workers leave it the whole lane, to which it sends nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) claims: bool,
    /// The events per second that this worker may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_second: Option<u32>,
    /// Some of the events whose outcome cannot be recorded, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unrecorded: Vec<Unrecorded>,
}

/// An event whose outcome the database refuses to record, or whose row another transaction holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unrecorded {
    pub(crate) id: Uuid,
    pub(crate) reason: String,
    /// By the worker's clock.
    pub(crate) since: DateTime<Utc>,
}

/// A report in JSON; a string is a report that contains only the health.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Health(String),
    Report {
        health: String,
        since: Option<DateTime<Utc>>,
        #[serde(default)]
        trying: bool,
        standing_by: Option<String>,
        #[serde(default)]
        claims: bool,
        per_second: Option<u32>,
        #[serde(default)]
        unrecorded: Vec<Unrecorded>,
    },
}

impl From<Said> for LaneHealth {
    fn from(said: Said) -> Self {
        match said {
            Said::Health(health) => Self { health, ..Self::ok() },
            Said::Report { health, since, trying, standing_by, claims, per_second, unrecorded } => {
                Self { health, since, trying, standing_by, claims, per_second, unrecorded }
            }
        }
    }
}

impl LaneHealth {
    pub(crate) fn ok() -> Self {
        let health = WELL.to_owned();
        let (since, standing_by, per_second, unrecorded) = (None, None, None, Vec::new());
        Self { health, since, trying: false, standing_by, claims: false, per_second, unrecorded }
    }

    /// The report of a command that works on a lane's events.
    pub(crate) fn claim() -> Self {
        Self { claims: true, ..Self::ok() }
    }

    /// The report of a backend that has been unavailable since then.
    pub(crate) fn down(reason: &str, since: DateTime<Utc>) -> Self {
        Self { health: reason.to_owned(), since: Some(since), ..Self::ok() }
    }

    /// The report of a worker that is stuck, which says nothing of the backend.
    pub(crate) fn stuck() -> Self {
        Self { health: STUCK.to_owned(), ..Self::ok() }
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.health == STUCK
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.health == WELL
    }
}

/// The reports by lane. A worker whose report cannot be parsed serves no lane.
pub(crate) fn by_lane(json: &str) -> BTreeMap<String, LaneHealth> {
    serde_json::from_str(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written_and_health_alone_is_one() {
        let report = LaneHealth {
            health: "connection refused".to_owned(),
            since: Some(DateTime::UNIX_EPOCH),
            trying: true,
            standing_by: Some("it lacks a handler".to_owned()),
            claims: true,
            per_second: Some(5),
            unrecorded: vec![Unrecorded { id: Uuid::nil(), reason: "refused".to_owned(), since: DateTime::UNIX_EPOCH }],
        };
        let written = serde_json::json!({"": report, "orders": LaneHealth::ok(), "plain": "ok"}).to_string();
        let read = by_lane(&written);
        assert_eq!(read[""], report);
        assert_eq!([&read["orders"], &read["plain"]], [&LaneHealth::ok(), &LaneHealth::ok()]);
        assert!(read["plain"].is_ok() && !read[""].is_ok());
        assert!(by_lane("[1]").is_empty());
    }
}
