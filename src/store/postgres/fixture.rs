//! PostgreSQL for the contract suite: each test has a database of its own.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{PostgresStore, Target};
use crate::store::Store;
use crate::store::conformance::{Fixture, OpenTransaction};
use crate::test_support::postgres::{self, Database};

pub(crate) struct PostgresFixture {
    pub(crate) database: Database,
    store: Arc<PostgresStore>,
}

#[async_trait]
impl Fixture for PostgresFixture {
    async fn empty() -> Self {
        let database = postgres::database().await;
        let store = Arc::new(PostgresStore::new(Target::from_url(&database.url).unwrap(), None).unwrap());
        Self { database, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn execute(&self, sql: &str) {
        self.database.connect().await.batch_execute(sql).await.unwrap();
    }

    async fn number(&self, query: &str) -> i64 {
        self.database.connect().await.query_one(query, &[]).await.unwrap().get(0)
    }

    async fn begin(&self) -> Box<dyn OpenTransaction> {
        let client = self.database.connect().await;
        client.batch_execute("BEGIN").await.unwrap();
        Box::new(PostgresTransaction(client))
    }

    async fn refuse_updates(&self, id: Uuid) {
        let name = id.simple();
        self.execute(&format!(
            "CREATE FUNCTION refuse_{name}() RETURNS trigger LANGUAGE plpgsql                 AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;              CREATE TRIGGER refuse_{name} BEFORE UPDATE ON outbox_events FOR EACH ROW                 WHEN (OLD.id = '{id}') EXECUTE FUNCTION refuse_{name}()"
        ))
        .await;
    }

    fn writers_overlap(&self) -> bool {
        true
    }

    fn id(&self, id: Uuid) -> String {
        format!("'{id}'::uuid")
    }

    fn time(&self, offset_ms: i64) -> String {
        format!("(clock_timestamp() + interval '{offset_ms} milliseconds')")
    }

    fn nonsense(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("created_at", "'infinity'"),
            ("updated_at", "'-infinity'"),
            ("retry_at", "'infinity'"),
            ("publisher_config", "'[1]'"),
            ("extensions", "'\"text\"'"),
            ("pending_handlers", "'{}'"),
        ]
    }
}

struct PostgresTransaction(Client);

#[async_trait]
impl OpenTransaction for PostgresTransaction {
    async fn execute(&mut self, sql: &str) {
        self.0.batch_execute(sql).await.unwrap();
    }

    async fn commit(self: Box<Self>) {
        self.0.batch_execute("COMMIT").await.unwrap();
    }

    async fn rollback(self: Box<Self>) {
        self.0.batch_execute("ROLLBACK").await.unwrap();
    }
}
