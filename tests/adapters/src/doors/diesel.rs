//! Diesel, the reference: asynchronous on servers, blocking on SQLite.

use actix_outbox::{NewEvent, PublishError, blocking};
use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::{Connection, SqliteConnection};
use diesel_async::{AsyncConnection, AsyncMysqlConnection, AsyncPgConnection, SimpleAsyncConnection};
use uuid::Uuid;

use super::{Door, End, Published, Step, disconnect_all, drop_while_blocked};
use crate::database::TestDatabase;

type Transactions<C> = <C as AsyncConnection>::TransactionManager;

macro_rules! asynchronous {
    ($door:ident, $connection:ty) => {
        pub(crate) struct $door {
            pub(super) connection: $connection,
            url: String,
        }

        impl Door for $door {
            async fn connect(database: &TestDatabase) -> Self {
                let url = database.url().to_owned();
                Self { connection: <$connection>::establish(&url).await.unwrap(), url }
            }

            async fn publish(&mut self, event: NewEvent) -> Result<Uuid, PublishError> {
                Ok(actix_outbox::publish(&mut self.connection, event).await?.id)
            }

            async fn publish_many(&mut self, events: Vec<NewEvent>) -> Published {
                let stored = actix_outbox::publish_many(&mut self.connection, events).await?;
                Ok(stored.iter().map(|event| event.id).collect())
            }

            async fn transaction(&mut self, steps: Vec<Step>, end: End<'_>) -> Vec<Published> {
                use diesel_async::TransactionManager;

                let mut published = Vec::new();
                Transactions::<$connection>::begin_transaction(&mut self.connection).await.unwrap();
                for step in steps {
                    match step {
                        Step::Publish(event) => published.push(self.publish(event).await.map(|id| vec![id])),
                        Step::PublishMany(events) => published.push(self.publish_many(events).await),
                        Step::Savepoint { events, is_kept } => {
                            Transactions::<$connection>::begin_transaction(&mut self.connection).await.unwrap();
                            for event in events {
                                published.push(self.publish(event).await.map(|id| vec![id]));
                            }
                            match is_kept {
                                true => {
                                    Transactions::<$connection>::commit_transaction(&mut self.connection).await.unwrap()
                                }
                                false => Transactions::<$connection>::rollback_transaction(&mut self.connection)
                                    .await
                                    .unwrap(),
                            }
                        }
                        Step::Execute(sql) => self.connection.batch_execute(sql).await.unwrap(),
                        Step::Disconnect(url) => disconnect_all(&url).await,
                    }
                }
                match end {
                    End::Commit => Transactions::<$connection>::commit_transaction(&mut self.connection).await.unwrap(),
                    End::Rollback => {
                        Transactions::<$connection>::rollback_transaction(&mut self.connection).await.unwrap()
                    }
                    // The connection is part of the transaction.
                    End::Drop => self.connection = <$connection>::establish(&self.url).await.unwrap(),
                    End::DropFuture(id, database) => {
                        let event = NewEvent::new("ghost", "tests").id(id);
                        drop_while_blocked(database, id, actix_outbox::publish(&mut self.connection, event)).await;
                        self.connection = <$connection>::establish(&self.url).await.unwrap();
                    }
                }
                published
            }
        }
    };
}

asynchronous!(DieselMysql, AsyncMysqlConnection);
asynchronous!(DieselPostgres, AsyncPgConnection);

pub(crate) struct DieselSqlite {
    pub(super) connection: SqliteConnection,
    path: String,
}

type Blocking = AnsiTransactionManager;

fn open(path: &str) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(path).unwrap();
    connection.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
    connection
}

impl Door for DieselSqlite {
    async fn connect(database: &TestDatabase) -> Self {
        Self { connection: open(database.path()), path: database.path().to_owned() }
    }

    async fn publish(&mut self, event: NewEvent) -> Result<Uuid, PublishError> {
        Ok(blocking::publish(&mut self.connection, event)?.id)
    }

    async fn publish_many(&mut self, events: Vec<NewEvent>) -> Published {
        let stored = blocking::publish_many(&mut self.connection, events)?;
        Ok(stored.iter().map(|event| event.id).collect())
    }

    async fn transaction(&mut self, steps: Vec<Step>, end: End<'_>) -> Vec<Published> {
        let mut published = Vec::new();
        Blocking::begin_transaction(&mut self.connection).unwrap();
        for step in steps {
            match step {
                Step::Publish(event) => published.push(self.publish(event).await.map(|id| vec![id])),
                Step::PublishMany(events) => published.push(self.publish_many(events).await),
                Step::Savepoint { events, is_kept } => {
                    Blocking::begin_transaction(&mut self.connection).unwrap();
                    for event in events {
                        published.push(self.publish(event).await.map(|id| vec![id]));
                    }
                    match is_kept {
                        true => Blocking::commit_transaction(&mut self.connection).unwrap(),
                        false => Blocking::rollback_transaction(&mut self.connection).unwrap(),
                    }
                }
                Step::Execute(sql) => self.connection.batch_execute(sql).unwrap(),
                Step::Disconnect(_) => unreachable!("SQLite has no connections to end"),
            }
        }
        match end {
            End::Commit => Blocking::commit_transaction(&mut self.connection).unwrap(),
            End::Rollback => Blocking::rollback_transaction(&mut self.connection).unwrap(),
            End::Drop => self.connection = open(&self.path),
            End::DropFuture(..) => unreachable!("there are no futures"),
        }
        published
    }
}
