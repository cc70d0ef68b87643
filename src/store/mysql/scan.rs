//! Looks through events in the order of their creation.

use diesel::sql_types::{BigInt, Bool, Text};
use uuid::Uuid;

use super::clock::{FIRST_TIME, limited, micros_or_first, time};
use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value};
use crate::event::Status;
use crate::store::{CreatedCursor, EventFilter, Page, ScanPage};

/// The matching events among the first `most` ones of a page.
pub(super) async fn scan(
    session: &mut Session<'_>,
    filter: &EventFilter,
    page: Page,
    most: i64,
) -> Result<ScanPage, Failure> {
    let (mut found, mut read, mut last) = (Vec::new(), 0, None);
    let mut unreadable = None;
    let query = Scan { filter, page, most }.query();
    let take = |(id, created_at, matches): (String, i64, bool)| {
        let Ok(id) = Uuid::try_parse(&id) else {
            unreadable = Some(id);
            return false;
        };
        let place = CreatedCursor { created_at, id };
        read += 1;
        last = Some(place);
        if matches {
            found.push((place, true));
        }
        i64::try_from(found.len()).is_ok_and(|found| found < page.limit)
    };
    session.load_while(query, take).await?;
    if unreadable.is_some() {
        return Err(Failure::client("an event's id is not a UUID"));
    }
    found.extend(last.filter(|_| read >= most).map(|last| (last, false)));
    Ok(ScanPage::from_rows(page, found))
}

struct Scan<'a> {
    filter: &'a EventFilter,
    page: Page,
    most: i64,
}

/// The statuses of `outbox_events_listed`. Most events have another one, and are found by a scan through all.
fn is_listed(status: &Status) -> bool {
    !matches!(status, Status::Pending | Status::Published)
}

impl Scan<'_> {
    /// Each status is scanned separately: the index is ordered by time within one status only.
    fn query(&self) -> Statement<(Text, BigInt, Bool)> {
        let statuses = &self.filter.statuses;
        if statuses.is_empty() || !statuses.iter().all(is_listed) {
            let mut others = Vec::new();
            if !statuses.is_empty() {
                let named: Vec<String> = statuses.iter().map(|status| format!("'{status}'")).collect();
                others.push(format!("e.status IN ({})", named.join(", ")));
            }
            let (sql, values) = self.one("outbox_events_created", Vec::new(), others);
            return Statement::built(sql, values);
        }
        let (mut parts, mut values) = (Vec::new(), Vec::new());
        for status in statuses {
            let (sql, more) =
                self.one("outbox_events_listed", vec![format!("e.listed_status = '{status}'")], Vec::new());
            parts.push(format!("({sql})"));
            values.extend(more);
        }
        let (direction, most) = (self.direction(), self.most);
        let sql = format!("{} ORDER BY created {direction}, id {direction} LIMIT {most}", parts.join(" UNION ALL "));
        Statement::built(sql, values)
    }

    fn direction(&self) -> &'static str {
        if self.page.newest_first { "DESC" } else { "ASC" }
    }

    /// Reads one index. `range` bounds the scan; `others` only tell which of the events are meant.
    fn one(&self, index: &str, mut range: Vec<String>, mut others: Vec<String>) -> (String, Vec<Value>) {
        let filter = self.filter;
        let mut values: Vec<Value> = Vec::new();
        for (column, text) in [
            ("event_type", &filter.event_type),
            ("publisher_backend", &filter.backend),
            ("partition_key", &filter.key),
            ("source", &filter.source),
            ("subject", &filter.subject),
        ] {
            others.extend(text.is_some().then(|| format!("e.{column} = ?")));
            values.extend(text.as_deref().map(Value::from));
        }
        for (comparison, moment) in
            [("published_at >=", filter.published_since), ("published_at <", filter.published_until)]
        {
            others.extend(moment.map(|_| format!("e.{comparison} {}", time!())));
            values.extend(moment.map(|moment| Value::from(limited(moment.timestamp_micros()))));
        }
        for (comparison, moment) in [("created_at >=", filter.created_since), ("created_at <", filter.created_until)] {
            range.extend(moment.map(|_| format!("e.{comparison} {}", time!())));
            values.extend(moment.map(|moment| Value::from(limited(moment.timestamp_micros()))));
        }
        let comparison = if self.page.newest_first { "<" } else { ">" };
        match self.page.after {
            // Times that do not exist are before all others.
            Some(CreatedCursor { created_at: i64::MIN, id }) => {
                range.push(match self.page.newest_first {
                    true => format!("e.created_at < {FIRST_TIME} AND e.id < ?"),
                    false => format!("(e.created_at >= {FIRST_TIME} OR e.id > ?)"),
                });
                values.push(id.into());
            }
            Some(CreatedCursor { created_at, id }) => {
                range.push(format!(
                    "e.created_at {comparison}= {time} AND (e.created_at {comparison} {time} OR e.id {comparison} ?)",
                    time = time!()
                ));
                values.extend([limited(created_at).into(), limited(created_at).into(), id.into()]);
            }
            None => {}
        }
        let (direction, most) = (self.direction(), self.most);
        let sql = format!(
            "SELECT CAST(e.id AS char), {} AS created, COALESCE({}, FALSE) AS meant, e.id FROM outbox_events e FORCE INDEX ({index}) \
             WHERE {} ORDER BY e.created_at {direction}, e.id {direction} LIMIT {most}",
            micros_or_first!("e.created_at"),
            all_of(&others),
            all_of(&range)
        );
        (sql, values)
    }
}

fn all_of(conditions: &[String]) -> String {
    if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" AND ") }
}
