//! A handler actor with its name and its events.

use std::fmt;
use std::sync::Arc;

use actix::{Message, Recipient};

use super::recipient::EventRecipient;
use super::{EventTypes, HandleEvent};
use crate::error::SystemError;

/// The most characters of a handler's name: with its prefix it names a lane.
const MAX_HANDLER_NAME: usize = 92;

/// Subscribes a handler actor under a name that stays the same between starts and belongs to one handler alone.
///
/// Subscribing again under the name replaces a handler that has stopped, or one for the same events. A running handler for
/// other events stays, and the call fails with [`SystemError::HandlerNameTaken`].
#[derive(Message)]
#[rtype(result = "Result<(), SystemError>")]
pub struct Subscribe {
    /// Names the handler in `pending_handlers` and for other workers.
    pub name: String,
    /// The events that it subscribes to.
    pub events: EventTypes,
    /// The actor.
    pub(crate) recipient: Arc<dyn EventRecipient>,
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe").field("name", &self.name).field("events", &self.events).finish_non_exhaustive()
    }
}

impl Subscribe {
    /// A handler for events of one type, of several, or for all ([`EventTypes::All`]).
    pub fn new(name: impl Into<String>, events: impl Into<EventTypes>, recipient: Recipient<HandleEvent>) -> Self {
        Self { name: name.into(), events: events.into(), recipient: Arc::new(recipient) }
    }
}

/// Checks the name of a handler.
///
/// # Errors
/// It is empty or too long.
pub(crate) fn check_handler_name(name: &str) -> Result<(), SystemError> {
    match name.chars().count() {
        1..=MAX_HANDLER_NAME => Ok(()),
        _ => Err(SystemError::HandlerName { name: name.to_owned(), max: MAX_HANDLER_NAME }),
    }
}
