//! Queries the database for what precedes events in their keys' order (R3).

use std::collections::HashMap;

use super::in_flight::{Fetch, InFlight};
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::store::{Blocker, FetchedRow, Store};

/// Finds the blockers of fetched rows; see [`Fetch::questions`]. `failed_blocks`: failed events count; `holds`: they hold
/// their keys in this lane.
pub(super) async fn find_blockers(
    store: &dyn Store,
    in_flight: &InFlight,
    fetch: &mut Fetch,
    rows: &[FetchedRow],
    failed_blocks: bool,
    holds: bool,
) -> Result<HashMap<String, Blocker>, StoreError> {
    // A result without failed events does not show how far a key that they hold is clear.
    let is_noted = failed_blocks == holds;
    let questions = fetch.questions(rows, BootInstant::now(), is_noted);
    if questions.is_empty() {
        return Ok(HashMap::new());
    }
    let answer = store.blockers(in_flight.lane(), failed_blocks, &questions).await;
    match &answer {
        Ok(blockers) if is_noted => fetch.note_answer(blockers, BootInstant::now()),
        Ok(_) => {}
        Err(error) if is_late(error) => fetch.note_no_answer(BootInstant::now()),
        Err(_) => in_flight.forget_cleared(),
    }
    answer.map(|answer| answer.found)
}

/// Whether a statement may have taken too long. A server with a time limit of its own reports that as a failed query.
pub(super) fn is_late(error: &StoreError) -> bool {
    matches!(error, StoreError::Timeout { .. } | StoreError::Query { .. })
}
