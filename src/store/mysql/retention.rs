//! Deletes old events.

use std::time::Duration;

use diesel::sql_types::{BigInt, Text};
use uuid::Uuid;

use super::chosen::AT_ONCE;
use super::clock::{limited, micros_or_first, time};
use super::error::Failure;
use super::pool::Pool;
use super::session::{Session, in_transaction, on_session};
use super::settle::delete;
use super::statement::{Statement, Value, is_of_event, list};
use crate::error::StoreError;
use crate::store::divide::MAX_STATEMENTS;
use crate::store::{
    CreatedCursor, ExpiredBatch, LaneName, Result, RetentionCursor, RetentionCutoff, Settled, divide, warn_undeletable,
};

/// Deletes events past retention, oldest first. Events that are owed to a handler are kept, those that another transaction holds,
/// and those that the server refuses to delete.
pub(super) async fn delete_expired(
    pool: &Pool,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
    after: RetentionCursor,
) -> Result<ExpiredBatch> {
    let mut batch = ExpiredBatch { deleted: 0, next: after };
    let mut rest = expiry.limit;
    let kinds =
        [(PUBLISHED, expiry.published, &mut batch.next.published), (FAILED, expiry.failed, &mut batch.next.failed)];
    for (condition, age, place) in kinds {
        let Some(age) = age.filter(|_| rest > 0) else { continue };
        let expired = Expired { condition, age, after: *place };
        let found = expired.read(pool, failed_blocks, rest).await?;
        rest -= i64::try_from(found.len()).unwrap_or(i64::MAX);
        for part in found.chunks(AT_ONCE) {
            let Parts { deleted, refused } = expired.delete(pool, part).await?;
            batch.deleted += deleted;
            match refused {
                Refused::None => {}
                Refused::All | Refused::Some => *place = part.last().copied(),
                // The next batch has those that were not tried, and no longer those that were deleted.
                Refused::BeforeTheEnd if deleted > 0 => break,
                Refused::BeforeTheEnd => {
                    let few = &part[..part.len().min(FEW)];
                    batch.deleted += expired.delete(pool, few).await?.deleted;
                    *place = few.last().copied();
                    break;
                }
            }
        }
    }
    Ok(batch)
}

const DELETE: &str = "delete old events";

/// So few that each of them is tried, whatever is refused.
const FEW: usize = MAX_STATEMENTS / 2;

/// Events of one status that are older than this, behind a place.
#[derive(Clone, Copy)]
struct Expired {
    condition: &'static str,
    age: Duration,
    after: Option<CreatedCursor>,
}

/// The outcome for some events.
struct Parts {
    deleted: usize,
    refused: Refused,
}

/// Which of them the server refused to delete.
enum Refused {
    None,
    Some,
    All,
    /// Some, and others were not tried.
    BeforeTheEnd,
}

impl Expired {
    async fn read(self, pool: &Pool, failed_blocks: &[LaneName], limit: i64) -> Result<Vec<CreatedCursor>> {
        on_session!(pool, DELETE, |session| self.find(session, failed_blocks, limit))
    }

    async fn find(
        self,
        session: &mut Session<'_>,
        failed_blocks: &[LaneName],
        limit: i64,
    ) -> Result<Vec<CreatedCursor>, Failure> {
        let time = time!();
        let behind = self
            .after
            .map_or(String::new(), |_| format!(" AND e.created_at >= {time} AND (e.created_at > {time} OR e.id > ?)"));
        let sql = format!(
            "SELECT CAST(e.id AS char), {} FROM outbox_events e FORCE INDEX (outbox_events_created) \
             WHERE {}{behind}{} AND {NOTHING_OWED} ORDER BY e.created_at, e.id LIMIT ?",
            micros_or_first!("e.created_at"),
            self.condition,
            held(failed_blocks)
        );
        let mut values = self.values().to_vec();
        if let Some(CreatedCursor { created_at, id }) = self.after {
            values.extend([limited(created_at).into(), limited(created_at).into(), id.into()]);
        }
        values.extend(failed_blocks.iter().map(|lane| Value::from(lane.as_ref())));
        values.push(limit.into());
        let rows = session.load::<_, (String, i64)>(Statement::<(Text, BigInt)>::built(sql, values)).await?;
        let place = |(id, created_at): &(String, i64)| {
            Ok(CreatedCursor { created_at: *created_at, id: Uuid::try_parse(id).map_err(Failure::client)? })
        };
        rows.iter().map(place).collect()
    }

    /// Deletes those of the events that have not changed since they were found, in parts if the server refuses.
    async fn delete(self, pool: &Pool, found: &[CreatedCursor]) -> Result<Parts> {
        let ids: Vec<Uuid> = found.iter().map(|place| place.id).collect();
        let outcomes =
            divide(
                &ids,
                |ids| async move { in_transaction!(pool, DELETE, |session| self.delete_unchanged(session, &ids)) },
            );
        let outcomes: Vec<Settled> = match outcomes.await {
            Err(StoreError::Refused { .. }) if ids.len() > FEW => {
                return Ok(Parts { deleted: 0, refused: Refused::BeforeTheEnd });
            }
            Err(StoreError::Refused { reason, .. }) => {
                warn_undeletable(ids, &reason);
                return Ok(Parts { deleted: 0, refused: Refused::All });
            }
            outcomes => outcomes?,
        };
        let refused = ids.iter().zip(&outcomes).filter_map(|(id, outcome)| match outcome {
            Settled::Refused(reason) => Some((*id, reason)),
            _ => None,
        });
        let (refused, reasons): (Vec<Uuid>, Vec<&String>) = refused.unzip();
        if let Some(reason) = reasons.first() {
            warn_undeletable(refused, reason);
        }
        let refused = match (outcomes.contains(&Settled::Untried), reasons.is_empty()) {
            (true, _) => Refused::BeforeTheEnd,
            (false, false) => Refused::Some,
            (false, true) => Refused::None,
        };
        Ok(Parts { deleted: outcomes.iter().filter(|outcome| **outcome == Settled::Recorded).count(), refused })
    }

    async fn delete_unchanged(self, session: &mut Session<'_>, ids: &[Uuid]) -> Result<Vec<Settled>, Failure> {
        let sql = format!(
            "SELECT CAST(e.id AS char) FROM outbox_events e FORCE INDEX (PRIMARY) \
             WHERE e.id IN {} AND {} AND {NOTHING_OWED} FOR UPDATE SKIP LOCKED",
            list(ids.len()),
            self.condition
        );
        let values: Vec<Value> = ids.iter().map(|id| Value::from(*id)).chain(self.values()).collect();
        let locked = parse(&session.load::<_, String>(Statement::<Text>::built(sql, values)).await?)?;
        if !locked.is_empty() {
            delete(session, &locked).await?;
        }
        let outcome = |id| if locked.contains(id) { Settled::Recorded } else { Settled::Superseded };
        Ok(ids.iter().map(outcome).collect())
    }

    /// The values of the condition.
    fn values(self) -> [Value; 2] {
        let micros = i64::try_from(self.age.as_micros()).unwrap_or(i64::MAX);
        [micros.into(), micros.into()]
    }
}

/// No event is published before it is created, so a scan by `created_at` can end at the same time.
const PUBLISHED: &str = "e.created_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND AND e.status = 'published' \
    AND COALESCE(e.published_at, e.updated_at) < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND";

const FAILED: &str = "e.created_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND AND e.status = 'failed' \
    AND e.updated_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND";

const NOTHING_OWED: &str =
    concat!("NOT EXISTS (SELECT 1 FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) WHERE ", is_of_event!(), ")");

/// A failed event that holds its key stays; a published one holds none.
fn held(failed_blocks: &[LaneName]) -> String {
    match failed_blocks.len() {
        0 => String::new(),
        count => format!(" AND NOT (e.held_key IS NOT NULL AND e.publisher_backend IN {})", list(count)),
    }
}

fn parse(ids: &[String]) -> Result<Vec<Uuid>, Failure> {
    ids.iter().map(|id| Uuid::try_parse(id).map_err(Failure::client)).collect()
}
