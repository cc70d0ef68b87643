//! Putting a system together.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::flight::Flight;
use super::handle::Outbox;
use super::messages::{ActorKind, Subscribe};
use super::shared::{ChannelFactory, Line, LineState, Shared};
use super::supervisor::{Died, OutboxSystem};
use super::ticket::{Credit, SettledQueue};
use crate::backend::channel::Plain;
use crate::backend::{Jsonl, Local, PublisherBackend};
use crate::error::{SettingsError, StoreError, SystemError};
use crate::settings::{PublisherSettings, Settings};
use crate::store::{Lane, Store};

/// Pauses between tries to reach the database at the start.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The pause before an actor that died is replaced, so that one that dies at once does not spin.
const RESPAWN_PAUSE: Duration = Duration::from_millis(20);

/// The kinds of backend that come with the library.
const BUILT_IN: [&str; 3] = ["redis_stream", "jsonl", "local"];

type BackendFactory = Arc<dyn Fn(&PublisherSettings) -> Result<Arc<dyn PublisherBackend>, String> + Send + Sync>;

/// Puts an outbox system together: settings, backends and handlers.
#[derive(Default)]
pub struct Builder {
    settings: Option<Settings>,
    migrate: bool,
    backends: HashMap<String, BackendFactory>,
    subscriptions: Vec<Subscribe>,
}

impl OutboxSystem {
    /// Starts putting a system together.
    #[must_use]
    pub fn builder(settings: Settings) -> Builder {
        Builder::default().settings(settings)
    }
}

impl Builder {
    /// Uses these settings, instead of those given before.
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

    /// Makes a kind of backend known, for `backend = "KIND"` in `[publishers.*]`. The factory is given those settings; its
    /// error says what is wrong with them, and [`start`](Self::start) returns it. It may be called more than once.
    #[must_use]
    pub fn backend<B, F>(mut self, kind: impl Into<String>, factory: F) -> Self
    where
        B: PublisherBackend,
        F: Fn(&PublisherSettings) -> Result<B, String> + Send + Sync + 'static,
    {
        let make: BackendFactory =
            Arc::new(move |settings| factory(settings).map(|backend| Arc::new(backend) as Arc<dyn PublisherBackend>));
        self.backends.insert(kind.into(), make);
        self
    }

    /// Subscribes a handler before the first event is read.
    #[must_use]
    pub fn subscribe(mut self, subscription: Subscribe) -> Self {
        self.subscriptions.retain(|other| other.name != subscription.name);
        self.subscriptions.push(subscription);
        self
    }

    /// Starts the system inside the running actix system.
    ///
    /// Waits for a database that cannot be reached yet, and says so in the log.
    ///
    /// # Errors
    /// [`SystemError::Settings`]: settings that describe no system that can run. [`SystemError::Store`]: tables that are
    /// missing or out of date ([`StoreError::NotMigrated`]), or a database that refuses in a way that waiting does not mend.
    /// [`SystemError::Runtime`]: no threads to be had.
    ///
    /// # Panics
    /// Where no actix system runs.
    pub async fn start(self) -> Result<Outbox, SystemError> {
        let settings = self.settings.unwrap_or_default();
        settings.check()?;
        let store = crate::store::connect(&settings.database)?;
        let wake = Arc::new(Notify::new());
        let plan = Lines { settings: &settings, backends: &self.backends, wake: &wake };
        plan.check()?;

        let runtime = RuntimeGuard::new()?;
        let migrate = self.migrate;
        let outbox = {
            let store = Arc::clone(&store);
            let reached = runtime.handle().spawn(reach(store, migrate));
            reached.await.map_err(|error| SystemError::Runtime(std::io::Error::other(error)))??
        };
        let lines = plan.lines(outbox)?;
        let (deaths, obituaries) = mpsc::unbounded_channel();
        let subscriptions = self.subscriptions.into_iter().map(Arc::new).collect();
        let name = settings.worker.name.clone().unwrap_or_else(worker_name);
        let shared = Shared::new(name, settings, runtime.handle().clone(), store, lines, subscriptions, wake, deaths);
        start_supervisor(&shared);
        actix::spawn(replace_the_dead(Arc::clone(&shared), obituaries, runtime));
        Ok(Outbox::new(shared))
    }
}

/// Its address is known before it runs, so that what is said to it at once waits in its mailbox.
fn start_supervisor(shared: &Arc<Shared>) {
    let system = OutboxSystem::new(Arc::clone(shared)).start();
    shared.addresses().system = Some(system);
}

/// Waits until the database can be reached, and reads the outbox's id.
async fn reach(store: Arc<dyn Store>, migrate: bool) -> Result<Uuid, StoreError> {
    let mut pause = FIRST_PAUSE;
    let mut said = false;
    loop {
        let prepared = if migrate { store.migrate(&|_| ()).await.map(drop) } else { Ok(()) };
        let reached = match prepared {
            Ok(()) => store.outbox_id().await,
            Err(error) => Err(error),
        };
        match reached {
            Err(error) if error.is_transient() => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "waiting for the database");
                }
            }
            answer => return answer,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sees to it that every actor that dies is replaced, the supervisor itself included; keeps the runtime until the system
/// has stopped.
async fn replace_the_dead(
    shared: Arc<Shared>,
    mut obituaries: mpsc::UnboundedReceiver<ActorKind>,
    runtime: RuntimeGuard,
) {
    while let Some(kind) = obituaries.recv().await {
        if shared.is_stopping() {
            if kind == ActorKind::OutboxSystem {
                break;
            }
            continue;
        }
        tokio::time::sleep(RESPAWN_PAUSE).await;
        if kind == ActorKind::OutboxSystem {
            tracing::error!("the supervisor died; a new one takes its place");
            start_supervisor(&shared);
            continue;
        }
        let system = shared.addresses().system.clone();
        if let Some(system) = system {
            // A supervisor that has died as well starts its own children.
            let _ = system.send(Died(kind)).await;
        }
    }
    drop(runtime);
}

/// The system's own runtime: database and network run here, whatever actix' arbiters do.
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
            // A runtime must not be dropped where futures run.
            runtime.shutdown_background();
        }
    }
}

/// Makes the publishers' parts of the system.
struct Lines<'a> {
    settings: &'a Settings,
    backends: &'a HashMap<String, BackendFactory>,
    wake: &'a Arc<Notify>,
}

impl Lines<'_> {
    fn served(&self) -> impl Iterator<Item = (&String, &PublisherSettings)> {
        let chosen = self.settings.worker.backends.as_ref();
        self.settings.publishers.iter().filter(move |(name, _)| chosen.is_none_or(|chosen| chosen.contains(name)))
    }

    /// Finds out what is wrong before anything is connected.
    fn check(&self) -> Result<(), SystemError> {
        self.settings.default_publisher()?;
        for (name, settings) in self.served() {
            drop(self.channel(name, settings, Uuid::nil())?);
        }
        Ok(())
    }

    fn lines(&self, outbox: Uuid) -> Result<BTreeMap<String, Arc<Line>>, SystemError> {
        let default = self.settings.default_publisher()?;
        let count = self.served().count().max(1);
        let worker = &self.settings.worker;
        self.served()
            .map(|(name, settings)| {
                // Events that name no backend are a lane of their own, so that workers with another default agree on it.
                let lanes: Vec<Lane> = if name == default {
                    vec![Lane::from(""), Lane::from(name.as_str())]
                } else {
                    vec![Lane::from(name.as_str())]
                };
                let line = Line {
                    name: name.clone(),
                    flights: lanes.into_iter().map(Flight::new).collect(),
                    credit: Credit::new(
                        (worker.max_in_flight / count).max(1),
                        (worker.max_in_flight_bytes / count).max(1),
                        Arc::clone(self.wake),
                    ),
                    settled: Arc::new(SettledQueue::default()),
                    on_failed: settings.on_failed,
                    rate_limit: settings.rate_limit,
                    channel: self.channel(name, settings, outbox)?,
                    state: std::sync::Mutex::new(LineState::default()),
                    turn: tokio::sync::Mutex::default(),
                };
                Ok((name.clone(), Arc::new(line)))
            })
            .collect()
    }

    fn channel(&self, name: &str, settings: &PublisherSettings, outbox: Uuid) -> Result<ChannelFactory, SettingsError> {
        #[cfg(not(feature = "redis"))]
        let _ = outbox;
        let wrong = |problem: String| invalid(&format!("publishers.{name}"), problem);
        match settings.backend.as_str() {
            #[cfg(feature = "redis")]
            "redis_stream" => {
                use crate::backend::channel::Channel;
                use crate::backend::redis_stream::RedisStream;
                RedisStream::new(settings, outbox).map_err(wrong)?;
                let settings = settings.clone();
                Ok(Box::new(move || match RedisStream::new(&settings, outbox) {
                    Ok(stream) => Box::new(stream) as Box<dyn Channel>,
                    Err(_) => unreachable!("the same settings were accepted a moment ago"),
                }))
            }
            "jsonl" => Ok(plain(Arc::new(Jsonl::new(settings.path.as_deref().unwrap_or("-"))))),
            "local" => Ok(plain(Arc::new(Local))),
            kind => match self.backends.get(kind) {
                Some(factory) => Ok(plain(factory(settings).map_err(wrong)?)),
                None => Err(invalid(&format!("publishers.{name}.backend"), self.unknown(kind))),
            },
        }
    }

    fn unknown(&self, kind: &str) -> String {
        let mut known: Vec<&str> = BUILT_IN.into_iter().chain(self.backends.keys().map(String::as_str)).collect();
        known.sort_unstable();
        format!("`{kind}` is no backend that this program knows; it knows {}", known.join(", "))
    }
}

fn plain(backend: Arc<dyn PublisherBackend>) -> ChannelFactory {
    Box::new(move || Box::new(Plain::new(Arc::clone(&backend))))
}

fn invalid(key: &str, problem: String) -> SettingsError {
    SettingsError::Invalid { key: key.to_owned(), origin: "the settings".to_owned(), problem }
}

/// Host and process: what a person looks for.
fn worker_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}
