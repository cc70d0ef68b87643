//! The drivers: publishing by the adapter, and a raw INSERT, each in a transaction of its own.

use actix_outbox::{NewEvent, sea_orm_1, sea_orm_2, sqlx_0_8, sqlx_0_9, tokio_postgres as adapter};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

use super::{INSERT, INSERT_MANY, Rows};

/// A driver with one connection.
pub(super) trait Driver {
    async fn connect(url: &str) -> Self;
    async fn publish(&mut self, event: NewEvent);
    async fn insert(&mut self, row: Rows);
    async fn publish_many(&mut self, events: Vec<NewEvent>);
    async fn insert_many(&mut self, rows: Rows);
}

pub(super) struct TokioPostgres {
    client: Client,
    insert: Statement,
    insert_many: Statement,
}

impl Driver for TokioPostgres {
    async fn connect(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let (insert, insert_many) = (client.prepare(INSERT).await.unwrap(), client.prepare(INSERT_MANY).await.unwrap());
        Self { client, insert, insert_many }
    }

    async fn publish(&mut self, event: NewEvent) {
        let mut transaction = self.client.transaction().await.unwrap();
        adapter::publish(&mut transaction, event).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn insert(&mut self, row: Rows) {
        let transaction = self.client.transaction().await.unwrap();
        let values: Vec<String> = row.only().collect();
        let params: Vec<_> = values.iter().map(|text| text as &(dyn ToSql + Sync)).collect();
        transaction.execute(&self.insert, &params).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn publish_many(&mut self, events: Vec<NewEvent>) {
        let mut transaction = self.client.transaction().await.unwrap();
        adapter::publish_many(&mut transaction, events).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn insert_many(&mut self, rows: Rows) {
        let transaction = self.client.transaction().await.unwrap();
        let params: Vec<_> = rows.0.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        transaction.execute(&self.insert_many, &params).await.unwrap();
        transaction.commit().await.unwrap();
    }
}

macro_rules! sqlx_driver {
    ($name:ident, $sqlx:ident) => {
        pub(super) struct $name(::$sqlx::PgPool);

        impl Driver for $name {
            async fn connect(url: &str) -> Self {
                Self(::$sqlx::pool::PoolOptions::new().max_connections(1).connect(url).await.unwrap())
            }

            async fn publish(&mut self, event: NewEvent) {
                let mut transaction = self.0.begin().await.unwrap();
                $sqlx::publish(&mut transaction, event).await.unwrap();
                transaction.commit().await.unwrap();
            }

            async fn insert(&mut self, row: Rows) {
                let mut transaction = self.0.begin().await.unwrap();
                let query = row.only().fold(::$sqlx::query(INSERT), |query, text| query.bind(text));
                query.execute(&mut *transaction).await.unwrap();
                transaction.commit().await.unwrap();
            }

            async fn publish_many(&mut self, events: Vec<NewEvent>) {
                let mut transaction = self.0.begin().await.unwrap();
                $sqlx::publish_many(&mut transaction, events).await.unwrap();
                transaction.commit().await.unwrap();
            }

            async fn insert_many(&mut self, rows: Rows) {
                let mut transaction = self.0.begin().await.unwrap();
                let query = rows.0.into_iter().fold(::$sqlx::query(INSERT_MANY), |query, column| query.bind(column));
                query.execute(&mut *transaction).await.unwrap();
                transaction.commit().await.unwrap();
            }
        }
    };
}

sqlx_driver!(Sqlx8, sqlx_0_8);
sqlx_driver!(Sqlx9, sqlx_0_9);

macro_rules! sea_orm_driver {
    ($name:ident, $sea_orm:ident, $execute:ident) => {
        pub(super) struct $name(::$sea_orm::DatabaseConnection);

        impl $name {
            async fn execute(&mut self, sql: &str, values: Vec<::$sea_orm::Value>) {
                use ::$sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};

                let transaction = self.0.begin().await.unwrap();
                let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
                transaction.$execute(statement).await.unwrap();
                transaction.commit().await.unwrap();
            }
        }

        impl Driver for $name {
            async fn connect(url: &str) -> Self {
                let mut options = ::$sea_orm::ConnectOptions::new(url);
                options.max_connections(1).sqlx_logging(false);
                Self(::$sea_orm::Database::connect(options).await.unwrap())
            }

            async fn publish(&mut self, event: NewEvent) {
                use ::$sea_orm::TransactionTrait;

                let transaction = self.0.begin().await.unwrap();
                $sea_orm::publish(&transaction, event).await.unwrap();
                transaction.commit().await.unwrap();
            }

            async fn insert(&mut self, row: Rows) {
                self.execute(INSERT, row.only().map(Into::into).collect()).await;
            }

            async fn publish_many(&mut self, events: Vec<NewEvent>) {
                use ::$sea_orm::TransactionTrait;

                let transaction = self.0.begin().await.unwrap();
                $sea_orm::publish_many(&transaction, events).await.unwrap();
                transaction.commit().await.unwrap();
            }

            async fn insert_many(&mut self, rows: Rows) {
                self.execute(INSERT_MANY, rows.0.into_iter().map(Into::into).collect()).await;
            }
        }
    };
}

sea_orm_driver!(SeaOrm1, sea_orm_1, execute);
sea_orm_driver!(SeaOrm2, sea_orm_2, execute_raw);
