//! `OutboxConsumer`: the handle that applications keep.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::context::ConsumerContext;
use super::health::ConsumerHealth;
use crate::backend::event_source::StreamLeases;
use crate::error::SystemError;
use crate::opaque_debug::opaque_debug;

/// How much longer than its calls a turn of the reader may take.
const TURN_MARGIN: Duration = Duration::from_secs(5);

/// A running consumer. Cheap to clone; it runs until [`shutdown`](Self::shutdown) or until actix' own system stops.
///
/// ```no_run
/// use actix::prelude::*;
/// use actix_outbox::{HandleEvent, HandlerError, LoadOptions, OutboxConsumer, Settings, Subscribe};
///
/// struct Mailer;
///
/// impl Actor for Mailer {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<HandleEvent> for Mailer {
///     type Result = Result<(), HandlerError>;
///
///     fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
///         println!("{} {}", message.event.event_type, message.event.id);
///         Ok(())
///     }
/// }
///
/// #[actix::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let settings = Settings::load(&LoadOptions::from_process())?;
///     let consumer = OutboxConsumer::builder(settings, "mailer")
///         .subscribe(Subscribe::new("mailer", "user.*", Mailer.start().recipient()))
///         .start()
///         .await?;
///     tokio::signal::ctrl_c().await?;
///     Ok(consumer.shutdown().await?)
/// }
/// ```
#[derive(Clone)]
pub struct OutboxConsumer {
    pub(super) context: Arc<ConsumerContext>,
    pub(super) runtime: Handle,
    pub(super) ended: watch::Receiver<bool>,
}

opaque_debug!(OutboxConsumer);

impl OutboxConsumer {
    /// Reports the health of the consumer, without a call to a server.
    #[must_use]
    pub fn health(&self) -> ConsumerHealth {
        let stopped = || Err("the handler's actor has stopped".to_owned());
        let handlers = self
            .context
            .handlers
            .iter()
            .map(|handler| (handler.name().to_owned(), if handler.is_alive() { Ok(()) } else { stopped() }));
        let refusing = || self.context.source.refusing().map(|reason| reason.to_string());
        ConsumerHealth {
            source: self.context.trouble().or_else(refusing).map_or(Ok(()), Err),
            handlers: handlers.collect(),
            in_flight: self.context.held.len(),
            partitions: self.context.source.leases().map(StreamLeases::held).unwrap_or_default(),
        }
    }

    /// Checks whether the readers have made progress lately, whatever the state of the server, and whether the handlers' actors are
    /// running: if not, only another start of the process helps. Asks no server.
    ///
    /// # Errors
    /// A description of the problem, for the operator.
    pub fn alive(&self) -> Result<(), String> {
        let settings = &self.context.settings;
        if let Some(handler) = self.context.handlers.iter().find(|handler| !handler.is_alive()) {
            return Err(format!(
                "the actor of handler `{}` has stopped; its events wait until the process starts again",
                handler.name()
            ));
        }
        // The longest that one turn takes: connecting, a look-up of streams, a claim or a read.
        let limit = TURN_MARGIN + settings.connect_timeout + 4 * settings.socket_timeout;
        let silent = self.context.silent_for();
        if silent < limit || self.context.is_stopping() {
            return Ok(());
        }
        Err(format!("reader has made no progress for {silent:.1?}, longer than {limit:?}"))
    }

    /// Waits until the consumer has stopped: after [`shutdown`](Self::shutdown), or because it has handled as many events as
    /// [`limit`](crate::ConsumerBuilder::limit) says.
    pub async fn ended(&self) {
        // An error means that it has ended as well.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// How many entries this consumer has acknowledged since it started.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.context.acknowledged.load(Ordering::Relaxed)
    }

    /// Updates the metrics that show a state: what is unread, pending and dead. Call it before each scrape, for example.
    ///
    /// # Errors
    /// [`SystemError::Source`]: the server did not answer. [`SystemError::Stopped`] after a shutdown.
    pub async fn update_gauges(&self) -> Result<(), SystemError> {
        let context = Arc::clone(&self.context);
        let asked = self.runtime.spawn(async move {
            let backlogs = context.source.backlogs().await.map_err(|error| SystemError::Source(error.to_string()))?;
            context.metrics.set_backlogs(&backlogs);
            context.note_entries();
            Ok(())
        });
        asked.await.unwrap_or(Err(SystemError::Stopped))
    }

    /// Reads nothing more, waits for the events that handlers have, and leaves the others to the other consumers of the group,
    /// within `shutdown_timeout` plus 5 s.
    ///
    /// # Errors
    /// [`SystemError::ShutdownTimeout`]: this took longer than `shutdown_timeout`. The consumer is stopped all the same; another
    /// one takes its entries after `reclaim_after`.
    pub async fn shutdown(&self) -> Result<(), SystemError> {
        self.context.stop();
        let limit = self.context.settings.shutdown_timeout;
        let mut ended = self.ended.clone();
        let waited = tokio::time::timeout(limit + super::starting::FAREWELL, ended.wait_for(|ended| *ended)).await;
        match waited {
            // The sender is dropped with the consumer.
            Ok(_) if !self.context.is_abandoned() => Ok(()),
            _ => Err(SystemError::ShutdownTimeout(limit)),
        }
    }
}
