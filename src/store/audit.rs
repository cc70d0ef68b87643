//! Operators' changes as the table `outbox_audit` records them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{Action, Resolution};

/// The ids that one row names, at most; it counts all.
const MOST_IDS: usize = 1_000;

/// The longest text of a row in characters.
const LONGEST_TEXT: usize = 2_000;

/// Rows deleted in one transaction, at most.
pub(crate) const EXPIRED_AT_ONCE: i64 = 1_000;

/// How long rows are kept: as long as the history.
pub(crate) fn kept_for() -> Duration {
    Resolution::Hour.kept_for()
}

/// Who changes events, and what they selected.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditNote {
    who: String,
    from: String,
    filter: Option<String>,
}

impl AuditNote {
    /// `filter`: `None` if the events were selected by their ids.
    pub(crate) fn new(who: &str, from: &str, filter: Option<String>) -> Self {
        Self { who: bounded(who), from: bounded(from), filter: filter.as_deref().map(bounded) }
    }

    /// The row about these events, of which there is at least one.
    pub(crate) fn row(&self, action: &Action, changed: &[Uuid]) -> AuditRow {
        let reason = match action {
            Action::Fail { reason } => bounded(reason),
            Action::Move { to } => format!("to {to:?}"),
            Action::Retry | Action::Replay | Action::Delete => String::new(),
        };
        AuditRow {
            note: self.clone(),
            action: action.name(),
            events: i64::try_from(changed.len()).unwrap_or(i64::MAX),
            ids: changed.iter().take(MOST_IDS).copied().collect(),
            reason,
        }
    }

    /// The row about dead letters, of which there is at least one.
    #[cfg(feature = "consumer")]
    pub(crate) fn letters_row(&self, action: &'static str, letters: usize, names: &str) -> AuditRow {
        let events = i64::try_from(letters).unwrap_or(i64::MAX);
        AuditRow { note: self.clone(), action, events, ids: Vec::new(), reason: bounded(names) }
    }

    /// The row about a backend.
    pub(crate) fn backend_row(&self, action: &'static str, reason: &str) -> AuditRow {
        AuditRow { note: self.clone(), action, events: 0, ids: Vec::new(), reason: bounded(reason) }
    }
}

/// A row to be written.
#[derive(Debug, Clone)]
pub(crate) struct AuditRow {
    note: AuditNote,
    pub(crate) action: &'static str,
    pub(crate) events: i64,
    pub(crate) ids: Vec<Uuid>,
    pub(crate) reason: String,
}

impl AuditRow {
    pub(crate) fn who(&self) -> &str {
        &self.note.who
    }

    pub(crate) fn from(&self) -> &str {
        &self.note.from
    }

    pub(crate) fn filter(&self) -> Option<&str> {
        self.note.filter.as_deref()
    }
}

/// A change that an operator made to events, to dead letters or to a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its number; later changes have greater ones.
    pub id: i64,
    /// When, by the database's clock.
    pub at: DateTime<Utc>,
    /// Who: a name, a role or a program.
    pub who: String,
    /// From where: an address or a host's name; empty if unknown.
    pub from: String,
    /// What was done: `retry`, `fail`, `replay`, `delete` or `move` to events, `pause` or `resume` to a backend,
    /// `retry_dead` or `delete_dead` to a consumer's dead letters.
    pub action: String,
    /// The filter that selected the events, the backend, or the consumer; `None` if events were selected by their ids.
    pub filter: Option<String>,
    /// How many events or dead letters were changed; none by a pause or its end.
    pub events: u64,
    /// The ids of the events that were changed: the first 1,000.
    pub ids: Vec<Uuid>,
    /// The reason of `fail` and `pause`, where events were moved, or the first dead letters that were changed; else empty.
    pub reason: String,
}

/// A text that every database stores.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(LONGEST_TEXT).collect()
}
