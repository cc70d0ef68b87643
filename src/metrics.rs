//! What is counted and timed, by the `metrics` facade: for whichever recorder the program has installed before it starts
//! the system, and for none.
//!
//! Names and units follow Prometheus; labels are the names of publishers and handlers, never ids, keys or event types.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

use crate::store::{Backlog, OutcomeCounts, OwedHandler};

/// In the place of a backend: events whose `publisher_backend` no live worker serves. No publisher has such a name.
const UNSERVED: &str = "(unserved)";

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric as it is exported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    pub(crate) help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, $unit:ident, $help:literal;)*) => {
        $(const $constant: &str = $name;)*

        /// Every metric, in the order in which an event meets them.
        pub(crate) const ALL: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, unit: Unit::$unit, help: $help }),*
        ];
    };
}

metrics! {
    WAKEUPS = "outbox_wakeups_total", Counter, Count,
        "Times that a worker was told to look: by its own process, by another one, or by poll_interval.";
    FETCH = "outbox_fetch_duration_seconds", Histogram, Seconds,
        "How long reading due events took, with the question what stands before them.";
    SWEEP = "outbox_sweep_duration_seconds", Histogram, Seconds,
        "How long a step of the sweep took, which finds what was committed late.";
    RATE_LIMIT_WAIT = "outbox_rate_limit_wait_seconds", Histogram, Seconds,
        "How long a batch waited for rate_limit, where it did.";
    PUBLISH = "outbox_publish_duration_seconds", Histogram, Seconds,
        "How long a backend took to answer for a batch.";
    DELIVERY = "outbox_delivery_latency_seconds", Histogram, Seconds,
        "From when an event was written, or due if that is later, until its backend had it; first tries alone.";
    SETTLE = "outbox_settle_duration_seconds", Histogram, Seconds,
        "How long recording published events took, with the waiting for a database that is away.";
    PUBLISHED = "outbox_events_published_total", Counter, Count,
        "Events recorded as published: their backend has them and every handler ran.";
    REJECTED = "outbox_events_rejected_total", Counter, Count,
        "Times that a backend or a handler refused an event, each recorded.";
    RETRIED = "outbox_events_retried_total", Counter, Count,
        "Refused events that are tried again.";
    FAILED = "outbox_events_failed_total", Counter, Count,
        "Refused events that are not tried again.";
    HANDLED = "outbox_events_handled_total", Counter, Count,
        "Events that a handler has handled.";
    HANDLER_FAILURES = "outbox_handler_failures_total", Counter, Count,
        "Events that a handler refused, or did not answer for in time.";
    SESSIONS = "outbox_sessions_opened_total", Counter, Count,
        "Times that shards were opened with a backend: after a start, a take-over and each doubt about what was sent.";
    TAKE_OVERS = "outbox_takeovers_total", Counter, Count,
        "Shards taken whose owner let its lease run out.";
    LEASES = "outbox_leases", Gauge, Count,
        "Shards that this worker owns; a backend has 32 for each value of publisher_backend that leads to it.";
    EPOCH = "outbox_lease_epoch", Gauge, Count,
        "The highest epoch of this worker's leases: it grows with each taking of a shard.";
    IN_FLIGHT_EVENTS = "outbox_in_flight_events", Gauge, Count,
        "Events in memory.";
    IN_FLIGHT_BYTES = "outbox_in_flight_bytes", Gauge, Bytes,
        "The bytes of their variable-size parts, which max_in_flight_bytes bounds.";
    BREAKER_OPEN = "outbox_breaker_open", Gauge, Count,
        "1 while the backend cannot be reached and sending pauses, else 0.";
    OWED = "outbox_handler_owed_events", Gauge, Count,
        "Events that are owed to a handler, up to 100,000: their backends have them, and the process that delivered them lacks it.";
    OLDEST_OWED = "outbox_handler_oldest_owed_age_seconds", Gauge, Seconds,
        "How long the oldest of them has been owed; 0 if there is none.";
    UNRECORDED = "outbox_events_unrecorded", Gauge, Count,
        "Events whose outcome the database refuses to record, or whose row another transaction holds; the others go on.";
    DUE = "outbox_events_due", Gauge, Count,
        "Events of the whole outbox that are due and not published.";
    OLDEST_DUE = "outbox_oldest_due_age_seconds", Gauge, Seconds,
        "Since when the first of them is; 0 where nothing is due.";
}

/// Tells the recorder what the metrics mean.
pub(crate) fn describe() {
    for Metric { name, kind, unit, help, .. } in ALL.iter().copied() {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, unit, help),
            Kind::Gauge => metrics::describe_gauge!(name, unit, help),
            Kind::Histogram => metrics::describe_histogram!(name, unit, help),
        }
    }
}

/// A counter that also says how much came since it was last asked.
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

    /// What came since it was last taken.
    fn take(&self) -> u64 {
        self.since.swap(0, Ordering::Relaxed)
    }

    /// What was taken could not be written down.
    fn restore(&self, events: u64) {
        self.since.fetch_add(events, Ordering::Relaxed);
    }
}

/// One publisher's.
pub(crate) struct PublisherMetrics {
    pub(crate) fetch: Histogram,
    pub(crate) sweep: Histogram,
    pub(crate) rate_limit_wait: Histogram,
    pub(crate) publish: Histogram,
    delivery: Histogram,
    pub(crate) published: WindowedCounter,
    pub(crate) rejected: WindowedCounter,
    pub(crate) retried: Counter,
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

    /// What became of events since this was last taken.
    pub(crate) fn take_outcomes(&self) -> OutcomeCounts {
        OutcomeCounts { published: self.published.take(), rejected: self.rejected.take(), failed: self.failed.take() }
    }

    /// What was taken could not be written down.
    pub(crate) fn restore(&self, outcomes: OutcomeCounts) {
        self.published.restore(outcomes.published);
        self.rejected.restore(outcomes.rejected);
        self.failed.restore(outcomes.failed);
    }

    /// The backend has an event since `now`, by the database's clock.
    pub(crate) fn delivered(&self, created_at: DateTime<Utc>, scheduled_at: DateTime<Utc>, now: DateTime<Utc>) {
        let span = now - created_at.max(scheduled_at);
        self.delivery.record(span.to_std().unwrap_or_default());
    }
}

/// What is due of one publisher, or of nobody's.
pub(crate) struct DueMeters {
    events: Gauge,
    oldest: Gauge,
}

impl DueMeters {
    fn new(backend: &str) -> Self {
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

/// What handlers are owed; any process can say it of all.
pub(crate) fn set_owed(owed: &[OwedHandler]) {
    for handler in owed {
        let labelled = |name: &'static str| gauge!(name, "handler" => handler.name.clone());
        labelled(OWED).set(handler.owed as f64);
        labelled(OLDEST_OWED).set(handler.oldest.unwrap_or_default());
    }
}

/// One handler's.
pub(crate) struct HandlerMetrics {
    pub(crate) handled: Counter,
    pub(crate) failures: Counter,
}

impl HandlerMetrics {
    pub(crate) fn new(handler: &str) -> Self {
        let counter = |name: &'static str| counter!(name, "handler" => handler.to_owned());
        Self { handled: counter(HANDLED), failures: counter(HANDLER_FAILURES) }
    }
}

/// Those that are of no publisher.
pub(crate) struct WorkerMetrics {
    pub(crate) settle: Histogram,
    pub(crate) woken_by_self: Counter,
    pub(crate) woken_by_others: Counter,
    pub(crate) polled: Counter,
    pub(crate) unserved: DueMeters,
}

impl WorkerMetrics {
    pub(crate) fn new() -> Self {
        describe();
        let wakeups = |kind: &'static str| counter!(WAKEUPS, "kind" => kind);
        Self {
            settle: histogram!(SETTLE),
            woken_by_self: wakeups("same_process"),
            woken_by_others: wakeups("other_process"),
            polled: wakeups("poll"),
            unserved: DueMeters::new(UNSERVED),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The metrics' names in queries and documents, without what a histogram's series have behind them.
    fn named_in(text: &str) -> BTreeSet<&str> {
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let words = text.split(|letter| !is_word(letter)).filter(|word| word.starts_with("outbox_"));
        let histogram = |name: &str| ALL.iter().any(|metric| metric.name == name && metric.kind == Kind::Histogram);
        words
            .map(|word| {
                let stem = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
                stem.filter(|stem| histogram(stem)).unwrap_or(word)
            })
            .collect()
    }

    #[test]
    fn the_dashboard_shows_exactly_all_metrics_and_alerts_use_only_these() {
        let all: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(named_in(include_str!("../docs/grafana.json")), all);
        let alerts = named_in(include_str!("../docs/alerts.yaml"));
        assert!(alerts.is_subset(&all), "{:?}", alerts.difference(&all));
    }

    #[test]
    fn every_metric_is_documented() {
        let documented = named_in(include_str!("../docs/observability.md"));
        let missing: Vec<&str> =
            ALL.iter().map(|metric| metric.name).filter(|name| !documented.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn names_end_in_their_unit_and_counters_in_total() {
        for metric in ALL {
            let Metric { name, kind, unit, .. } = *metric;
            assert!(name.starts_with("outbox_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), unit == Unit::Seconds, "{name}");
            assert_eq!(name.ends_with("_bytes"), unit == Unit::Bytes, "{name}");
        }
    }
}
