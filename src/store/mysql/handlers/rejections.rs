//! Records rejections by handlers, each under the lease of its handler's lane and for the attempt that it answers.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use diesel::sql_types::{BigInt, Nullable, Text};
use serde_json::json;
use uuid::Uuid;

use super::announcements::CENTURY;
use super::rows::{delete_deliveries, deliveries};
use crate::store::mysql::MysqlStore;
use crate::store::mysql::clock::{micros, time};
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::{Session, in_transaction};
use crate::store::mysql::settle::{Found, confirm};
use crate::store::mysql::statement::{Statement, Value};
use crate::store::{RejectedDelivery, Result, Settled, append_error, divide, shorten};

/// The most rejections in one transaction.
const AT_ONCE: usize = 500;

/// A repeated call finds and reports its own work.
pub(super) async fn record_rejected(
    store: &MysqlStore,
    owner: Uuid,
    rejected: &[RejectedDelivery],
) -> Result<Vec<Settled>> {
    let mut outcomes = Vec::with_capacity(rejected.len());
    for part in rejected.chunks(AT_ONCE) {
        outcomes.extend(divide(part, |part| async move { transact(store, owner, &part).await }).await?);
    }
    Ok(outcomes)
}

async fn transact(store: &MysqlStore, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Vec<Settled>> {
    in_transaction!(store.pool, "record rejections by handlers", |session| record(session, owner, rejected))
}

async fn record(
    session: &mut Session<'_>,
    owner: Uuid,
    rejected: &[RejectedDelivery],
) -> Result<Vec<Settled>, Failure> {
    let known = Known::read(session, owner, rejected).await?;
    let mut outcomes = Vec::with_capacity(rejected.len());
    for rejected in rejected {
        outcomes.push(known.record(session, rejected).await?);
    }
    confirm(session).await?;
    Ok(outcomes)
}

/// What all rejections of a batch are decided by, read after the events' rows are locked.
struct Known {
    found: Found,
    attempts: HashMap<(Uuid, i64, String), i32>,
    /// The owner's leases: lane, shard and epoch.
    leases: HashSet<(String, i64, i64)>,
}

impl Known {
    async fn read(session: &mut Session<'_>, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Self, Failure> {
        const LEASES: &str = "SELECT backend, CAST(shard AS signed), epoch FROM outbox_leases WHERE owner = ?";
        let mut events: Vec<(Uuid, i64)> = rejected.iter().map(|rejected| (rejected.id, rejected.seq)).collect();
        events.sort_unstable();
        events.dedup();
        let found = Found::lock(session, &events).await?;
        let ids: Vec<Uuid> = events.into_iter().map(|(id, _)| id).collect();
        let attempts = deliveries(session, &ids).await?.into_iter();
        let attempts = attempts.map(|one| ((one.id, one.seq, one.handler), one.attempts)).collect();
        let leases = Statement::<(Text, BigInt, BigInt)>::new(LEASES, [owner.into()]);
        let leases: Vec<(String, i64, i64)> = session.load(leases).await?;
        Ok(Self { found, attempts, leases: leases.into_iter().collect() })
    }

    async fn record(&self, session: &mut Session<'_>, rejected: &RejectedDelivery) -> Result<Settled, Failure> {
        let RejectedDelivery { handler, id, seq, fetched_attempts, .. } = rejected;
        let outcome = self.found.outcome(*id, *seq);
        if outcome != Settled::Recorded {
            return Ok(outcome);
        }
        let recorded = match self.attempts.get(&(*id, *seq, handler.clone())) {
            None => rejected.gives_up && Failing::read(session, *id).await?.names(handler),
            Some(attempts) if attempts == fetched_attempts => {
                let is_owned = self.is_owned(rejected);
                if is_owned {
                    reject(session, rejected).await?;
                }
                is_owned
            }
            Some(attempts) => *attempts == rejected.attempts,
        };
        Ok(if recorded { Settled::Recorded } else { Settled::Superseded })
    }

    fn is_owned(&self, rejected: &RejectedDelivery) -> bool {
        let shard = &rejected.shard;
        self.leases.contains(&(shard.lane.to_string(), i64::from(shard.number), rejected.epoch))
    }
}

/// Fails the event if the handler gives up; retries if handlers of the delivering process still have to answer.
async fn reject(session: &mut Session<'_>, rejected: &RejectedDelivery) -> Result<(), Failure> {
    if rejected.gives_up {
        let event = Failing::read(session, rejected.id).await?;
        if matches!(event.status.as_str(), "processing" | "failed") {
            match rejected.holds {
                true => postpone(session, rejected, None).await?,
                false => {
                    let delivery = (rejected.id, rejected.seq, rejected.handler.as_str());
                    delete_deliveries(session, &[delivery]).await?;
                }
            }
            return event.fail(session, rejected).await;
        }
    }
    postpone(session, rejected, Some(rejected.delay)).await
}

/// `None`: the delivery has failed permanently, and holds later ones of its key.
async fn postpone(
    session: &mut Session<'_>,
    rejected: &RejectedDelivery,
    delay: Option<Duration>,
) -> Result<(), Failure> {
    const UPDATE: &str = "UPDATE outbox_handler_deliveries SET attempts = ?, last_error = ?, \
        next_at = COALESCE(SYSDATE(6) + INTERVAL ? MICROSECOND, TIMESTAMP'9999-12-31 23:59:59.999999') \
        WHERE event_id = ? AND seq = ? AND handler = ?";
    let delay = delay.map(|delay| i64::try_from(delay.as_micros()).map_or(CENTURY, |micros| micros.min(CENTURY)));
    let values: [Value; 6] = [
        i64::from(rejected.attempts).into(),
        shorten(&rejected.error).into(),
        delay.into(),
        rejected.id.into(),
        rejected.seq.into(),
        rejected.handler.as_str().into(),
    ];
    session.execute(Statement::<()>::new(UPDATE, values)).await.map(drop)
}

/// An event whose handler gives it up.
struct Failing {
    status: String,
    pending: Vec<String>,
    errors: Option<String>,
    now: i64,
}

impl Failing {
    async fn read(session: &mut Session<'_>, id: Uuid) -> Result<Self, Failure> {
        const READ: &str = concat!(
            "SELECT status, CAST(pending_handlers AS char), CAST(errors AS char), ",
            micros!("SYSDATE(6)"),
            " FROM outbox_events WHERE id = ?"
        );
        let query = Statement::<(Text, Nullable<Text>, Nullable<Text>, BigInt)>::new(READ, [id.into()]);
        let (status, pending, errors, now): (String, Option<String>, Option<String>, i64) =
            session.load_one(query).await?;
        let pending = pending.and_then(|names| serde_json::from_str(&names).ok()).unwrap_or_default();
        Ok(Self { status, pending, errors, now })
    }

    /// Whether this handler is among those that have failed the event.
    fn names(&self, handler: &String) -> bool {
        self.status == "failed" && self.pending.contains(handler)
    }

    /// With a `retry_at` a failed event does not hold its key: its backend has accepted it.
    async fn fail(mut self, session: &mut Session<'_>, rejected: &RejectedDelivery) -> Result<(), Failure> {
        const UPDATE: &str = concat!(
            "UPDATE outbox_events SET status = 'failed', retry_at = ",
            time!(),
            ", updated_at = ",
            time!(),
            ", last_error = ?, pending_handlers = ?, errors = ? WHERE id = ? AND seq = ?"
        );
        let said = format!("handler `{}`: {}", rejected.handler, rejected.error);
        let said = shorten(&said);
        if self.status != "failed" {
            self.pending.clear();
        }
        self.pending.push(rejected.handler.clone());
        self.pending.sort_unstable();
        self.pending.dedup();
        let values: [Value; 7] = [
            self.now.into(),
            self.now.into(),
            said.into(),
            json!(self.pending).to_string().into(),
            append_error(self.errors.as_deref(), said, self.now).into(),
            rejected.id.into(),
            rejected.seq.into(),
        ];
        session.execute(Statement::<()>::new(UPDATE, values)).await.map(drop)
    }
}
