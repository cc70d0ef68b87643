//! The parts of a form or a request: which events, from which cursor, and the action on them.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::AdditionalProperties;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use actix_outbox::Status;
use actix_outbox::admin::{Action, CreatedCursor, EventFilter, InvalidCursor};

/// Events on a page: the default, and the maximum.
const PAGE: u16 = 50;
pub(crate) const LARGEST_PAGE: u16 = 200;

/// Selects events. A missing field does not filter.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct Filter {
    /// pending, processing, retry, published or failed
    #[serde(deserialize_with = "known_status", skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
    #[serde(rename = "type", deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[^\\x00]*$")]
    #[param(pattern = "^[^\\x00]*$")]
    pub(crate) event_type: Option<String>,
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[^\\x00]*$")]
    #[param(pattern = "^[^\\x00]*$")]
    pub(crate) source: Option<String>,
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[^\\x00]*$")]
    #[param(pattern = "^[^\\x00]*$")]
    pub(crate) subject: Option<String>,
    /// The event's `publisher_backend`.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[^\\x00]*$")]
    #[param(pattern = "^[^\\x00]*$")]
    pub(crate) backend: Option<String>,
    /// The partition key.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[^\\x00]*$")]
    #[param(pattern = "^[^\\x00]*$")]
    pub(crate) key: Option<String>,
    /// Created at this time or later: RFC 3339, in UTC if it has no offset.
    #[serde(deserialize_with = "moment", skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<DateTime<Utc>>,
    /// Created before this time.
    #[serde(deserialize_with = "moment", skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<DateTime<Utc>>,
}

/// # Errors
/// If `limit` is out of range.
fn checked_limit(limit: Option<u16>) -> Result<u16, String> {
    match limit {
        None => Ok(PAGE),
        Some(limit @ 1..=LARGEST_PAGE) => Ok(limit),
        Some(_) => Err(format!("`limit` must be between 1 and {LARGEST_PAGE}")),
    }
}

/// Checks that a query has only a filter's names and `others`: a misspelt name would select more events than intended.
pub(super) fn known_names(query: &str, others: &[&str]) -> Result<(), String> {
    let mut names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    let unknown = names.find(|name| ![&Filter::NAMES, others].iter().any(|known| known.contains(&&**name)));
    unknown.map_or(Ok(()), |name| {
        Err(format!("parameter {name:?} is unknown; known are {}", [&Filter::NAMES, others].concat().join(", ")))
    })
}

impl Filter {
    const NAMES: [&str; 8] = ["status", "type", "source", "subject", "backend", "key", "since", "until"];
}

/// A filter without other fields: a misspelt name would select more events than intended.
#[derive(Debug, Deserialize)]
#[serde(try_from = "serde_json::Map<String, serde_json::Value>")]
pub(crate) struct FilterAlone(pub(super) Filter);

impl TryFrom<serde_json::Map<String, serde_json::Value>> for FilterAlone {
    type Error = serde_json::Error;

    fn try_from(given: serde_json::Map<String, serde_json::Value>) -> Result<Self, Self::Error> {
        match given.keys().find(|name| !Filter::NAMES.contains(&name.as_str())) {
            Some(unknown) => Err(serde::de::Error::unknown_field(unknown, &Filter::NAMES)),
            None => serde_json::from_value(serde_json::Value::Object(given)).map(Self),
        }
    }
}

impl PartialSchema for FilterAlone {
    fn schema() -> RefOr<Schema> {
        let mut schema = Filter::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
        schema
    }
}

impl ToSchema for FilterAlone {
    fn name() -> Cow<'static, str> {
        Filter::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Filter::schemas(schemas);
    }
}

/// The requested page of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageRequest {
    pub(crate) newest_first: bool,
    pub(crate) after: Option<Cursor>,
    pub(crate) limit: u16,
    /// The caller accepts a longer scan.
    pub(crate) is_patient: bool,
}

/// The order of a list: by `created_at`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    #[default]
    Newest,
    Oldest,
}

/// The page of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct PageQuery {
    /// Newest first, or oldest first.
    #[param(inline)]
    pub(crate) order: Order,
    /// `next` of the previous page.
    #[param(inline)]
    pub(crate) after: Option<Cursor>,
    /// Events on a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub(crate) limit: Option<u16>,
    /// Scan up to ten seconds instead of 40 ms for events that no index finds.
    #[param(inline)]
    pub(crate) patient: bool,
}

impl PageQuery {
    /// # Errors
    /// If `limit` is out of range.
    pub(crate) fn wanted(&self) -> Result<PageRequest, String> {
        let newest_first = self.order == Order::Newest;
        Ok(PageRequest { newest_first, after: self.after, limit: checked_limit(self.limit)?, is_patient: self.patient })
    }
}

/// The page of the list of operators' changes.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct AuditQuery {
    /// `next` of the previous page.
    pub(crate) before: Option<i64>,
    /// Changes on a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
}

impl AuditQuery {
    /// # Errors
    /// If `limit` is out of range.
    pub(crate) fn limit(self) -> Result<u16, String> {
        checked_limit(self.limit)
    }
}

/// An action on events, without the reason of `fail` and the backend of `move`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ActionName {
    /// Makes events pending again, as if never rejected; not published ones.
    Retry,
    /// Marks events as failed; not published ones. If the filter has no status, not failed ones, which would lose their
    /// error.
    Fail,
    /// Publishes events again; only published ones.
    Replay,
    /// Deletes events for good, whatever their status.
    Delete,
    /// Gives events to another backend; not published ones.
    Move,
}

impl ActionName {
    /// The action, to count the events that it would change.
    pub(crate) fn counted(self) -> Action {
        match self {
            Self::Retry => Action::Retry,
            Self::Fail => Action::Fail { reason: String::new() },
            Self::Replay => Action::Replay,
            Self::Delete => Action::Delete,
            Self::Move => Action::Move { to: String::new() },
        }
    }
}

/// An action on a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BackendAction {
    /// No worker sends events to it until it is resumed.
    Pause,
    /// Ends a pause.
    Resume,
}

/// A change of a backend.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackendChange {
    #[schema(inline)]
    pub(crate) action: BackendAction,
    /// The publisher's name.
    #[serde(deserialize_with = "name")]
    #[schema(pattern = "^[^\\x00]*$")]
    pub(crate) name: String,
    /// `pause`: why, for other operators; its first 500 characters are stored.
    #[serde(default)]
    pub(crate) reason: String,
}

impl From<&Filter> for EventFilter {
    fn from(filter: &Filter) -> Self {
        let Filter { status, event_type, source, subject, backend, key, since, until } = filter.clone();
        Self {
            statuses: status.into_iter().collect(),
            event_type,
            source,
            subject,
            backend,
            key,
            created_since: since,
            created_until: until,
            ..Self::default()
        }
    }
}

/// A position in the list, as in a link: the database's microseconds and the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^-?[0-9]{1,19}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
pub(crate) struct Cursor(pub(super) CreatedCursor);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.to_string()
    }
}

impl TryFrom<String> for Cursor {
    type Error = InvalidCursor;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

fn known_status<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Status>, D::Error> {
    let given = Option::<String>::deserialize(deserializer)?;
    given.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

pub(super) fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if text.contains('\0') => {
            Err(serde::de::Error::custom("the text contains the character NUL, which no event does"))
        }
        text => Ok(text),
    }
}

fn name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match String::deserialize(deserializer)? {
        name if name.contains('\0') => {
            Err(serde::de::Error::custom("the name contains the character NUL, which no backend's name does"))
        }
        name => Ok(name),
    }
}

fn moment<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let given = Option::<String>::deserialize(deserializer)?;
    let moment = |text: String| {
        time(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("{text:?} is not a valid time, such as 2026-01-31T12:00:00Z"))
        })
    };
    given.map(moment).transpose()
}

/// Parses RFC 3339, or the value of a browser's field for date and time.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let exact = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    let naive = || {
        let formats = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%.f"];
        formats.iter().find_map(|format| chrono::NaiveDateTime::parse_from_str(text, format).ok())
    };
    // Not every database knows other years.
    let years = 1..=9_999;
    exact.or_else(|| Some(naive()?.and_utc())).filter(|time| years.contains(&time.year()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(json: serde_json::Value) -> Result<Filter, serde_json::Error> {
        serde_json::from_value(json)
    }

    #[test]
    fn what_is_left_out_does_not_filter_and_what_is_empty_means_nothing_there() {
        let given = serde_json::json!({
            "status": null, "key": "k", "subject": "", "since": "2026-01-31T12:00", "until": "2026-01-31T13:00:00+01:00"
        });
        let given = filter(given).unwrap();
        assert!(given.status.is_none() && given.event_type.is_none() && given.source.is_none());
        assert_eq!((given.key.as_deref(), given.subject.as_deref()), (Some("k"), Some("")));
        assert_eq!(given.since, given.until);
    }

    #[test]
    fn a_misspelt_filter_means_nothing_rather_than_everything() {
        let alone = |json| serde_json::from_value::<FilterAlone>(json);
        assert!(alone(serde_json::json!({"status": "failed", "key": null})).is_ok());
        let error = alone(serde_json::json!({"stauts": "failed"})).unwrap_err();
        assert!(error.to_string().contains("stauts"), "{error}");
        for name in serde_json::to_value(Filter::schema()).unwrap()["properties"].as_object().unwrap().keys() {
            assert!(Filter::NAMES.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn what_no_event_can_be_like_is_refused() {
        assert!(filter(serde_json::json!({"status": "lost"})).is_err());
        assert!(filter(serde_json::json!({"key": "a\0b"})).is_err());
        for since in ["", "yesterday", "+100000-01-01T00:00", "-0044-03-15T12:00:00Z"] {
            assert!(filter(serde_json::json!({"since": since})).is_err(), "{since}");
        }
    }
}
