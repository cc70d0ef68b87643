//! The JSON API: everything that the pages show and do. Its `openapi.json` is generated from this file.

use std::time::Duration;

use actix_web::error::{JsonPayloadError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::http::header::WWW_AUTHENTICATE;
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use serde::{Deserialize, Serialize};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::server::Server;
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi, ToSchema};
use uuid::Uuid;

use super::auth::AccessError;
use super::methods::{get, post};
use super::queries::{self, OverviewCache};
use super::request_info::{Author, Base};
use super::requests::{ActionName, AuditQuery, Cursor, Filter, FilterAlone, PageQuery, known_names};
use super::responses::{Audit, Changed, Count, Detail, EventListItem, Events, Overview, status_of};
use super::single_flight::CachedValue;
use actix_outbox::Explanation;
use actix_outbox::OutboxEvent;
use actix_outbox::StoreError;
use actix_outbox::admin::{OutboxAdmin, Selection};

/// Ids in one request, at most.
const MOST_IDS: usize = 1_000;

/// How long a request waits for the first counts.
const PATIENCE: Duration = Duration::from_secs(20);

const DEFAULT_REASON: &str = "marked as failed over the API";

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("/api/v1")
            .service(get("/openapi.json", description))
            .service(get("/overview", overview))
            .service(get("/events", events))
            .service(get("/events/count", count))
            .service(post("/events/changes", change))
            .service(get("/audit", audit))
            .service(get("/events/{id}", event))
            .service(get("/events/{id}/data", data))
            .service(get("/events/{id}/explanation", explanation))
            .default_service(web::to(not_found)),
    );
}

/// The API of the console of actix-outbox.
#[derive(OpenApi)]
#[openapi(
    info(title = "actix-outbox console", description = "Due events, workers, and every event with the reason for its state."),
    paths(overview, events, count, change, event, explanation, data, audit),
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
        Self::new(status_of(error), error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        (&error).into()
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
    /// Without a secret, only the console's own machine has access, and only its pages can change events. A reader's
    /// secret is read-only.
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

/// The action.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ActionQuery {
    #[param(inline)]
    pub(super) action: ActionName,
}

/// How many events an action would change: the filter's events whose status allows it. Without a status in the filter,
/// `retry` excludes pending events, and `fail` excludes failed ones.
#[utoipa::path(get, path = "/events/count", params(ActionQuery, Filter), responses(
    (status = 200, body = Count),
    (status = 400, body = Problem, description = "a parameter is wrong"),
    Refused,
))]
async fn count(
    admin: web::Data<OutboxAdmin>,
    doing: web::Query<ActionQuery>,
    filter: web::Query<Filter>,
    request: HttpRequest,
) -> ApiResult<Count> {
    known_names(request.query_string(), &["action"]).map_err(bad)?;
    let (action, selection) = (doing.action.with_reason(""), Selection::matching((&*filter).into()));
    Ok(web::Json(queries::count(&admin, &action, &selection).await?))
}

/// A change of many events.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
enum Request {
    These(OfThese),
    AllThatMatch(OfAllThatMatch),
}

/// A change of the events with these ids.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OfThese {
    action: ActionName,
    #[schema(max_items = 1000)]
    ids: Vec<Uuid>,
    /// `fail`: the reason, stored as the events' last error.
    #[serde(default)]
    reason: Option<String>,
}

/// A change of all events that match a filter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OfAllThatMatch {
    action: ActionName,
    /// `{}` matches every event.
    filter: FilterAlone,
    /// `fail`: the reason, stored as the events' last error.
    #[serde(default)]
    reason: Option<String>,
    /// `next` of the previous response.
    #[serde(default)]
    after: Option<Cursor>,
}

/// By hand, so that an error names the wrong field, and not only that no variant matches.
impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let request = serde_json::Map::deserialize(deserializer)?;
        let is_of_these = request.contains_key("ids");
        let request = serde_json::Value::Object(request);
        let parsed = if is_of_these {
            serde_json::from_value(request).map(Self::These)
        } else {
            serde_json::from_value(request).map(Self::AllThatMatch)
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

/// Retries, fails or replays events.
///
/// A filter's events are changed at most 10,000 at a time: while the response has a `next`, repeat the request with it as
/// `after`. Events whose status does not allow the action are not changed; without a status in the filter, `retry`
/// excludes pending events, and `fail` excludes failed ones. Needs the operators' secret.
#[utoipa::path(post, path = "/events/changes", request_body = Request, responses(
    (status = 200, body = Changed),
    (status = 400, body = Problem, description = "the request is not valid"),
    (status = 413, body = Problem, description = "the request is larger than 64 KiB"),
    (status = 415, body = Problem, description = "the request is not JSON"),
    Refused,
))]
async fn change(
    admin: web::Data<OutboxAdmin>,
    author: web::ReqData<Author>,
    request: web::Json<Request>,
) -> ApiResult<Changed> {
    let (action, reason, selection) = match request.into_inner() {
        Request::These(OfThese { ids, .. }) if ids.len() > MOST_IDS => {
            return Err(bad(format!("too many ids; at most {MOST_IDS} are allowed")));
        }
        Request::These(OfThese { action, ids, reason }) => (action, reason, Selection::Ids(ids)),
        Request::AllThatMatch(OfAllThatMatch { action, filter, reason, after }) => {
            let filter = Box::new((&filter.0).into());
            (action, reason, Selection::Matching { filter, after: after.map(|cursor| cursor.0) })
        }
    };
    let action = action.with_reason(reason.unwrap_or_else(|| DEFAULT_REASON.to_owned()));
    Ok(web::Json(queries::change(&admin, action, selection, author.into_inner()).await?))
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
    let Detail { event, data_bytes, explanation, neighbours } = queries::event(&admin, known(&id)?).await?;
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

/// Operators' changes of the last 30 days, newest first, a page at a time. Each entry is one transaction with at most 500
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
