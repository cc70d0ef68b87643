//! The metrics of one consumer.

use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Gauge, counter, gauge};

use super::{
    CONSUMED, CONSUMER_DEAD, CONSUMER_IN_FLIGHT, CONSUMER_OLDEST, CONSUMER_PARTITIONS, CONSUMER_PENDING,
    CONSUMER_TAKE_OVERS, CONSUMER_UNREAD, CONSUMER_WAITING, DEAD_LETTERED, LOST, REDELIVERED, TRIMMED,
};
use crate::backend::event_source::Backlog;

/// What is left to do in a stream. What is not known is not a number; [`Prometheus`](super::Prometheus) leaves it out.
pub(super) const BACKLOG: [&str; 4] = [CONSUMER_UNREAD, CONSUMER_PENDING, CONSUMER_OLDEST, CONSUMER_DEAD];

/// One consumer's metrics.
pub(crate) struct ConsumerMetrics {
    consumer: String,
    pub(crate) acknowledged: Counter,
    pub(crate) redelivered: Counter,
    pub(crate) dead_lettered: Counter,
    pub(crate) lost: Counter,
    pub(crate) take_overs: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) waiting: Gauge,
    pub(crate) partitions: Gauge,
    /// The streams whose backlog was set.
    shown: Mutex<Vec<String>>,
}

impl ConsumerMetrics {
    pub(crate) fn new(consumer: &str) -> Self {
        let counter = |name: &'static str| counter!(name, "consumer" => consumer.to_owned());
        Self {
            consumer: consumer.to_owned(),
            shown: Mutex::default(),
            acknowledged: counter(CONSUMED),
            redelivered: counter(REDELIVERED),
            dead_lettered: counter(DEAD_LETTERED),
            lost: counter(LOST),
            take_overs: counter(CONSUMER_TAKE_OVERS),
            partitions: gauge!(CONSUMER_PARTITIONS, "consumer" => consumer.to_owned()),
            in_flight: gauge!(CONSUMER_IN_FLIGHT, "consumer" => consumer.to_owned()),
            waiting: gauge!(CONSUMER_WAITING, "consumer" => consumer.to_owned()),
        }
    }

    /// Shows what is left to do, and no longer what streams had that are gone.
    pub(crate) fn set_backlogs(&self, backlogs: &[Backlog]) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = shown.extract_if(.., |stream| backlogs.iter().all(|backlog| backlog.stream != *stream));
        for stream in gone {
            BACKLOG.into_iter().for_each(|name| self.gauge(name, &stream).set(f64::NAN));
        }
        for backlog in backlogs {
            let age = backlog.oldest.unwrap_or_default().as_secs_f64();
            let values = [
                backlog.unread.map_or(f64::NAN, |unread| unread as f64),
                backlog.pending as f64,
                age,
                backlog.dead as f64,
            ];
            BACKLOG.into_iter().zip(values).for_each(|(name, value)| self.gauge(name, &backlog.stream).set(value));
            if !shown.contains(&backlog.stream) {
                shown.push(backlog.stream.clone());
            }
        }
    }

    fn gauge(&self, name: &'static str, stream: &str) -> Gauge {
        gauge!(name, "consumer" => self.consumer.clone(), "stream" => stream.to_owned())
    }
}

/// Counts an entry that was trimmed before it was handled.
pub(crate) fn consumer_trimmed(stream: &str) {
    counter!(TRIMMED, "stream" => stream.to_owned()).increment(1);
}

#[cfg(all(test, feature = "prometheus"))]
mod tests {
    use super::*;
    use crate::metrics::Prometheus;

    #[test]
    fn what_is_not_known_any_more_is_not_shown() {
        let (recorder, prometheus) = Prometheus::recorder();
        metrics::with_local_recorder(&recorder, || {
            let metrics = ConsumerMetrics::new("mailer");
            let backlog =
                |stream: &str, unread| Backlog { stream: stream.to_owned(), unread, pending: 7, ..Backlog::default() };
            let shown = || prometheus.render().lines().filter(|line| line.contains("stream=")).count();
            metrics.set_backlogs(&[backlog("a", Some(5)), backlog("b", Some(6))]);
            assert_eq!(shown(), 8);
            metrics.set_backlogs(&[backlog("a", None), backlog("b", Some(6))]);
            assert_eq!(shown(), 7, "{}", prometheus.render());
            metrics.set_backlogs(&[backlog("b", Some(1))]);
            assert_eq!(shown(), 4, "{}", prometheus.render());
            metrics.set_backlogs(&[backlog("a", Some(2)), backlog("b", Some(1))]);
            assert_eq!(shown(), 8, "{}", prometheus.render());
        });
    }
}
