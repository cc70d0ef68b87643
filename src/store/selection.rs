//! Filters of events, and their queries in the order of creation.

use std::fmt;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::CreatedCursor;
use crate::event::Status;

/// A filter of events; fields that are not given do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Events in one of these; empty: in any.
    pub statuses: Vec<Status>,
    /// Events of this type.
    pub event_type: Option<String>,
    /// Events with this `publisher_backend`; `""`: those that name none.
    pub backend: Option<String>,
    /// Events with this partition key.
    pub key: Option<String>,
    /// Events from this source.
    pub source: Option<String>,
    /// Events with this subject.
    pub subject: Option<String>,
    /// Events created at or after this time.
    pub created_since: Option<DateTime<Utc>>,
    /// Events created before this time.
    pub created_until: Option<DateTime<Utc>>,
    /// Events published at or after this time.
    pub published_since: Option<DateTime<Utc>>,
    /// Events published before this time.
    pub published_until: Option<DateTime<Utc>>,
}

/// `status=failed type=user.created`: the fields that are given; `all events` if none is.
impl fmt::Display for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses = self.statuses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let texts = [
            ("status", (!statuses.is_empty()).then_some(statuses)),
            ("type", self.event_type.clone()),
            ("backend", self.backend.clone()),
            ("key", self.key.clone()),
            ("source", self.source.clone()),
            ("subject", self.subject.clone()),
            ("created_since", self.created_since.map(|time| time.to_rfc3339())),
            ("created_until", self.created_until.map(|time| time.to_rfc3339())),
            ("published_since", self.published_since.map(|time| time.to_rfc3339())),
            ("published_until", self.published_until.map(|time| time.to_rfc3339())),
        ];
        let given = texts.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        let given: Vec<String> = given.collect();
        f.write_str(if given.is_empty() { "all events" } else { "" })?;
        f.write_str(&given.join(" "))
    }
}

/// A page of events in the order of their creation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    pub(crate) newest_first: bool,
    /// Only events after this one.
    pub(crate) after: Option<CreatedCursor>,
    pub(crate) limit: i64,
}

impl Page {
    /// The direction of the order, and the comparison for events after the cursor.
    fn direction(self) -> (&'static str, &'static str) {
        if self.newest_first { ("DESC", "<") } else { ("ASC", ">") }
    }
}

/// The matching events among those that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanPage {
    pub(crate) places: Vec<CreatedCursor>,
    /// The last event that was read, if that was before the end of the table.
    pub(crate) stopped_at: Option<CreatedCursor>,
}

impl ScanPage {
    /// Collects the rows of a scan, each with whether it matches.
    pub(super) fn from_rows(page: Page, rows: impl IntoIterator<Item = (CreatedCursor, bool)>) -> Self {
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

/// A value in a comparison; each database binds it as its own type.
#[derive(Debug, Clone)]
pub(super) enum Comparand {
    Text(String),
    Time(DateTime<Utc>),
    /// In the database's own microseconds.
    Moment(i64),
    Id(Uuid),
}

/// A query over `outbox_events e`, and its values in their order.
///
/// Only given conditions become text, and a status becomes a literal, so that the planner can use partial indexes.
pub(super) struct Query {
    pub(super) sql: String,
    pub(super) values: Vec<Comparand>,
    /// The database's name of the n-th value, from 1.
    placeholder: fn(usize) -> String,
}

impl Query {
    fn new(placeholder: fn(usize) -> String) -> Self {
        Self { sql: String::new(), values: Vec::new(), placeholder }
    }

    /// Binds one more value and returns its name.
    fn bind(&mut self, value: Comparand) -> String {
        self.values.push(value);
        (self.placeholder)(self.values.len())
    }

    /// Compares with a value, if there is one.
    fn compare<T>(&mut self, comparison: &str, value: Option<&T>, comparand: impl Fn(T) -> Comparand) -> Option<String>
    where
        T: Clone,
    {
        value.map(|value| format!("{comparison} {}", self.bind(comparand(value.clone()))))
    }
}

fn all_of(conditions: &[String]) -> String {
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

/// The conditions that divide events by their status, each as an index by status and time needs it: one index has the
/// published events, another one the rest, and that one is ordered by time within one status only.
fn by_status(statuses: &[Status]) -> Vec<String> {
    if !statuses.is_empty() {
        let named: Vec<Status> = Status::ALL.into_iter().filter(|status| statuses.contains(status)).collect();
        return named.into_iter().map(of_status).collect();
    }
    Status::ALL.into_iter().map(of_status).chain(of_no_known_status()).collect()
}

fn of_status(status: Status) -> String {
    match status {
        Status::Published => "e.status = 'published'".to_owned(),
        // The second condition follows from the first, but not every planner then sees that the partial index applies.
        status => format!("e.status = '{status}' AND e.status <> 'published'"),
    }
}

/// Events of statuses that only another writer knows: those before, between and after the known ones.
fn of_no_known_status() -> impl Iterator<Item = String> {
    let mut known = Status::ALL.map(Status::as_str);
    known.sort_unstable();
    let after = known.map(|status| Some(format!("e.status > '{status}'")));
    let before = known.map(|status| Some(format!("e.status < '{status}'")));
    let after = std::iter::once(None).chain(after);
    let ranges = after.zip(before.into_iter().chain([None]));
    ranges.map(|(after, before)| {
        let bounds: Vec<String> = after.into_iter().chain(before).collect();
        format!("{} AND e.status <> 'published'", bounds.join(" AND "))
    })
}

impl EventFilter {
    /// The query that reads `most` events from a page's start. It returns the matching ones as rows with `meant` set and, if
    /// it stopped before the end of the table, the last event that was read, with `meant` unset.
    pub(super) fn scan_query(&self, page: Page, most: i64, placeholder: fn(usize) -> String) -> Query {
        let mut query = Query::new(placeholder);
        let columns = format!("e.id, e.created_at, ({}) AS meant", all_of(&self.others(&mut query)));
        let range = self.created(&mut query);
        let scan = self.scan_sql(&mut query, page, range, &columns, most);
        let (direction, _) = page.direction();
        let order = format!("ORDER BY created_at {direction}, id {direction}");
        query.sql = format!(
            "WITH seen AS MATERIALIZED ({scan}) \
             SELECT id, created_at, meant FROM (\
                SELECT id, created_at, true AS meant FROM seen WHERE meant {order} LIMIT {}) AS found \
             UNION ALL SELECT id, created_at, meant FROM (\
                SELECT id, created_at, false AS meant FROM seen {order} LIMIT 1 OFFSET {}) AS stopped",
            page.limit,
            most - 1,
        );
        query
    }

    /// The conditions on the time of creation, which bound a scan.
    fn created(&self, query: &mut Query) -> Vec<String> {
        let since = query.compare("e.created_at >=", self.created_since.as_ref(), Comparand::Time);
        let until = query.compare("e.created_at <", self.created_until.as_ref(), Comparand::Time);
        since.into_iter().chain(until).collect()
    }

    /// The other conditions on the events of a scan.
    fn others(&self, query: &mut Query) -> Vec<String> {
        let texts = [
            ("e.event_type =", &self.event_type),
            ("e.publisher_backend =", &self.backend),
            ("e.partition_key =", &self.key),
            ("e.source =", &self.source),
            ("e.subject =", &self.subject),
        ];
        let times = [("e.published_at >=", &self.published_since), ("e.published_at <", &self.published_until)];
        let mut conditions = Vec::new();
        for (comparison, text) in texts {
            conditions.extend(query.compare(comparison, text.as_ref(), Comparand::Text));
        }
        for (comparison, time) in times {
            conditions.extend(query.compare(comparison, time.as_ref(), Comparand::Time));
        }
        conditions
    }

    /// The query for these columns of the first `limit` events on a page, `id` and `created_at` among them.
    ///
    /// Each status is scanned separately, because indexes are ordered by time within one status only.
    fn scan_sql(
        &self,
        query: &mut Query,
        page: Page,
        mut conditions: Vec<String>,
        columns: &str,
        limit: i64,
    ) -> String {
        let (direction, comparison) = page.direction();
        if let Some(CreatedCursor { created_at, id }) = page.after {
            let (created_at, id) = (query.bind(Comparand::Moment(created_at)), query.bind(Comparand::Id(id)));
            conditions.push(format!("(e.created_at, e.id) {comparison} ({created_at}, {id})"));
        }
        let one = |conditions: &[String]| {
            format!(
                "SELECT {columns} FROM outbox_events AS e WHERE {} \
                 ORDER BY e.created_at {direction}, e.id {direction} LIMIT {limit}",
                all_of(conditions)
            )
        };
        let scans: Vec<String> = by_status(&self.statuses)
            .into_iter()
            .map(|status| {
                conditions.push(status);
                let sql = one(&conditions);
                conditions.pop();
                sql
            })
            .collect();
        if let [scan] = scans.as_slice() {
            return scan.clone();
        }
        let each: Vec<String> = scans.into_iter().map(|rows| format!("SELECT * FROM ({rows}) AS of_one")).collect();
        format!(
            "SELECT * FROM ({}) AS each_status ORDER BY created_at {direction}, id {direction} LIMIT {limit}",
            each.join(" UNION ALL ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(n: usize) -> String {
        format!("${n}")
    }

    const PAGE: Page = Page { newest_first: true, after: None, limit: 9 };

    #[test]
    fn a_query_names_only_the_fields_that_are_given() {
        let everything = EventFilter::default().scan_query(PAGE, 50, numbered);
        let scan = "(SELECT e.id, e.created_at, (true) AS meant FROM outbox_events AS e WHERE e.status = 'published' \
                    ORDER BY e.created_at DESC, e.id DESC LIMIT 50)";
        assert!(everything.sql.contains(scan) && everything.values.is_empty(), "{}", everything.sql);
        let filter = EventFilter {
            statuses: vec![Status::Published, Status::Retry],
            backend: Some("orders".to_owned()),
            created_until: Some(DateTime::UNIX_EPOCH),
            ..EventFilter::default()
        };
        let narrowed = filter.scan_query(PAGE, 50, numbered);
        for status in ["e.status = 'published'", "e.status = 'retry' AND e.status <> 'published'"] {
            let scan = format!(
                "(SELECT e.id, e.created_at, (e.publisher_backend = $1) AS meant FROM outbox_events AS e \
                 WHERE e.created_at < $2 AND {status} ORDER BY"
            );
            assert!(narrowed.sql.contains(&scan), "{}", narrowed.sql);
        }
        assert_eq!(narrowed.values.len(), 2);
        assert_eq!(filter.to_string(), "status=published,retry backend=orders created_until=1970-01-01T00:00:00+00:00");
        assert_eq!(EventFilter::default().to_string(), "all events");
    }

    #[test]
    fn events_are_scanned_status_by_status() {
        let with_statuses = |statuses: &[Status]| EventFilter { statuses: statuses.to_vec(), ..EventFilter::default() };
        let two = with_statuses(&[Status::Failed, Status::Published]).scan_query(PAGE, 50, numbered).sql;
        assert_eq!(two.matches("LIMIT 50").count(), 3, "{two}");
        assert!(two.contains("e.status = 'failed' AND e.status <> 'published'"), "{two}");
        assert_eq!(two.matches(" UNION ALL ").count(), 2, "{two}");
        let one = with_statuses(&[Status::Published]).scan_query(PAGE, 50, numbered).sql;
        assert_eq!(one.matches(" UNION ALL ").count(), 1, "{one}");
    }

    #[test]
    fn the_scan_of_all_events_meets_statuses_that_only_others_know() {
        let ranges: Vec<String> = of_no_known_status().collect();
        let meets = |status: &str| {
            let holds = |condition: &str| {
                let bound = condition.rsplit('\'').nth(1).unwrap();
                match condition.split(' ').nth(1).unwrap() {
                    ">" => status > bound,
                    "<" => status < bound,
                    _ => status != bound,
                }
            };
            ranges.iter().filter(|range| range.split(" AND ").all(holds)).count()
        };
        for status in ["", "cancelled", "lost", "pendinh", "processinh", "quiet", "zapped"] {
            assert_eq!(meets(status), 1, "{status}: {ranges:?}");
        }
        assert!(Status::ALL.iter().all(|status| meets(status.as_str()) == 0), "{ranges:?}");
    }
}
