//! MariaDB for the contract suite: each test has a database of its own.

use std::sync::Arc;

use async_trait::async_trait;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use uuid::Uuid;

use super::MysqlStore;
use crate::settings::DatabaseSettings;
use crate::store::conformance::lost_answers::ServerFixture;
use crate::store::conformance::{Fixture, OpenTransaction};
use crate::store::{SchemaStore, Store};
use crate::test_support::mysql::{self, Database};

/// A database with the server's own ids.
pub(crate) type MysqlFixture = FixtureOf<NATIVE_IDS>;

/// A database of which some ids are texts of another collation, as Django's.
pub(crate) struct FixtureOf<const IDS: u8> {
    pub(crate) database: Database,
    store: Arc<MysqlStore>,
}

pub(crate) const NATIVE_IDS: u8 = 0;
/// Events were written by an older Django, or before the server had `uuid`.
pub(crate) const TEXT_IDS_OF_EVENTS: u8 = 1;
/// The server has no `uuid`.
pub(crate) const TEXT_IDS: u8 = 2;

pub(crate) fn store_at(url: &str) -> MysqlStore {
    MysqlStore::new(&DatabaseSettings { url: url.into(), ..DatabaseSettings::default() }).unwrap()
}

#[async_trait]
impl<const IDS: u8> Fixture for FixtureOf<IDS> {
    async fn empty() -> Self {
        let database = mysql::database().await;
        let store = Arc::new(store_at(&database.url));
        Self { database, store }
    }

    async fn fresh() -> Self {
        let fixture = Self::empty().await;
        if IDS != NATIVE_IDS {
            let id = "char(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci";
            fixture.execute(&djangos_table(id)).await;
        }
        fixture.store.migrate(&|_| ()).await.unwrap();
        if IDS == TEXT_IDS {
            fixture.execute("ALTER TABLE outbox_handler_deliveries MODIFY event_id char(32) NOT NULL").await;
        }
        fixture
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn execute(&self, sql: &str) {
        self.database.connect().await.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn number(&self, sql: &str) -> i64 {
        let sql = sql.replace("AS bigint", "AS signed");
        let number: Option<i64> = self.database.connect().await.query_first(&sql).await.unwrap();
        number.unwrap_or_else(|| panic!("no row: {sql}"))
    }

    async fn begin(&self) -> Box<dyn OpenTransaction> {
        let mut connection = self.database.connect().await;
        connection.query_drop("START TRANSACTION").await.unwrap();
        Box::new(MysqlTransaction(connection))
    }

    async fn refuse_updates(&self, id: Uuid) {
        let (name, row) = (id.simple(), self.id(id));
        self.execute(&format!(
            "CREATE TRIGGER refuse_{name} BEFORE UPDATE ON outbox_events FOR EACH ROW BEGIN IF OLD.id = {row} THEN \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF; END"
        ))
        .await;
    }

    async fn refuse_deletion(&self, id: Uuid) {
        let (name, row) = (id.simple(), self.id(id));
        let id_type = self.id_type().await;
        self.execute(&format!(
            "CREATE TABLE refers_{name} (event {id_type}, FOREIGN KEY (event) REFERENCES outbox_events (id))"
        ))
        .await;
        self.execute(&format!("INSERT INTO refers_{name} VALUES ({row})")).await;
    }

    async fn id_type(&self) -> String {
        const TYPE: &str = "SELECT CONCAT(column_type, IFNULL(CONCAT(' COLLATE ', collation_name), '')) \
            FROM information_schema.columns \
            WHERE table_schema = DATABASE() AND table_name = 'outbox_events' AND column_name = 'id'";
        let found: Option<String> = self.database.connect().await.query_first(TYPE).await.unwrap();
        found.expect("the table has ids")
    }

    fn writers_overlap(&self) -> bool {
        true
    }

    fn id(&self, id: Uuid) -> String {
        format!("'{}'", id.simple())
    }

    fn time(&self, offset_ms: i64) -> String {
        format!("(UTC_TIMESTAMP(6) + INTERVAL {} MICROSECOND)", offset_ms * 1000)
    }

    fn nonsense(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("publisher_config", "'[1]'"),
            ("extensions", "'\"text\"'"),
            ("pending_handlers", "'{}'"),
            ("scheduled_at", "'0000-00-00'"),
            ("created_at", "'0000-00-00'"),
            ("published_at", "'0000-00-00'"),
        ]
    }
}

impl ServerFixture for MysqlFixture {
    const PORT: u16 = 3306;

    fn url(&self) -> String {
        self.database.url.clone()
    }

    fn store_at(&self, url: &str) -> Arc<dyn Store> {
        Arc::new(store_at(url))
    }
}

struct MysqlTransaction(Conn);

#[async_trait]
impl OpenTransaction for MysqlTransaction {
    async fn execute(&mut self, sql: &str) {
        self.0.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn commit(mut self: Box<Self>) {
        self.0.query_drop("COMMIT").await.unwrap();
    }

    async fn rollback(mut self: Box<Self>) {
        self.0.query_drop("ROLLBACK").await.unwrap();
    }
}

/// The types of Django's ids: MySQL has no `uuid`.
pub(super) async fn djangos_ids(fixture: &MysqlFixture) -> &'static [&'static str] {
    let is_mariadb = fixture.number("SELECT VERSION() LIKE '%MariaDB%'").await == 1;
    if is_mariadb { &["uuid", "char(32)"] } else { &["char(32)"] }
}

/// As django-broadcaster's migration creates it, with ids of a kind.
pub(super) fn djangos_table(id: &str) -> String {
    format!(
        "CREATE TABLE outbox_events (id {id} NOT NULL PRIMARY KEY, spec_version varchar(10) NOT NULL, \
         event_type varchar(255) NOT NULL, source varchar(255) NOT NULL, subject varchar(255) NOT NULL, \
         data_content_type varchar(100) NOT NULL, data_schema varchar(200) NOT NULL, data json NULL, \
         status varchar(20) NOT NULL, created_at datetime(6) NOT NULL, updated_at datetime(6) NOT NULL, \
         scheduled_at datetime(6) NOT NULL, published_at datetime(6) NULL, \
         retry_count integer UNSIGNED NOT NULL CHECK (retry_count >= 0), \
         max_retries integer UNSIGNED NOT NULL CHECK (max_retries >= 0), last_error longtext NOT NULL, \
         publisher_backend varchar(100) NOT NULL, publisher_config json NOT NULL)"
    )
}
