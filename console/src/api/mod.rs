//! The JSON API: everything that the pages show and do. Its `openapi.json` is generated from this file.

mod backends;
mod changes;
#[cfg(feature = "consumer")]
mod consumers;
mod doctor;

use std::time::Duration;

use actix_web::error::{JsonPayloadError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::http::header::WWW_AUTHENTICATE;
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use serde::Serialize;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::server::Server;
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};
use uuid::Uuid;

use super::auth::AccessError;
use super::methods::{get, post};
use super::queries::{self, OverviewCache};
use super::request_info::Base;
use super::requests::{AuditQuery, Filter, PageQuery, known_names};
use super::responses::{Audit, Detail, EventListItem, EventState, Events, Overview};
use super::single_flight::CachedValue;
use actix_outbox::Explanation;
use actix_outbox::OutboxEvent;
use actix_outbox::StoreError;
use actix_outbox::admin::{AdminError, OutboxAdmin};

/// How long a request waits for the first counts, or for the doctor.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("/api/v1")
            .service(get("/openapi.json", description))
            .service(get("/overview", overview))
            .service(get("/events", events))
            .service(get("/events/count", changes::count))
            .service(post("/events/changes", changes::change))
            .service(post("/events/moves", changes::move_events))
            .service(post("/backends/changes", backends::change_backend))
            .configure(consumer_routes)
            .service(get("/doctor", doctor::doctor))
            .service(get("/audit", audit))
            .service(get("/events/{id}", event))
            .service(get("/events/{id}/data", data))
            .service(get("/events/{id}/explanation", explanation))
            .default_service(web::to(not_found)),
    );
}

#[cfg(feature = "consumer")]
fn consumer_routes(config: &mut web::ServiceConfig) {
    config
        .service(get("/consumers", consumers::consumers))
        .service(get("/events/{id}/groups", consumers::event_groups))
        .service(get("/consumers/{name}/dead", consumers::dead))
        .service(post("/consumers/{name}/dead/changes", consumers::change));
}

#[cfg(not(feature = "consumer"))]
fn consumer_routes(_: &mut web::ServiceConfig) {}

/// The part of the API that is for consumers.
#[cfg(feature = "consumer")]
#[derive(OpenApi)]
#[openapi(
    paths(consumers::consumers, consumers::dead, consumers::change, consumers::event_groups),
    security(("secret" = []))
)]
struct ConsumersDescription;

/// The API of the console of actix-outbox.
#[derive(OpenApi)]
#[openapi(
    info(title = "actix-outbox console", description = "Due events, workers, and every event with the reason for its state."),
    paths(
        overview, events, changes::count, changes::change, changes::move_events, event, explanation, data,
        backends::change_backend, doctor::doctor, audit
    ),
    modifiers(&Bearer),
    security(("secret" = []))
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("secret", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// An error.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// What happened, to what, and what to do next.
    error: String,
    #[serde(skip)]
    status: StatusCode,
}

impl Problem {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { error: error.into(), status }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        response.json(self)
    }
}

impl From<&StoreError> for Problem {
    fn from(error: &StoreError) -> Self {
        Self::new(error.status_code(), error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        (&error).into()
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        Self::new(error.status_code(), error.to_string())
    }
}

pub(super) fn refused(refusal: &AccessError) -> HttpResponse {
    Problem::new(refusal.status(), refusal.message()).error_response()
}

pub(super) fn json_config(limit: usize) -> web::JsonConfig {
    let problem = |error: JsonPayloadError, _: &_| {
        let problem = match error {
            JsonPayloadError::ContentType => Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the request is not JSON; send it with Content-Type: application/json",
            ),
            error => Problem::new(error.status_code(), error.to_string()),
        };
        problem.into()
    };
    web::JsonConfig::default().limit(limit).error_handler(problem)
}

pub(super) fn query_config() -> web::QueryConfig {
    let problem = |error: QueryPayloadError, _: &_| Problem::new(StatusCode::BAD_REQUEST, error.to_string()).into();
    web::QueryConfig::default().error_handler(problem)
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "this path does not exist; openapi.json lists the paths")
}

impl actix_web::Responder for Problem {
    type Body = actix_web::body::BoxBody;

    fn respond_to(self, _: &actix_web::HttpRequest) -> HttpResponse {
        self.error_response()
    }
}

async fn description(base: web::ReqData<Base>) -> web::Json<utoipa::openapi::OpenApi> {
    let mut description = Description::openapi();
    #[cfg(feature = "consumer")]
    description.merge(ConsumersDescription::openapi());
    description.servers = Some(vec![Server::new(format!("{}/api/v1", base.path))]);
    web::Json(description)
}

/// The errors that any request may get.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
enum Refused {
    /// The request has no secret, or a wrong one.
    #[response(status = 401)]
    Unknown(#[to_schema] Problem),
    /// Without a secret, only the console's own machine has access, and only its pages can change anything. A
    /// reader's secret is read-only.
    #[response(status = 403)]
    Peer(#[to_schema] Problem),
    /// The request was sent to a name that is not one of the server's.
    #[response(status = 421)]
    Host(#[to_schema] Problem),
    /// Too many requests, or wrong secrets, from one address.
    #[response(status = 429)]
    TooMany(#[to_schema] Problem),
    /// The database refuses a statement.
    #[response(status = 500)]
    Broken(#[to_schema] Problem),
    /// The database does not respond, or not in time.
    #[response(status = 503)]
    Unavailable(#[to_schema] Problem),
}

type ApiResult<T> = Result<web::Json<T>, Problem>;

/// The state of the outbox.
#[utoipa::path(get, path = "/overview", responses(
    (status = 200, body = Overview),
    Refused,
))]
async fn overview(admin: web::Data<OutboxAdmin>, cache: web::Data<OverviewCache>) -> ApiResult<Overview> {
    match cache.get(&admin, PATIENCE).await {
        CachedValue { failure: Some(error), .. } => Err(Problem::from(&*error)),
        CachedValue { answer: Some(overview), .. } => Ok(web::Json(overview)),
        _ => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "counting the events takes longer than 20 s; try again later",
        )),
    }
}

fn bad(reason: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, reason)
}

/// Events without their data, a page at a time.
#[utoipa::path(get, path = "/events", params(Filter, PageQuery), responses(
    (status = 200, body = Events),
    (status = 400, body = Problem, description = "a parameter is wrong"),
    Refused,
))]
async fn events(
    admin: web::Data<OutboxAdmin>,
    filter: web::Query<Filter>,
    part: web::Query<PageQuery>,
    request: HttpRequest,
) -> ApiResult<Events> {
    known_names(request.query_string(), &["order", "after", "limit", "patient"]).map_err(bad)?;
    Ok(web::Json(queries::events(&admin, &filter, part.wanted().map_err(bad)?).await?))
}

/// One event.
#[derive(Serialize, ToSchema)]
struct EventDetail<'a> {
    /// None if the row is not a readable event; `explanation` says why. Its data is none if it has more than 262,144 bytes.
    #[schema(value_type = Option<Object>)]
    event: Option<&'a OutboxEvent>,
    /// The length of its data in bytes.
    data_bytes: u64,
    explanation: Explanation,
    /// Other events with its key, newest first.
    neighbours: Vec<EventListItem>,
}

/// One event with its data, the reason for its state, and other events with its key. Large data is left out:
/// `/events/{id}/data` has it.
#[utoipa::path(get, path = "/events/{id}", params(("id" = Uuid, Path)), responses(
    (status = 200, body = EventDetail),
    (status = 404, body = Problem, description = "no event has this id"),
    Refused,
))]
async fn event(admin: web::Data<OutboxAdmin>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let Detail { state, data_bytes, neighbours } = queries::event(&admin, known(&id)?).await?;
    let EventState { event, explanation } = state;
    let event = event.as_ref().ok();
    Ok(HttpResponse::Ok().json(EventDetail { event, data_bytes, explanation, neighbours }))
}

/// The data of an event, whole or the range that the header `Range` names.
#[utoipa::path(get, path = "/events/{id}/data", params(("id" = Uuid, Path)), responses(
    (status = 200, description = "the data", content(
        (serde_json::Value = "application/json"),
        (String = "application/octet-stream")
    )),
    (status = 404, body = Problem, description = "no event has this id, or it has no data"),
    Refused,
))]
async fn data(
    admin: web::Data<OutboxAdmin>,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let file = crate::data::file(&admin, known(&id)?, &request).await?;
    file.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "this event has no data"))
}

/// Why an event has not been sent.
#[utoipa::path(get, path = "/events/{id}/explanation", params(("id" = Uuid, Path)), responses(
    (status = 200, body = Explanation),
    (status = 404, body = Problem, description = "no event has this id"),
    Refused,
))]
async fn explanation(admin: web::Data<OutboxAdmin>, id: web::Path<String>) -> ApiResult<Explanation> {
    Ok(web::Json(admin.explain(known(&id)?).await?))
}

/// Operators' changes of events and backends in the last 30 days, newest first, a page at a time. Each entry is one transaction with at most 500
/// events.
#[utoipa::path(get, path = "/audit", params(AuditQuery), responses(
    (status = 200, body = Audit),
    (status = 400, body = Problem, description = "a parameter is wrong"),
    Refused,
))]
async fn audit(admin: web::Data<OutboxAdmin>, query: web::Query<AuditQuery>) -> ApiResult<Audit> {
    Ok(web::Json(queries::audit(&admin, query.before, query.limit().map_err(bad)?).await?))
}

fn known(id: &str) -> Result<Uuid, Problem> {
    id.parse().map_err(|_| Problem::new(StatusCode::NOT_FOUND, "no event has this id: it is not a valid UUID"))
}
