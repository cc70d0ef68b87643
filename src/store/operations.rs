//! What people and retention ask for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::report::by_lane;
use super::{Lane, LaneReport, Position};
use crate::event::Status;
use crate::settings::RetentionSettings;

/// Which events are meant; what is not given does not filter.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventFilter {
    /// None: any.
    pub(crate) statuses: Vec<Status>,
    pub(crate) event_type: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) subject: Option<String>,
    /// Not created before.
    pub(crate) created_since: Option<DateTime<Utc>>,
    /// Created before.
    pub(crate) created_until: Option<DateTime<Utc>>,
    /// Not published before.
    pub(crate) published_since: Option<DateTime<Utc>>,
    /// Published before.
    pub(crate) published_until: Option<DateTime<Utc>>,
}

/// A value that a filter compares with; each database binds it in its own type.
#[derive(Debug, Clone)]
pub(super) enum Comparand {
    Text(String),
    Time(DateTime<Utc>),
}

impl EventFilter {
    /// The filter as a condition on `outbox_events e`, and its values in their order. `placeholder` names the n-th value,
    /// from 1.
    ///
    /// Only what is given becomes part of the text, and a status as a literal, so that the planner can use partial indexes.
    pub(super) fn condition(&self, placeholder: impl Fn(usize) -> String) -> (String, Vec<Comparand>) {
        let mut sql = "true".to_owned();
        let mut values = Vec::new();
        if !self.statuses.is_empty() {
            let named: Vec<String> = self.statuses.iter().map(|status| format!("'{status}'")).collect();
            let _ = write!(sql, " AND e.status IN ({})", named.join(", "));
        }
        let text = |value: &Option<String>| value.clone().map(Comparand::Text);
        for (comparison, value) in [
            ("e.event_type =", text(&self.event_type)),
            ("e.publisher_backend =", text(&self.backend)),
            ("e.partition_key =", text(&self.key)),
            ("e.source =", text(&self.source)),
            ("e.subject =", text(&self.subject)),
            ("e.created_at >=", self.created_since.map(Comparand::Time)),
            ("e.created_at <", self.created_until.map(Comparand::Time)),
            ("e.published_at >=", self.published_since.map(Comparand::Time)),
            ("e.published_at <", self.published_until.map(Comparand::Time)),
        ] {
            if let Some(value) = value {
                values.push(value);
                let _ = write!(sql, " AND {comparison} {}", placeholder(values.len()));
            }
        }
        (sql, values)
    }
}

impl EventFilter {
    /// Whether it names what no index leads to, so that looking for it may take long.
    pub(crate) fn is_narrow(&self) -> bool {
        [&self.event_type, &self.source, &self.subject, &self.backend, &self.key].into_iter().any(Option::is_some)
    }

    /// The query that looks at `most` events from a page's beginning on, its values without those of `page.after`, and
    /// what it answers: what is meant among them, as rows with `meant` set, and, where looking stopped before the end of
    /// the table, the last one that was looked at, without.
    pub(super) fn examination(
        &self,
        page: Page,
        most: i64,
        placeholder: impl Fn(usize) -> String,
    ) -> (String, Vec<Comparand>) {
        let Self { statuses, created_since, created_until, .. } = self.clone();
        let range = Self { statuses, created_since, created_until, ..Self::default() };
        let rest = Self { statuses: Vec::new(), created_since: None, created_until: None, ..self.clone() };
        let (meant, mut values) = rest.condition(&placeholder);
        let before = values.len();
        let (within, more) = range.condition(|n| placeholder(before + n));
        values.extend(more);
        let (direction, comparison) = page.direction();
        let after = page.after.map_or_else(String::new, |_| {
            let [time, id] = [1, 2].map(|n| placeholder(values.len() + n));
            format!(" AND (e.created_at, e.id) {comparison} ({time}, {id})")
        });
        let order = |table: &str| format!("ORDER BY {table}created_at {direction}, {table}id {direction}");
        let sql = format!(
            "WITH seen AS MATERIALIZED (SELECT e.id, e.created_at, ({meant}) AS meant FROM outbox_events AS e \
                WHERE {within}{after} {} LIMIT {most}) \
             SELECT id, created_at, meant FROM (\
                SELECT id, created_at, true AS meant FROM seen WHERE meant {order} LIMIT {}) AS found \
             UNION ALL SELECT id, created_at, meant FROM (\
                SELECT id, created_at, false AS meant FROM seen {order} LIMIT 1 OFFSET {}) AS stopped",
            order("e."),
            page.limit,
            most - 1,
            order = order("")
        );
        (sql, values)
    }
}

/// What was found among the events that were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Examined {
    pub(crate) places: Vec<Place>,
    /// Where looking stopped, if that was before the end of the table.
    pub(crate) stopped_at: Option<Place>,
}

impl Examined {
    /// From the rows of an examination, with whether they are meant.
    pub(super) fn of(page: Page, rows: impl IntoIterator<Item = (Place, bool)>) -> Self {
        let (mut places, mut stopped_at) = (Vec::new(), None);
        for (place, meant) in rows {
            if meant { places.push(place) } else { stopped_at = Some(place) }
        }
        places.sort_unstable();
        if page.newest_first {
            places.reverse();
        }
        Self { places, stopped_at }
    }
}

/// A place in the order of creation, in the database's own microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) created_at: i64,
    pub(crate) id: Uuid,
}

/// A page of events in the order of their creation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    pub(crate) newest_first: bool,
    /// Only what comes after this.
    pub(crate) after: Option<Place>,
    pub(crate) limit: i64,
}

impl Page {
    /// Of the order, and of what comes after.
    pub(super) fn direction(self) -> (&'static str, &'static str) {
        if self.newest_first { ("DESC", "<") } else { ("ASC", ">") }
    }
}

/// A row that is no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) id: Uuid,
    /// Where that at least is one.
    pub(crate) status: Option<Status>,
    pub(crate) reason: String,
}

/// What a person does to an event.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Pending again, as if it had never been rejected; in its old place. Not a published one.
    Retry,
    /// Failed, for this reason, and not holding its key. Not a published one.
    Fail { reason: String },
    /// Published again, as a new event of the old id. Only a published one.
    Replay,
}

/// What retention deletes: what is older than this; `None` keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expiry {
    pub(crate) published: Option<Duration>,
    pub(crate) failed: Option<Duration>,
    /// At most so many at once.
    pub(crate) limit: i64,
}

/// Deleted in one transaction, so that nobody waits for it.
const EXPIRED_AT_ONCE: i64 = 1_000;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl From<RetentionSettings> for Expiry {
    fn from(retention: RetentionSettings) -> Self {
        Self {
            published: retention.cleanup_published.then_some(DAY * retention.published_retention_days),
            failed: Some(DAY * retention.failed_retention_days),
            limit: EXPIRED_AT_ONCE,
        }
    }
}

/// The outbox at a glance.
#[derive(Debug, Clone)]
pub(crate) struct Overview {
    /// Events of each status that the table holds.
    pub(crate) counts: Vec<(String, i64)>,
    pub(crate) due: Vec<Due>,
    pub(crate) workers: Vec<WorkerRow>,
}

/// What is due of a lane.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    pub(crate) lane: Lane,
    pub(crate) events: i64,
    /// Since when the first one is.
    pub(crate) oldest: Duration,
}

/// How many events before one are counted, at most; a few less may be where they are spread unevenly.
pub(crate) const MOST_AHEAD: i64 = 10_000;

/// Where an event stands among the others.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// By the database's clock.
    pub(crate) now: DateTime<Utc>,
    pub(crate) position: Position,
    pub(crate) shard: i16,
    /// The worker that has the lease of its shard.
    pub(crate) owner: Option<Uuid>,
    /// Pending events of its lane that come before it.
    pub(crate) ahead: i64,
    /// There may be more of them: counting ended at [`MOST_AHEAD`].
    pub(crate) more_ahead: bool,
}

/// A worker that has said something of itself lately, alive or not.
#[derive(Debug, Clone)]
pub(crate) struct WorkerRow {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) heartbeat_at: DateTime<Utc>,
    /// By the database's clock.
    pub(crate) silent_for: Duration,
    /// A JSON object: lane → [`LaneReport`](super::LaneReport).
    pub(crate) backends: String,
    /// Shards of each lane whose lease it has.
    pub(crate) shards: Vec<(Lane, i64)>,
}

impl WorkerRow {
    /// Who holds a lease that runs is alive, too, whatever lease time it has in its settings.
    pub(crate) fn is_alive(&self, lease: Duration) -> bool {
        self.silent_for < lease || !self.shards.is_empty()
    }

    /// What it says of each lane that it serves.
    pub(crate) fn reports(&self) -> BTreeMap<String, LaneReport> {
        by_lane(&self.backends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_what_is_given_alone() {
        let numbered = |n: usize| format!("${n}");
        assert_eq!(EventFilter::default().condition(numbered).0, "true");
        let filter = EventFilter {
            statuses: vec![Status::Pending, Status::Retry],
            backend: Some("orders".to_owned()),
            published_since: Some(DateTime::UNIX_EPOCH),
            ..EventFilter::default()
        };
        let (sql, values) = filter.condition(numbered);
        let expected =
            "true AND e.status IN ('pending', 'retry') AND e.publisher_backend = $1 AND e.published_at >= $2";
        assert_eq!((sql.as_str(), values.len()), (expected, 2));
    }
}
