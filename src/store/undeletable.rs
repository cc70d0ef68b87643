//! Rows that the database refuses to delete.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// A foreign key may refuse every row: one warning in this time is enough.
const SAID_EVERY: Duration = Duration::from_secs(60);

static SAID_AT: Mutex<Option<Instant>> = Mutex::new(None);

/// Says that these events are done and stay, because their rows may not be deleted.
pub(crate) fn warn_undeletable(events: impl IntoIterator<Item = Uuid>, reason: &str) {
    const NAMED: usize = 5;
    let mut said_at = SAID_AT.lock().unwrap_or_else(PoisonError::into_inner);
    if said_at.is_some_and(|said| said.elapsed() < SAID_EVERY) {
        return;
    }
    *said_at = Some(Instant::now());
    let ids: Vec<String> = events.into_iter().take(NAMED).map(|id| id.to_string()).collect();
    tracing::warn!(
        events = ids.join(", "),
        reason,
        "the database refuses to delete events that are done; they stay in the table"
    );
}
