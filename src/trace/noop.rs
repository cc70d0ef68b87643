//! No traces: the feature `otel` is off.

use tracing::Span;
use uuid::Uuid;

use super::TraceContext;
use crate::event::OutboxEvent;

pub(crate) fn current() -> Option<TraceContext> {
    None
}

/// The spans of a batch that is being sent.
pub(crate) struct Sending;

impl Sending {
    pub(crate) fn begin<'a>(_system: &str, _backend: &str, _events: impl Iterator<Item = &'a OutboxEvent>) -> Self {
        Self
    }

    pub(crate) fn span(&self) -> Span {
        Span::none()
    }

    pub(crate) fn refused(&self, _id: Uuid, _reason: &str) {}

    pub(crate) fn end(self) {}
}

pub(crate) fn fail(_span: &Span, _reason: &str) {}

pub(crate) fn handling(_handler: &str, _event: &OutboxEvent) -> Span {
    Span::none()
}
