//! The metrics of one publisher.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::*;
use crate::store::{Backlog, OutcomeCounts};

/// A counter that also returns how much was added since it was last asked.
#[derive(Debug)]
pub(crate) struct WindowedCounter {
    counter: Counter,
    since: AtomicU64,
}

impl WindowedCounter {
    fn new(counter: Counter) -> Self {
        Self { counter, since: AtomicU64::new(0) }
    }

    pub(crate) fn add(&self, events: usize) {
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        self.counter.increment(events);
        self.since.fetch_add(events, Ordering::Relaxed);
    }

    /// What was added since it was last taken.
    fn take(&self) -> u64 {
        self.since.swap(0, Ordering::Relaxed)
    }

    /// Adds what was taken back, because it could not be written.
    fn restore(&self, events: u64) {
        self.since.fetch_add(events, Ordering::Relaxed);
    }
}

/// One publisher's metrics.
pub(crate) struct PublisherMetrics {
    pub(crate) fetch: Histogram,
    pub(crate) sweep: Histogram,
    pub(crate) rate_limit_wait: Histogram,
    pub(crate) publish: Histogram,
    delivery: Histogram,
    pub(crate) published: WindowedCounter,
    pub(crate) rejected: WindowedCounter,
    pub(crate) retried: Counter,
    pub(crate) deferred: Counter,
    pub(crate) failed: WindowedCounter,
    pub(crate) sessions: Counter,
    pub(crate) take_overs: Counter,
    pub(crate) leases: Gauge,
    pub(crate) epoch: Gauge,
    pub(crate) in_flight_events: Gauge,
    pub(crate) in_flight_bytes: Gauge,
    pub(crate) breaker_open: Gauge,
    pub(crate) unrecorded: Gauge,
    pub(crate) due: DueMeters,
}

impl PublisherMetrics {
    pub(crate) fn new(backend: &str) -> Self {
        let counter = |name: &'static str| counter!(name, "backend" => backend.to_owned());
        let gauge = |name: &'static str| gauge!(name, "backend" => backend.to_owned());
        let histogram = |name: &'static str| histogram!(name, "backend" => backend.to_owned());
        Self {
            fetch: histogram(FETCH),
            sweep: histogram(SWEEP),
            rate_limit_wait: histogram(RATE_LIMIT_WAIT),
            publish: histogram(PUBLISH),
            delivery: histogram(DELIVERY),
            published: WindowedCounter::new(counter(PUBLISHED)),
            rejected: WindowedCounter::new(counter(REJECTED)),
            retried: counter(RETRIED),
            deferred: counter(DEFERRED),
            failed: WindowedCounter::new(counter(FAILED)),
            sessions: counter(SESSIONS),
            take_overs: counter(TAKE_OVERS),
            leases: gauge(LEASES),
            epoch: gauge(EPOCH),
            in_flight_events: gauge(IN_FLIGHT_EVENTS),
            in_flight_bytes: gauge(IN_FLIGHT_BYTES),
            breaker_open: gauge(BREAKER_OPEN),
            unrecorded: gauge(UNRECORDED),
            due: DueMeters::new(backend),
        }
    }

    /// The outcomes since they were last taken.
    pub(crate) fn take_outcomes(&self) -> OutcomeCounts {
        OutcomeCounts { published: self.published.take(), rejected: self.rejected.take(), failed: self.failed.take() }
    }

    /// Adds outcomes that were taken back, because they could not be written.
    pub(crate) fn restore(&self, outcomes: OutcomeCounts) {
        self.published.restore(outcomes.published);
        self.rejected.restore(outcomes.rejected);
        self.failed.restore(outcomes.failed);
    }

    /// Notes that the backend has an event since `now`, by the database's clock.
    pub(crate) fn delivered(&self, created_at: DateTime<Utc>, scheduled_at: DateTime<Utc>, now: DateTime<Utc>) {
        let span = now - created_at.max(scheduled_at);
        self.delivery.record(span.to_std().unwrap_or_default());
    }
}

/// The due events of one publisher, or of those that no worker serves.
pub(crate) struct DueMeters {
    events: Gauge,
    oldest: Gauge,
}

impl DueMeters {
    pub(super) fn new(backend: &str) -> Self {
        let gauge = |name: &'static str| gauge!(name, "backend" => backend.to_owned());
        Self { events: gauge(DUE), oldest: gauge(OLDEST_DUE) }
    }

    pub(crate) fn set<'a>(&self, due: impl Iterator<Item = &'a Backlog>) {
        let (events, oldest) =
            due.fold((0, Duration::ZERO), |(events, oldest), due| (events + due.events, oldest.max(due.oldest)));
        self.events.set(events as f64);
        self.oldest.set(oldest);
    }
}
