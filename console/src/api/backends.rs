//! Changes of backends.

use actix_web::web;

use super::{ApiResult, Problem, Refused};
use crate::queries;
use crate::request_info::Author;
use crate::requests::BackendChange;
use crate::responses::BackendChanged;
use actix_outbox::admin::OutboxAdmin;

/// Pauses or resumes a backend.
///
/// Workers finish what they are sending and release a paused backend's shards with their next heartbeat; its events wait, and
/// no retry is spent. A pause that exists stays as it is, so repeat the request until `senders` is empty. Needs the operators'
/// secret.
#[utoipa::path(post, path = "/backends/changes", request_body = BackendChange, responses(
    (status = 200, body = BackendChanged),
    (status = 400, body = Problem, description = "the request is not valid"),
    (status = 404, body = Problem, description = "no backend has this name"),
    (status = 413, body = Problem, description = "the request is larger than 64 KiB"),
    (status = 415, body = Problem, description = "the request is not JSON"),
    Refused,
))]
pub(super) async fn change_backend(
    admin: web::Data<OutboxAdmin>,
    author: web::ReqData<Author>,
    request: web::Json<BackendChange>,
) -> ApiResult<BackendChanged> {
    Ok(web::Json(queries::change_backend(&admin, &request, &author).await?))
}
