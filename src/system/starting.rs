//! Starts a system: waits for the database, then starts the actors in an order in which none misses an address.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, Arbiter, System};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::builder::Builder;
use super::context::{Base, SystemContext};
use super::handle::Outbox;
use super::messages::{ActorKind, Died};
use super::outbox_system::OutboxSystem;
use super::publisher_state::make_publishers;
use super::quota::Quota;
use super::reconnect::pause_after;
use super::supervisor::Supervisor;
use crate::error::{StoreError, SystemError};
use crate::runtime::RuntimeGuard;
use crate::settings::Settings;
use crate::store::Store;

/// The pause before a dead actor is replaced, so that one that dies immediately does not spin.
const RESPAWN_PAUSE: Duration = Duration::from_millis(20);

/// A system and the task that ends with it.
type Started = (Outbox, JoinHandle<()>);

impl Builder {
    /// Starts the system inside the running actix system.
    ///
    /// Waits for a database that cannot be reached yet, and says so: in the log, and on stderr if nothing collects the log.
    /// What waiting does not change is an error immediately, unless the address or the password is read from elsewhere at each
    /// connect: a password, a role or a database that the server does not know.
    ///
    /// # Errors
    /// [`SystemError::Settings`]: the settings do not describe a system that can run. [`SystemError::Store`]: tables are
    /// missing or out of date ([`StoreError::NotMigrated`]), or the database refuses for a reason that waiting does not fix.
    /// [`SystemError::StartTimeout`]: it waited as long as [`start_within`](Self::start_within) says.
    /// [`SystemError::HandlerNameTaken`]: two handlers have one name. [`SystemError::Runtime`]: threads cannot be started.
    /// [`SystemError::NoActixSystem`]: this thread runs no actix system; see [`start_on_thread`](Self::start_on_thread).
    pub async fn start(self) -> Result<Outbox, SystemError> {
        Ok(self.launch().await?.0)
    }

    /// Starts the system on a thread of its own, with an actix system of its own: for applications that have none, such as one
    /// on axum. The thread ends after [`Outbox::shutdown`].
    ///
    /// Handlers need an actix system as well: make them with [`subscribe_with`](Self::subscribe_with), which runs there.
    ///
    /// # Errors
    /// As [`start`](Self::start), except `NoActixSystem`.
    pub async fn start_on_thread(self) -> Result<Outbox, SystemError> {
        let (report, started) = oneshot::channel();
        let thread = std::thread::Builder::new().name("outbox-actors".to_owned());
        thread.spawn(move || run_on_thread(self, report)).map_err(SystemError::Runtime)?;
        started.await.unwrap_or(Err(SystemError::Stopped))
    }

    pub(super) async fn launch(self) -> Result<Started, SystemError> {
        if System::try_current().is_none() || Arbiter::try_current().is_none() {
            return Err(SystemError::NoActixSystem);
        }
        let waits_for = Mutex::default();
        let Some(limit) = self.start_within else { return self.prepare_and_launch(&waits_for).await };
        tokio::time::timeout(limit, self.prepare_and_launch(&waits_for)).await.unwrap_or_else(|_| {
            let seen = waits_for.into_inner().unwrap_or_else(PoisonError::into_inner);
            let error = seen.unwrap_or(StoreError::Timeout { operation: "start", limit });
            Err(SystemError::StartTimeout { limit, error })
        })
    }

    async fn prepare_and_launch(mut self, waits_for: &Mutex<Option<StoreError>>) -> Result<Started, SystemError> {
        let settings = self.settings.take().unwrap_or_default();
        settings.check()?;
        let store = crate::store::connect(&settings.database)?;
        if let Some(servers) = store.unverified_servers() {
            tracing::warn!(
                servers,
                "the database's server is not verified; sslmode=verify-full in its address does that"
            );
        }
        if !self.publish_only {
            self.backends.check(&settings)?;
        }
        let runtime = RuntimeGuard::new()?;
        let has_handlers = !self.subscriptions.is_empty() || !self.starters.is_empty();
        let (migrate, only_writes) = (self.migrate, self.publish_only && !has_handlers);
        let outbox = reach(&store, runtime.handle(), migrate, only_writes, waits_for).await?;
        let base = Base { outbox, store, runtime: runtime.handle().clone() };
        self.launch_on(base, settings, runtime).await
    }

    /// Starts the actors on a database that was reached.
    async fn launch_on(
        mut self,
        base: Base,
        settings: Settings,
        runtime: RuntimeGuard,
    ) -> Result<Started, SystemError> {
        let (wake, backends) = (Arc::new(Notify::new()), Arc::new(std::mem::take(&mut self.backends)));
        let publishers = match self.publish_only {
            true => BTreeMap::new(),
            false => make_publishers(&settings, &backends, base.outbox, &wake)?,
        };
        let (report_deaths, deaths) = mpsc::unbounded_channel();
        let quota = self.limit.map(Quota::new);
        let context =
            SystemContext::new(base, settings, backends, quota, publishers, wake, report_deaths, Arbiter::current());
        std::mem::take(&mut self.shared).into_iter().for_each(|handler| context.add_handler(handler));
        start_intake(&context);
        let unfinished = EndUnlessStarted(Some(Arc::clone(&context)));
        let outbox = Outbox::new(Arc::clone(&context));
        self.start_handlers(&outbox, &context).await?;
        // The first actor that reads events.
        start_supervisor(&context);
        unfinished.disarm();
        Ok((outbox, actix::spawn(supervise(context, deaths, runtime))))
    }

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
}

/// Runs a system until it has stopped, or until nothing waits for its start any more.
fn run_on_thread(builder: Builder, mut report: oneshot::Sender<Result<Outbox, SystemError>>) {
    let system = System::new();
    system.block_on(async {
        let started = tokio::select! {
            started = builder.launch() => started,
            () = report.closed() => return,
        };
        let (outbox, running) = match started {
            Ok((outbox, running)) => (Ok(outbox), Some(running)),
            Err(error) => (Err(error), None),
        };
        if let Err(Ok(outbox)) = report.send(outbox) {
            // An error means that it has stopped by itself.
            let _ = outbox.shutdown().await;
        }
        if let Some(running) = running {
            let _ = running.await;
        }
    });
    // Ends the threads of arbiters that the handlers started.
    System::current().stop();
    let _ = system.run();
}

/// Ends the actors of a system whose start failed or was given up.
struct EndUnlessStarted(Option<Arc<SystemContext>>);

impl EndUnlessStarted {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for EndUnlessStarted {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.end();
        }
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
async fn reach(
    store: &Arc<dyn Store>,
    runtime: &Handle,
    migrate: bool,
    only_writes: bool,
    waits_for: &Mutex<Option<StoreError>>,
) -> Result<Uuid, SystemError> {
    let mut failures = 0;
    loop {
        let store = Arc::clone(store);
        let asked = runtime.spawn(async move { prepare(&*store, migrate, only_writes).await });
        let error = match asked.await.map_err(|error| SystemError::Runtime(std::io::Error::other(error)))? {
            Ok(outbox) => return Ok(outbox),
            Err(error) if !error.is_transient() || matches!(error, StoreError::NoAccess { .. }) => {
                return Err(error.into());
            }
            Err(error) => error,
        };
        if failures == 0 {
            say_waiting(&error);
        }
        *waits_for.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        tokio::time::sleep(pause_after(failures)).await;
        failures += 1;
    }
}

/// A program that does not collect logs would seem to hang.
fn say_waiting(error: &StoreError) {
    tracing::warn!(%error, "database unavailable; waiting for it");
    if !tracing::dispatcher::has_been_set() {
        use std::io::Write;

        // If stderr is closed, the program waits silently.
        let _ = writeln!(std::io::stderr(), "outbox: waiting for the database: {error}");
    }
}

async fn prepare(store: &dyn Store, migrate: bool, only_writes: bool) -> Result<Uuid, StoreError> {
    if migrate {
        store.migrate(&|_| ()).await?;
    }
    find(store, only_writes).await
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
