//! Handlers without a database.

use std::sync::Arc;

use crate::event::OutboxEvent;
use crate::handlers::{Attempt, HandleEvent, HandlerError, Subscribe};

/// The message that gives a handler this event, subscribed as `handler`.
#[must_use]
pub fn handle_event(event: impl Into<Arc<OutboxEvent>>) -> HandleEvent {
    let event = event.into();
    let attempt = Attempt::of(&event);
    HandleEvent { event, handler: "handler".into(), attempt, span: tracing::Span::none() }
}

/// Passes an event to a handler as a worker does, and returns its answer. No time limit.
///
/// ```
/// # use actix::prelude::*;
/// # use actix_outbox::testing::run_handler;
/// # use actix_outbox::{HandleTyped, HandlerError, NewEvent, Subscribe, TypedEvent};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct UserCreated { name: String }
/// # impl TypedEvent for UserCreated { const TYPE: &'static str = "user.created"; }
/// # struct Mailer;
/// # impl Actor for Mailer { type Context = Context<Self>; }
/// # impl Handler<HandleTyped<UserCreated>> for Mailer {
/// #     type Result = Result<(), HandlerError>;
/// #     fn handle(&mut self, _: HandleTyped<UserCreated>, _: &mut Self::Context) -> Self::Result { Ok(()) }
/// # }
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mailer = Subscribe::typed::<UserCreated>("mailer", Mailer.start().recipient());
/// let event = NewEvent::typed("tests", &UserCreated { name: "Ada".to_owned() }).preview()?;
/// assert!(run_handler(&mailer, event).await.is_ok());
///
/// let broken = NewEvent::new("user.created", "tests").data(7).preview()?;
/// assert!(run_handler(&mailer, broken).await.unwrap_err().is_permanent());
/// # Ok(()) }
/// ```
///
/// # Errors
/// The handler's error. Permanent: the handler is not subscribed to events of this type. To be retried: its actor has
/// stopped, for example by a panic.
pub async fn run_handler(handler: &Subscribe, event: impl Into<Arc<OutboxEvent>>) -> Result<(), HandlerError> {
    let message = HandleEvent { handler: handler.name.as_str().into(), ..handle_event(event) };
    if !handler.events.contains(&message.event.event_type) {
        let reason = format!("handler `{}` is not subscribed to {}", handler.name, message.event.event_type);
        return Err(HandlerError::permanent(reason));
    }
    match handler.recipient.send(message)?.await {
        Ok(answer) => answer,
        Err(_) => Err(HandlerError::retry("stopped while it handled the event")),
    }
}
