//! The builder of an outbox system.

use std::sync::Arc;
use std::time::Duration;

use super::backends::Backends;
use super::handle::Outbox;
use super::outbox_system::OutboxSystem;
use crate::admin::OutboxAdmin;
use crate::backend::PublisherBackend;
use crate::error::SystemError;
use crate::handlers::Subscribe;
use crate::handlers::Subscription;
use crate::opaque_debug::opaque_debug;
use crate::settings::{PublisherSettings, Settings};

/// Builds an outbox system from settings, backends and handlers.
#[derive(Default)]
pub struct Builder {
    pub(super) settings: Option<Settings>,
    pub(super) migrate: bool,
    pub(super) publish_only: bool,
    pub(super) start_within: Option<Duration>,
    pub(super) limit: Option<usize>,
    pub(super) backends: Backends,
    pub(super) subscriptions: Vec<Subscribe>,
    pub(super) starters: Vec<Starter>,
    /// Handlers of another system of this process, which are announced already.
    pub(super) shared: Vec<Arc<Subscription>>,
}

opaque_debug!(Builder);

/// Starts a handler actor once an actix system is running and the outbox exists.
pub(super) type Starter = Box<dyn FnOnce(Outbox) -> Subscribe + Send>;

impl OutboxSystem {
    /// Starts building a system.
    #[must_use]
    pub fn builder(settings: Settings) -> Builder {
        Builder::default().settings(settings)
    }
}

impl Builder {
    /// Uses these settings instead of earlier ones.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Creates or upgrades the tables before anything else.
    #[must_use]
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Stores events and delivers none, for a program whose workers run in other processes: `send`, `transaction` and `wake`
    /// wake them on Postgres. Publishers in the settings are ignored, so both can read one file, and a subscribed handler
    /// receives no event.
    #[must_use]
    pub fn publish_only(mut self, publish_only: bool) -> Self {
        self.publish_only = publish_only;
        self
    }

    /// Registers a kind of backend, for `backend = "KIND"` in `[publishers.*]`. The factory receives those settings; its
    /// error says what is wrong with them, and [`start`](Self::start) returns it. The factory may be called more than once.
    #[must_use]
    pub fn backend<B, F>(mut self, kind: impl Into<String>, factory: F) -> Self
    where
        B: PublisherBackend,
        F: Fn(&PublisherSettings) -> Result<B, String> + Send + Sync + 'static,
    {
        self.backends.add(kind.into(), factory);
        self
    }

    /// Registers a kind of backend that receives each event once, by sessions of its own. The factory receives the settings and
    /// the outbox's id, by which its journal is told apart from those of other outboxes; it connects to nothing yet. It is
    /// called for each publisher at the start, and again after a panic of a session.
    #[cfg(feature = "unstable-sessions")]
    #[must_use]
    pub fn session_backend<F>(mut self, kind: impl Into<String>, factory: F) -> Self
    where
        F: Fn(&PublisherSettings, uuid::Uuid) -> Result<Box<dyn crate::sessions::BackendSession>, String>
            + Send
            + Sync
            + 'static,
    {
        self.backends.add_sessions(kind.into(), factory);
        self
    }

    /// Subscribes a handler before the first event is read. Two handlers with one name are an error of
    /// [`start`](Self::start).
    #[must_use]
    pub fn subscribe(mut self, subscription: Subscribe) -> Self {
        self.subscriptions.push(subscription);
        self
    }

    /// Subscribes a handler that [`start`](Self::start) makes, inside its actix system and before the first event is read:
    /// for a handler that needs the outbox itself, or for a program whose system does not run yet, such as one that passes
    /// its builder to
    /// `actix_outbox_cli::run`.
    ///
    /// ```
    /// # use actix::prelude::*;
    /// # use actix_outbox::{Builder, HandleEvent, HandlerError, Outbox, Subscribe};
    /// # struct Shipping(Outbox);
    /// # impl Actor for Shipping { type Context = Context<Self>; }
    /// # impl Handler<HandleEvent> for Shipping {
    /// #     type Result = Result<(), HandlerError>;
    /// #     fn handle(&mut self, _: HandleEvent, _: &mut Self::Context) -> Self::Result { Ok(()) }
    /// # }
    /// # fn with_shipping(builder: Builder) -> Builder {
    /// builder.subscribe_with(|outbox| Subscribe::new("shipping", "order.*", Shipping(outbox).start().recipient()))
    /// # }
    /// ```
    #[must_use]
    pub fn subscribe_with(mut self, start: impl FnOnce(Outbox) -> Subscribe + Send + 'static) -> Self {
        self.starters.push(Box::new(start));
        self
    }

    /// Waits for a database that cannot be reached at the start for this long at most; otherwise as long as it takes.
    #[must_use]
    pub fn start_within(mut self, limit: Duration) -> Self {
        self.start_within = Some(limit);
        self
    }

    /// Delivers this many events at most; [`Outbox::drained`] then returns.
    ///
    /// An event counts when its outcome is recorded, whichever it is: published, to be retried, or failed. Events that another
    /// worker sent and could not record are recorded in addition.
    #[must_use]
    pub fn limit(mut self, most: usize) -> Self {
        self.limit = Some(most);
        self
    }

    /// Removes the handlers: events are sent to their backends, and no handler of this process is called.
    #[must_use]
    pub fn without_handlers(mut self) -> Self {
        self.subscriptions.clear();
        self.starters.clear();
        self
    }

    /// Access to the outbox for operators, with this builder's settings and backends; nothing is started.
    ///
    /// # Errors
    /// [`SystemError::Settings`]: `database.url` names no database that this program was built for.
    pub fn admin(&self) -> Result<OutboxAdmin, SystemError> {
        self.admin_with(&self.settings.clone().unwrap_or_default())
    }

    /// The same with other settings, such as fewer connections.
    ///
    /// # Errors
    /// As [`admin`](Self::admin).
    pub fn admin_with(&self, settings: &Settings) -> Result<OutboxAdmin, SystemError> {
        OutboxAdmin::with_backends(settings, Arc::new(self.backends.clone()))
    }
}
