//! `tokio-postgres`, in a pool of deadpool's.

use actix_outbox::{NewEvent, PublishError, tokio_postgres as driver};
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::{Door, End, Published, Step, disconnect_all, drop_while_blocked, end, take_steps};
use crate::database::TestDatabase;

pub(crate) struct TokioPostgres(pub(super) Pool);

impl Door for TokioPostgres {
    async fn connect(database: &TestDatabase) -> Self {
        let manager = Manager::new(database.url().parse().unwrap(), NoTls);
        Self(Pool::builder(manager).max_size(2).build().unwrap())
    }

    async fn publish(&mut self, event: NewEvent) -> Result<Uuid, PublishError> {
        let mut guard = self.0.get().await.unwrap();
        driver::publish(&mut **guard, event).await
    }

    async fn publish_many(&mut self, events: Vec<NewEvent>) -> Published {
        let mut guard = self.0.get().await.unwrap();
        driver::publish_many(&mut **guard, events).await
    }

    async fn transaction(&mut self, steps: Vec<Step>, end: End<'_>) -> Vec<Published> {
        let mut guard = self.0.get().await.unwrap();
        let client: &mut tokio_postgres::Client = &mut guard;
        let mut transaction = client.transaction().await.unwrap();
        let published = take_steps!(steps, transaction, driver, outer => outer.transaction().await.unwrap(),
            (on, sql) => on.batch_execute(sql).await.unwrap());
        end!(end, transaction, driver);
        published
    }
}
