//! Records the outcomes of events.
//!
//! The usual way is one UPDATE or DELETE. If it meets a lock, does not change all rows, or after a doubt, the careful way locks
//! the rows first and skips those that other transactions hold. It always writes something, so that its commit waits for the
//! durability of an earlier execution too.

mod accepted;
mod locked;
mod owing;
mod rescheduled;

use std::time::Duration;

use uuid::Uuid;

use self::accepted::Usual;
pub(super) use self::accepted::delete;
pub(super) use self::locked::{Found, Row, find_others};
use self::owing::Announced;
pub(super) use self::rescheduled::record_rescheduled;
use super::error::Failure;
use super::fetch;
use super::pool::Pool;
use super::session::{Session, in_transaction, on_session};
use super::statement::Statement;
use crate::store::{Acceptance, Care, FetchedRow, Period, Result, Settled, SettledEvent, divide, record_and_delete};

/// The most ids in one statement.
const MOST_IDS: usize = 1_000;

/// How long settles use the careful way after they found a locked row.
const CAREFUL_FOR: Duration = Duration::from_secs(10);

const PUBLISHED: &str = "record published events";

/// What is known about the server.
#[derive(Default)]
pub(super) struct Settling {
    /// Rows were locked recently: settles do not wait for locks.
    careful: Period,
    /// The database refused to delete most rows recently: settles do not try.
    pub(super) kept: Period,
}

impl Settling {
    /// Records that the backends have accepted events.
    pub(super) async fn record_published(
        &self,
        pool: &Pool,
        events: &[Acceptance],
        care: Care,
    ) -> Result<Vec<SettledEvent>> {
        record_and_delete(&self.kept, events, |events| async move {
            divide(&events, |events| async move { self.record(pool, &events, care).await }).await
        })
        .await
    }

    async fn record(&self, pool: &Pool, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>> {
        if care == Care::Usual
            && !self.careful.is_running()
            && let Some(usual) = Usual::of(events)
        {
            match on_session!(pool, PUBLISHED, |session| usual.record(session, events)) {
                Ok(Some(true)) => return Ok(vec![Settled::Recorded.into(); events.len()]),
                Ok(Some(false)) => {}
                Ok(None) => self.careful.run_for(CAREFUL_FOR),
                Err(error) => return Err(error),
            }
        }
        in_transaction!(pool, PUBLISHED, |session| accepted::record(session, events))
    }
}

/// Records that the backend has accepted those of the sent events that an operator failed meanwhile.
pub(super) async fn mark_failed_as_sent(pool: &Pool, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>> {
    divide(sent, |sent| async move {
        in_transaction!(pool, "mark failed events as sent", |session| record_sent(session, &sent))
    })
    .await
}

/// No handler was asked, so a retry must ask all announced ones.
async fn record_sent(session: &mut Session<'_>, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>, Failure> {
    const MARK: &str = "UPDATE outbox_events SET published_at = UTC_TIMESTAMP(6), updated_at = UTC_TIMESTAMP(6), \
        pending_handlers = COALESCE(pending_handlers, ?) WHERE id = ?";
    let found = Found::lock(session, sent).await?;
    let announced = Announced::read(session).await?;
    for (id, seq) in sent {
        if let Some(row) = found.row(*id, *seq).filter(|row| row.status == "failed" && !row.published) {
            let names = announced.names_for(&row.event_type);
            session.execute(Statement::<()>::new(MARK, [names.into(), (*id).into()])).await?;
        }
    }
    confirm(session).await?;
    Ok(sent.iter().map(|(id, seq)| found.outcome(*id, *seq)).collect())
}

/// Those rows of a journal that are not recorded as published. What was recorded is durable when this transaction is.
pub(super) async fn find_unsettled(
    session: &mut Session<'_>,
    lane: &str,
    sent: &[(Uuid, i64)],
) -> Result<Vec<FetchedRow>, Failure> {
    let rows = fetch::find_unsettled(session, lane, sent).await?;
    confirm(session).await?;
    Ok(rows)
}

/// Writes something, so that the commit waits for everything that this transaction has seen.
pub(super) async fn confirm(session: &mut Session<'_>) -> Result<(), Failure> {
    let id = Uuid::now_v7();
    let insert = Statement::<()>::new("INSERT INTO outbox_confirmations (id) VALUES (?)", [id.into()]);
    session.execute(insert).await?;
    let delete = Statement::<()>::new("DELETE FROM outbox_confirmations WHERE id = ?", [id.into()]);
    session.execute(delete).await.map(drop)
}
