//! The ways to publish, behind one interface.

use std::pin::pin;
use std::time::Duration;

use ::mysql_async::prelude::Queryable;
use actix_outbox::{NewEvent, PublishError};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::database::{Kind, TestDatabase};
use crate::support::{PATIENCE, eventually, mysql, postgres};

mod diesel;
pub(crate) mod inbox;
mod mysql_async;
mod rusqlite;
mod sea_orm;
mod sqlx;
mod tokio_postgres;

pub(crate) use self::diesel::{DieselMysql, DieselPostgres, DieselSqlite};
pub(crate) use self::mysql_async::MysqlAsync;
pub(crate) use self::rusqlite::Rusqlite;
pub(crate) use self::sea_orm::{SeaOrm1, SeaOrm2};
pub(crate) use self::sqlx::{Sqlx8Mysql, Sqlx8Postgres, Sqlx8Sqlite, Sqlx9Mysql, Sqlx9Postgres, Sqlx9Sqlite};
pub(crate) use self::tokio_postgres::TokioPostgres;

pub(crate) type Published = Result<Vec<Uuid>, PublishError>;

/// A driver with a connection, or a pool, to a database.
pub(crate) trait Door {
    async fn connect(database: &TestDatabase) -> Self;

    /// Publishes one event without a transaction, on a pool's guard if the driver has pools.
    async fn publish(&mut self, event: NewEvent) -> Result<Uuid, PublishError>;

    /// Publishes events without a transaction.
    async fn publish_many(&mut self, events: Vec<NewEvent>) -> Published;

    /// Takes the steps in one transaction of the driver; returns what was published or refused.
    async fn transaction(&mut self, steps: Vec<Step>, end: End<'_>) -> Vec<Published>;
}

/// A step in a transaction.
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
pub(crate) enum Step {
    Publish(NewEvent),
    PublishMany(Vec<NewEvent>),
    /// Publishes in a savepoint, which is released or rolled back.
    Savepoint {
        events: Vec<NewEvent>,
        is_kept: bool,
    },
    /// Executes a statement of the application's own.
    Execute(&'static str),
    /// Ends every connection to the database from outside.
    Disconnect(String),
}

/// How a transaction ends.
pub(crate) enum End<'a> {
    Commit,
    Rollback,
    /// It is dropped.
    Drop,
    /// A future that publishes is dropped while the database works on it, and then the transaction.
    DropFuture(Uuid, &'a TestDatabase),
}

/// Takes steps with a driver's functions. `$nest` begins a savepoint, and `$execute` executes a statement.
macro_rules! take_steps {
    ($steps:ident, $transaction:ident, $driver:ident, $outer:ident => $nest:expr, ($on:ident, $sql:ident) => $execute:expr) => {{
        let mut published = Vec::new();
        for step in $steps {
            match step {
                Step::Publish(event) => {
                    published.push($driver::publish(&mut $transaction, event).await.map(|id| vec![id]));
                }
                Step::PublishMany(events) => published.push($driver::publish_many(&mut $transaction, events).await),
                Step::Savepoint { events, is_kept } => {
                    let $outer = &mut $transaction;
                    let mut savepoint = $nest;
                    for event in events {
                        published.push($driver::publish(&mut savepoint, event).await.map(|id| vec![id]));
                    }
                    if is_kept { savepoint.commit().await.unwrap() } else { savepoint.rollback().await.unwrap() }
                }
                Step::Execute($sql) => {
                    let $on = &mut $transaction;
                    $execute;
                }
                Step::Disconnect(url) => disconnect_all(&url).await,
            }
        }
        published
    }};
}

/// Ends a transaction of a driver.
macro_rules! end {
    ($end:ident, $transaction:ident, $driver:ident) => {
        match $end {
            End::Commit => $transaction.commit().await.unwrap(),
            End::Rollback => $transaction.rollback().await.unwrap(),
            End::Drop => drop($transaction),
            End::DropFuture(id, database) => {
                let event = NewEvent::new("ghost", "tests").id(id);
                drop_while_blocked(database, id, $driver::publish(&mut $transaction, event)).await;
                drop($transaction);
            }
        }
    };
}

use {end, take_steps};

/// Ends every other connection to a database.
async fn disconnect_all(url: &str) {
    if url.starts_with("mysql:") {
        let mut connection = mysql::connect(url).await;
        let others = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        for id in connection.query::<u64, _>(others).await.unwrap() {
            match connection.query_drop(format!("KILL {id}")).await {
                // It has ended by itself.
                Err(::mysql_async::Error::Server(error)) if error.code == 1094 => {}
                killed => killed.unwrap(),
            }
        }
        return;
    }
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    postgres::connect(url).await.batch_execute(sql).await.unwrap();
}

/// Drops a future while its INSERT waits for a transaction that has written this id, and which is then rolled back.
async fn drop_while_blocked<T>(database: &TestDatabase, id: Uuid, publish: impl Future<Output = T>) {
    let insert =
        format!("INSERT INTO outbox_events (id, event_type, source) VALUES ('{}', 'ghost', 'tests')", id.simple());
    match database.kind() {
        Kind::Mysql => {
            let mut writer = mysql::connect(database.url()).await;
            writer.query_drop(format!("BEGIN; {insert}")).await.unwrap();
            drop_when_waiting(database, publish).await;
            writer.query_drop("ROLLBACK").await.unwrap();
        }
        _ => {
            let writer = postgres::connect(database.url()).await;
            writer.batch_execute(&format!("BEGIN; {insert}")).await.unwrap();
            drop_when_waiting(database, publish).await;
            writer.batch_execute("ROLLBACK").await.unwrap();
        }
    }
}

/// InnoDB looks at its transactions again only if no query has asked for them for a tenth of a second. So one test asks at a time.
static ASKING: Mutex<()> = Mutex::const_new(());

async fn drop_when_waiting<T>(database: &TestDatabase, publish: impl Future<Output = T>) {
    let waits = match database.kind() {
        Kind::Mysql => {
            "SELECT 'waits' FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
             ON p.id = t.trx_mysql_thread_id WHERE p.db = DATABASE() AND t.trx_state = 'LOCK WAIT'"
        }
        _ => "SELECT 'waits' FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    };
    let is_blocked = eventually("the INSERT waits", PATIENCE, async || {
        let _alone = match database.kind() {
            Kind::Mysql => {
                let alone = ASKING.lock().await;
                tokio::time::sleep(Duration::from_millis(150)).await;
                Some(alone)
            }
            _ => None,
        };
        database.texts(waits).await.len() == 1
    });
    let publish = pin!(publish);
    tokio::select! {
        biased;
        _ = publish => panic!("it is blocked"),
        () = is_blocked => {}
    }
}
