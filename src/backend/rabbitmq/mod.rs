//! `rabbitmq`: publishes each event to an exchange, mandatory, persistent and confirmed.
//!
//! By lapin: its errors have AMQP's reply codes, and the socket and TLS are the caller's. (amqprs has texts instead of codes,
//! says "connection reset" of a wrong password, and panics at a text of more than 255 bytes.) Two of its habits are worked
//! around: see [`session`] and [`waves`].

mod errors;
mod message;
mod session;
mod waves;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use rustls::ClientConfig;
use tokio::sync::Mutex;

use self::errors::Target;
use self::session::Session;
use super::{BackendError, PublisherBackend, tls};
use crate::event::OutboxEvent;
use crate::settings::{ContentMode, PublisherSettings, Secret};

/// The longest silence of the broker, in seconds, unless the address has `heartbeat`.
const HEARTBEAT: u16 = 10;

/// Publishes events to an exchange.
pub(crate) struct RabbitMq {
    url: Secret,
    tls: Arc<ClientConfig>,
    exchange: ShortString,
    routing_key: String,
    mode: ContentMode,
    connect_timeout: Duration,
    /// For one reply or confirm.
    reply_timeout: Duration,
    unavailable_limit: Duration,
    session: Mutex<Option<Arc<Session>>>,
}

impl RabbitMq {
    /// # Errors
    /// The setting that cannot be used.
    pub(crate) fn new(settings: &PublisherSettings) -> Result<Self, String> {
        let url = settings.url.clone().ok_or("needs `url`")?;
        if let Some(text) = url.as_text() {
            address(text)?;
        }
        Ok(Self {
            url,
            tls: Arc::new(tls::client_config(settings.tls.as_ref())?),
            exchange: ShortString::try_new(settings.exchange.clone())
                .map_err(|_| "exchange: has more than 255 bytes")?,
            routing_key: settings.routing_key.clone(),
            mode: settings.mode,
            connect_timeout: settings.connect_timeout,
            reply_timeout: settings.socket_timeout,
            unavailable_limit: settings.unavailable_limit,
            session: Mutex::default(),
        })
    }

    /// The open session, or a new one.
    async fn session(&self) -> Result<Arc<Session>, BackendError> {
        let mut slot = self.session.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| session.is_open()) {
            return Ok(Arc::clone(session));
        }
        *slot = None;
        let session = self.connect().await.map_err(BackendError::Unavailable)?;
        Ok(Arc::clone(slot.insert(Arc::new(session))))
    }

    async fn connect(&self) -> Result<Session, String> {
        let url = self.url.clone();
        let text = tokio::task::spawn_blocking(move || url.read().map(std::borrow::Cow::into_owned)).await;
        let text = text.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let address = address(&text)?;
        let target = Target::new(&address, self.exchange.as_str());
        Session::open(address, Arc::clone(&self.tls), target, self.connect_timeout).await
    }

    /// Ends a session. What it has not written yet is not written.
    async fn end(&self, session: &Arc<Session>) {
        session.abort();
        let mut slot = self.session.lock().await;
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *slot = None;
        }
    }
}

/// An address, with a heartbeat. An error does not show it: it may contain a password.
fn address(text: &str) -> Result<AMQPUri, String> {
    let mut address: AMQPUri =
        text.parse().map_err(|_| "url: is not a valid address, such as amqp://user:password@localhost:5672/%2f")?;
    address.query.heartbeat.get_or_insert(HEARTBEAT);
    Ok(address)
}

#[async_trait]
impl PublisherBackend for RabbitMq {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        let not_sent = || Err(BackendError::Unavailable("it was not sent".to_owned()));
        let result = self.send_batch(&[Arc::new(event.clone())]).await.pop().flatten();
        result.unwrap_or_else(not_sent)
    }

    async fn publish_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        self.send_batch(events).await
    }

    /// Asks for the exchange, which the broker answers without a permission.
    async fn health_check(&self) -> Result<(), BackendError> {
        let session = self.session().await?;
        if let Some(reason) = session.blocked() {
            return Err(BackendError::Unavailable(reason));
        }
        let failure = match tokio::time::timeout(self.reply_timeout, session.check(&self.exchange)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => session.target().explain(&error),
            Err(_) => format!("no answer within {:?}", self.reply_timeout),
        };
        self.end(&session).await;
        Err(BackendError::Unavailable(failure))
    }

    /// Longer than the limits inside, whose errors say more.
    fn timeout(&self) -> Duration {
        self.connect_timeout + self.reply_timeout * 2 + Duration::from_secs(1)
    }

    /// Events of all keys are on their way at the same time.
    fn concurrency(&self) -> usize {
        usize::MAX
    }
}
