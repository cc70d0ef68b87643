//! Changes of many events, by their ids or by a filter.

use actix_web::{HttpRequest, web};
use serde::{Deserialize, Deserializer};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{ApiResult, Problem, Refused, bad};
use crate::queries;
use crate::request_info::Author;
use crate::requests::{ActionName, Cursor, Filter, FilterAlone, known_names};
use crate::responses::{Changed, Count};
use actix_outbox::admin::{Action, OutboxAdmin, Selection};

/// Ids in one request, at most.
const MOST_IDS: usize = 1_000;

const DEFAULT_REASON: &str = "marked as failed over the API";

/// The action.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ActionQuery {
    #[param(inline)]
    action: ActionName,
}

/// How many events an action would change: the filter's events whose status allows it. Without a status in the filter,
/// `retry` excludes pending events, `fail` excludes failed ones, and `delete` excludes none.
#[utoipa::path(get, path = "/events/count", params(ActionQuery, Filter), responses(
    (status = 200, body = Count),
    (status = 400, body = Problem, description = "a parameter is wrong"),
    Refused,
))]
pub(super) async fn count(
    admin: web::Data<OutboxAdmin>,
    doing: web::Query<ActionQuery>,
    filter: web::Query<Filter>,
    request: HttpRequest,
) -> ApiResult<Count> {
    known_names(request.query_string(), &["action"]).map_err(bad)?;
    let (action, selection) = (doing.action.counted(), Selection::matching((&*filter).into()));
    Ok(web::Json(queries::count(&admin, &action, &selection).await?))
}

/// A change of many events.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub(super) enum Request {
    These(OfThese),
    AllThatMatch(OfAllThatMatch),
}

/// What happens to the events.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Action)]
enum Change {
    /// Makes events pending again, as if never rejected; not published ones.
    Retry,
    /// Marks events as failed; not published ones. If the filter has no status, not failed ones, which would lose their
    /// error.
    Fail,
    /// Publishes events again; only published ones.
    Replay,
    /// Deletes events for good, whatever their status.
    Delete,
}

impl Change {
    fn action(self, reason: Option<String>) -> Action {
        match self {
            Self::Retry => Action::Retry,
            Self::Fail => Action::Fail { reason: reason.unwrap_or_else(|| DEFAULT_REASON.to_owned()) },
            Self::Replay => Action::Replay,
            Self::Delete => Action::Delete,
        }
    }
}

/// A change of the events with these ids.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OfThese {
    action: Change,
    #[schema(max_items = 1000)]
    ids: Vec<Uuid>,
    /// `fail`: the reason, stored as the events' last error.
    #[serde(default)]
    reason: Option<String>,
}

/// A change of all events that match a filter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OfAllThatMatch {
    action: Change,
    /// `{}` matches every event.
    filter: FilterAlone,
    /// `fail`: the reason, stored as the events' last error.
    #[serde(default)]
    reason: Option<String>,
    /// `next` of the previous response.
    #[serde(default)]
    after: Option<Cursor>,
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        by_ids_or_filter(deserializer, Self::These, Self::AllThatMatch)
    }
}

/// Events for another backend.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub(super) enum MoveRequest {
    These(MoveOfThese),
    AllThatMatch(MoveOfAllThatMatch),
}

/// A move of the events with these ids.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MoveOfThese {
    /// The new `publisher_backend`; an empty one is the workers' default backend.
    #[schema(pattern = "^[a-z0-9_.-]{0,100}$")]
    to: String,
    #[schema(max_items = 1000)]
    ids: Vec<Uuid>,
}

/// A move of all events that match a filter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MoveOfAllThatMatch {
    /// The new `publisher_backend`; an empty one is the workers' default backend.
    #[schema(pattern = "^[a-z0-9_.-]{0,100}$")]
    to: String,
    /// `{}` matches every event.
    filter: FilterAlone,
    /// `next` of the previous response.
    #[serde(default)]
    after: Option<Cursor>,
}

impl<'de> Deserialize<'de> for MoveRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        by_ids_or_filter(deserializer, Self::These, Self::AllThatMatch)
    }
}

/// By hand, so that an error names the wrong field, and not only that no variant matches.
fn by_ids_or_filter<'de, D, I, F, R>(
    deserializer: D,
    these: impl FnOnce(I) -> R,
    all_that_match: impl FnOnce(F) -> R,
) -> Result<R, D::Error>
where
    D: Deserializer<'de>,
    I: serde::de::DeserializeOwned,
    F: serde::de::DeserializeOwned,
{
    let request = serde_json::Map::deserialize(deserializer)?;
    let is_of_these = request.contains_key("ids");
    let request = serde_json::Value::Object(request);
    let parsed = if is_of_these {
        serde_json::from_value(request).map(these)
    } else {
        serde_json::from_value(request).map(all_that_match)
    };
    parsed.map_err(serde::de::Error::custom)
}

fn these(ids: Vec<Uuid>) -> Result<Selection, Problem> {
    if ids.len() > MOST_IDS {
        return Err(bad(format!("too many ids; at most {MOST_IDS} are allowed")));
    }
    Ok(Selection::Ids(ids))
}

fn all_that_match(filter: &FilterAlone, after: Option<Cursor>) -> Selection {
    Selection::Matching { filter: Box::new((&filter.0).into()), after: after.map(|cursor| cursor.0) }
}

/// Retries, fails, replays or deletes events.
///
/// A filter's events are changed at most 10,000 at a time: while the response has a `next`, repeat the request with it as
/// `after`. Events whose status does not allow the action are not changed; without a status in the filter, `retry`
/// excludes pending events, and `fail` excludes failed ones.
///
/// Before events are deleted, workers release their backends, which usually takes two seconds. An event that was sent and is
/// not recorded as sent yet is skipped. What a backend already has stays there. Needs the operators' secret.
#[utoipa::path(post, path = "/events/changes", request_body = Request, responses(
    (status = 200, body = Changed),
    (status = 400, body = Problem, description = "the request is not valid"),
    (status = 413, body = Problem, description = "the request is larger than 64 KiB"),
    (status = 415, body = Problem, description = "the request is not JSON"),
    Refused,
))]
pub(super) async fn change(
    admin: web::Data<OutboxAdmin>,
    author: web::ReqData<Author>,
    request: web::Json<Request>,
) -> ApiResult<Changed> {
    let (action, selection) = match request.into_inner() {
        Request::These(OfThese { action, ids, reason }) => (action.action(reason), these(ids)?),
        Request::AllThatMatch(OfAllThatMatch { action, filter, reason, after }) => {
            (action.action(reason), all_that_match(&filter, after))
        }
    };
    Ok(web::Json(queries::change(&admin, action, selection, author.into_inner()).await?))
}

/// Gives events that were not sent to another backend.
///
/// They keep their status and their time. As with deletion, workers release the events' former backends for a moment, events
/// that were sent are skipped, and a filter's events are moved at most 10,000 at a time. Needs the operators' secret.
#[utoipa::path(post, path = "/events/moves", request_body = MoveRequest, responses(
    (status = 200, body = Changed),
    (status = 400, body = Problem, description = "the request is not valid"),
    (status = 413, body = Problem, description = "the request is larger than 64 KiB"),
    (status = 415, body = Problem, description = "the request is not JSON"),
    Refused,
))]
pub(super) async fn move_events(
    admin: web::Data<OutboxAdmin>,
    author: web::ReqData<Author>,
    request: web::Json<MoveRequest>,
) -> ApiResult<Changed> {
    let (to, selection) = match request.into_inner() {
        MoveRequest::These(MoveOfThese { to, ids }) => (to, these(ids)?),
        MoveRequest::AllThatMatch(MoveOfAllThatMatch { to, filter, after }) => (to, all_that_match(&filter, after)),
    };
    let action = Action::move_to(&to).map_err(|error| bad(error.to_string()))?;
    Ok(web::Json(queries::change(&admin, action, selection, author.into_inner()).await?))
}
