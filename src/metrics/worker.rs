//! The metrics that belong to no publisher.

use metrics::{Counter, Histogram, counter, histogram};

use super::publisher::DueMeters;
use super::{SETTLE, WAKEUPS, describe};

/// The label for events whose `publisher_backend` no live worker serves. No publisher has such a name.
const UNSERVED: &str = "(unserved)";

/// The metrics that belong to no publisher.
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
