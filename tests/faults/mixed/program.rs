//! The suite's own worker program: this test binary, started once more, with a handler and a backend that refuse, panic
//! and hang as each event says.

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
    Settings, Subscribe,
};
use async_trait::async_trait;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::plan::{ACCEPTED, HANDLED, HANDLED_TYPE, Misbehaviour};

const FILE: &str = "OUTBOX_FAULTS_SETTINGS";
const NAME: &str = "OUTBOX_FAULTS_NAME";
const TEST: &str = "mixed::program::a_worker_works_until_it_is_told_to_end";

/// A worker with these settings. What it accepts and handles it notes in files beside them.
pub(crate) fn command(settings: &Path, name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", TEST]).env(FILE, settings).env(NAME, name);
    command
}

#[actix::test]
#[ignore = "the program of a worker, which others start and end"]
async fn a_worker_works_until_it_is_told_to_end() {
    let (Some(file), Ok(name)) = (std::env::var_os(FILE).map(PathBuf::from), std::env::var(NAME)) else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::INFO).init();
    // Before the first thing that a signal could interrupt.
    let mut told = signal(SignalKind::terminate()).unwrap();
    let folder = file.parent().unwrap().to_owned();
    let mut settings = Settings::load(&LoadOptions::from_process().file(&file)).unwrap();
    settings.worker.name = Some(name);
    let accepted = Arc::new(Notes::open(&folder.join(ACCEPTED)));
    let handled = Arc::new(Notes::open(&folder.join(HANDLED)));
    let first = subscription(&handled);
    let recipient = first.1.clone();
    let starting = OutboxSystem::builder(settings)
        .backend("moody", move |_| Ok(Moody(Arc::clone(&accepted))))
        .subscribe(first.0)
        .start();
    let outbox = tokio::select! {
        outbox = starting => outbox.unwrap(),
        _ = told.recv() => return,
    };
    let replacing = actix::spawn(replace_dead_handlers(outbox.clone(), recipient, handled));
    told.recv().await;
    replacing.abort();
    outbox.shutdown().await.unwrap();
}

/// A handler whose actor a panic has closed gets another one.
async fn replace_dead_handlers(outbox: Outbox, mut current: Recipient<HandleEvent>, handled: Arc<Notes>) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if !current.connected() {
            let (next, recipient) = subscription(&handled);
            if outbox.subscribe(next).await.is_ok() {
                current = recipient;
            }
        }
    }
}

fn subscription(handled: &Arc<Notes>) -> (Subscribe, Recipient<HandleEvent>) {
    let recipient = Mailer(Arc::clone(handled)).start().recipient();
    (Subscribe::new("mailer", HANDLED_TYPE, recipient.clone()), recipient)
}

/// A file that all workers append ids to; a line is written whole or, by a kill, not.
struct Notes(File);

impl Notes {
    fn open(path: &Path) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    fn add(&self, event: &OutboxEvent) {
        (&self.0).write_all(format!("{}\n", event.id).as_bytes()).unwrap();
    }
}

/// What the event is to meet at this try, if it is to meet anything.
fn misbehaviour(event: &OutboxEvent) -> Option<Misbehaviour> {
    let (what, times) = Misbehaviour::parse(&event.subject)?;
    (event.retry_count < times).then_some(what)
}

/// Whether this process has met the event as often as it is to misbehave. What a handler of another process is owed counts its
/// tries apart from the event's own.
fn has_misbehaved(event: &OutboxEvent) -> bool {
    static MET: LazyLock<Mutex<HashMap<Uuid, i32>>> = LazyLock::new(Mutex::default);
    let times = Misbehaviour::parse(&event.subject).map_or(0, |(_, times)| times);
    let mut met = MET.lock().unwrap();
    let met = met.entry(event.id).or_default();
    *met += 1;
    *met > times
}

struct Moody(Arc<Notes>);

#[async_trait]
impl PublisherBackend for Moody {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        match misbehaviour(event) {
            Some(Misbehaviour::Panic) => panic!("as the event says"),
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

struct Mailer(Arc<Notes>);

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Mailer {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let notes = Arc::clone(&self.0);
        match misbehaviour(&message.event).filter(|_| !has_misbehaved(&message.event)) {
            Some(Misbehaviour::Panic) => panic!("as the event says"),
            Some(Misbehaviour::Hang) => Box::pin(std::future::pending()),
            Some(Misbehaviour::Refuse) => Box::pin(async { Err(HandlerError::new("as the event says")) }),
            None => Box::pin(async move {
                notes.add(&message.event);
                Ok(())
            }),
        }
    }
}
