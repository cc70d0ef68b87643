//! The inbox with each driver, behind one interface.

use actix_outbox::inbox::{self, Handled, InboxKey, blocking};
use rusqlite::TransactionBehavior;

use super::{
    DieselMysql, DieselPostgres, DieselSqlite, Door, Rusqlite, SeaOrm1, SeaOrm2, Sqlx8Mysql, Sqlx8Postgres,
    Sqlx8Sqlite, Sqlx9Mysql, Sqlx9Postgres, Sqlx9Sqlite, TokioPostgres,
};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a consumer does with an event.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// A statement of the application's own.
    Execute(&'static str),
    Fail,
}

/// The error of [`Work::Fail`].
pub(crate) const CLOSED: &str = "the bank is closed";

/// A driver with which a consumer handles events, each call in a transaction. It is committed whatever the work says.
pub(crate) trait InboxDoor: Door {
    async fn handle(&mut self, key: InboxKey, work: Work) -> Result<Handled<()>, Failure>;

    async fn note_many(&mut self, keys: Vec<InboxKey>) -> Result<Vec<bool>, Failure>;
}

macro_rules! transaction {
    ($door:ident, $inbox:ident, ($self:ident) => $begin:expr, ($on:ident, $sql:ident) => $execute:expr) => {
        impl InboxDoor for $door {
            async fn handle(&mut $self, key: InboxKey, work: Work) -> Result<Handled<()>, Failure> {
                #[allow(unused_mut, reason = "one driver needs no `&mut`")]
                let mut transaction = $begin;
                let handled = inbox::$inbox::handle(&mut transaction, key, async |$on| match work {
                    Work::Execute($sql) => $execute,
                    Work::Fail => Err(CLOSED.into()),
                });
                let handled = handled.await;
                transaction.commit().await?;
                handled
            }

            async fn note_many(&mut $self, keys: Vec<InboxKey>) -> Result<Vec<bool>, Failure> {
                #[allow(unused_mut, reason = "one driver needs no `&mut`")]
                let mut transaction = $begin;
                let new = inbox::$inbox::note_many(&mut transaction, keys).await;
                transaction.commit().await?;
                Ok(new?)
            }
        }
    };
}

macro_rules! sqlx {
    ($door:ident, $inbox:ident, $begin:literal) => {
        transaction!($door, $inbox, (self) => self.0.begin_with($begin).await?, (on, sql) => {
            ::$inbox::Executor::execute(&mut **on, sql).await?;
            Ok(())
        });
    };
}

sqlx!(Sqlx8Postgres, sqlx_0_8, "BEGIN");
sqlx!(Sqlx8Mysql, sqlx_0_8, "BEGIN");
sqlx!(Sqlx8Sqlite, sqlx_0_8, "BEGIN IMMEDIATE");
sqlx!(Sqlx9Postgres, sqlx_0_9, "BEGIN");
sqlx!(Sqlx9Mysql, sqlx_0_9, "BEGIN");
sqlx!(Sqlx9Sqlite, sqlx_0_9, "BEGIN IMMEDIATE");

macro_rules! sea_orm {
    ($door:ident, $inbox:ident) => {
        transaction!($door, $inbox, (self) => ::$inbox::TransactionTrait::begin(&self.0).await?, (on, sql) => {
            ::$inbox::ConnectionTrait::execute_unprepared(on, sql).await?;
            Ok(())
        });
    };
}

sea_orm!(SeaOrm1, sea_orm_1);
sea_orm!(SeaOrm2, sea_orm_2);

/// The pool's own transaction holds the driver's.
impl InboxDoor for TokioPostgres {
    async fn handle(&mut self, key: InboxKey, work: Work) -> Result<Handled<()>, Failure> {
        let mut guard = self.0.get().await?;
        let mut transaction = guard.transaction().await?;
        let handled = inbox::tokio_postgres::handle(&mut *transaction, key, async |transaction| match work {
            Work::Execute(sql) => Ok(transaction.batch_execute(sql).await?),
            Work::Fail => Err(CLOSED.into()),
        });
        let handled = handled.await;
        transaction.commit().await?;
        handled
    }

    async fn note_many(&mut self, keys: Vec<InboxKey>) -> Result<Vec<bool>, Failure> {
        let mut guard = self.0.get().await?;
        let mut transaction = guard.transaction().await?;
        let new = inbox::tokio_postgres::note_many(&mut *transaction, keys).await;
        transaction.commit().await?;
        Ok(new?)
    }
}

impl InboxDoor for Rusqlite {
    async fn handle(&mut self, key: InboxKey, work: Work) -> Result<Handled<()>, Failure> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let handled = inbox::rusqlite::handle(&transaction, key, |transaction| match work {
            Work::Execute(sql) => Ok(transaction.execute_batch(sql)?),
            Work::Fail => Err(CLOSED.into()),
        });
        transaction.commit()?;
        handled
    }

    async fn note_many(&mut self, keys: Vec<InboxKey>) -> Result<Vec<bool>, Failure> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let new = inbox::rusqlite::note_many(&transaction, keys);
        transaction.commit()?;
        Ok(new?)
    }
}

macro_rules! diesel {
    ($door:ident) => {
        impl InboxDoor for $door {
            async fn handle(&mut self, key: InboxKey, work: Work) -> Result<Handled<()>, Failure> {
                use diesel_async::{AsyncConnection, SimpleAsyncConnection};

                let in_transaction = self.connection.transaction::<_, diesel::result::Error, _>(async |conn| {
                    let handled = inbox::handle(conn, key, async |conn| match work {
                        Work::Execute(sql) => Ok(conn.batch_execute(sql).await?),
                        Work::Fail => Err(Failure::from(CLOSED)),
                    });
                    Ok(handled.await)
                });
                in_transaction.await?
            }

            async fn note_many(&mut self, keys: Vec<InboxKey>) -> Result<Vec<bool>, Failure> {
                use diesel_async::AsyncConnection;

                let in_transaction = self
                    .connection
                    .transaction::<_, diesel::result::Error, _>(async |conn| Ok(inbox::note_many(conn, keys).await));
                Ok(in_transaction.await??)
            }
        }
    };
}

diesel!(DieselMysql);
diesel!(DieselPostgres);

impl InboxDoor for DieselSqlite {
    async fn handle(&mut self, key: InboxKey, work: Work) -> Result<Handled<()>, Failure> {
        use diesel::connection::SimpleConnection;

        self.connection.immediate_transaction::<_, diesel::result::Error, _>(|conn| {
            Ok(blocking::handle(conn, key, |conn| match work {
                Work::Execute(sql) => Ok(conn.batch_execute(sql)?),
                Work::Fail => Err(Failure::from(CLOSED)),
            }))
        })?
    }

    async fn note_many(&mut self, keys: Vec<InboxKey>) -> Result<Vec<bool>, Failure> {
        let in_transaction = self
            .connection
            .immediate_transaction::<_, diesel::result::Error, _>(|conn| Ok(blocking::note_many(conn, keys)));
        Ok(in_transaction??)
    }
}

/// The futures can move between threads.
#[expect(dead_code, reason = "it compiles")]
fn accepts(
    client: &mut tokio_postgres::Transaction<'_>,
    sqlx: &mut ::sqlx_0_9::Transaction<'_, ::sqlx_0_9::Postgres>,
    sea_orm: &::sea_orm_2::DatabaseTransaction,
) {
    fn is_send(_: impl Send) {}
    let key = || InboxKey::new("mailer", "tests", "a");
    is_send(inbox::tokio_postgres::handle(client, key(), async |_| Ok::<_, Failure>(())));
    is_send(inbox::sqlx_0_9::handle(sqlx, key(), async |_| Ok::<_, ::sqlx_0_9::Error>(())));
    is_send(inbox::sqlx_0_9::note_many(sqlx, [key()]));
    is_send(inbox::sea_orm_2::handle(sea_orm, key(), async |_| Ok::<_, ::sea_orm_2::DbErr>(())));
}
