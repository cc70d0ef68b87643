//! SQLite for the contract suite: each test has a file in a folder of its own.

use std::sync::Arc;

use async_trait::async_trait;
use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use tempfile::TempDir;
use uuid::Uuid;

use super::SqliteStore;
use crate::store::Store;
use crate::store::conformance::{Fixture, OpenTransaction};

pub(crate) struct SqliteFixture {
    folder: TempDir,
    store: Arc<SqliteStore>,
}

impl SqliteFixture {
    pub(crate) fn connection(&self) -> SqliteConnection {
        let path = self.folder.path().join("outbox.db");
        let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        connection.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
        connection
    }
}

#[async_trait]
impl Fixture for SqliteFixture {
    async fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("outbox.db").display());
        Self { folder, store: Arc::new(SqliteStore::connect(&url).unwrap()) }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn execute(&self, sql: &str) {
        self.connection().batch_execute(sql).unwrap();
    }

    async fn number(&self, query: &str) -> i64 {
        sql::<BigInt>(query).get_result(&mut self.connection()).unwrap()
    }

    async fn begin(&self) -> Box<dyn OpenTransaction> {
        let mut connection = self.connection();
        connection.batch_execute("BEGIN IMMEDIATE").unwrap();
        Box::new(SqliteTransaction(connection))
    }

    async fn refuse_updates(&self, id: Uuid) {
        let (name, row) = (id.simple(), self.id(id));
        self.execute(&format!(
            "CREATE TRIGGER refuse_{name} BEFORE UPDATE ON outbox_events WHEN OLD.id = {row}              BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        ))
        .await;
    }

    async fn refuse_deletion(&self, id: Uuid) {
        let (table, row) = (format!("refers_{}", id.simple()), self.id(id));
        self.execute(&format!("CREATE TABLE {table} (event BLOB REFERENCES outbox_events (id))")).await;
        self.execute(&format!("INSERT INTO {table} VALUES ({row})")).await;
    }

    fn writers_overlap(&self) -> bool {
        false
    }

    fn id(&self, id: Uuid) -> String {
        format!("x'{}'", id.simple())
    }

    fn time(&self, offset_ms: i64) -> String {
        format!("(strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000 + {})", offset_ms * 1000)
    }

    fn nonsense(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("data", "'no JSON'"),
            ("data_binary", "'text'"),
            ("subject", "x'ff'"),
            ("created_at", "9223372036854775807"),
            ("published_at", "'yesterday'"),
            ("retry_count", "'many'"),
            ("retry_count", "9223372036854775807"),
            ("max_retries", "x'ff'"),
            ("last_error", "x'ff'"),
            ("publisher_config", "'[1]'"),
            ("extensions", "'\"text\"'"),
            ("partition_key", "x'ff'"),
            ("pending_handlers", "x'ff'"),
            ("errors", "x'ff'"),
        ]
    }
}

struct SqliteTransaction(SqliteConnection);

#[async_trait]
impl OpenTransaction for SqliteTransaction {
    async fn execute(&mut self, sql: &str) {
        self.0.batch_execute(sql).unwrap();
    }

    async fn commit(mut self: Box<Self>) {
        self.0.batch_execute("COMMIT").unwrap();
    }

    async fn rollback(mut self: Box<Self>) {
        self.0.batch_execute("ROLLBACK").unwrap();
    }
}
