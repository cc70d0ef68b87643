//! A connection for short use whose statements name the outbox's schema; see `schema`.

use std::sync::Arc;

use tokio_postgres::types::ToSql;
use tokio_postgres::{CancelToken, Client, Error, Row, SimpleQueryMessage};

use super::schema::Schema;

pub(crate) struct SchemaClient {
    client: Client,
    schema: Arc<Schema>,
}

impl SchemaClient {
    pub(super) fn new(client: Client, schema: Arc<Schema>) -> Self {
        Self { client, schema }
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    pub(super) async fn query_one(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.client.query_one(&self.schema.qualify(sql), parameters).await
    }

    pub(super) async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.client.query(&self.schema.qualify(sql), parameters).await
    }

    pub(super) async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        self.client.execute(&self.schema.qualify(sql), parameters).await
    }

    /// Sends statements as they are.
    pub(crate) async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await
    }

    /// Sends statements as they are.
    pub(super) async fn simple_query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        self.client.simple_query(sql).await
    }

    pub(super) fn cancel_token(&self) -> CancelToken {
        self.client.cancel_token()
    }

    #[cfg(any(test, feature = "bench-api"))]
    pub(crate) fn into_client(self) -> Client {
        self.client
    }
}
