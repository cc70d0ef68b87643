//! Spans for OpenTelemetry, which its layer for `tracing` takes over. Attributes follow its semantic conventions for
//! messaging and for CloudEvents.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use serde_json::Value;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use super::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::event::OutboxEvent;

/// That of the span that the caller is in.
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

/// The trace that an event belongs to, where it is sampled.
fn origin(event: &OutboxEvent) -> Option<Context> {
    // Most events have no trace, and parsing costs.
    if !event.extensions.as_str().contains(TRACEPARENT) {
        return None;
    }
    let mut extensions: HashMap<String, Value> = event.extensions.parse().ok()?;
    let mut header = |name: &str| match extensions.remove(name) {
        Some(Value::String(text)) => Some((name.to_owned(), text)),
        _ => None,
    };
    let headers: HashMap<String, String> = [header(TRACEPARENT), header(TRACESTATE)].into_iter().flatten().collect();
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    context.span().span_context().is_sampled().then_some(context)
}

/// The spans of a batch on its way: one for the batch, with a link to the origin of each event that is sampled, and one for
/// each of these, as its origin's child.
pub(crate) struct Sending {
    batch: Span,
    events: HashMap<Uuid, Span>,
}

impl Sending {
    pub(crate) fn begin<'a>(backend: &str, events: impl Iterator<Item = &'a OutboxEvent>) -> Self {
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
            messaging.operation.name = "send",
            messaging.operation.type = "send",
            messaging.destination.name = backend,
            messaging.batch.message_count = count,
        );
        let mut spans = HashMap::new();
        for (event, origin) in sampled {
            batch.add_link(origin.span().span_context().clone());
            spans.insert(event.id, deliver(backend, event, origin));
        }
        Self { batch, events: spans }
    }

    /// What is done while the batch is on its way is done in this span.
    pub(crate) fn span(&self) -> Span {
        self.batch.clone()
    }

    pub(crate) fn refused(&self, id: Uuid, reason: &str) {
        if let Some(span) = self.events.get(&id) {
            span.record("otel.status_code", "ERROR");
            span.record("otel.status_description", reason);
        }
    }

    /// The backend has answered.
    pub(crate) fn end(self) {
        drop((self.batch, self.events));
    }
}

fn deliver(backend: &str, event: &OutboxEvent, origin: Context) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "deliver",
        otel.name = format!("deliver {backend}"),
        otel.kind = "producer",
        otel.status_code = tracing::field::Empty,
        otel.status_description = tracing::field::Empty,
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

/// A handler's, as a child of the event's origin; none where that is not sampled.
pub(crate) fn handling(handler: &str, event: &OutboxEvent) -> Span {
    let Some(origin) = origin(event) else { return Span::none() };
    let span = tracing::info_span!(
        parent: None,
        "process",
        otel.name = format!("process {handler}"),
        otel.kind = "consumer",
        otel.status_code = tracing::field::Empty,
        otel.status_description = tracing::field::Empty,
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
