//! Converts database errors for callers that publish on a connection of their own.

use diesel::result::{DatabaseErrorKind, Error};

use crate::error::{PublishError, StoreError};

/// Lets `?` work in a transaction whose error is [`PublishError`].
impl From<Error> for PublishError {
    fn from(error: Error) -> Self {
        store_error("write events", &error).into()
    }
}

/// The error of a statement on a connection of the caller's own.
pub(crate) fn store_error(operation: &'static str, error: &Error) -> StoreError {
    if let Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _) = error {
        return StoreError::ReadOnly { target: "of this connection".to_owned() };
    }
    let reason = error.to_string();
    let place = if is_unparsed(error) { "the search path of this connection" } else { "this database" };
    match find_missing(error, &reason) {
        Some(state) => StoreError::NotMigrated { target: place.to_owned(), state },
        None => StoreError::Query { operation, transient: is_transient(error, &reason), reason },
    }
}

/// The tables' state, if the statement cannot be parsed because of it.
fn find_missing(error: &Error, reason: &str) -> Option<&'static str> {
    if reason.starts_with("no such table: outbox_") {
        return Some("missing");
    }
    if reason.starts_with("table outbox_events has no column") || reason.starts_with("no such column: e.") {
        return Some("out of date");
    }
    let names_column = || words(reason).any(|word| COLUMNS.contains(&word));
    match () {
        () if !is_unparsed(error) => None,
        () if names_column() => Some("out of date"),
        () if names_table(reason) => Some("missing"),
        () => None,
    }
}

macro_rules! names {
    ($($name:ident: $kind:ident,)*) => {
        const COLUMNS: &[&str] = &[$(stringify!($name),)*];
    };
}
crate::store::with_columns!(names);

/// PostgreSQL's texts are in the server's language, and diesel does not pass on the code. But only a statement that the server
/// cannot parse has a position, and names are the same in every language.
fn is_unparsed(error: &Error) -> bool {
    matches!(error, Error::DatabaseError(DatabaseErrorKind::Unknown, said) if said.statement_position().is_some())
}

fn names_table(reason: &str) -> bool {
    words(reason).any(|word| word.starts_with("outbox_"))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
}

/// The errors that are certainly permanent: also those that name a table, such as a missing right.
fn is_transient(error: &Error, reason: &str) -> bool {
    match error {
        Error::DatabaseError(
            DatabaseErrorKind::UniqueViolation
            | DatabaseErrorKind::ForeignKeyViolation
            | DatabaseErrorKind::NotNullViolation
            | DatabaseErrorKind::CheckViolation
            | DatabaseErrorKind::RestrictViolation
            | DatabaseErrorKind::ExclusionViolation,
            _,
        ) => false,
        Error::DatabaseError(DatabaseErrorKind::Unknown, _) if is_unparsed(error) || names_table(reason) => false,
        Error::DatabaseError(..) => {
            !["no such", "invalid", "too long", "is aborted"].iter().any(|text| reason.contains(text))
        }
        Error::BrokenTransactionManager => true,
        _ => false,
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use diesel_async::{AsyncConnection, AsyncPgConnection};

    use crate::error::{PublishError, StoreError};
    use crate::publish::{NewEvent, publish};
    use crate::store::SchemaStore;
    use crate::store::postgres::{PostgresStore, Target};
    use crate::test_support::postgres::{Database, Server};

    async fn refused(url: &str) -> StoreError {
        let mut conn = AsyncPgConnection::establish(url).await.unwrap();
        match publish(&mut conn, NewEvent::new("thing.happened", "tests")).await.unwrap_err() {
            PublishError::Store(error) => error,
            error => panic!("{error}"),
        }
    }

    /// The server's messages are German if it has translations, as Debian's has; else they are English.
    #[tokio::test]
    async fn permanent_errors_are_recognised_on_a_server_of_another_language() {
        let server = Server::start_in_language("de");
        let database = server.database().await;
        let missing = refused(&database.url).await;
        assert!(matches!(missing, StoreError::NotMigrated { state: "missing", .. }), "{missing}");
        PostgresStore::new(Target::from_url(&database.url).unwrap(), None).unwrap().migrate(&|_| ()).await.unwrap();

        let [reader, writer] = ["reader", "writer"].map(|role| role_url(&database, role));
        let sql = database.connect().await;
        let rights = "CREATE ROLE reader LOGIN; GRANT SELECT ON outbox_events TO reader; \
            CREATE ROLE writer LOGIN; GRANT SELECT, INSERT ON outbox_events TO writer";
        sql.batch_execute(rights).await.unwrap();
        for url in [reader, writer] {
            let forbidden = refused(&url).await;
            println!("{forbidden}");
            assert!(matches!(forbidden, StoreError::Query { transient: false, .. }), "{forbidden}");
        }
        sql.batch_execute("ALTER TABLE outbox_events DROP COLUMN extensions").await.unwrap();
        let outdated = refused(&database.url).await;
        assert!(matches!(outdated, StoreError::NotMigrated { state: "out of date", .. }), "{outdated}");
    }

    fn role_url(database: &Database, role: &str) -> String {
        let mut url = url::Url::parse(&database.url).unwrap();
        url.set_username(role).unwrap();
        url.into()
    }
}
