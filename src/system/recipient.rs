//! The actor that a handler's events go to, whichever message it takes.

use std::future::ready;
use std::sync::Arc;

use actix::{MailboxError, Recipient};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::messages::{HandleEvent, HandlerError};
use super::typed::HandleTyped;

/// The actor's answer; an error if it has none.
pub(crate) type Answer = Result<Result<(), HandlerError>, MailboxError>;

pub(crate) trait EventRecipient: Send + Sync {
    /// Whether the actor is running.
    fn is_connected(&self) -> bool;

    /// Sends the event; the answer comes later.
    fn send(&self, message: HandleEvent) -> BoxFuture<'static, Answer>;
}

impl EventRecipient for Recipient<HandleEvent> {
    fn is_connected(&self) -> bool {
        self.connected()
    }

    fn send(&self, message: HandleEvent) -> BoxFuture<'static, Answer> {
        Self::send(self, message).boxed()
    }
}

impl<T: DeserializeOwned + Send + 'static> EventRecipient for Recipient<HandleTyped<T>> {
    fn is_connected(&self) -> bool {
        self.connected()
    }

    /// Data of another shape has the same shape at the next try.
    fn send(&self, HandleEvent { event, span }: HandleEvent) -> BoxFuture<'static, Answer> {
        match event.data_as() {
            Ok(data) => Self::send(self, HandleTyped { data, event: Arc::clone(&event), span }).boxed(),
            Err(error) => ready(Ok(Err(HandlerError::permanent(error)))).boxed(),
        }
    }
}
