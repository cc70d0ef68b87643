//! `rusqlite`, which is not async.

use std::ops::Deref;
use std::time::Duration;

use actix_outbox::rusqlite as driver;
use actix_outbox::{NewEvent, PublishError};
use rusqlite::{Connection, TransactionBehavior};
use uuid::Uuid;

use super::{Door, End, Published, Step};
use crate::database::TestDatabase;

/// A connection, behind a guard as pools have them.
pub(crate) struct Rusqlite(pub(super) Box<Connection>);

impl Door for Rusqlite {
    async fn connect(database: &TestDatabase) -> Self {
        let connection = Connection::open(database.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        Self(Box::new(connection))
    }

    async fn publish(&mut self, event: NewEvent) -> Result<Uuid, PublishError> {
        driver::publish(&self.0, event)
    }

    async fn publish_many(&mut self, events: Vec<NewEvent>) -> Published {
        driver::publish_many(&self.0, events)
    }

    async fn transaction(&mut self, steps: Vec<Step>, end: End<'_>) -> Vec<Published> {
        let mut transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let mut published = Vec::new();
        for step in steps {
            match step {
                Step::Publish(event) => published.push(one(&mut transaction, event)),
                Step::PublishMany(events) => published.push(driver::publish_many(&transaction, events)),
                Step::Savepoint { events, is_kept } => {
                    let mut savepoint = transaction.savepoint().unwrap();
                    published.extend(events.into_iter().map(|event| one(&mut savepoint, event)));
                    if !is_kept {
                        savepoint.rollback().unwrap();
                    }
                    savepoint.commit().unwrap();
                }
                Step::Execute(sql) => transaction.execute_batch(sql).unwrap(),
                Step::Disconnect(_) => unreachable!("SQLite has no connections to end"),
            }
        }
        match end {
            End::Commit => transaction.commit().unwrap(),
            End::Rollback => transaction.rollback().unwrap(),
            End::Drop => drop(transaction),
            End::DropFuture(..) => unreachable!("there are no futures"),
        }
        published
    }
}

fn one(connection: &mut impl Deref<Target = Connection>, event: NewEvent) -> Published {
    driver::publish(connection, event).map(|id| vec![id])
}
