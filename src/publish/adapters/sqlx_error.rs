//! An error of sqlx, for each version of sqlx and for SeaORM, which is built on it.

use super::super::errors::DriverError;
use super::sqlx::Error;
use crate::publish::Dialect;

pub(super) fn driver_error(error: &Error, dialect: Dialect) -> DriverError {
    if let Error::Database(error) = error {
        let code = match dialect {
            Dialect::Postgres | Dialect::Sqlite => error.code().unwrap_or_default().into_owned(),
            // Its code is the SQLSTATE, which many errors share; the number is what it is shown with first.
            #[cfg(feature = "mysql")]
            Dialect::Mysql => error.to_string().chars().take_while(char::is_ascii_digit).collect(),
        };
        return DriverError { code: Some(code), message: error.message().to_owned() };
    }
    let has_no_answer =
        matches!(error, Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::PoolTimedOut | Error::WorkerCrashed);
    DriverError { code: (!has_no_answer).then(String::new), message: error.to_string() }
}
