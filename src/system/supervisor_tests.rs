//! Replacing the dead, on SQLite and a `local` backend.

use std::time::Duration;

use super::handle::Outbox;
use super::messages::{ActorKind, Panic};
use super::supervisor::OutboxSystem;
use crate::publish::NewEvent;
use crate::settings::{PublisherSettings, Secret, Settings};

fn settings(folder: &tempfile::TempDir) -> Settings {
    let mut settings = Settings::default();
    settings.database.url = Secret::from(format!("sqlite://{}", folder.path().join("outbox.db").display()));
    settings
}

async fn start(folder: &tempfile::TempDir) -> Outbox {
    let mut settings = settings(folder);
    let local = PublisherSettings { backend: "local".to_owned(), ..PublisherSettings::default() };
    settings.publishers.insert("default".to_owned(), local);
    OutboxSystem::builder(settings).migrate(true).start().await.unwrap()
}

#[actix::test]
async fn a_supervisor_that_died_leaves_one_actor_of_each_kind() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = start(&folder).await;
    let kinds = [ActorKind::LeaseKeeper, ActorKind::Poller, ActorKind::Janitor, ActorKind::Completer];
    let places = || kinds.iter().map(|kind| outbox.shared().place(kind)).collect::<Vec<_>>();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = places();

    let _ = outbox.addr().unwrap().send(Panic(ActorKind::OutboxSystem)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = places();
    assert_ne!(before[0], after[0], "the new supervisor has a heartbeat of its own");
    assert_eq!(before[3], after[3], "those that others address live on");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(after, places(), "actors are not replaced again and again");

    outbox.send(NewEvent::new("t", "s")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), outbox.drained()).await.expect("the work goes on");
    outbox.shutdown().await.unwrap();
}

struct Picky;

#[async_trait::async_trait]
impl crate::PublisherBackend for Picky {
    async fn publish(&self, event: &crate::OutboxEvent) -> Result<(), crate::BackendError> {
        match (event.event_type.as_str(), event.retry_count) {
            ("first", 0) => Err(crate::BackendError::Rejected("not yet".to_owned())),
            ("bad", _) => Err(crate::BackendError::Invalid("never".to_owned())),
            _ => Ok(()),
        }
    }

    async fn health_check(&self) -> Result<(), crate::BackendError> {
        Ok(())
    }
}

#[actix::test]
async fn a_long_queue_behind_a_held_key_is_not_read_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder);
    settings.worker.retry_backoff = crate::settings::RetryBackoff { base: Duration::from_millis(50), factor: 1.0, ..Default::default() };
    let picky = PublisherSettings {
        backend: "picky".to_owned(),
        on_failed: crate::settings::OnFailed::Hold,
        ..PublisherSettings::default()
    };
    settings.publishers.insert("default".to_owned(), picky);
    let builder = OutboxSystem::builder(settings).migrate(true).backend("picky", |_| Ok(Picky));
    let outbox = builder.start().await.unwrap();
    let store = &outbox.shared().store;
    let types = ["first", "bad"].into_iter().chain(std::iter::repeat_n("good", 298));
    let events = types.map(|kind| NewEvent::new(kind, "s").partition_key("k")).collect();
    store.insert(events).await.unwrap();
    outbox.wake();
    tokio::time::sleep(Duration::from_secs(2)).await;

    let flight = std::sync::Arc::clone(&outbox.shared().lines["default"].flights[0]);
    let before = flight.fetches_begun();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let fetches = flight.fetches_begun() - before;
    assert!(fetches < 60, "{fetches} fetches in a second in which nothing can be done");
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_retry_is_read_when_it_is_due_though_a_key_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder);
    settings.worker.retry_backoff =
        crate::settings::RetryBackoff { base: Duration::from_millis(500), factor: 1.0, ..Default::default() };
    let picky = PublisherSettings { backend: "picky".to_owned(), ..PublisherSettings::default() };
    settings.publishers.insert("default".to_owned(), picky);
    let outbox = OutboxSystem::builder(settings).migrate(true).backend("picky", |_| Ok(Picky)).start().await.unwrap();
    let store = &outbox.shared().store;
    store.insert(vec![NewEvent::new("first", "s")]).await.unwrap();
    outbox.wake();
    tokio::time::sleep(Duration::from_millis(200)).await;
    outbox.shared().lines["default"].flights[0].want("k");
    let published = crate::store::EventFilter { status: Some(crate::Status::Published), limit: 9, ..Default::default() };
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(store.list(&published).await.unwrap().len(), 1);
    outbox.shutdown().await.unwrap();
}
