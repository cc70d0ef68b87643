//! Why a statement failed, if the driver does not say: diesel passes on no SQLSTATE, only the server's text, and that is in
//! the server's language.

use diesel::dsl::sql;
use diesel::result::{DatabaseErrorKind, Error as DieselError, QueryResult};
use diesel::sql_types::{Bool, Integer};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::migrate::MIGRATIONS;
use crate::store::migrate::find_obstacle;

/// A cause that waiting does not remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The tables are missing or out of date.
    Tables(&'static str),
    /// The role may not read a table.
    Forbidden,
}

/// Whether the driver gives no kind of this error.
pub(super) fn is_unexplained(error: &DieselError) -> bool {
    matches!(error, DieselError::DatabaseError(DatabaseErrorKind::Unknown, _))
}

/// Finds the cause of an error on the connection that got it. `None`: the tables are there and readable, so the cause may be
/// temporary.
pub(super) async fn find_cause(conn: &mut AsyncPgConnection) -> QueryResult<Option<Cause>> {
    let (is_missing, is_forbidden): (bool, bool) = sql::<(Bool, Bool)>(TABLES).get_result(conn).await?;
    if is_forbidden {
        return Ok(Some(Cause::Forbidden));
    }
    if is_missing {
        return Ok(Some(Cause::Tables("missing")));
    }
    let applied: Vec<i32> = sql::<Integer>("SELECT version FROM outbox_migrations").load(conn).await?;
    Ok(find_obstacle(&MIGRATIONS, &applied).map(Cause::Tables))
}

/// A right to some columns is enough to read what is needed of them.
const TABLES: &str = "SELECT bool_or(t.oid IS NULL), coalesce(bool_or(NOT has_any_column_privilege(t.oid, 'SELECT')), false) \
    FROM (SELECT to_regclass(n.name)::oid AS oid \
        FROM unnest(ARRAY['outbox_events', 'outbox_meta', 'outbox_migrations']) AS n(name)) t";

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
