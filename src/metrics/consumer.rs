//! The metrics of one consumer.

use metrics::{Counter, Gauge, counter, gauge};

use super::{
    CONSUMED, CONSUMER_DEAD, CONSUMER_IN_FLIGHT, CONSUMER_OLDEST, CONSUMER_PARTITIONS, CONSUMER_PENDING,
    CONSUMER_TAKE_OVERS, CONSUMER_UNREAD, DEAD_LETTERED, LOST, REDELIVERED, TRIMMED,
};
use crate::backend::event_source::Backlog;

/// One consumer's metrics.
pub(crate) struct ConsumerMetrics {
    consumer: String,
    pub(crate) acknowledged: Counter,
    pub(crate) redelivered: Counter,
    pub(crate) dead_lettered: Counter,
    pub(crate) lost: Counter,
    pub(crate) take_overs: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) partitions: Gauge,
}

impl ConsumerMetrics {
    pub(crate) fn new(consumer: &str) -> Self {
        let counter = |name: &'static str| counter!(name, "consumer" => consumer.to_owned());
        Self {
            consumer: consumer.to_owned(),
            acknowledged: counter(CONSUMED),
            redelivered: counter(REDELIVERED),
            dead_lettered: counter(DEAD_LETTERED),
            lost: counter(LOST),
            take_overs: counter(CONSUMER_TAKE_OVERS),
            partitions: gauge!(CONSUMER_PARTITIONS, "consumer" => consumer.to_owned()),
            in_flight: gauge!(CONSUMER_IN_FLIGHT, "consumer" => consumer.to_owned()),
        }
    }

    pub(crate) fn set_backlogs(&self, backlogs: &[Backlog]) {
        for backlog in backlogs {
            let labelled = |name: &'static str| gauge!(name, "consumer" => self.consumer.clone(), "stream" => backlog.stream.clone());
            if let Some(unread) = backlog.unread {
                labelled(CONSUMER_UNREAD).set(unread as f64);
            }
            labelled(CONSUMER_PENDING).set(backlog.pending as f64);
            labelled(CONSUMER_OLDEST).set(backlog.oldest.unwrap_or_default());
            labelled(CONSUMER_DEAD).set(backlog.dead as f64);
        }
    }
}

/// Counts an entry that was trimmed before it was handled.
pub(crate) fn consumer_trimmed(stream: &str) {
    counter!(TRIMMED, "stream" => stream.to_owned()).increment(1);
}
