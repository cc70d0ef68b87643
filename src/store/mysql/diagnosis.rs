//! The number of a connection's last error. Diesel passes on the text alone.

use diesel::QueryResult;
use diesel::connection::{LoadConnection, SimpleConnection};
use diesel::dsl::sql;
use diesel::mysql::Mysql;
use diesel::result::Error;
use diesel::sql_types::{BigInt, Nullable};
use diesel_async::{AsyncConnection, RunQueryDsl};

use super::error::{Failure, FailureKind, is_from_database};

/// A statement of diagnostics leaves the error's number in place for another, and fails if there is no error. It is sent as
/// text: the answer to a prepared one has no place for it in every server.
const KEEP: &str = "GET DIAGNOSTICS CONDITION 1 @outbox_error = MYSQL_ERRNO";

const READ: &str = "SELECT CAST(@outbox_error AS SIGNED)";

/// What a statement failed with, by the connection on which it did, and before any other statement.
pub(super) async fn diagnose<C>(connection: &mut C, error: &Error) -> Failure
where
    C: AsyncConnection<Backend = Mysql>,
{
    if !is_from_database(error) {
        return Failure::client(error);
    }
    let kept = connection.batch_execute(KEEP).await;
    let number = match kept {
        Ok(()) => sql::<Nullable<BigInt>>(READ).get_result(connection).await,
        // Without an error of the server, the connection is asked whether it is there.
        Err(_) => sql::<Nullable<BigInt>>("SELECT NULL").get_result(connection).await,
    };
    failure(error, number)
}

pub(super) fn diagnose_blocking<C>(connection: &mut C, error: &Error) -> Failure
where
    C: LoadConnection<Backend = Mysql>,
{
    if !is_from_database(error) {
        return Failure::client(error);
    }
    let kept = SimpleConnection::batch_execute(connection, KEEP);
    let question = if kept.is_ok() { READ } else { "SELECT NULL" };
    failure(error, diesel::RunQueryDsl::get_result(sql::<Nullable<BigInt>>(question), connection))
}

fn failure(error: &Error, number: QueryResult<Option<i64>>) -> Failure {
    let kind = match number.map(|number| number.and_then(|number| u16::try_from(number).ok())) {
        Ok(Some(number)) => FailureKind::Server(number),
        Ok(None) => FailureKind::Client,
        Err(_) => FailureKind::Lost,
    };
    Failure { kind, reason: error.to_string() }
}
