//! The events that a connection sees, and assertions about them.

use std::fmt::Write;

use diesel::QueryResult;
use diesel::connection::LoadConnection;
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::expected::Expected;
use crate::error::StoreError;
use crate::event::OutboxEvent;
use crate::publish::sealed::Insert;
use crate::publish::{OutboxDatabase, store_error};

/// The most events, and characters of an event's data, that a message shows.
const MOST_SHOWN: usize = 20;
const MOST_DATA: usize = 200;

/// The events of an outbox as a connection sees them, in the order of writing: within a transaction those that it wrote, too.
///
/// Each assertion removes what it found, so [`expect_no_more`](Self::expect_no_more) is about the rest. Messages show the
/// events with their data, which is the test's.
///
/// ```no_run
/// use actix_outbox::testing::{Expected, Published};
/// use diesel_async::{AsyncConnection, AsyncPgConnection};
///
/// # async fn sign_up(conn: &mut AsyncPgConnection, name: &str) -> Result<(), actix_outbox::PublishError> { Ok(()) }
/// # async fn test(conn: &mut AsyncPgConnection) -> Result<(), Box<dyn std::error::Error>> {
/// conn.begin_test_transaction().await?; // never committed
/// sign_up(conn, "Ada").await?;
/// let mut published = Published::read(conn).await?;
/// let event = published.expect_one(Expected::new("user.created").key("Ada"));
/// published.expect_no_more();
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Published {
    events: Vec<OutboxEvent>,
}

impl Published {
    /// Reads all events.
    ///
    /// # Errors
    /// Errors of the database, and a row that is not a valid event.
    pub async fn read<C>(conn: &mut C) -> Result<Self, StoreError>
    where
        C: AsyncConnection,
        C::Backend: OutboxDatabase,
    {
        Self::decode(<C::Backend as Insert>::read_all(conn).await)
    }

    /// Reads all events on a plain diesel connection.
    ///
    /// # Errors
    /// Errors of the database, and a row that is not a valid event.
    pub fn read_blocking<C>(conn: &mut C) -> Result<Self, StoreError>
    where
        C: LoadConnection,
        C::Backend: OutboxDatabase,
    {
        Self::decode(<C::Backend as Insert>::read_all_blocking(conn))
    }

    fn decode(rows: QueryResult<Vec<Result<OutboxEvent, String>>>) -> Result<Self, StoreError> {
        const OPERATION: &str = "read the events";
        let rows = rows.map_err(|error| store_error(OPERATION, &error))?;
        let events: Result<Vec<OutboxEvent>, String> = rows.into_iter().collect();
        let invalid = |reason| StoreError::Query { operation: OPERATION, reason, transient: false };
        Ok(Self { events: events.map_err(invalid)? })
    }

    /// Only those of this CloudEvents source: tests that run side by side on one database have one each.
    #[must_use]
    pub fn of_source(mut self, source: &str) -> Self {
        self.events.retain(|event| event.source == source);
        self
    }

    /// The events that no assertion has removed.
    #[must_use]
    pub fn events(&self) -> &[OutboxEvent] {
        &self.events
    }

    /// Asserts that exactly one event is as expected, and returns it.
    ///
    /// # Panics
    /// If none or several are.
    #[track_caller]
    pub fn expect_one(&mut self, expected: impl Into<Expected>) -> OutboxEvent {
        let mut found = self.expect(1, expected);
        found.remove(0)
    }

    /// Asserts that `count` events are as expected, and returns them.
    ///
    /// # Panics
    /// If fewer or more are.
    #[track_caller]
    pub fn expect(&mut self, count: usize, expected: impl Into<Expected>) -> Vec<OutboxEvent> {
        let expected = expected.into();
        let (found, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.events).into_iter().partition(|event| expected.matches(event));
        self.events = rest;
        if found.len() == count {
            return found;
        }
        let (number, there) = (found.len(), list(&found, None) + &list(&self.events, Some(&expected)));
        panic!("expected {count} published with {expected}; found {number}\n{there}")
    }

    /// Asserts that no event is as expected.
    ///
    /// # Panics
    /// If one is.
    #[track_caller]
    pub fn expect_none(&mut self, expected: impl Into<Expected>) {
        self.expect(0, expected);
    }

    /// Asserts that no event is left.
    ///
    /// # Panics
    /// If one is.
    #[track_caller]
    pub fn expect_no_more(&self) {
        let number = self.events.len();
        assert!(number == 0, "expected no more events; found {number}\n{}", list(&self.events, None));
    }
}

impl Published {
    /// The event for a message, with its last error.
    pub(super) fn describe(&self, id: Uuid) -> String {
        match self.events.iter().find(|event| event.id == id) {
            Some(event) => format!("{}    last error: {:?}", list(std::slice::from_ref(event), None), event.last_error),
            None => format!("no event has the id {id}"),
        }
    }
}

/// A line for each event, with the conditions that it misses.
fn list(events: &[OutboxEvent], expected: Option<&Expected>) -> String {
    let mut text = String::new();
    for event in events.iter().take(MOST_SHOWN) {
        let OutboxEvent { event_type, source, subject, partition_key, publisher_backend, status, .. } = event;
        let data = match (&event.data, &event.data_binary) {
            (Some(data), _) => shorten(data.as_str()),
            (None, Some(bytes)) => format!("{} bytes", bytes.len()),
            (None, None) => "none".to_owned(),
        };
        // Writing to a text cannot fail.
        let _ = write!(text, "  {event_type} from {source}, {status}");
        for (name, value) in [("subject", subject), ("key", partition_key), ("backend", publisher_backend)] {
            if !value.is_empty() {
                let _ = write!(text, ", {name} {value:?}");
            }
        }
        let _ = write!(text, ", data {data}");
        if let Some(missed) = expected.map(|expected| expected.missed_by(event)) {
            let _ = write!(text, "\n    does not have: {}", missed.join(", "));
        }
        text.push('\n');
    }
    if events.len() > MOST_SHOWN {
        let _ = writeln!(text, "  … and {} more", events.len() - MOST_SHOWN);
    }
    text
}

fn shorten(data: &str) -> String {
    match data.char_indices().nth(MOST_DATA) {
        Some((at, _)) => format!("{}…", &data[..at]),
        None => data.to_owned(),
    }
}

/// Asserts that each of these events was published exactly once, as the connection sees it: within a transaction, those that
/// the transaction wrote count, too. An event is a type or an [`Expected`](crate::testing::Expected); the second form also
/// asserts that no other event was published.
///
/// ```no_run
/// # use actix_outbox::{assert_published, testing::Expected};
/// # async fn test(conn: &mut diesel_async::AsyncPgConnection) {
/// assert_published!(conn, "user.created");
/// assert_published!(conn, only: Expected::new("user.created").key("Ada"), "mail.sent");
/// # }
/// ```
///
/// # Panics
/// If one was not, or the database cannot be read.
#[macro_export]
macro_rules! assert_published {
    ($conn:expr, only: $($expected:expr),* $(,)?) => {{
        let mut published = $crate::assert_published!(@read $conn);
        $(published.expect_one($expected);)*
        published.expect_no_more();
    }};
    (@read $conn:expr) => {
        match $crate::testing::Published::read($conn).await {
            Ok(published) => published,
            Err(error) => panic!("the events cannot be read: {error}"),
        }
    };
    ($conn:expr, $($expected:expr),+ $(,)?) => {{
        let mut published = $crate::assert_published!(@read $conn);
        $(published.expect_one($expected);)+
    }};
}
