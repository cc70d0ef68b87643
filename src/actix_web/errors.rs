//! The library's errors as responses: `{"error": "…"}`. What a client did wrong is named; what went wrong behind is for the
//! log, since it names servers.

use ::actix_web::http::StatusCode;
use ::actix_web::http::header::RETRY_AFTER;
use ::actix_web::{HttpResponse, ResponseError};
use diesel::result::DatabaseErrorKind::{ClosedConnection, SerializationFailure};
use diesel::result::Error as DieselError;
use diesel_async::pooled_connection::deadpool::PoolError;
use serde::Serialize;

use super::extract::NoOutbox;
use crate::admin::AdminError;
use crate::error::{IdConflict, InvalidEvent, PublishError, SettingsError, StoreError, SystemError};
use crate::settings::SecretError;
use crate::transaction::TransactionError;

/// After how many seconds a client may try again while the outbox is unavailable.
const RETRY_SECONDS: &str = "1";

const UNAVAILABLE: &str = "the outbox is unavailable; try again later";
const FAILED: &str = "the outbox failed; the service's log has the reason";

#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
}

/// The response for an error; its reason is logged if it is not shown.
pub(super) fn respond(error: &(impl ResponseError + ?Sized)) -> HttpResponse {
    let status = error.status_code();
    let mut response = HttpResponse::build(status);
    if !status.is_server_error() {
        return response.json(Problem { error: &error.to_string() });
    }
    tracing::error!(%error, status = status.as_u16(), "request failed");
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return response.insert_header((RETRY_AFTER, RETRY_SECONDS)).json(Problem { error: UNAVAILABLE });
    }
    response.json(Problem { error: FAILED })
}

macro_rules! response_error {
    ($($error:ident: $status:path;)*) => {
        $(impl ResponseError for $error {
            fn status_code(&self) -> StatusCode {
                $status(self)
            }

            fn error_response(&self) -> HttpResponse {
                respond(self)
            }
        })*
    };
}

response_error! {
    InvalidEvent: bad_request;
    IdConflict: conflict;
    PublishError: of_publishing;
    StoreError: of_store;
    TransactionError: of_transaction;
    AdminError: of_admin;
    SystemError: of_system;
    SettingsError: internal;
    SecretError: internal;
}

fn bad_request(_: &InvalidEvent) -> StatusCode {
    StatusCode::BAD_REQUEST
}

fn conflict(_: &IdConflict) -> StatusCode {
    StatusCode::CONFLICT
}

fn internal<E>(_: &E) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

fn of_publishing(error: &PublishError) -> StatusCode {
    match error {
        error if error.is_invalid() => StatusCode::BAD_REQUEST,
        error if error.is_conflict() => StatusCode::CONFLICT,
        PublishError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        PublishError::Store(error) => of_store(error),
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn of_store(error: &StoreError) -> StatusCode {
    match error {
        StoreError::NotFound(_) => StatusCode::NOT_FOUND,
        error if error.is_transient() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The status of the error of the work, if that is one of the library's.
fn of_transaction(error: &TransactionError) -> StatusCode {
    if let Some(error) = error.downcast_ref::<PublishError>() {
        return of_publishing(error);
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return of_store(error);
    }
    match error.downcast_ref::<DieselError>() {
        Some(DieselError::DatabaseError(ClosedConnection | SerializationFailure, _)) => StatusCode::SERVICE_UNAVAILABLE,
        Some(_) => StatusCode::INTERNAL_SERVER_ERROR,
        None if error.downcast_ref::<PoolError>().is_some() => StatusCode::SERVICE_UNAVAILABLE,
        None => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn of_admin(error: &AdminError) -> StatusCode {
    match error {
        AdminError::Store(error) => of_store(error),
        AdminError::UnknownBackend { .. } | AdminError::UnknownHandler { .. } => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn of_system(error: &SystemError) -> StatusCode {
    match error {
        SystemError::Store(error) => of_store(error),
        SystemError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A fault of the program: the response says so, and contains nothing of its settings.
impl ResponseError for NoOutbox {
    fn error_response(&self) -> HttpResponse {
        tracing::error!(error = %self, "request failed");
        HttpResponse::InternalServerError().json(Problem { error: &self.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::actix_web::body::to_bytes;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::transaction::Rollback;

    async fn body(error: &impl ResponseError) -> (u16, Value) {
        let response = error.error_response();
        let has_time = response.headers().contains_key(RETRY_AFTER);
        assert_eq!(has_time, response.status() == StatusCode::SERVICE_UNAVAILABLE);
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&to_bytes(response.into_body()).await.unwrap()).unwrap())
    }

    #[::actix_web::test]
    async fn a_clients_mistake_is_named_and_a_servers_failure_is_not() {
        let invalid = InvalidEvent::new("subject", "is longer than 255 characters");
        let named = json!({"error": "event field `subject` is longer than 255 characters"});
        assert_eq!(body(&invalid).await, (400, named.clone()));
        assert_eq!(body(&PublishError::Invalid(invalid.clone())).await, (400, named.clone()));
        assert_eq!(body(&TransactionError::from(Rollback::from(PublishError::Invalid(invalid)))).await, (400, named));

        let conflict = IdConflict { id: Uuid::nil(), field: "data" };
        assert_eq!(body(&PublishError::IdConflict(conflict)).await.0, 409);

        let unavailable = json!({"error": UNAVAILABLE});
        let unreachable =
            || StoreError::Unreachable { target: "db.internal:5432".to_owned(), reason: "refused".to_owned() };
        assert_eq!(body(&unreachable()).await, (503, unavailable.clone()));
        assert_eq!(body(&PublishError::Store(unreachable())).await, (503, unavailable.clone()));
        assert_eq!(body(&SystemError::Store(unreachable())).await, (503, unavailable.clone()));
        assert_eq!(body(&AdminError::Store(unreachable())).await, (503, unavailable.clone()));
        assert_eq!(body(&PublishError::Stopped).await, (503, unavailable));

        let refused = StoreError::NotMigrated { target: "db.internal:5432".to_owned(), state: "missing" };
        assert_eq!(body(&PublishError::Store(refused)).await, (500, json!({"error": FAILED})));
        assert_eq!(body(&SystemError::ShutdownTimeout(Duration::ZERO)).await.0, 500);
        assert_eq!(body(&StoreError::NotFound(Uuid::nil())).await.0, 404);
        assert_eq!(body(&TransactionError::from(diesel::result::Error::NotFound)).await.0, 500);
    }
}
