//! What endangers the outbox.

use actix_web::http::StatusCode;
use actix_web::web;

use super::{ApiResult, PATIENCE, Problem, Refused};
use crate::queries::DoctorCache;
use crate::responses::Diagnosis;
use actix_outbox::admin::OutboxAdmin;

/// Looks at the database, the backends and the workers for what endangers the outbox; the worst first.
///
/// It looks at most once in ten seconds for all callers, with the console's settings and database rights.
#[utoipa::path(get, path = "/doctor", responses(
    (status = 200, body = Diagnosis),
    Refused,
))]
pub(super) async fn doctor(admin: web::Data<OutboxAdmin>, cache: web::Data<DoctorCache>) -> ApiResult<Diagnosis> {
    let diagnosis = cache.get(&admin, PATIENCE).await;
    diagnosis.map(web::Json).ok_or_else(|| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the diagnosis takes longer than 20 s; try again later")
    })
}
