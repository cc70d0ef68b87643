//! A database with an outbox for one test, and what is in it.

use actix_outbox::{OutboxSystem, Settings};
use mysql_async::prelude::Queryable;
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{mysql, postgres};

/// A database of one test.
pub struct TestDatabase {
    url: String,
    keeps: Keeps,
}

/// What is removed at the end of the test.
enum Keeps {
    Postgres { _database: postgres::Database, _server: Option<postgres::Server> },
    Sqlite { _folder: TempDir },
    Mysql { _database: mysql::Database },
}

/// The kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    Sqlite,
    /// MariaDB, or the server of `OUTBOX_TEST_MYSQL_URL`.
    Mysql,
}

impl TestDatabase {
    /// A database without tables.
    pub async fn empty(kind: Kind) -> Self {
        match kind {
            Kind::Postgres => {
                let database = postgres::database().await;
                Self { url: database.url.clone(), keeps: Keeps::Postgres { _database: database, _server: None } }
            }
            Kind::Mysql => {
                let database = mysql::database().await;
                Self { url: database.url.clone(), keeps: Keeps::Mysql { _database: database } }
            }
            Kind::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("outbox.db");
                drop(rusqlite::Connection::open(&path).unwrap());
                Self { url: format!("sqlite://{}", path.display()), keeps: Keeps::Sqlite { _folder: folder } }
            }
        }
    }

    /// A database with an outbox.
    pub async fn migrated(kind: Kind) -> Self {
        let database = Self::empty(kind).await;
        database.migrate().await;
        database
    }

    /// A database with an outbox, on a server of its own that keeps what it has acknowledged.
    pub async fn durable() -> Self {
        let settings =
            [("fsync", "on"), ("full_page_writes", "on"), ("shared_buffers", "256MB"), ("max_wal_size", "4GB")];
        let server = postgres::Server::start_with(&settings);
        let database = server.database().await;
        let url = database.url.clone();
        let database = Self { url, keeps: Keeps::Postgres { _database: database, _server: Some(server) } };
        database.migrate().await;
        database
    }

    async fn migrate(&self) {
        let settings = format!("[database]\nurl = \"{}\"\n", self.url);
        let migrate = move || {
            actix_rt::System::new().block_on(async {
                let settings = Settings::from_toml(&settings).unwrap();
                let builder = OutboxSystem::builder(settings).publish_only(true);
                let outbox = builder.migrate(true).start().await.unwrap();
                outbox.shutdown().await.unwrap();
            });
        };
        tokio::task::spawn_blocking(migrate).await.unwrap();
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn kind(&self) -> Kind {
        match self.keeps {
            Keeps::Postgres { .. } => Kind::Postgres,
            Keeps::Sqlite { .. } => Kind::Sqlite,
            Keeps::Mysql { .. } => Kind::Mysql,
        }
    }

    pub fn path(&self) -> &str {
        self.url.trim_start_matches("sqlite://")
    }

    /// The types of all events, in the order in which they were written.
    pub async fn types(&self) -> Vec<String> {
        self.texts("SELECT event_type FROM outbox_events ORDER BY seq").await
    }

    /// The row of an event without its id and the times of writing.
    pub async fn row(&self, id: Uuid, is_scheduled: bool) -> String {
        let sql = match self.kind() {
            Kind::Postgres => {
                let own = if is_scheduled { "" } else { ", scheduled_at" };
                format!(
                    "SELECT (to_jsonb(e) - '{{id, seq, created_at, updated_at{own}}}'::text[])::text || ' ' \
                     || e.updated_at - e.created_at FROM outbox_events e WHERE id = '{id}'"
                )
            }
            Kind::Mysql => {
                let since = "TIMESTAMPDIFF(MICROSECOND, created_at, scheduled_at)";
                let when = if is_scheduled { "scheduled_at" } else { since };
                let columns = MYSQL_COLUMNS.iter().chain([&when]);
                let quoted: Vec<_> = columns.map(|column| format!("QUOTE(CAST({column} AS char))")).collect();
                format!("SELECT CONCAT_WS(' ', {}) FROM outbox_events WHERE id = '{}'", quoted.join(", "), id.simple())
            }
            Kind::Sqlite => {
                let when = if is_scheduled { "scheduled_at" } else { "scheduled_at - created_at" };
                let columns = [SQLITE_COLUMNS, when].join(", ");
                let quoted: Vec<_> = columns.split(", ").map(|column| format!("quote({column})")).collect();
                format!("SELECT {} FROM outbox_events WHERE id = x'{}'", quoted.join(" || ' ' || "), id.simple())
            }
        };
        self.texts(&sql).await.remove(0)
    }

    /// Executes statements on a connection of its own.
    pub async fn execute(&self, sql: &str) {
        match self.kind() {
            Kind::Postgres => postgres::connect(&self.url).await.batch_execute(sql).await.unwrap(),
            Kind::Mysql => mysql::connect(&self.url).await.query_drop(sql).await.unwrap(),
            Kind::Sqlite => rusqlite::Connection::open(self.path()).unwrap().execute_batch(sql).unwrap(),
        }
    }

    /// The texts that a query returns.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        match self.kind() {
            Kind::Postgres => {
                let rows = postgres::connect(&self.url).await.query(sql, &[]).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
            Kind::Mysql => mysql::connect(&self.url).await.query(sql).await.unwrap(),
            Kind::Sqlite => {
                let connection = rusqlite::Connection::open(self.path()).unwrap();
                let mut statement = connection.prepare(sql).unwrap();
                statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            }
        }
    }
}

const SQLITE_COLUMNS: &str = "spec_version, event_type, source, subject, data_content_type, data_schema, data, data_binary, \
    status, retry_count, max_retries, last_error, publisher_backend, publisher_config, cloud_event_id, extensions, \
    partition_key, event_time, published_at, retry_at, updated_at - created_at, typeof(id), typeof(scheduled_at), \
    typeof(event_time), typeof(max_retries)";

const MYSQL_COLUMNS: &[&str] = &[
    "spec_version",
    "event_type",
    "source",
    "subject",
    "data_content_type",
    "data_schema",
    "data",
    "HEX(data_binary)",
    "status",
    "retry_count",
    "max_retries",
    "last_error",
    "publisher_backend",
    "publisher_config",
    "cloud_event_id",
    "extensions",
    "partition_key",
    "event_time",
    "published_at",
    "retry_at",
    "TIMESTAMPDIFF(MICROSECOND, created_at, updated_at)",
];
