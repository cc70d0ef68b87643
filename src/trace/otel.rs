//! Spans for OpenTelemetry, which its layer for `tracing` exports. Attributes follow its semantic conventions for messaging
//! and for CloudEvents.

use std::borrow::Cow;
use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use serde::Deserialize;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use super::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::event::OutboxEvent;

/// The context of the caller's span.
pub(crate) fn current() -> Option<TraceContext> {
    let mut context = Span::current().context();
    if !context.span().span_context().is_valid() {
        context = Context::current();
    }
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut headers);
    let traceparent = headers.remove(TRACEPARENT)?;
    Some(TraceContext { traceparent, tracestate: headers.remove(TRACESTATE).unwrap_or_default() })
}

/// The attributes of a trace context among an event's extensions.
#[derive(Deserialize)]
struct Attributes<'a> {
    #[serde(borrow)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tracestate: Option<Cow<'a, str>>,
}

/// The trace of an event, if it is sampled. Most events have none, or one that is not sampled, so these must cost little.
fn origin(event: &OutboxEvent) -> Option<Context> {
    let extensions = event.extensions.as_str();
    if !extensions.contains(TRACEPARENT) {
        return None;
    }
    let Attributes { traceparent, tracestate } = serde_json::from_str(extensions).ok()?;
    let traceparent = traceparent.filter(|text| may_be_sampled(text))?;
    let given = [(TRACEPARENT, Some(traceparent)), (TRACESTATE, tracestate)];
    let headers: HashMap<String, String> =
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into_owned()))).collect();
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    context.span().span_context().is_sampled().then_some(context)
}

/// The flags come last, and sampling is the lowest of them.
fn may_be_sampled(traceparent: &str) -> bool {
    traceparent.chars().last().and_then(|flags| flags.to_digit(16)).is_none_or(|flags| flags & 1 == 1)
}

/// The spans of a batch that is being sent: one for the batch, with a link to the origin of each sampled event, and one for
/// each of these, as its origin's child.
pub(crate) struct Sending {
    batch: Span,
    events: HashMap<Uuid, Span>,
}

impl Sending {
    pub(crate) fn begin<'a>(system: &str, backend: &str, events: impl Iterator<Item = &'a OutboxEvent>) -> Self {
        let mut count = 0_i64;
        let mut sampled = Vec::new();
        for event in events {
            count += 1;
            sampled.extend(origin(event).map(|origin| (event, origin)));
        }
        if sampled.is_empty() {
            return Self { batch: Span::none(), events: HashMap::new() };
        }
        let batch = tracing::info_span!(
            parent: None,
            "send",
            otel.name = format!("send {backend}"),
            otel.kind = "client",
            messaging.system = system,
            messaging.operation.name = "send",
            messaging.operation.type = "send",
            messaging.destination.name = backend,
            messaging.batch.message_count = count,
        );
        let mut spans = HashMap::new();
        for (event, origin) in sampled {
            batch.add_link(origin.span().span_context().clone());
            spans.insert(event.id, deliver(system, backend, event, origin));
        }
        Self { batch, events: spans }
    }

    /// The span for what is done while the batch is being sent.
    pub(crate) fn span(&self) -> Span {
        self.batch.clone()
    }

    pub(crate) fn refused(&self, id: Uuid, reason: &str) {
        if let Some(span) = self.events.get(&id) {
            fail(span, reason);
        }
    }

    /// Ends the spans: the backend has answered.
    pub(crate) fn end(self) {
        drop((self.batch, self.events));
    }
}

/// Ends a span with an error.
pub(crate) fn fail(span: &Span, reason: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", reason);
    span.record("error.type", "rejected");
}

fn deliver(system: &str, backend: &str, event: &OutboxEvent, origin: Context) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "deliver",
        otel.name = format!("deliver {backend}"),
        otel.kind = "producer",
        otel.status_code = tracing::field::Empty,
        otel.status_description = tracing::field::Empty,
        error.type = tracing::field::Empty,
        messaging.system = system,
        messaging.operation.name = "deliver",
        messaging.operation.type = "send",
        messaging.destination.name = backend,
        messaging.message.id = %event.id,
        cloudevents.event_id = event.cloud_event_id(),
        cloudevents.event_source = event.source,
        cloudevents.event_type = event.event_type,
    );
    // Fails for a span that no layer wants.
    let _ = span.set_parent(origin);
    span
}

/// The span of a handler, as a child of the event's origin; disabled if that is not sampled.
pub(crate) fn handling(handler: &str, event: &OutboxEvent) -> Span {
    let Some(origin) = origin(event) else { return Span::none() };
    let span = tracing::info_span!(
        parent: None,
        "process",
        otel.name = format!("process {handler}"),
        otel.kind = "consumer",
        otel.status_code = tracing::field::Empty,
        otel.status_description = tracing::field::Empty,
        error.type = tracing::field::Empty,
        messaging.system = "actix-outbox",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = event.publisher_backend,
        messaging.consumer.group.name = handler,
        messaging.message.id = %event.id,
        cloudevents.event_id = event.cloud_event_id(),
        cloudevents.event_source = event.source,
        cloudevents.event_type = event.event_type,
    );
    let _ = span.set_parent(origin);
    span
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::JsonText;
    use crate::fixtures;

    #[test]
    fn an_event_belongs_to_a_trace_where_that_is_sampled_and_readable() {
        let origin_of = |extensions: &str| {
            origin(&OutboxEvent { extensions: JsonText::new(extensions.to_owned()), ..fixtures::event(1, "") })
        };
        let with = |flags: &str| {
            format!(r#"{{"a": 1, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"}}"#)
        };
        let found = origin_of(&with("01")).unwrap();
        let found = found.span().span_context().clone();
        assert_eq!(found.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((found.span_id().to_string().as_str(), found.is_remote()), ("b7ad6b7169203331", true));
        assert!(origin_of(&with("03")).is_some(), "another flag");
        for extensions in [
            &with("00"),
            &with("02"),
            &with("zz"),
            "{}",
            r#"{"traceparent": 7}"#,
            r#"{"traceparent": ""}"#,
            "no JSON: traceparent",
        ] {
            assert!(origin_of(extensions).is_none(), "{extensions}");
        }
    }
}
