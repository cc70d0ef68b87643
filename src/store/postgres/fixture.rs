//! PostgreSQL for the contract suite: each test has a database of its own, in which the outbox is in a schema that its own
//! connections would not find; those of the tests do.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::Client;
use uuid::Uuid;

use super::schema::Schema;
use super::{PostgresStore, Target};
use crate::store::Store;
use crate::store::conformance::lost_answers::ServerFixture;
use crate::store::conformance::{Fixture, OpenTransaction};
use crate::test_support::postgres::{self, Database};

/// A name that must be quoted in every way.
pub(super) const SCHEMA: &str = "The \"Outbox\"'s";

pub(crate) struct PostgresFixture {
    pub(crate) database: Database,
    store: Arc<PostgresStore>,
}

fn store_at(url: &str) -> PostgresStore {
    let mut elsewhere = url::Url::parse(url).unwrap();
    elsewhere.query_pairs_mut().append_pair("options", "-c search_path=elsewhere");
    let target = Target::from_url(elsewhere.as_str()).unwrap().in_schema(SCHEMA);
    PostgresStore::new(target, None).unwrap()
}

#[async_trait]
impl Fixture for PostgresFixture {
    async fn empty() -> Self {
        let database = postgres::database().await;
        let path = format!("ALTER DATABASE {} SET search_path = {}", database.name, Schema::new(SCHEMA).quoted());
        database.connect().await.batch_execute(&path).await.unwrap();
        let store = Arc::new(store_at(&database.url));
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

    async fn refuse_deletion(&self, id: Uuid) {
        let table = format!("refers_{}", id.simple());
        self.execute(&format!(
            "CREATE TABLE {table} (event uuid REFERENCES outbox_events); INSERT INTO {table} VALUES ('{id}')"
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
        format!("(clock_timestamp() + {offset_ms} * interval '1 millisecond')")
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

impl ServerFixture for PostgresFixture {
    const PORT: u16 = 5432;

    fn url(&self) -> String {
        self.database.url.clone()
    }

    fn store_at(&self, url: &str) -> Arc<dyn Store> {
        Arc::new(store_at(url))
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
