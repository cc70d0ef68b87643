//! A handler that posts events to an address.

use std::sync::Arc;

use actix::{Actor, Context, Handler, ResponseFuture};

use crate::backend::{Http, NotAccepted};
use crate::error::SettingsError;
use crate::handlers::{HandleEvent, HandlerError};
use crate::opaque_debug::opaque_debug;
use crate::settings::PublisherSettings;

/// A handler that posts each event to an address, as the backend `http` does: with its modes, signatures and headers, and with
/// its checks of addresses. A 2xx is `Ok`; after anything else the event is retried, if the answer has a `Retry-After` after
/// that time. Each delivery is one request, whatever the host has answered to others.
///
/// ```
/// use actix::prelude::*;
/// use actix_outbox::{PublisherSettings, Subscribe, WebhookHandler};
///
/// # fn relay() -> Result<Subscribe, actix_outbox::SettingsError> {
/// let mut settings = PublisherSettings::default();
/// settings.url = Some("https://hooks.example.com/events".into());
/// let relay = WebhookHandler::new(&settings)?;
/// Ok(Subscribe::new("relay", "order.*", relay.start().recipient()))
/// # }
/// ```
pub struct WebhookHandler(Arc<Http>);

opaque_debug!(WebhookHandler);

impl WebhookHandler {
    /// Reads the keys of `[publishers.NAME]` that are for `http`; nothing is connected.
    ///
    /// # Errors
    /// The address, or what belongs to it, is wrong.
    pub fn new(settings: &PublisherSettings) -> Result<Self, SettingsError> {
        let http = Http::new(settings).map_err(|problem| SettingsError::Invalid {
            key: "url".to_owned(),
            origin: "the settings of the webhook".to_owned(),
            problem,
        })?;
        Ok(Self(Arc::new(http)))
    }
}

impl Actor for WebhookHandler {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for WebhookHandler {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let http = Arc::clone(&self.0);
        Box::pin(async move { http.send_anyway(&message.event).await.map_err(rejection) })
    }
}

fn rejection(NotAccepted { reason, retry_after }: NotAccepted) -> HandlerError {
    match retry_after {
        Some(delay) => HandlerError::after(delay, reason),
        None => HandlerError::retry(reason),
    }
}
