//! An error of sqlx, for each version of sqlx and for SeaORM, which is built on it.

use super::super::errors::DriverError;
use super::sqlx::Error;

pub(super) fn driver_error(error: &Error) -> DriverError {
    if let Error::Database(error) = error {
        let code = error.code().unwrap_or_default().into_owned();
        return DriverError { code: Some(code), message: error.message().to_owned() };
    }
    let has_no_answer =
        matches!(error, Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::PoolTimedOut | Error::WorkerCrashed);
    DriverError { code: (!has_no_answer).then(String::new), message: error.to_string() }
}
