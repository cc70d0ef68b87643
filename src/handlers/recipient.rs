//! The actor that a handler's events go to, whichever message it takes.

use actix::{MailboxError, Recipient};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::{HandleEvent, HandleTyped, HandlerError};

/// The actor's answer; an error if it has none.
pub(crate) type Answer = Result<Result<(), HandlerError>, MailboxError>;

pub(crate) trait EventRecipient: Send + Sync {
    /// Whether the actor is running.
    fn is_connected(&self) -> bool;

    /// Sends the event; the answer comes later. An error if the actor cannot take it, which is not the actor's answer.
    fn send(&self, message: HandleEvent) -> Result<BoxFuture<'static, Answer>, HandlerError>;
}

impl EventRecipient for Recipient<HandleEvent> {
    fn is_connected(&self) -> bool {
        self.connected()
    }

    fn send(&self, message: HandleEvent) -> Result<BoxFuture<'static, Answer>, HandlerError> {
        Ok(Self::send(self, message).boxed())
    }
}

impl<T: DeserializeOwned + Send + 'static> EventRecipient for Recipient<HandleTyped<T>> {
    fn is_connected(&self) -> bool {
        self.connected()
    }

    /// Data of another shape has the same shape at the next try.
    fn send(
        &self,
        HandleEvent { event, handler, attempt, span }: HandleEvent,
    ) -> Result<BoxFuture<'static, Answer>, HandlerError> {
        let data = event.data_as().map_err(HandlerError::permanent)?;
        Ok(Self::send(self, HandleTyped { data, event, handler, attempt, span }).boxed())
    }
}
