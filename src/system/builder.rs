//! The builder of an outbox system.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::backends::Backends;
use super::context::SystemContext;
use super::handle::Outbox;
use super::messages::{ActorKind, Died, Subscribe};
use super::outbox_system::OutboxSystem;
use super::publisher_state::make_publishers;
use super::reconnect::pause_after;
use super::supervisor::Supervisor;
use crate::admin::OutboxAdmin;
use crate::backend::PublisherBackend;
use crate::error::{StoreError, SystemError};
use crate::settings::{PublisherSettings, Settings};
use crate::store::Store;

/// The pause before a dead actor is replaced, so that one that dies immediately does not spin.
const RESPAWN_PAUSE: Duration = Duration::from_millis(20);

/// Builds an outbox system from settings, backends and handlers.
#[derive(Default)]
pub struct Builder {
    settings: Option<Settings>,
    migrate: bool,
    publish_only: bool,
    backends: Backends,
    subscriptions: Vec<Subscribe>,
    starters: Vec<Starter>,
}

/// Starts a handler actor once an actix system is running and the outbox exists.
type Starter = Box<dyn FnOnce(Outbox) -> Subscribe + Send>;

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

    /// Starts the system inside the running actix system.
    ///
    /// Waits for a database that cannot be reached yet, and logs that it waits.
    ///
    /// # Errors
    /// [`SystemError::Settings`]: the settings do not describe a system that can run. [`SystemError::Store`]: tables are
    /// missing or out of date ([`StoreError::NotMigrated`]), or the database refuses for a reason that waiting does not fix.
    /// [`SystemError::HandlerNameTaken`]: two handlers have one name. [`SystemError::Runtime`]: threads cannot be started.
    ///
    /// # Panics
    /// If no actix system is running.
    pub async fn start(mut self) -> Result<Outbox, SystemError> {
        let settings = self.settings.take().unwrap_or_default();
        settings.check()?;
        let store = crate::store::connect(&settings.database)?;
        if let Some(servers) = store.unverified_servers() {
            tracing::warn!(
                servers,
                "the database's server is not verified; sslmode=verify-full in its address does that"
            );
        }
        let wake = Arc::new(Notify::new());
        if !self.publish_only {
            self.backends.check(&settings)?;
        }

        let runtime = RuntimeGuard::new()?;
        let has_handlers = !self.subscriptions.is_empty() || !self.starters.is_empty();
        let (migrate, only_writes) = (self.migrate, self.publish_only && !has_handlers);
        let outbox = {
            let store = Arc::clone(&store);
            let reached = runtime.handle().spawn(reach(store, migrate, only_writes));
            reached.await.map_err(|error| SystemError::Runtime(std::io::Error::other(error)))??
        };
        let publishers = match self.publish_only {
            true => BTreeMap::new(),
            false => make_publishers(&settings, &self.backends, outbox, &wake)?,
        };
        let (report_deaths, deaths) = mpsc::unbounded_channel();
        let name = settings.worker.name.clone().unwrap_or_else(worker_name);
        let context = SystemContext::new(
            outbox,
            name,
            settings,
            runtime.handle().clone(),
            store,
            publishers,
            wake,
            report_deaths,
        );
        start_intake(&context);
        let outbox = Outbox::new(Arc::clone(&context));
        if let Err(error) = self.start_handlers(&outbox, &context).await {
            context.end();
            return Err(error);
        }
        // The first actor that reads events.
        start_supervisor(&context);
        actix::spawn(supervise(context, deaths, runtime));
        Ok(outbox)
    }
}

impl Builder {
    async fn start_handlers(self, outbox: &Outbox, context: &Arc<SystemContext>) -> Result<(), SystemError> {
        let started = self.starters.into_iter().map(|start| start(outbox.clone()));
        for subscription in self.subscriptions.into_iter().chain(started) {
            if context.subscriptions().iter().any(|other| other.name() == subscription.name) {
                return Err(SystemError::HandlerNameTaken { name: subscription.name });
            }
            context.subscribe(subscription).await?;
        }
        Ok(())
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

/// Creates the addresses before their actors run, so that early messages wait in the mailboxes.
fn start_intake(context: &Arc<SystemContext>) {
    let system = OutboxSystem::new(Arc::clone(context)).start();
    context.addresses().system = Some(system);
}

fn start_supervisor(context: &Arc<SystemContext>) {
    let supervisor = Supervisor::new(Arc::clone(context)).start();
    context.addresses().set_supervisor(&supervisor);
}

/// Waits until the database can be reached, and reads the outbox's id.
async fn reach(store: Arc<dyn Store>, migrate: bool, only_writes: bool) -> Result<Uuid, StoreError> {
    let mut failures = 0;
    loop {
        let prepared = if migrate { store.migrate(&|_| ()).await.map(drop) } else { Ok(()) };
        let reached = match prepared {
            Ok(()) => find(&*store, only_writes).await,
            Err(error) => Err(error),
        };
        match reached {
            Err(error) if error.is_transient() => {
                if failures == 0 {
                    tracing::warn!(%error, "database unavailable; waiting for it");
                }
            }
            answer => return answer,
        }
        tokio::time::sleep(pause_after(failures)).await;
        failures += 1;
    }
}

/// The outbox's id, if this process may do its work.
async fn find(store: &dyn Store, only_writes: bool) -> Result<Uuid, StoreError> {
    let outbox = store.outbox_id().await?;
    let schema = store.schema();
    if only_writes {
        tracing::debug!(schema, "outbox found");
    } else {
        store.check_worker().await?;
        tracing::info!(schema, most_connections = store.most_connections(), "outbox found");
    }
    Ok(outbox)
}

/// Replaces every actor that dies, including the supervisor; keeps the runtime until the system has stopped.
async fn supervise(context: Arc<SystemContext>, mut deaths: mpsc::UnboundedReceiver<ActorKind>, runtime: RuntimeGuard) {
    while let Some(kind) = deaths.recv().await {
        if context.liveness.is_stopping() {
            if kind == ActorKind::Supervisor {
                break;
            }
            continue;
        }
        tokio::time::sleep(RESPAWN_PAUSE).await;
        if kind == ActorKind::Supervisor {
            tracing::error!("supervisor died; starting a new one");
            start_supervisor(&context);
            continue;
        }
        let supervisor = context.addresses().supervisor.clone();
        if let Some(supervisor) = supervisor {
            // If the new supervisor has died as well, its successor starts its own children.
            let _ = supervisor.deaths.send(Died(kind)).await;
        }
    }
    drop(runtime);
}

/// The system's own runtime: database and network run here, independent of actix' arbiters.
struct RuntimeGuard(Option<Runtime>);

impl RuntimeGuard {
    fn new() -> Result<Self, SystemError> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("outbox-io")
            .enable_all()
            .build()
            .map_err(SystemError::Runtime)?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> &tokio::runtime::Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("taken only by drop"),
        }
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A runtime must not be dropped in an async context.
            runtime.shutdown_background();
        }
    }
}

/// Host and process id, by which an operator finds the worker.
fn worker_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}
