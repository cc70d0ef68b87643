//! Metrics, recorded by the `metrics` facade: by the recorder that the program has installed before it starts the system, or
//! not at all.
//!
//! Names and units follow Prometheus; labels are the names of publishers and handlers, never ids, keys or event types.

use metrics::Unit;

#[cfg(feature = "consumer")]
mod consumer;
mod handler;
#[cfg(feature = "prometheus")]
mod prometheus;
mod publisher;
mod worker;

#[cfg(feature = "consumer")]
pub(crate) use self::consumer::{ConsumerMetrics, consumer_trimmed};
pub(crate) use self::handler::{HandlerMetrics, set_owed};
#[cfg(feature = "prometheus")]
pub use self::prometheus::{Prometheus, PrometheusError};
pub(crate) use self::publisher::PublisherMetrics;
pub(crate) use self::worker::WorkerMetrics;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The names of the histograms, for exporters that need their buckets before the first value; all hold seconds.
pub fn histograms() -> impl Iterator<Item = &'static str> {
    ALL.iter().filter(|metric| metric.kind == Kind::Histogram).map(|metric| metric.name)
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
        $(
            #[allow(dead_code, reason = "some are of a feature")]
            const $constant: &str = $name;
        )*

        /// Every metric, in the order in which an event passes them.
        pub(crate) const ALL: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, unit: Unit::$unit, help: $help }),*
        ];
    };
}

metrics! {
    WAKEUPS = "outbox_wakeups_total", Counter, Count,
        "Wake-ups of a worker: by its own process, by another one, or by poll_interval.";
    FETCH = "outbox_fetch_duration_seconds", Histogram, Seconds,
        "Duration of a fetch of due events, including the query for their predecessors.";
    SWEEP = "outbox_sweep_duration_seconds", Histogram, Seconds,
        "Duration of a step of the sweep, which finds events that were committed late.";
    RATE_LIMIT_WAIT = "outbox_rate_limit_wait_seconds", Histogram, Seconds,
        "Time that a batch waited for rate_limit, if it waited.";
    PUBLISH = "outbox_publish_duration_seconds", Histogram, Seconds,
        "Time until a backend answered for a batch.";
    DELIVERY = "outbox_delivery_latency_seconds", Histogram, Seconds,
        "Time from when an event was written, or due if that is later, until its backend accepted it; first attempts only.";
    SETTLE = "outbox_settle_duration_seconds", Histogram, Seconds,
        "Time to record published events, including waits for an unavailable database.";
    PUBLISHED = "outbox_events_published_total", Counter, Count,
        "Events recorded as published: their backend has them and every handler ran.";
    REJECTED = "outbox_events_rejected_total", Counter, Count,
        "Recorded rejections of events by a backend or a handler.";
    RETRIED = "outbox_events_retried_total", Counter, Count,
        "Rejected events that will be retried.";
    DEFERRED = "outbox_events_deferred_total", Counter, Count,
        "Times that an event had to wait for its part of a backend, such as one host, without spending a retry.";
    FAILED = "outbox_events_failed_total", Counter, Count,
        "Rejected events that will not be retried.";
    HANDLED = "outbox_events_handled_total", Counter, Count,
        "Events that a handler has handled.";
    HANDLER_FAILURES = "outbox_handler_failures_total", Counter, Count,
        "Events that a handler rejected, or did not answer for in time.";
    SESSIONS = "outbox_sessions_opened_total", Counter, Count,
        "Opens of shards with a backend: after a start, a take-over and each unknown outcome of a send.";
    TAKE_OVERS = "outbox_takeovers_total", Counter, Count,
        "Shards taken after their owner's lease expired.";
    LEASES = "outbox_leases", Gauge, Count,
        "Shards that this worker owns; a backend has 32 for each value of publisher_backend that leads to it.";
    EPOCH = "outbox_lease_epoch", Gauge, Count,
        "The highest epoch of this worker's leases: it grows each time a shard is taken.";
    IN_FLIGHT_EVENTS = "outbox_in_flight_events", Gauge, Count,
        "Events in memory.";
    IN_FLIGHT_BYTES = "outbox_in_flight_bytes", Gauge, Bytes,
        "Bytes of the variable-size parts of events in memory, which max_in_flight_bytes limits.";
    BREAKER_OPEN = "outbox_breaker_open", Gauge, Count,
        "1 while the backend cannot be reached and sending pauses, else 0.";
    OWED = "outbox_handler_owed_events", Gauge, Count,
        "Events owed to a handler, up to 100,000: their backends have them, the delivering process lacks the handler.";
    OLDEST_OWED = "outbox_handler_oldest_owed_age_seconds", Gauge, Seconds,
        "Age of the oldest event owed to a handler; 0 if there is none.";
    UNRECORDED = "outbox_events_unrecorded", Gauge, Count,
        "Events whose outcome the database refuses to record, or whose row another transaction holds; others continue.";
    CONSUMED = "outbox_consumer_acknowledged_total", Counter, Count,
        "Entries that a consumer has handled and acknowledged.";
    REDELIVERED = "outbox_consumer_redelivered_total", Counter, Count,
        "Deliveries of entries that had been delivered before.";
    DEAD_LETTERED = "outbox_consumer_dead_letters_total", Counter, Count,
        "Entries that a consumer has moved to the dead letters.";
    LOST = "outbox_consumer_lost_total", Counter, Count,
        "Entries that another consumer may have taken while this one had them in memory.";
    TRIMMED = "outbox_consumer_trimmed_total", Counter, Count,
        "Entries that were trimmed from their stream before they were handled.";
    CONSUMER_IN_FLIGHT = "outbox_consumer_in_flight", Gauge, Count,
        "Entries that a consumer has read and not acknowledged.";
    CONSUMER_WAITING = "outbox_consumer_waiting", Gauge, Count,
        "Events that wait in a consumer for another try; it reads no more while they are 5,000.";
    CONSUMER_PARTITIONS = "outbox_consumer_partitions", Gauge, Count,
        "Partitions whose lease a consumer has.";
    CONSUMER_TAKE_OVERS = "outbox_consumer_takeovers_total", Counter, Count,
        "Partitions that a consumer took after another one's lease had ended.";
    CONSUMER_UNREAD = "outbox_consumer_unread", Gauge, Count,
        "Entries that no consumer of the group has read; missing if the server cannot tell.";
    CONSUMER_PENDING = "outbox_consumer_pending", Gauge, Count,
        "Entries that consumers of the group have read and not acknowledged.";
    CONSUMER_OLDEST = "outbox_consumer_oldest_pending_age_seconds", Gauge, Seconds,
        "Age of the oldest of these; 0 if there is none.";
    CONSUMER_DEAD = "outbox_consumer_dead_letters", Gauge, Count,
        "Dead letters of the group.";
    DUE = "outbox_events_due", Gauge, Count,
        "Events of the whole outbox that are due and not published.";
    OLDEST_DUE = "outbox_oldest_due_age_seconds", Gauge, Seconds,
        "Time since the first due event was due; 0 if nothing is due.";
}

/// Describes the metrics to the recorder.
pub(crate) fn describe() {
    for Metric { name, kind, unit, help, .. } in ALL.iter().copied() {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, unit, help),
            Kind::Gauge => metrics::describe_gauge!(name, unit, help),
            Kind::Histogram => metrics::describe_histogram!(name, unit, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The metrics' names in queries and documents, without the suffixes of a histogram's series.
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
        assert_eq!(named_in(include_str!("../../docs/grafana.json")), all);
        let alerts = named_in(include_str!("../../docs/alerts.yaml"));
        assert!(alerts.is_subset(&all), "{:?}", alerts.difference(&all));
    }

    #[test]
    fn every_metric_is_documented() {
        let documented = named_in(include_str!("../../docs/observability.md"));
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
