//! Actions of operators on events.

use uuid::Uuid;

use super::chosen::{AT_ONCE, Chosen, WAIT, choose, end_deliveries, execute};
use super::error::Failure;
use super::session::Session;
use super::{audit, seq};
use crate::store::{Action, AuditNote};

/// Changes those of the events that allow it; returns their ids.
pub(super) async fn change(
    session: &mut Session<'_>,
    action: &Action,
    ids: &[Uuid],
    note: &AuditNote,
) -> Result<Vec<Uuid>, Failure> {
    let mut events = choose(session, ids, WAIT).await?;
    events.retain(|event| (event.status == "published") == matches!(action, Action::Replay));
    match action {
        Action::Retry => retry(session, &events).await?,
        Action::Fail { reason } => fail(session, &events, reason).await?,
        Action::Replay => replay(session, &events).await?,
        // They need a claim.
        Action::Delete | Action::Move { .. } => return Ok(Vec::new()),
    }
    let changed: Vec<Uuid> = events.into_iter().map(|event| event.id).collect();
    if !changed.is_empty() {
        audit::write(session, &note.row(action, &changed)).await?;
    }
    Ok(changed)
}

/// Keeps `scheduled_at` and `seq`, so the position stays, and `published_at`: an event that the backend has accepted is not
/// sent again. An event that is only owed to handlers elsewhere stays unchanged; its deliveries are retried now.
async fn retry(session: &mut Session<'_>, events: &[Chosen]) -> Result<(), Failure> {
    const DELIVERIES: &str = "UPDATE outbox_handler_deliveries FORCE INDEX (PRIMARY) \
        SET attempts = 0, next_at = SYSDATE(6), last_error = '' WHERE event_id IN";
    const EVENTS: &str = "UPDATE outbox_events FORCE INDEX (PRIMARY) SET retry_count = 0, retry_at = NULL, \
        last_error = '', updated_at = SYSDATE(6), \
        status = IF(status = 'processing' AND published_at IS NOT NULL, status, 'pending') WHERE id IN";
    let owing = events.iter().filter(|event| event.status == "processing" && event.published);
    execute(session, DELIVERIES, &[], &owing.cloned().collect::<Vec<_>>()).await?;
    execute(session, EVENTS, &[], events).await
}

/// An operator's failure sets `retry_at`, so the event does not hold its key. Its deliveries are dropped.
async fn fail(session: &mut Session<'_>, events: &[Chosen], reason: &str) -> Result<(), Failure> {
    const EVENTS: &str = "UPDATE outbox_events FORCE INDEX (PRIMARY) SET status = 'failed', \
        retry_at = SYSDATE(6), last_error = ?, updated_at = SYSDATE(6) WHERE id IN";
    execute(session, EVENTS, &[reason.into()], events).await?;
    end_deliveries(session, events).await
}

/// A new `seq` makes it another event for journals and settles.
async fn replay(session: &mut Session<'_>, events: &[Chosen]) -> Result<(), Failure> {
    const SET: &str = "status = 'pending', published_at = NULL, pending_handlers = NULL, retry_count = 0, \
        retry_at = NULL, last_error = '', updated_at = SYSDATE(6)";
    end_deliveries(session, events).await?;
    for part in events.chunks(AT_ONCE) {
        let seqs: Vec<i64> = part.iter().map(|event| event.position.seq).collect();
        seq::replace(session, &seqs, SET, &[]).await?;
    }
    Ok(())
}
