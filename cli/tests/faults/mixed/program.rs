//! The suite's own worker program: this test binary, started again, with handlers and a backend that reject, panic and hang
//! as each event specifies.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use actix::{Actor, Context, Handler, Recipient, ResponseFuture};
use actix_outbox::{
    BackendError, HandleEvent, HandlerError, LoadOptions, Outbox, OutboxEvent, OutboxSystem, PublisherBackend,
    Settings, StoreError, Subscribe, SystemError,
};
use async_trait::async_trait;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::handlers::{self, Kind};
use super::plan::{ACCEPTED, Misbehaviour};

const FILE: &str = "OUTBOX_FAULTS_SETTINGS";
const NAME: &str = "OUTBOX_FAULTS_NAME";
const HANDLERS: &str = "OUTBOX_FAULTS_HANDLERS";
const TEST: &str = "mixed::program::a_worker_works_until_it_is_told_to_end";

/// A worker with these settings, as the service in this slot. It records accepted and handled events in files next to them.
pub(crate) fn command(settings: &Path, name: &str, slot: usize, deployment: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", TEST]).env(FILE, settings).env(NAME, name);
    command.env(HANDLERS, handlers::of_service(slot, deployment).join(","));
    command
}

#[actix::test]
#[ignore = "the program of a worker, which others start and end"]
async fn a_worker_works_until_it_is_told_to_end() {
    let (Some(file), Ok(name)) = (std::env::var_os(FILE).map(PathBuf::from), std::env::var(NAME)) else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::INFO).init();
    // Before anything that a signal could interrupt.
    let mut told = signal(SignalKind::terminate()).unwrap();
    let folder = file.parent().unwrap().to_owned();
    let mut settings = Settings::load(&LoadOptions::from_process().file(&file)).unwrap();
    settings.worker.name = Some(name);
    let accepted = Arc::new(Notes::open(&folder.join(ACCEPTED)));
    let names = std::env::var(HANDLERS).unwrap_or_default();
    let own = handlers::ALL.into_iter().filter(|kind| names.split(',').any(|name| name == kind.name));
    let mut subscribed: Vec<Subscribed> = own.map(|kind| Subscribed::new(kind, &folder)).collect();
    let start = || {
        let accepted = Arc::clone(&accepted);
        let builder =
            OutboxSystem::builder(settings.clone()).backend("moody", move |_| Ok(Moody(Arc::clone(&accepted))));
        let subscriptions = subscribed.iter().map(|handler| handler.kind.subscription(&handler.recipient));
        subscriptions.fold(builder, |builder, subscription| builder.subscribe(subscription)).start()
    };
    let outbox = loop {
        let started = tokio::select! {
            started = start() => started,
            _ = told.recv() => return,
        };
        match started {
            // As a process manager starts a worker again that ended because its password was refused.
            Err(SystemError::Store(StoreError::NoAccess { .. })) => {
                tokio::time::sleep(Duration::from_millis(200)).await
            }
            started => break started.unwrap(),
        }
    };
    let replacing = {
        let outbox = outbox.clone();
        actix::spawn(async move { replace_dead_handlers(&outbox, &mut subscribed).await })
    };
    told.recv().await;
    replacing.abort();
    outbox.shutdown().await.unwrap();
}

/// Starts a new actor for a handler whose actor has panicked.
async fn replace_dead_handlers(outbox: &Outbox, subscribed: &mut [Subscribed]) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        for handler in subscribed.iter_mut().filter(|handler| !handler.recipient.connected()) {
            let next = handler.kind.start(&handler.notes);
            if outbox.subscribe(handler.kind.subscription(&next)).await.is_ok() {
                handler.recipient = next;
            }
        }
    }
}

/// A handler of this service, and its actor.
struct Subscribed {
    kind: Kind,
    notes: Arc<Notes>,
    recipient: Recipient<HandleEvent>,
}

impl Subscribed {
    fn new(kind: Kind, folder: &Path) -> Self {
        let notes = Arc::new(Notes::open(&folder.join(kind.notes())));
        let recipient = kind.start(&notes);
        Self { kind, notes, recipient }
    }
}

impl Kind {
    fn start(&self, notes: &Arc<Notes>) -> Recipient<HandleEvent> {
        Noting { name: self.name, notes: Arc::clone(notes) }.start().recipient()
    }

    fn subscription(&self, recipient: &Recipient<HandleEvent>) -> Subscribe {
        Subscribe::new(self.name, self.types.to_vec(), recipient.clone())
    }
}

/// A file to which all workers append ids; each line is written with one write.
struct Notes(File);

impl Notes {
    fn open(path: &Path) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    fn add(&self, event: &OutboxEvent) {
        (&self.0).write_all(format!("{}\n", event.id).as_bytes()).unwrap();
    }
}

/// The misbehaviour planned for this attempt, if any.
fn misbehaviour(event: &OutboxEvent) -> Option<Misbehaviour> {
    let (what, times) = Misbehaviour::parse(&event.subject)?;
    (event.retry_count < times).then_some(what)
}

/// Whether this process's handler has misbehaved for the event as often as planned. Attempts of a handler in another process
/// do not count as the event's.
fn has_misbehaved(handler: &'static str, event: &OutboxEvent) -> bool {
    static MET: LazyLock<Mutex<HashMap<(&str, Uuid), i32>>> = LazyLock::new(Mutex::default);
    let times = Misbehaviour::parse(&event.subject).map_or(0, |(_, times)| times);
    let mut met = MET.lock().unwrap();
    let met = met.entry((handler, event.id)).or_default();
    *met += 1;
    *met > times
}

struct Moody(Arc<Notes>);

#[async_trait]
impl PublisherBackend for Moody {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        match misbehaviour(event) {
            Some(Misbehaviour::Panic) => panic!("as the event specifies"),
            Some(_) => Err(BackendError::Rejected("as the event says".to_owned())),
            None => {
                self.0.add(event);
                Ok(())
            }
        }
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

struct Noting {
    name: &'static str,
    notes: Arc<Notes>,
}

impl Actor for Noting {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Noting {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let notes = Arc::clone(&self.notes);
        match misbehaviour(&message.event).filter(|_| !has_misbehaved(self.name, &message.event)) {
            Some(Misbehaviour::Panic) => panic!("as the event specifies"),
            Some(Misbehaviour::Hang) => Box::pin(std::future::pending()),
            Some(Misbehaviour::Refuse) => Box::pin(async { Err(HandlerError::retry("as the event says")) }),
            None => Box::pin(async move {
                notes.add(&message.event);
                Ok(())
            }),
        }
    }
}
