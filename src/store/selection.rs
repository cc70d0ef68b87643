//! Which events are meant, and how they are found in the order of their creation.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::event::Status;

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

/// A place in the order of creation, in the database's own microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CreatedCursor {
    pub(crate) created_at: i64,
    pub(crate) id: Uuid,
}

/// A page of events in the order of their creation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    pub(crate) newest_first: bool,
    /// Only what comes after this.
    pub(crate) after: Option<CreatedCursor>,
    pub(crate) limit: i64,
}

impl Page {
    /// Of the order, and of what comes after.
    fn direction(self) -> (&'static str, &'static str) {
        if self.newest_first { ("DESC", "<") } else { ("ASC", ">") }
    }
}

/// What was found among the events that were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanPage {
    pub(crate) places: Vec<CreatedCursor>,
    /// Where looking stopped, if that was before the end of the table.
    pub(crate) stopped_at: Option<CreatedCursor>,
}

impl ScanPage {
    /// From the rows of an examination, with whether they are meant.
    pub(super) fn of(page: Page, rows: impl IntoIterator<Item = (CreatedCursor, bool)>) -> Self {
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

/// A value that a query compares with; each database binds it in its own type.
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
/// Only what is given becomes part of the text, and a status as a literal, so that the planner can use partial indexes.
pub(super) struct Query {
    pub(super) sql: String,
    pub(super) values: Vec<Comparand>,
    /// How the database names the n-th value, from 1.
    placeholder: fn(usize) -> String,
}

impl Query {
    fn new(placeholder: fn(usize) -> String) -> Self {
        Self { sql: String::new(), values: Vec::new(), placeholder }
    }

    /// The name of one more value.
    fn bind(&mut self, value: Comparand) -> String {
        self.values.push(value);
        (self.placeholder)(self.values.len())
    }

    /// `comparison` with a value, where there is one.
    fn compare<T>(&mut self, comparison: &str, value: Option<&T>, of: impl Fn(T) -> Comparand) -> Option<String>
    where
        T: Clone,
    {
        value.map(|value| format!("{comparison} {}", self.bind(of(value.clone()))))
    }
}

fn all_of(conditions: &[String]) -> String {
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

fn one_of(statuses: &[Status]) -> String {
    let named: Vec<String> = statuses.iter().map(|status| format!("'{status}'")).collect();
    format!("e.status IN ({})", named.join(", "))
}

impl EventFilter {
    /// Events that are not published have an index by their status. Most are published, so they are met on a walk through
    /// all.
    fn goes_by_status(&self) -> bool {
        !self.statuses.is_empty() && !self.statuses.contains(&Status::Published)
    }

    /// The query that counts those that are meant.
    pub(super) fn counting(&self, placeholder: fn(usize) -> String) -> Query {
        let mut query = Query::new(placeholder);
        let mut conditions = [self.created(&mut query), self.others(&mut query)].concat();
        if self.goes_by_status() {
            conditions.push(one_of(&self.statuses));
        }
        query.sql = format!("SELECT count(*) AS count FROM outbox_events AS e WHERE {}", all_of(&conditions));
        query
    }

    /// The query for the places of those that are meant.
    pub(super) fn selection(&self, page: Page, placeholder: fn(usize) -> String) -> Query {
        let mut query = Query::new(placeholder);
        let conditions = [self.created(&mut query), self.others(&mut query)].concat();
        query.sql = self.walk(&mut query, page, conditions, "e.id, e.created_at", page.limit);
        query
    }

    /// The query that looks at `most` events from a page's beginning on. It answers what is meant among them, as rows with
    /// `meant` set, and, where looking stopped before the end of the table, the last one that was looked at, without.
    pub(super) fn examination(&self, page: Page, most: i64, placeholder: fn(usize) -> String) -> Query {
        let mut query = Query::new(placeholder);
        let columns = format!("e.id, e.created_at, ({}) AS meant", all_of(&self.others(&mut query)));
        let range = self.created(&mut query);
        let walk = self.walk(&mut query, page, range, &columns, most);
        let (direction, _) = page.direction();
        let order = format!("ORDER BY created_at {direction}, id {direction}");
        query.sql = format!(
            "WITH seen AS MATERIALIZED ({walk}) \
             SELECT id, created_at, meant FROM (\
                SELECT id, created_at, true AS meant FROM seen WHERE meant {order} LIMIT {}) AS found \
             UNION ALL SELECT id, created_at, meant FROM (\
                SELECT id, created_at, false AS meant FROM seen {order} LIMIT 1 OFFSET {}) AS stopped",
            page.limit,
            most - 1,
        );
        query
    }

    /// When they were created: what a walk keeps to.
    fn created(&self, query: &mut Query) -> Vec<String> {
        let since = query.compare("e.created_at >=", self.created_since.as_ref(), Comparand::Time);
        let until = query.compare("e.created_at <", self.created_until.as_ref(), Comparand::Time);
        since.into_iter().chain(until).collect()
    }

    /// What else is asked of those that are met.
    fn others(&self, query: &mut Query) -> Vec<String> {
        let statuses = (!self.statuses.is_empty() && !self.goes_by_status()).then(|| one_of(&self.statuses));
        let texts = [
            ("e.event_type =", &self.event_type),
            ("e.publisher_backend =", &self.backend),
            ("e.partition_key =", &self.key),
            ("e.source =", &self.source),
            ("e.subject =", &self.subject),
        ];
        let times = [("e.published_at >=", &self.published_since), ("e.published_at <", &self.published_until)];
        let mut conditions: Vec<String> = statuses.into_iter().collect();
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
    /// Each status is walked through by itself: an index by status and time gives an order within one alone.
    fn walk(&self, query: &mut Query, page: Page, mut conditions: Vec<String>, columns: &str, limit: i64) -> String {
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
        if !self.goes_by_status() {
            return one(&conditions);
        }
        // The second condition follows from the first, but not every planner sees that this index is one of such events.
        let mut of = |status: &Status| {
            conditions.push(format!("e.status = '{status}' AND e.status <> 'published'"));
            let sql = one(&conditions);
            conditions.pop();
            sql
        };
        match self.statuses.as_slice() {
            [status] => of(status),
            statuses => {
                let each: Vec<String> =
                    statuses.iter().map(of).map(|of| format!("SELECT * FROM ({of}) AS of_one")).collect();
                format!(
                    "SELECT * FROM ({}) AS each_status ORDER BY created_at {direction}, id {direction} LIMIT {limit}",
                    each.join(" UNION ALL ")
                )
            }
        }
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
    fn a_filter_names_what_is_given_alone() {
        let everything = EventFilter::default().selection(PAGE, numbered);
        let expected = "SELECT e.id, e.created_at FROM outbox_events AS e WHERE true \
                        ORDER BY e.created_at DESC, e.id DESC LIMIT 9";
        assert_eq!((everything.sql.as_str(), everything.values.len()), (expected, 0));
        let filter = EventFilter {
            statuses: vec![Status::Published, Status::Retry],
            backend: Some("orders".to_owned()),
            created_until: Some(DateTime::UNIX_EPOCH),
            ..EventFilter::default()
        };
        let counting = filter.counting(numbered);
        let expected = "SELECT count(*) AS count FROM outbox_events AS e WHERE e.created_at < $1 \
                        AND e.status IN ('published', 'retry') AND e.publisher_backend = $2";
        assert_eq!((counting.sql.as_str(), counting.values.len()), (expected, 2));
    }

    #[test]
    fn events_that_are_not_published_are_walked_through_status_by_status() {
        let of = |statuses: &[Status]| EventFilter { statuses: statuses.to_vec(), ..EventFilter::default() };
        let two = of(&[Status::Failed, Status::Retry]).selection(PAGE, numbered).sql;
        assert_eq!(two.matches("LIMIT 9").count(), 3, "{two}");
        assert!(two.contains("e.status = 'failed' AND e.status <> 'published'"), "{two}");
        assert!(two.contains(" UNION ALL "), "{two}");
        let published = of(&[Status::Failed, Status::Published]).selection(PAGE, numbered).sql;
        assert!(!published.contains("UNION ALL"), "{published}");
    }
}
