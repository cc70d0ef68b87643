//! A server that no longer accepts writes, under existing connections.

use uuid::Uuid;

use super::{PostgresStore, Target};
use crate::error::{PublishError, StoreError};
use crate::publish::NewEvent;
use crate::store::{
    DispatchStore, EventWriter, FetchRequest, KeyStart, LaneName, Position, PredecessorQuery, Range, SchemaStore,
    UnrecordedEvents,
};
use crate::test_support::postgres::Server;
use crate::test_support::postgres::replication::{Pair, Replication};
use crate::test_support::{PATIENCE, eventually};

fn store(url: &str) -> PostgresStore {
    PostgresStore::new(Target::from_url(url).unwrap(), None).unwrap()
}

fn nothing() -> FetchRequest {
    FetchRequest::of_ranges(LaneName::from(""), Vec::new())
}

/// Statements from which a worker concludes that events must be sent, or that none must.
const STATEMENTS: usize = 8;

async fn ask(store: &PostgresStore, statement: usize) -> Result<(), StoreError> {
    let whole = |from| Range { shard: 0, from, to: None, limit: 10 };
    let behind = Position { scheduled_at: 1, seq: 1 };
    let questions =
        [PredecessorQuery { key: "k".to_owned(), from: Position::START, before: behind, except: Vec::new() }];
    match statement {
        0 => store.fetch(&FetchRequest { ranges: vec![whole(Position::START)], ..nothing() }).await.map(drop),
        1 => store.fetch(&FetchRequest { ranges: vec![whole(behind)], ..nothing() }).await.map(drop),
        2 => store.fetch(&FetchRequest { retry_shards: vec![0], ..nothing() }).await.map(drop),
        3 => store.fetch(&FetchRequest { keys: vec![KeyStart::whole("k")], ..nothing() }).await.map(drop),
        4 => store.blockers("", true, &questions).await.map(drop),
        5 => store.find_unsettled("", &[(Uuid::nil(), 1)]).await.map(drop),
        6 => store.has_due(&[LaneName::from("")], &[], &UnrecordedEvents::default()).await.map(drop),
        _ => store.outbox_id().await.map(drop),
    }
}

#[tokio::test]
async fn a_server_that_can_be_written_no_longer_is_not_read_either() {
    let server = Server::start();
    let url = server.database().await.url.clone();
    store(&url).migrate(&|_| ()).await.unwrap();
    // Each has a connection that was made while the server accepted writes.
    let stores: Vec<PostgresStore> = (0..STATEMENTS).map(|_| store(&url)).collect();
    for (statement, store) in stores.iter().enumerate() {
        ask(store, statement).await.unwrap();
    }
    let writer = store(&url);
    writer.insert(vec![NewEvent::new("t", "s")]).await.unwrap();

    server.set("default_transaction_read_only", "on").await;
    eventually("writing is refused, by name", PATIENCE, async || {
        let written = writer.insert(vec![NewEvent::new("t", "s")]).await;
        matches!(written, Err(PublishError::Store(StoreError::ReadOnly { .. })))
    })
    .await;
    // The server tells one session after the other: what one has heard, the next may not have yet.
    for (statement, store) in stores.iter().enumerate() {
        let what = format!("statement {statement} is refused");
        eventually(&what, PATIENCE, async || matches!(ask(store, statement).await, Err(StoreError::ReadOnly { .. })))
            .await;
    }

    server.set("default_transaction_read_only", "off").await;
    for (statement, store) in stores.iter().enumerate() {
        eventually("it is read again", PATIENCE, async || ask(store, statement).await.is_ok()).await;
    }
}

#[tokio::test]
async fn a_standby_is_refused_by_name() {
    let pair = Pair::start(Replication::Asynchronous).await;
    let database = pair.database().await;
    store(&database.url).migrate(&|_| ()).await.unwrap();
    pair.wait_replayed().await;
    let standby = store(&pair.standby.url(&database.name));
    for statement in 0..STATEMENTS {
        let answer = ask(&standby, statement).await;
        assert!(
            matches!(&answer, Err(StoreError::ReadOnly { target }) if target.contains(&database.name)),
            "{answer:?}"
        );
    }
    let migrated = standby.migrate(&|_| ()).await;
    assert!(matches!(migrated, Err(StoreError::ReadOnly { .. })), "{migrated:?}");
}
