//! Both versions of SeaORM, whose connections are pools.

use actix_outbox::{NewEvent, PublishError, sea_orm_1, sea_orm_2};
use uuid::Uuid;

use super::{Door, End, Published, Step, disconnect_all, drop_while_blocked, end, take_steps};
use crate::database::TestDatabase;

macro_rules! door {
    ($door:ident, $sea_orm:ident, $driver:ident) => {
        pub(crate) struct $door(pub(super) ::$sea_orm::DatabaseConnection);

        impl Door for $door {
            async fn connect(database: &TestDatabase) -> Self {
                Self(::$sea_orm::Database::connect(database.url()).await.unwrap())
            }

            async fn publish(&mut self, event: NewEvent) -> Result<Uuid, PublishError> {
                $driver::publish(&mut self.0, event).await
            }

            async fn publish_many(&mut self, events: Vec<NewEvent>) -> Published {
                $driver::publish_many(&mut self.0, events).await
            }

            async fn transaction(&mut self, steps: Vec<Step>, end: End<'_>) -> Vec<Published> {
                use ::$sea_orm::{ConnectionTrait, TransactionTrait};

                let mut transaction = self.0.begin().await.unwrap();
                let published = take_steps!(steps, transaction, $driver, outer => outer.begin().await.unwrap(),
                    (on, sql) => on.execute_unprepared(sql).await.unwrap());
                end!(end, transaction, $driver);
                published
            }
        }
    };
}

door!(SeaOrm1, sea_orm_1, sea_orm_1);
door!(SeaOrm2, sea_orm_2, sea_orm_2);

/// The futures can move between threads.
#[expect(dead_code, reason = "it compiles")]
fn accepts(connection: &::sea_orm_1::DatabaseConnection, transaction: &::sea_orm_2::DatabaseTransaction) {
    fn is_send(_: impl Send) {}
    is_send(sea_orm_1::publish(connection, NewEvent::new("t", "s")));
    is_send(sea_orm_1::publish_many(connection, vec![NewEvent::new("t", "s")]));
    is_send(sea_orm_2::publish(transaction, NewEvent::new("t", "s")));
    is_send(sea_orm_2::publish_many(transaction, [NewEvent::new("t", "s")]));
}
