//! Changes of events in a lane whose leases all belong to the caller.

use diesel::sql_types::{BigInt, Text};
use uuid::Uuid;

use super::chosen::{AT_ONCE, Chosen, SKIP, choose, end_deliveries, execute};
use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value, list};
use super::{audit, seq};
use crate::event::Status;
use crate::store::{Action, AuditNote, LaneClaim};

/// The lane of each of these events that exists.
pub(super) async fn lanes_of(session: &mut Session<'_>, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>, Failure> {
    let mut lanes = Vec::with_capacity(ids.len());
    for part in ids.chunks(AT_ONCE) {
        let sql = format!(
            "SELECT CAST(e.id AS char), e.publisher_backend FROM outbox_events e FORCE INDEX (PRIMARY) WHERE e.id IN {}",
            list(part.len())
        );
        let values: Vec<Value> = part.iter().map(|id| Value::from(*id)).collect();
        for (id, lane) in session.load::<_, (String, String)>(Statement::<(Text, Text)>::built(sql, values)).await? {
            lanes.push((Uuid::try_parse(&id).map_err(Failure::client)?, lane));
        }
    }
    Ok(lanes)
}

/// Deletes or moves events. Locks the leases first: until the commit no other worker can take one, and so read the events.
/// Events whose rows another transaction has locked are left.
pub(super) async fn change(
    session: &mut Session<'_>,
    claim: &LaneClaim,
    (statuses, ids): (&[Status], &[Uuid]),
    action: &Action,
    note: &AuditNote,
) -> Result<Option<Vec<Uuid>>, Failure> {
    if !is_held(session, claim).await? {
        return Ok(None);
    }
    let mut events = choose(session, ids, SKIP).await?;
    let is_meant = |event: &Chosen| statuses.iter().any(|status| status.as_str() == event.status);
    events.retain(|event| event.lane == *claim.lane && is_meant(event));
    match action {
        Action::Move { to } => {
            events.retain(|event| event.lane != *to && !event.published && event.status != "published");
            transfer(session, &events, to).await?;
        }
        _ => delete(session, &events).await?,
    }
    let changed: Vec<Uuid> = events.into_iter().map(|event| event.id).collect();
    if !changed.is_empty() {
        audit::write(session, &note.row(action, &changed)).await?;
    }
    Ok(Some(changed))
}

async fn delete(session: &mut Session<'_>, events: &[Chosen]) -> Result<(), Failure> {
    const DELETE: &str = "DELETE e FROM outbox_events e FORCE INDEX (PRIMARY) WHERE e.id IN";
    end_deliveries(session, events).await?;
    execute(session, DELETE, &[], events).await
}

/// Draws a new `seq`: a late settle by the former backend finds another event. New `seq` values are drawn in the old order.
async fn transfer(session: &mut Session<'_>, events: &[Chosen], to: &str) -> Result<(), Failure> {
    for part in events.chunks(AT_ONCE) {
        let seqs: Vec<i64> = part.iter().map(|event| event.position.seq).collect();
        seq::replace(session, &seqs, "publisher_backend = ?, updated_at = SYSDATE(6)", &[to.into()]).await?;
    }
    Ok(())
}

async fn is_held(session: &mut Session<'_>, claim: &LaneClaim) -> Result<bool, Failure> {
    const LOCK: &str = "SELECT CAST(shard AS signed), epoch FROM outbox_leases \
        WHERE backend = ? AND owner = ? LOCK IN SHARE MODE";
    let query = Statement::<(BigInt, BigInt)>::new(LOCK, [claim.lane.as_ref().into(), claim.owner.into()]);
    let held: Vec<(i64, i64)> = session.load(query).await?;
    Ok(claim.leases.iter().all(|(shard, epoch)| held.contains(&(i64::from(*shard), *epoch))))
}
