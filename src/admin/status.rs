//! The status of backends and workers.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{OutboxAdmin, Result};
use crate::settings::Settings;
use crate::store::{BackendPause, CountMode, EventCounts, handler_of};

const OK: &str = "ok";

/// One publisher, or a `publisher_backend` that the settings do not know.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Backend))]
#[non_exhaustive]
pub struct BackendStatus {
    /// The publisher's name.
    pub name: String,
    /// Events that are due and not published.
    pub due: i64,
    /// For how long the first of them has been due.
    pub oldest_due_seconds: Option<f64>,
    /// `"ok"`, or why no worker delivers.
    pub health: String,
    /// Whether an operator has paused it.
    pub paused: bool,
    /// Since when it has been paused, by the database's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<DateTime<Utc>>,
    /// Who paused it, if that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_by: Option<String>,
    /// Why it was paused, if that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_reason: Option<String>,
    /// Hosts of webhooks to which nothing is sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paused_hosts: Vec<String>,
    /// Since when it cannot be reached, by the worker's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// The events a second that all live workers together may send, if each is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
}

impl BackendStatus {
    /// Whether a live worker delivers to it.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.health == OK
    }
}

/// One worker that has sent a heartbeat lately.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Worker))]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// Whether it sent a heartbeat within the lease time.
    pub alive: bool,
    /// Its last heartbeat.
    pub heartbeat_at: DateTime<Utc>,
    /// Shards that it owns, by publisher.
    pub shards: BTreeMap<String, i64>,
}

/// The status of the whole outbox.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OutboxStatus {
    /// When the events were counted, by this machine's clock.
    pub counted_at: DateTime<Utc>,
    /// Events by status.
    pub counts: BTreeMap<String, i64>,
    /// The number of published events is the database's estimate.
    pub published_is_estimate: bool,
    /// The publishers, and the names in events that the settings do not know.
    pub backends: Vec<BackendStatus>,
    /// The workers that sent a heartbeat lately.
    pub workers: Vec<WorkerStatus>,
}

impl OutboxAdmin {
    /// Counts of events, due events by backend, and the workers.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn status(&self, counting: CountMode) -> Result<OutboxStatus> {
        let counted_at = Utc::now();
        let (overview, pauses) = tokio::try_join!(self.store.overview(counting), self.store.pauses())?;
        Ok(OutboxStatus::new(counted_at, &overview, &pauses, &self.settings))
    }
}

impl OutboxStatus {
    pub(super) fn new(
        counted_at: DateTime<Utc>,
        overview: &EventCounts,
        pauses: &[BackendPause],
        settings: &Settings,
    ) -> Self {
        // Events that name no backend belong to the default one.
        let publisher = |lane: &str| match settings.default_publisher() {
            Ok(default) if lane.is_empty() => default.to_owned(),
            _ => lane.to_owned(),
        };
        let lease = settings.worker.lease;
        let mut seen: BTreeMap<String, Seen> =
            settings.publishers.keys().map(|name| (name.clone(), Seen::default())).collect();
        for due in &overview.due {
            let backend = seen.entry(publisher(&due.lane)).or_default();
            backend.due += due.events;
            backend.oldest = backend.oldest.max(Some(due.oldest));
        }
        for worker in overview.workers.iter().filter(|worker| worker.is_alive(lease)) {
            let mut limits = BTreeMap::new();
            let reports = worker.reports().into_iter();
            for (lane, report) in reports.filter(|(lane, report)| handler_of(lane).is_none() && !report.claims) {
                let name = publisher(&lane);
                limits.insert(name.clone(), report.per_second);
                let backend = seen.entry(name).or_default();
                if backend.health.as_deref() != Some(OK) {
                    (backend.health, backend.since) = (Some(report.health), report.since);
                }
            }
            // Both lanes of a publisher share its limit.
            for (name, limit) in limits {
                seen.entry(name).or_default().limits.push(limit);
            }
        }
        for pause in pauses {
            let backend = seen.entry(pause.backend.clone()).or_default();
            match pause.is_whole() {
                true => backend.pause = Some(pause.clone()),
                false => backend.paused_hosts.push(pause.host.clone()),
            }
        }
        let workers = overview.workers.iter().map(|worker| {
            let mut shards = BTreeMap::new();
            for (lane, count) in worker.shards.iter().filter(|(lane, _)| handler_of(lane).is_none()) {
                *shards.entry(publisher(lane)).or_insert(0) += count;
            }
            let (name, alive) = (worker.name.clone(), worker.is_alive(lease));
            WorkerStatus { name, alive, heartbeat_at: worker.heartbeat_at, shards }
        });
        Self {
            counted_at,
            counts: overview.counts.iter().cloned().collect(),
            published_is_estimate: overview.published_is_estimate,
            backends: seen.into_iter().map(|(name, seen)| seen.named(name)).collect(),
            workers: workers.collect(),
        }
    }
}

/// What the rows report about one backend.
#[derive(Debug, Default)]
struct Seen {
    due: i64,
    oldest: Option<Duration>,
    health: Option<String>,
    since: Option<DateTime<Utc>>,
    pause: Option<BackendPause>,
    paused_hosts: Vec<String>,
    /// The limit of each live worker.
    limits: Vec<Option<u32>>,
}

impl Seen {
    fn named(self, name: String) -> BackendStatus {
        let limits: Option<Vec<u32>> = self.limits.into_iter().collect();
        BackendStatus {
            name,
            due: self.due,
            oldest_due_seconds: self.oldest.map(|oldest| oldest.as_secs_f64()),
            health: self.health.unwrap_or_else(|| "no live worker serves it".to_owned()),
            paused: self.pause.is_some(),
            paused_since: self.pause.as_ref().map(|pause| pause.since),
            paused_by: self.pause.as_ref().map(|pause| pause.by.clone()).filter(|by| !by.is_empty()),
            pause_reason: self.pause.map(|pause| pause.reason).filter(|reason| !reason.is_empty()),
            paused_hosts: self.paused_hosts,
            since: self.since,
            per_second: limits
                .filter(|limits| !limits.is_empty())
                .map(|limits| limits.into_iter().fold(0, u32::saturating_add)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::store::{Backlog, WorkerRow};

    fn worker(name: &str, silent: u64, backends: &str) -> WorkerRow {
        WorkerRow {
            id: Uuid::nil(),
            name: name.to_owned(),
            heartbeat_at: DateTime::UNIX_EPOCH,
            silent_for: Duration::from_secs(silent),
            backends: backends.to_owned(),
            shards: if silent < 60 { vec![(Arc::from(""), 16), (Arc::from("orders"), 16)] } else { Vec::new() },
        }
    }

    fn status(workers: Vec<WorkerRow>) -> OutboxStatus {
        let due = |lane: &str, events, seconds| Backlog {
            lane: Arc::from(lane),
            events,
            oldest: Duration::from_secs(seconds),
        };
        let overview = EventCounts {
            counts: Vec::new(),
            published_is_estimate: false,
            due: vec![due("", 2, 9), due("orders", 3, 5)],
            workers,
        };
        OutboxStatus::new(
            DateTime::UNIX_EPOCH,
            &overview,
            &[],
            &Settings::from_toml("publishers.orders.backend = 'local'").unwrap(),
        )
    }

    #[test]
    fn events_that_name_no_backend_belong_to_the_default_one() {
        let status = status(vec![worker("a", 1, r#"{"": "ok", "orders": "ok"}"#)]);
        let expected = BackendStatus {
            name: "orders".to_owned(),
            due: 5,
            oldest_due_seconds: Some(9.0),
            health: "ok".to_owned(),
            paused: false,
            paused_since: None,
            paused_by: None,
            pause_reason: None,
            paused_hosts: Vec::new(),
            since: None,
            per_second: None,
        };
        assert_eq!(status.backends, [expected]);
        assert_eq!(status.workers[0].shards, BTreeMap::from([("orders".to_owned(), 32)]));
    }

    #[test]
    fn a_backend_is_well_where_one_live_worker_reaches_it() {
        let health = |workers| status(workers).backends[0].health.clone();
        let (down, up) = (r#"{"orders": "connection refused"}"#, r#"{"orders": "ok"}"#);
        assert_eq!(health(vec![worker("a", 1, down), worker("b", 1, up)]), "ok");
        assert_eq!(health(vec![worker("a", 1, up), worker("b", 1, down)]), "ok");
        assert_eq!(health(vec![worker("a", 1, down), worker("b", 60, up)]), "connection refused");
        assert_eq!(health(vec![worker("b", 60, up)]), "no live worker serves it");
    }

    #[test]
    fn the_rate_is_that_of_all_live_workers_where_each_is_limited() {
        let limited = r#"{"": {"health": "ok", "per_second": 5}, "orders": {"health": "ok", "per_second": 5}}"#;
        let rate = |workers| status(workers).backends[0].per_second;
        assert_eq!(rate(vec![worker("a", 1, limited), worker("b", 1, limited), worker("c", 60, limited)]), Some(10));
        assert_eq!(rate(vec![worker("a", 1, limited), worker("b", 1, r#"{"orders": "ok"}"#)]), None);
        assert_eq!(rate(Vec::new()), None);
    }
}
