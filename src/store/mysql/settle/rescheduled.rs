//! Records rejections: retries and failures.

use std::collections::HashMap;

use diesel::sql_types::{BigInt, Text};
use serde_json::json;
use uuid::Uuid;

use super::confirm;
use super::locked::{Found, Row};
use super::owing::{Announced, owe};
use crate::event::Status;
use crate::fault_injection::{self, ProtocolRule};
use crate::store::mysql::clock::micros;
use crate::store::mysql::error::Failure;
use crate::store::mysql::pool::Pool;
use crate::store::mysql::session::{Session, in_transaction};
use crate::store::mysql::statement::{Statement, Value};
use crate::store::{FailureRecord, Result, Settled, SettledEvent, append_error, divide, shorten};

/// The longest delay, in microseconds: a hundred years, so that every time is one that the server can hold.
const LONGEST_DELAY: i64 = 100 * 365 * 86_400 * 1_000_000;

/// Records retries and failures, each under the lease of its dispatch. A repetition finds and reports its own work, so after a
/// lost reply the same call is repeated.
pub(in crate::store::mysql) async fn record_rescheduled(
    pool: &Pool,
    owner: Uuid,
    events: &[FailureRecord],
) -> Result<Vec<SettledEvent>> {
    divide(events, |events| async move {
        in_transaction!(pool, "record retries and failures", |session| record(session, owner, &events))
    })
    .await
}

/// What all events of a batch are decided by, read after their rows are locked.
struct Known {
    /// The epochs of the owner's leases.
    epochs: HashMap<(String, i64), i64>,
    announced: Announced,
    /// The server's clock in microseconds.
    now: i64,
}

impl Known {
    async fn read(session: &mut Session<'_>, owner: Uuid) -> Result<Self, Failure> {
        const LEASES: &str = "SELECT backend, CAST(shard AS signed), epoch FROM outbox_leases WHERE owner = ?";
        const NOW: &str = concat!("SELECT ", micros!("UTC_TIMESTAMP(6)"));
        let leases = Statement::<(Text, BigInt, BigInt)>::new(LEASES, [owner.into()]);
        let leases: Vec<(String, i64, i64)> = session.load(leases).await?;
        Ok(Self {
            epochs: leases.into_iter().map(|(lane, shard, epoch)| ((lane, shard), epoch)).collect(),
            announced: Announced::read(session).await?,
            now: session.load_one(Statement::<BigInt>::new(NOW, [])).await?,
        })
    }

    /// The fence: the row is as it was fetched, and its shard's lease is still the worker's.
    fn allows(&self, event: &FailureRecord, row: &Row) -> bool {
        let fetched = row.is_tried_again() && row.retry_count == i64::from(event.fetched_retry_count);
        if fault_injection::is_off(ProtocolRule::FencedSettle) {
            return fetched;
        }
        let shard = (event.shard.lane.to_string(), i64::from(event.shard.number));
        fetched && row.updated_at == event.fetched_updated_at && self.epochs.get(&shard) == Some(&event.epoch)
    }
}

async fn record(
    session: &mut Session<'_>,
    owner: Uuid,
    events: &[FailureRecord],
) -> Result<Vec<SettledEvent>, Failure> {
    let found = Found::lock(session, &events.iter().map(|event| (event.id, event.seq)).collect::<Vec<_>>()).await?;
    let known = Known::read(session, owner).await?;
    let mut outcomes = Vec::with_capacity(events.len());
    for event in events {
        outcomes.push(match found.row(event.id, event.seq) {
            None => found.outcome(event.id, event.seq).into(),
            Some(row) if has_outcome(row, event) => Settled::Recorded.into(),
            Some(row) if known.allows(event, row) => {
                reschedule(session, event, row, known.now).await?;
                let owed = owe_all(session, event, row, &known.announced).await?;
                SettledEvent { outcome: Settled::Recorded, owed }
            }
            Some(_) => Settled::Superseded.into(),
        });
    }
    confirm(session).await?;
    Ok(outcomes)
}

/// Whether this settle was recorded before. If it counts no failure, only the time tells.
fn has_outcome(row: &Row, event: &FailureRecord) -> bool {
    let counts = event.retry_count != event.fetched_retry_count || event.status == Status::Failed;
    (counts || row.updated_at != event.fetched_updated_at)
        && row.status == event.status.as_str()
        && row.retry_count == i64::from(event.retry_count)
        && (row.published || !event.published)
        && names_in(row.pending_handlers.as_deref()) == event.pending_handlers
        && event.error.as_deref().is_none_or(|error| row.last_error == shorten(error))
}

fn names_in(json: Option<&str>) -> Option<Vec<String>> {
    json.and_then(|names| serde_json::from_str(names).ok())
}

async fn reschedule(session: &mut Session<'_>, event: &FailureRecord, row: &Row, now: i64) -> Result<(), Failure> {
    // A time that is no time may stay, and MySQL does not accept it again.
    let published_at = if event.published && !row.published { "published_at = UTC_TIMESTAMP(6), " } else { "" };
    let sql = format!(
        "UPDATE outbox_events SET status = ?, retry_count = ?, \
         retry_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, last_error = COALESCE(?, last_error), \
         errors = COALESCE(?, errors), pending_handlers = ?, {published_at}updated_at = UTC_TIMESTAMP(6) \
         WHERE id = ? AND seq = ?"
    );
    let retry_in = match event.status {
        Status::Retry => Some(i64::try_from(event.delay.as_micros()).unwrap_or(i64::MAX).min(LONGEST_DELAY)),
        // With a `retry_at` a failed event does not hold its key.
        _ => event.holds_for_handlers.then_some(0),
    };
    let error = event.error.as_deref().map(shorten);
    let values: [Value; 8] = [
        event.status.as_str().into(),
        i64::from(event.retry_count).into(),
        retry_in.into(),
        error.into(),
        error.map(|error| append_error(row.errors.as_deref(), error, now)).into(),
        event.pending_handlers.as_ref().map(|names| json!(names).to_string()).into(),
        event.id.into(),
        event.seq.into(),
    ];
    session.execute(Statement::<()>::built(sql, values)).await.map(drop)
}

/// Creates the deliveries that the first recorded acceptance fixes, and those left to other processes; see `Acceptance`.
async fn owe_all(
    session: &mut Session<'_>,
    event: &FailureRecord,
    row: &Row,
    announced: &Announced,
) -> Result<Vec<String>, Failure> {
    if !event.published && !row.published {
        return Ok(Vec::new());
    }
    let held = event.pending_handlers.as_deref().filter(|_| event.holds_for_handlers).unwrap_or_default();
    let left = event.left.iter().chain(held).map(String::as_str);
    let mut new = Vec::new();
    for (handler, generation) in announced.owed(row, &event.asked, left) {
        if owe(session, &[event.id], &handler, generation, held.contains(&handler)).await? > 0 {
            new.push(handler);
        }
    }
    Ok(new)
}
