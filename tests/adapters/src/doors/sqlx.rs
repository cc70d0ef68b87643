//! Both versions of sqlx, with every database.

use actix_outbox::{NewEvent, PublishError, sqlx_0_8, sqlx_0_9};
use uuid::Uuid;

use super::{Door, End, Published, Step, disconnect_all, drop_while_blocked, end, take_steps};
use crate::database::TestDatabase;

macro_rules! door {
    ($door:ident, $sqlx:ident, $driver:ident, $database:ident, $begin:literal) => {
        pub(crate) struct $door(pub(super) ::$sqlx::Pool<::$sqlx::$database>);

        impl Door for $door {
            async fn connect(database: &TestDatabase) -> Self {
                let options = ::$sqlx::pool::PoolOptions::new().max_connections(2);
                Self(options.connect(database.url()).await.unwrap())
            }

            async fn publish(&mut self, event: NewEvent) -> Result<Uuid, PublishError> {
                let mut guard = self.0.acquire().await.unwrap();
                $driver::publish(&mut guard, event).await
            }

            async fn publish_many(&mut self, events: Vec<NewEvent>) -> Published {
                let mut guard = self.0.acquire().await.unwrap();
                $driver::publish_many(&mut guard, events).await
            }

            async fn transaction(&mut self, steps: Vec<Step>, end: End<'_>) -> Vec<Published> {
                use ::$sqlx::{Acquire, Executor};

                let mut transaction = self.0.begin_with($begin).await.unwrap();
                let published = take_steps!(steps, transaction, $driver, outer => outer.begin().await.unwrap(),
                    (on, sql) => (&mut **on).execute(sql).await.unwrap());
                end!(end, transaction, $driver);
                published
            }
        }
    };
}

door!(Sqlx8Postgres, sqlx_0_8, sqlx_0_8, Postgres, "BEGIN");
door!(Sqlx8Mysql, sqlx_0_8, sqlx_0_8, MySql, "BEGIN");
door!(Sqlx8Sqlite, sqlx_0_8, sqlx_0_8, Sqlite, "BEGIN IMMEDIATE");
door!(Sqlx9Postgres, sqlx_0_9, sqlx_0_9, Postgres, "BEGIN");
door!(Sqlx9Mysql, sqlx_0_9, sqlx_0_9, MySql, "BEGIN");
door!(Sqlx9Sqlite, sqlx_0_9, sqlx_0_9, Sqlite, "BEGIN IMMEDIATE");

/// The futures can move between threads, and a connection of its own is accepted.
#[expect(dead_code, reason = "it compiles")]
fn accepts(
    mut connection: &mut ::sqlx_0_8::PgConnection,
    pooled: &mut ::sqlx_0_9::pool::PoolConnection<::sqlx_0_9::Sqlite>,
    transaction: &mut ::sqlx_0_9::Transaction<'_, ::sqlx_0_9::Postgres>,
) {
    fn is_send(_: impl Send) {}
    is_send(sqlx_0_8::publish(&mut connection, NewEvent::new("t", "s")));
    is_send(sqlx_0_8::publish_many(&mut connection, vec![NewEvent::new("t", "s")]));
    is_send(sqlx_0_9::publish(pooled, NewEvent::new("t", "s")));
    is_send(sqlx_0_9::publish_many(pooled, [NewEvent::new("t", "s")]));
    is_send(sqlx_0_9::publish(transaction, NewEvent::new("t", "s")));
    is_send(sqlx_0_9::publish_many(transaction, [NewEvent::new("t", "s")]));
}
