//! `mysql_async`, in its own pool. It has no savepoints, which are statements here.

use actix_outbox::{NewEvent, PublishError, mysql_async as driver};
use mysql_async::prelude::Queryable;
use mysql_async::{Pool, TxOpts};
use uuid::Uuid;

use super::{Door, End, Published, Step, disconnect_all, drop_while_blocked, end};
use crate::database::TestDatabase;

pub(crate) struct MysqlAsync(pub(super) Pool);

impl Door for MysqlAsync {
    async fn connect(database: &TestDatabase) -> Self {
        Self(Pool::from_url(database.url()).unwrap())
    }

    async fn publish(&mut self, event: NewEvent) -> Result<Uuid, PublishError> {
        driver::publish(&mut self.0.get_conn().await.unwrap(), event).await
    }

    async fn publish_many(&mut self, events: Vec<NewEvent>) -> Published {
        driver::publish_many(&mut self.0.get_conn().await.unwrap(), events).await
    }

    async fn transaction(&mut self, steps: Vec<Step>, end: End<'_>) -> Vec<Published> {
        let mut connection = self.0.get_conn().await.unwrap();
        let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
        let mut published = Vec::new();
        for step in steps {
            match step {
                Step::Publish(event) => {
                    published.push(driver::publish(&mut transaction, event).await.map(|id| vec![id]));
                }
                Step::PublishMany(events) => published.push(driver::publish_many(&mut transaction, events).await),
                Step::Savepoint { events, is_kept } => {
                    transaction.query_drop("SAVEPOINT own").await.unwrap();
                    for event in events {
                        published.push(driver::publish(&mut transaction, event).await.map(|id| vec![id]));
                    }
                    let end = if is_kept { "RELEASE SAVEPOINT own" } else { "ROLLBACK TO SAVEPOINT own" };
                    transaction.query_drop(end).await.unwrap();
                }
                Step::Execute(sql) => transaction.query_drop(sql).await.unwrap(),
                Step::Disconnect(url) => disconnect_all(&url).await,
            }
        }
        end!(end, transaction, driver);
        published
    }
}

/// The futures can move between threads.
#[expect(dead_code, reason = "it compiles")]
fn accepts(connection: &mut mysql_async::Conn, transaction: &mut mysql_async::Transaction<'_>) {
    fn is_send(_: impl Send) {}
    is_send(driver::publish(connection, NewEvent::new("t", "s")));
    is_send(driver::publish_many(connection, vec![NewEvent::new("t", "s")]));
    is_send(driver::publish(transaction, NewEvent::new("t", "s")));
    is_send(driver::publish_many(transaction, [NewEvent::new("t", "s")]));
}
