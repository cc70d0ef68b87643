//! Finds earlier events of an event's key.

use std::collections::{HashMap, HashSet};

use diesel::sql_types::{BigInt, Bool, Text};
use uuid::Uuid;

use super::position::{after, before, position};
use crate::store::mysql::clock::micros_or_first;
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::statement::{Statement, Value};
use crate::store::{Blocker, Blockers, Position, PredecessorQuery};

const UNSETTLED: &str = "FORCE INDEX (outbox_events_keys) WHERE e.publisher_backend = ? AND e.unsettled_key = ?";
const FAILED: &str = "FORCE INDEX (outbox_events_held) WHERE e.publisher_backend = ? AND e.held_key = ?";

/// Returns a blocker for each query that has one.
pub(in crate::store::mysql) async fn find_blockers(
    session: &mut Session<'_>,
    lane: &str,
    failed_blocks: bool,
    questions: &[PredecessorQuery],
) -> Result<Blockers, Failure> {
    if questions.is_empty() {
        return Ok(Blockers::default());
    }
    let found = read_blockers(session, lane, failed_blocks, questions).await?;
    // The end of an earlier event is lost in a crash if it is not on the disk: that event would follow those that are sent now.
    session.confirm_read(questions.iter().any(|question| !found.contains_key(&question.key))).await?;
    Ok(Blockers { found, snapshot: None })
}

/// The blocker of one query, for a reader that sends nothing.
pub(in crate::store::mysql) async fn find_blocker(
    session: &mut Session<'_>,
    lane: &str,
    failed_blocks: bool,
    question: &PredecessorQuery,
) -> Result<Option<Blocker>, Failure> {
    let mut found = read_blockers(session, lane, failed_blocks, std::slice::from_ref(question)).await?;
    session.confirm_read(false).await?;
    Ok(found.remove(&question.key))
}

/// From one snapshot: one statement has one.
async fn read_blockers(
    session: &mut Session<'_>,
    lane: &str,
    failed_blocks: bool,
    questions: &[PredecessorQuery],
) -> Result<HashMap<String, Blocker>, Failure> {
    let (mut parts, mut values) = (Vec::new(), Vec::new());
    for (n, question) in questions.iter().enumerate() {
        let (after, from) = after(">=", question.from);
        for source in [Some(UNSETTLED), failed_blocks.then_some(FAILED)].into_iter().flatten() {
            parts.push(first_of(n, source, &after, question.except.len()));
            values.extend::<[Value; 2]>([lane.into(), question.key.as_str().into()]);
            values.extend(from.clone());
            values.extend(position(question.before));
        }
    }
    type Found = (i64, String, i64, i64, bool);
    let query = Statement::<(BigInt, Text, BigInt, BigInt, Bool)>::built(parts.join(" UNION ALL "), values);
    let mut found: HashMap<String, Blocker> = HashMap::new();
    let excepted: Vec<HashSet<(Uuid, i64)>> =
        questions.iter().map(|one| one.except.iter().copied().collect()).collect();
    let rows = session.load::<_, Found>(query).await?;
    for (n, id, scheduled_at, seq, due) in rows {
        let id = Uuid::try_parse(&id).map_err(Failure::client)?;
        let n = usize::try_from(n).unwrap_or_default();
        let Some(question) = questions.get(n).filter(|_| !excepted[n].contains(&(id, seq))) else { continue };
        let blocker = Blocker { id, position: Position { scheduled_at, seq }, due };
        let first = found.entry(question.key.clone()).or_insert_with(|| blocker.clone());
        if blocker.position < first.position {
            *first = blocker;
        }
    }
    Ok(found)
}

/// The first events of a question, one more than it excepts.
fn first_of(n: usize, source: &str, after: &str, excepted: usize) -> String {
    format!(
        "(SELECT {n}, CAST(e.id AS char), {}, e.seq, COALESCE(e.status <> 'failed' \
         AND COALESCE(e.due_again_at, e.scheduled_at) <= UTC_TIMESTAMP(6), 0) FROM outbox_events e {source} \
         AND {after} AND {} ORDER BY e.scheduled_at, e.seq LIMIT {})",
        micros_or_first!("e.scheduled_at"),
        before!(),
        excepted + 1
    )
}
