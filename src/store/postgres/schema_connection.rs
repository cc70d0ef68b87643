//! A connection whose statements name the outbox's schema; see `schema`.

use std::sync::Arc;

use diesel::connection::{CacheSize, Instrumentation};
use diesel::pg::{Pg, PgQueryBuilder};
use diesel::query_builder::{AsQuery, AstPass, Query, QueryBuilder, QueryFragment, QueryId};
use diesel::result::{ConnectionError, ConnectionResult, QueryResult};
use diesel_async::pooled_connection::PoolableConnection;
use diesel_async::{
    AnsiTransactionManager, AsyncConnection, AsyncConnectionCore, AsyncPgConnection, SimpleAsyncConnection,
};

use super::schema::Schema;

/// A connection of the outbox's own.
pub(super) struct SchemaConnection {
    conn: AsyncPgConnection,
    schema: Arc<Schema>,
}

impl SchemaConnection {
    pub(super) fn new(conn: AsyncPgConnection, schema: Arc<Schema>) -> Self {
        Self { conn, schema }
    }

    pub(super) fn is_broken(&mut self) -> bool {
        PoolableConnection::is_broken(&mut self.conn)
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    fn qualified<Q>(&self, query: Q) -> Qualified<Q> {
        Qualified { query, schema: Arc::clone(&self.schema) }
    }
}

/// Sends its text as it is.
impl SimpleAsyncConnection for SchemaConnection {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        self.conn.batch_execute(query).await
    }
}

impl AsyncConnectionCore for SchemaConnection {
    type ExecuteFuture<'conn, 'query> = <AsyncPgConnection as AsyncConnectionCore>::ExecuteFuture<'conn, 'query>;
    type LoadFuture<'conn, 'query> = <AsyncPgConnection as AsyncConnectionCore>::LoadFuture<'conn, 'query>;
    type Stream<'conn, 'query> = <AsyncPgConnection as AsyncConnectionCore>::Stream<'conn, 'query>;
    type Row<'conn, 'query> = <AsyncPgConnection as AsyncConnectionCore>::Row<'conn, 'query>;
    type Backend = Pg;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Pg> + QueryId + 'query,
    {
        let query = self.qualified(source.as_query());
        self.conn.load(query)
    }

    fn execute_returning_count<'conn, 'query, T>(&'conn mut self, source: T) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Pg> + QueryId + 'query,
    {
        let query = self.qualified(source);
        self.conn.execute_returning_count(query)
    }
}

impl AsyncConnection for SchemaConnection {
    type TransactionManager = AnsiTransactionManager;

    async fn establish(_: &str) -> ConnectionResult<Self> {
        Err(ConnectionError::BadConnection("is made by a pool only".to_owned()))
    }

    fn transaction_state(&mut self) -> &mut AnsiTransactionManager {
        self.conn.transaction_state()
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        self.conn.instrumentation()
    }

    fn set_instrumentation(&mut self, instrumentation: impl Instrumentation) {
        self.conn.set_instrumentation(instrumentation);
    }

    fn set_prepared_statement_cache_size(&mut self, size: CacheSize) {
        self.conn.set_prepared_statement_cache_size(size);
    }
}

/// A query whose text names the schema. The connection keeps statements by their text or type, and has one schema.
struct Qualified<Q> {
    query: Q,
    schema: Arc<Schema>,
}

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Qualified<Q> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.query.walk_ast(out)
    }

    fn to_sql(&self, out: &mut PgQueryBuilder, backend: &Pg) -> QueryResult<()> {
        let mut sql = PgQueryBuilder::default();
        self.query.to_sql(&mut sql, backend)?;
        out.push_sql(&self.schema.qualify(&sql.finish()));
        Ok(())
    }
}

impl<Q: QueryId> QueryId for Qualified<Q> {
    type QueryId = Q::QueryId;
    const HAS_STATIC_QUERY_ID: bool = Q::HAS_STATIC_QUERY_ID;
}

impl<Q: Query> Query for Qualified<Q> {
    type SqlType = Q::SqlType;
}
