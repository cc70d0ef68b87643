//! The metrics of one handler.

use metrics::{Counter, counter, gauge};

use super::{HANDLED, HANDLER_FAILURES, OLDEST_OWED, OWED};
use crate::store::OwedHandler;

/// Sets what handlers are owed; any process can report it for all.
pub(crate) fn set_owed(owed: &[OwedHandler]) {
    for handler in owed {
        let labelled = |name: &'static str| gauge!(name, "handler" => handler.name.clone());
        labelled(OWED).set(handler.owed as f64);
        labelled(OLDEST_OWED).set(handler.oldest.unwrap_or_default());
    }
}

/// One handler's metrics.
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
