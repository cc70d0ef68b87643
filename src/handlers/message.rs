//! The message that a handler actor receives.

use std::sync::Arc;

use actix::Message;

use super::{Attempt, HandlerError};
use crate::event::OutboxEvent;

/// An event for a local handler. If the handler answers `Ok(())`, the event is done for this handler; after an error it is
/// retried, as [`HandlerError`] says.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), HandlerError>")]
#[non_exhaustive]
pub struct HandleEvent {
    /// The event, as it was when it was read: the row, or in a consumer what the entry contains. `status`, `retry_count` and the
    /// other columns of delivery have a meaning in a worker alone.
    pub event: Arc<OutboxEvent>,
    /// The name under which the handler is subscribed.
    pub handler: Arc<str>,
    /// The number of this attempt.
    pub attempt: Attempt,
    /// The handler's span, which makes its work part of the event's trace: `message.span.in_scope(…)`, or
    /// `future.instrument(message.span)`. A disabled span if the event is not traced.
    pub span: tracing::Span,
}
