//! Distributed traces, with the feature `otel`: the publishing of an event, its way to its backend and the work of its
//! handlers are spans of one trace. Without the feature nothing here does anything.
//!
//! An event carries the W3C trace context of the span in which it was published, as CloudEvents' extension for distributed
//! tracing: the attributes `traceparent` and `tracestate`. Only events whose trace is sampled get spans of their own.

#[cfg_attr(feature = "otel", path = "otel.rs")]
#[cfg_attr(not(feature = "otel"), path = "noop.rs")]
mod spans;

use serde_json::Value;

pub(crate) use self::spans::{Sending, current, fail, handling};

pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

/// A W3C trace context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) traceparent: String,
    /// Empty if there is none.
    pub(crate) tracestate: String,
}

impl TraceContext {
    /// Adds it to an event's extensions, unless these name a trace themselves.
    pub(crate) fn add_to(self, extensions: &mut Vec<(String, Value)>) {
        if extensions.iter().any(|(name, _)| name == TRACEPARENT) {
            return;
        }
        extensions.push((TRACEPARENT.to_owned(), self.traceparent.into()));
        extensions.retain(|(name, _)| name != TRACESTATE);
        if !self.tracestate.is_empty() {
            extensions.push((TRACESTATE.to_owned(), self.tracestate.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(tracestate: &str) -> TraceContext {
        TraceContext { traceparent: "00-a-b-01".to_owned(), tracestate: tracestate.to_owned() }
    }

    #[test]
    fn an_event_that_names_a_trace_itself_keeps_it() {
        let mut own = vec![(TRACEPARENT.to_owned(), Value::from("own")), (TRACESTATE.to_owned(), Value::from("own"))];
        let before = own.clone();
        context("a=1").add_to(&mut own);
        assert_eq!(own, before);
    }

    #[test]
    fn a_trace_brings_its_state_and_no_other() {
        let mut stray = vec![(TRACESTATE.to_owned(), Value::from("of another trace"))];
        context("").add_to(&mut stray);
        assert_eq!(stray, [(TRACEPARENT.to_owned(), Value::from("00-a-b-01"))]);
        let mut none = Vec::new();
        context("a=1").add_to(&mut none);
        assert_eq!(none[1], (TRACESTATE.to_owned(), Value::from("a=1")));
    }
}
