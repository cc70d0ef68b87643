//! What a form or a request says is meant: which events, from where in the list on, and what is to be done to them.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::event::Status;
use crate::store::{Change, EventFilter, Place};

/// Why events are failed, in characters: it is kept with each of them.
const LONGEST_REASON: usize = 500;

/// Which events are meant. What is empty or left out does not filter.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct Filter {
    /// pending, processing, retry, published or failed
    #[serde(deserialize_with = "some_status", skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
    #[serde(rename = "type", deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub(crate) event_type: Option<String>,
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    /// The event's `publisher_backend`.
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub(crate) backend: Option<String>,
    /// The partition key.
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Created at this time or later: RFC 3339, in UTC where no offset is given.
    #[serde(deserialize_with = "some_time", skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<DateTime<Utc>>,
    /// Created before this time.
    #[serde(deserialize_with = "some_time", skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<DateTime<Utc>>,
}

/// What is to be done to events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Pending again, as if never rejected; not a published one.
    Retry,
    /// Given up; not a published one.
    Fail,
    /// Published once more; only a published one.
    Replay,
}

impl Action {
    pub(super) fn change(self, reason: &str) -> Change {
        match self {
            Self::Retry => Change::Retry,
            Self::Fail => Change::Fail { reason: reason.chars().filter(|c| *c != '\0').take(LONGEST_REASON).collect() },
            Self::Replay => Change::Replay,
        }
    }

    /// The statuses in which it does anything.
    fn statuses(self) -> &'static [Status] {
        match self {
            Self::Retry => &[Status::Failed, Status::Retry, Status::Processing],
            Self::Fail => &[Status::Pending, Status::Retry, Status::Processing, Status::Failed],
            Self::Replay => &[Status::Published],
        }
    }

    /// Which of the events that are meant it does anything to; none: to none.
    pub(super) fn filter(self, filter: &Filter) -> Option<EventFilter> {
        let statuses = self.statuses().iter().copied();
        let statuses: Vec<Status> = statuses.filter(|status| filter.status.is_none_or(|one| one == *status)).collect();
        (!statuses.is_empty()).then(|| EventFilter { statuses, ..filter.into() })
    }
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

/// A place in the list, as a link holds it: microseconds since 1970 and the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor(pub(super) Place);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.0.created_at, self.0.id)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (created_at, id) = text.split_once('_')?;
            Some(Place { created_at: created_at.parse().ok()?, id: id.parse().ok()? })
        };
        parsed().map(Self).ok_or("is no place in the list: take it from `next` of the page before")
    }
}

// A form sends what was left empty as an empty text.

fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    match text {
        Some(text) if text.contains('\0') => Err(serde::de::Error::custom("no event holds the character NUL")),
        text => Ok(text),
    }
}

fn some_status<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Status>, D::Error> {
    let text = some(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

fn some_time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text = some(deserializer)?;
    text.map(|text| time(&text).ok_or_else(|| serde::de::Error::custom("is no time, such as 2026-01-31T12:00:00Z")))
        .transpose()
}

/// RFC 3339, or what a browser's field for a time and date gives.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let exact = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    let naive = || {
        let formats = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%.f"];
        formats.iter().find_map(|format| chrono::NaiveDateTime::parse_from_str(text, format).ok())
    };
    exact.or_else(|| Some(naive()?.and_utc()))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_a_form_leaves_empty_does_not_filter() {
        let filter: Filter = serde_json::from_value(serde_json::json!({
            "status": "", "type": "", "key": "k", "since": "2026-01-31T12:00", "until": "2026-01-31T13:00:00+01:00"
        }))
        .unwrap();
        assert!(filter.status.is_none() && filter.event_type.is_none() && filter.source.is_none());
        assert_eq!(filter.key.as_deref(), Some("k"));
        assert_eq!(filter.since, filter.until);
        assert!(serde_json::from_value::<Filter>(serde_json::json!({"status": "lost"})).is_err());
        assert!(serde_json::from_value::<Filter>(serde_json::json!({"since": "yesterday"})).is_err());
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let cursor = Cursor(Place { created_at: -5, id: Uuid::from_u128(7) });
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in ["", "_", "5", "5_", "x_00000000-0000-0000-0000-000000000007", "99999999999999999999_0"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_action_means_only_what_it_can_change() {
        let of = |action: Action, status| {
            action.filter(&Filter { status, ..Filter::default() }).map(|filter| filter.statuses)
        };
        assert_eq!(of(Action::Replay, None), Some(vec![Status::Published]));
        assert_eq!(of(Action::Replay, Some(Status::Failed)), None);
        assert_eq!(of(Action::Retry, Some(Status::Published)), None);
        assert_eq!(of(Action::Retry, Some(Status::Failed)), Some(vec![Status::Failed]));
    }
}
