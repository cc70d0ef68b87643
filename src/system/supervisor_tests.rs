//! Replacing the dead, on SQLite and a `local` backend.

use std::time::Duration;

use super::handle::Outbox;
use super::messages::{ActorKind, Panic};
use super::supervisor::OutboxSystem;
use crate::publish::NewEvent;
use crate::settings::{PublisherSettings, Secret, Settings};

async fn start(folder: &tempfile::TempDir) -> Outbox {
    let mut settings = Settings::default();
    settings.database.url = Secret::from(format!("sqlite://{}", folder.path().join("outbox.db").display()));
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
