//! Events whose data is a type of the application.

use std::fmt;
use std::sync::Arc;

use actix::{Message, Recipient};
use serde::de::DeserializeOwned;

use super::{Attempt, HandlerError, Subscribe};
use crate::event::{OutboxEvent, TypedEvent};

/// An event for a handler that subscribed with [`Subscribe::typed`], with its data. As for
/// [`HandleEvent`](crate::HandleEvent), `Ok(())` means done.
///
/// An event whose data does not have the shape of `T` does not reach the handler: it is rejected for good, with the field
/// that does not fit.
#[derive(Clone, Message)]
#[rtype(result = "Result<(), HandlerError>")]
#[non_exhaustive]
pub struct HandleTyped<T> {
    /// The event's data.
    pub data: T,
    /// The event, as [`HandleEvent::event`](crate::HandleEvent::event).
    pub event: Arc<OutboxEvent>,
    /// The name under which the handler is subscribed.
    pub handler: Arc<str>,
    /// The number of this attempt.
    pub attempt: Attempt,
    /// The handler's span, as [`HandleEvent::span`](crate::HandleEvent::span).
    pub span: tracing::Span,
}

/// The payload stays out of logs.
impl<T> fmt::Debug for HandleTyped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleTyped").field("event", &self.event).finish_non_exhaustive()
    }
}

impl Subscribe {
    /// A handler for events of one type, which gets their data as `T`.
    ///
    /// ```
    /// use actix::prelude::*;
    /// use actix_outbox::{HandleTyped, HandlerError, Subscribe, TypedEvent};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct UserCreated {
    ///     name: String,
    /// }
    ///
    /// impl TypedEvent for UserCreated {
    ///     const TYPE: &'static str = "user.created";
    /// }
    ///
    /// struct Mailer;
    ///
    /// impl Actor for Mailer {
    ///     type Context = Context<Self>;
    /// }
    ///
    /// impl Handler<HandleTyped<UserCreated>> for Mailer {
    ///     type Result = Result<(), HandlerError>;
    ///
    ///     fn handle(&mut self, message: HandleTyped<UserCreated>, _: &mut Self::Context) -> Self::Result {
    ///         println!("welcome, {}", message.data.name);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn subscription() -> Subscribe {
    /// Subscribe::typed::<UserCreated>("mailer", Mailer.start().recipient())
    /// # }
    /// ```
    pub fn typed<T>(name: impl Into<String>, recipient: Recipient<HandleTyped<T>>) -> Self
    where
        T: TypedEvent + DeserializeOwned + Send + 'static,
    {
        Self { name: name.into(), events: T::TYPE.into(), recipient: Arc::new(recipient) }
    }
}
