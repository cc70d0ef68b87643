//! Why a statement failed, if the driver does not say: diesel passes on no SQLSTATE, only the server's text, and that is in
//! the server's language.

use diesel::dsl::sql;
use diesel::result::{DatabaseErrorKind, Error as DieselError, OptionalExtension, QueryResult};
use diesel::sql_types::{Bool, Integer, Text};
use diesel_async::RunQueryDsl;

use super::migrate::MIGRATIONS;
use super::schema_connection::SchemaConnection;
use crate::store::migrate::find_obstacle;

/// A cause that waiting does not remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// The tables are missing or out of date.
    Tables(&'static str),
    /// The tables are missing, and this schema, further down the search path, has some.
    Elsewhere(String),
    /// The role may not read a table.
    Forbidden,
}

/// Whether the driver gives no kind of this error.
pub(super) fn is_unexplained(error: &DieselError) -> bool {
    matches!(error, DieselError::DatabaseError(DatabaseErrorKind::Unknown, _))
}

/// Finds the cause of an error on the connection that got it. `None`: the tables are there and readable, so the cause may be
/// temporary.
pub(super) async fn find_cause(conn: &mut SchemaConnection) -> QueryResult<Option<Cause>> {
    let tables = tables(&conn.schema().literal());
    let (is_missing, is_forbidden): (bool, bool) = sql::<(Bool, Bool)>(&tables).get_result(conn).await?;
    if is_forbidden {
        return Ok(Some(Cause::Forbidden));
    }
    if is_missing {
        let elsewhere: Option<String> = sql::<Text>(ELSEWHERE).get_result(conn).await.optional()?;
        return Ok(Some(elsewhere.map_or(Cause::Tables("missing"), Cause::Elsewhere)));
    }
    let applied: Vec<i32> = sql::<Integer>("SELECT version FROM outbox_migrations").load(conn).await?;
    Ok(find_obstacle(&MIGRATIONS, &applied).map(Cause::Tables))
}

/// Whether a table is missing in the schema, and whether the role may not read one. A right to some columns is enough to read
/// what is needed of them.
fn tables(schema: &str) -> String {
    format!(
        "SELECT bool_or(t.oid IS NULL), coalesce(bool_or(NOT has_any_column_privilege(t.oid, 'SELECT')), false) \
            OR coalesce(bool_or(NOT has_schema_privilege(s.oid, 'USAGE')), false) \
         FROM unnest(ARRAY['outbox_events', 'outbox_meta', 'outbox_migrations']) AS n(name) \
            LEFT JOIN pg_namespace s ON s.nspname = {schema} \
            LEFT JOIN pg_class t ON t.relname = n.name AND t.relnamespace = s.oid"
    )
}

const ELSEWHERE: &str = "SELECT s.nspname::text FROM unnest(current_schemas(false)) WITH ORDINALITY AS p(name, n) \
    JOIN pg_namespace s ON s.nspname = p.name JOIN pg_class t ON t.relnamespace = s.oid AND t.relname = 'outbox_meta' \
    ORDER BY p.n LIMIT 1";

#[cfg(test)]
mod tests {
    use crate::error::StoreError;
    use crate::store::SchemaStore;
    use crate::store::postgres::{PostgresStore, Target};
    use crate::test_support::postgres::Server;

    /// The server's messages are German if it has translations, as Debian's has; else they are English.
    #[tokio::test]
    async fn missing_tables_are_recognised_on_a_server_of_another_language() {
        let server = Server::start_in_language("de");
        let database = server.database().await;
        let said = database.connect().await.batch_execute("SELECT FROM outbox_meta").await.unwrap_err();
        println!("the server's text: {}", said.as_db_error().unwrap().message());
        let store = || PostgresStore::new(Target::from_url(&database.url).unwrap(), None).unwrap();
        let missing = store().outbox_id().await.unwrap_err();
        assert!(matches!(missing, StoreError::NotMigrated { state: "missing", .. }), "{missing}");
        store().migrate(&|_| ()).await.unwrap();
        store().outbox_id().await.unwrap();

        let sql = database.connect().await;
        sql.batch_execute("CREATE ROLE reader LOGIN").await.unwrap();
        let mut url = url::Url::parse(&database.url).unwrap();
        url.set_username("reader").unwrap();
        let reader = PostgresStore::new(Target::from_url(url.as_str()).unwrap(), None).unwrap();
        let forbidden = reader.outbox_id().await.unwrap_err();
        assert!(!forbidden.is_transient() && matches!(forbidden, StoreError::Query { .. }), "{forbidden}");
    }
}
