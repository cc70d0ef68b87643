//! Consumers and their dead letters.

use std::time::Duration;

use actix_outbox::admin::EventGroups;
use actix_outbox::{ConsumerStatus, DeadLetters, LetterFacts, LetterId, OutboxAdmin, Settings, SystemError};
use actix_web::http::StatusCode;
use actix_web::{ResponseError, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ApiResult, Problem, Refused, bad, known};
use crate::letters::{self, LetterAction, Letters, MOST};
use crate::request_info::Author;

impl From<SystemError> for Problem {
    fn from(error: SystemError) -> Self {
        let status = match &error {
            SystemError::Settings(_) => StatusCode::NOT_FOUND,
            SystemError::Store(error) => error.status_code(),
            SystemError::Source(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// How long a request waits for the server of a consumer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A consumer of the settings.
#[derive(Serialize, ToSchema)]
pub(super) struct Consumer {
    name: String,
    /// Its group and streams; none if its server did not answer.
    #[schema(value_type = Option<Object>)]
    status: Option<ConsumerStatus>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The consumers of the console's settings, with what they have not handled.
#[utoipa::path(get, path = "/consumers", responses((status = 200, body = Vec<Consumer>), Refused))]
pub(super) async fn consumers(settings: web::Data<Settings>) -> web::Json<Vec<Consumer>> {
    let all = letters::consumers(&settings, PATIENCE).await.into_iter().map(|(name, status)| match status {
        Ok(status) => Consumer { name, status: Some(status), problem: None },
        Err(error) => Consumer { name, status: None, problem: Some(error.to_string()) },
    });
    web::Json(all.collect())
}

/// What consumer groups have done with an event.
#[derive(Serialize, ToSchema)]
#[schema(as = EventGroups)]
pub(super) struct Groups {
    /// The stream, the event's entry, and each group with its state; none if no backend has the event, or its backend is not a
    /// stream of Redis in the console's settings.
    #[schema(value_type = Option<Object>)]
    groups: Option<EventGroups>,
}

/// What the consumer groups of an event's stream have done with it.
#[utoipa::path(get, path = "/events/{id}/groups", params(("id" = Uuid, Path)), responses(
    (status = 200, body = Groups),
    (status = 404, body = Problem, description = "no event has this id"),
    Refused,
))]
pub(super) async fn event_groups(admin: web::Data<OutboxAdmin>, id: web::Path<String>) -> ApiResult<Groups> {
    Ok(web::Json(Groups { groups: admin.event_groups(known(&id)?).await? }))
}

/// A part of the dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LetterQuery {
    /// The last dead letter of the page before: STREAM/ID.
    #[param(pattern = "^[^\\x00]*/[0-9]{1,19}-[0-9]{1,19}$")]
    after: Option<String>,
    /// 50 unless given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// The dead letters of a consumer, by stream, oldest first, without their data.
#[utoipa::path(get, path = "/consumers/{name}/dead", params(("name" = String, Path), LetterQuery), responses(
    (status = 200, body = Vec<Object>),
    (status = 400, body = Problem, description = "a parameter is wrong"),
    (status = 404, body = Problem, description = "no consumer has this name"),
    Refused,
))]
pub(super) async fn dead(
    settings: web::Data<Settings>,
    name: web::Path<String>,
    query: web::Query<LetterQuery>,
) -> ApiResult<Vec<LetterFacts>> {
    let after = query.after.as_deref().map(str::parse::<LetterId>).transpose().map_err(bad)?;
    let limit = query.limit.unwrap_or(letters::PAGE);
    if !(1..=MOST).contains(&limit) {
        return Err(bad(format!("`limit` must be between 1 and {MOST}")));
    }
    Ok(web::Json(DeadLetters::of(&settings, &name)?.list(after.as_ref(), limit).await?))
}

/// A change of dead letters.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum LetterChange {
    These(OfTheseLetters),
    All(OfAllLetters),
}

/// Of those with these ids.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OfTheseLetters {
    action: LetterAction,
    #[schema(min_items = 1, max_items = 1000)]
    ids: Vec<LetterName>,
}

/// Of all that there are, at most 1,000.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OfAllLetters {
    action: LetterAction,
    /// `false`: of none.
    all: bool,
}

/// STREAM/ID
#[derive(Debug, Deserialize, ToSchema)]
#[schema(pattern = "^[^\\x00]*/[0-9]{1,19}-[0-9]{1,19}$")]
pub(super) struct LetterName(String);

/// What was changed.
#[derive(Serialize, ToSchema)]
pub(super) struct LettersDone {
    changed: usize,
    /// Those that are not there any more.
    missing: Vec<String>,
}

/// Retries or deletes dead letters. Needs the operators' secret.
#[utoipa::path(post, path = "/consumers/{name}/dead/changes", params(("name" = String, Path)),
    request_body = LetterChange, responses(
    (status = 200, body = LettersDone),
    (status = 400, body = Problem, description = "the request is not valid"),
    (status = 404, body = Problem, description = "no consumer has this name, or it has no such dead letters"),
    (status = 413, body = Problem, description = "the request is larger than 64 KiB"),
    (status = 415, body = Problem, description = "the request is not JSON"),
    Refused,
))]
pub(super) async fn change(
    settings: web::Data<Settings>,
    admin: web::Data<OutboxAdmin>,
    name: web::Path<String>,
    author: web::ReqData<Author>,
    request: web::Json<LetterChange>,
) -> ApiResult<LettersDone> {
    let (action, chosen) = match request.into_inner() {
        LetterChange::All(OfAllLetters { action, all: true }) => (action, Letters::All),
        LetterChange::All(OfAllLetters { action, all: false }) => (action, Letters::These(Vec::new())),
        LetterChange::These(OfTheseLetters { action, ids }) => {
            if !(1..=MOST).contains(&ids.len()) {
                return Err(bad(format!("`ids` must have 1 to {MOST} of them")));
            }
            let ids = ids.iter().map(|LetterName(id)| id.parse()).collect::<Result<_, String>>();
            (action, Letters::These(ids.map_err(bad)?))
        }
    };
    let done = letters::change(&settings, &admin, &name, action, chosen, &author).await?;
    let missing = done.missing.iter().map(ToString::to_string).collect();
    Ok(web::Json(LettersDone { changed: done.changed, missing }))
}
