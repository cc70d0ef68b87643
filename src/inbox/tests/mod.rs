//! The inbox on diesel's connections, with real databases.

mod concurrency;
mod promises;

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncPgConnection, TransactionManager};
use tempfile::TempDir;

use super::{InboxError, InboxKey};
use crate::publish::OutboxDatabase;
use crate::store::inbox::InboxStatement;
#[cfg(feature = "mysql")]
use crate::test_support::mysql;
use crate::test_support::postgres::{self, Database};

type Sqlite = SyncConnectionWrapper<SqliteConnection>;
type DieselError = diesel::result::Error;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The table in which the tests' work has its effects.
const EFFECTS: &str = "CREATE TABLE effects (text varchar(100))";

/// A database of one test, which has no outbox.
struct PostgresInbox(Database);

impl PostgresInbox {
    async fn new() -> Self {
        let inbox = Self(postgres::database().await);
        let mut conn = inbox.connect().await;
        super::migrate(&mut conn).await.unwrap();
        execute(&mut conn, EFFECTS).await;
        inbox
    }

    async fn connect(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(&self.0.url).await.unwrap()
    }
}

/// A database of one test, which has no outbox, on MariaDB or MySQL.
#[cfg(feature = "mysql")]
struct MysqlInbox(mysql::Database);

#[cfg(feature = "mysql")]
impl MysqlInbox {
    async fn new() -> Self {
        let inbox = Self(mysql::database().await);
        let mut conn = inbox.connect().await;
        super::migrate(&mut conn).await.unwrap();
        execute(&mut conn, EFFECTS).await;
        inbox
    }

    async fn connect(&self) -> diesel_async::AsyncMysqlConnection {
        diesel_async::AsyncMysqlConnection::establish(&self.0.url).await.unwrap()
    }
}

/// A file of one test, which has no outbox.
struct SqliteInbox(TempDir);

impl SqliteInbox {
    async fn new() -> Self {
        let inbox = Self(tempfile::tempdir().unwrap());
        let mut conn = inbox.connect().await;
        super::migrate(&mut conn).await.unwrap();
        execute(&mut conn, EFFECTS).await;
        inbox
    }

    fn path(&self) -> String {
        self.0.path().join("consumer.db").display().to_string()
    }

    async fn connect(&self) -> Sqlite {
        let mut conn = Sqlite::establish(&self.path()).await.unwrap();
        execute(&mut conn, "PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000").await;
        conn
    }

    fn connect_blocking(&self) -> SqliteConnection {
        let mut conn = SqliteConnection::establish(&self.path()).unwrap();
        conn.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
        conn
    }
}

fn key(event_id: &str) -> InboxKey {
    InboxKey::new("mailer", "tests", event_id)
}

async fn execute<C: AsyncConnection>(conn: &mut C, sql: &str) {
    conn.batch_execute(sql).await.unwrap();
}

async fn begin<C: AsyncConnection>(conn: &mut C) {
    C::TransactionManager::begin_transaction(conn).await.unwrap();
}

async fn commit<C: AsyncConnection>(conn: &mut C) {
    C::TransactionManager::commit_transaction(conn).await.unwrap();
}

async fn rollback<C: AsyncConnection>(conn: &mut C) {
    C::TransactionManager::rollback_transaction(conn).await.unwrap();
}

/// What the work did, in its order.
async fn effects<C: AsyncConnection<Backend: OutboxDatabase>>(conn: &mut C) -> Vec<String> {
    texts(conn, "SELECT text FROM effects").await
}

/// The ids that are noted.
async fn noted<C: AsyncConnection<Backend: OutboxDatabase>>(conn: &mut C) -> Vec<String> {
    texts(conn, "SELECT event_id FROM outbox_inbox ORDER BY event_id").await
}

async fn texts<C: AsyncConnection<Backend: OutboxDatabase>>(conn: &mut C, sql: &'static str) -> Vec<String> {
    use crate::store::TextQueries;

    C::Backend::texts(conn, InboxStatement::query(sql)).await.unwrap()
}

/// Work that leaves an effect.
async fn work<C: AsyncConnection>(conn: &mut C, text: &str) -> Result<(), DieselError> {
    conn.batch_execute(&format!("INSERT INTO effects VALUES ('{text}')")).await
}

/// Every connection in the documentation is accepted, and the futures can move between threads.
#[expect(dead_code, reason = "it compiles")]
fn accepts(
    conn: &mut AsyncPgConnection,
    pooled: &mut diesel_async::pooled_connection::deadpool::Object<Sqlite>,
    message: &crate::HandleEvent,
    typed: &crate::HandleTyped<String>,
) {
    fn is_send(_: impl Send) {}
    is_send(super::handle(conn, message, async |conn| work(conn, "sent").await));
    is_send(super::handle(pooled, typed, async |conn| Ok::<_, crate::HandlerError>(work(conn, "sent").await?)));
    is_send(super::note_many(pooled, vec![key("a")]));
    is_send(super::migrate(conn));
    is_send(super::delete_handled_before(conn, chrono::Utc::now()));
    is_send(conn.transaction::<_, anyhow::Error, _>(async |conn| {
        super::handle(conn, message, async |conn| Ok(work(conn, "sent").await?)).await
    }));
}

#[test]
fn errors_are_told_apart_and_convert_into_diesels() {
    let invalid = key("").into_note().unwrap_err();
    assert!(invalid.to_string().contains("event_id"), "{invalid}");
    assert!(matches!(DieselError::from(InboxError::InvalidKey(invalid)), DieselError::SerializationError(_)));
    assert!(matches!(DieselError::from(InboxError::NoTransaction), DieselError::NotInTransaction));
    assert_eq!(DieselError::from(InboxError::Database(DieselError::NotFound)), DieselError::NotFound);
}
