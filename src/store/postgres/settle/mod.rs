//! Records the outcomes of events.
//!
//! The usual way is one UPDATE or DELETE that waits a short time for row locks. If it is refused, if rows stay locked, or after a
//! doubt, the careful way locks the rows first, skips those that other transactions hold, and always writes something, so
//! that its commit waits for the durability of an earlier execution too.

mod accepted;
mod connection;
mod rescheduled;
mod routed;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

pub(super) use self::connection::SettlePool;
pub(super) use self::rescheduled::{found as rejection, kept_error, rescheduled};
pub(super) use self::routed::routed;
use super::{PostgresStore, Result};
use crate::error::StoreError;
use crate::store::{Acceptance, Care, Period, Settled, SettledEvent, Shard, divide, record_and_delete};

/// Settles events: the connections, and what is known about the server.
pub(super) struct Settling {
    pub(super) pool: SettlePool,
    /// The role may emit logical messages, the cheapest write for which a commit waits.
    emits: AtomicBool,
    /// Rows were locked recently: settles do not wait for locks.
    careful: Period,
    /// The database refused to delete most rows recently: settles do not try.
    pub(super) kept: Period,
}

use self::accepted::Usual;

const PUBLISHED: &str = "record published events";

/// How long the usual way waits for a row lock. Other transactions are usually shorter.
const LOCK_WAIT: &str = "500ms";

/// How long settles use the careful way after they found a locked row.
const CAREFUL_FOR: Duration = Duration::from_secs(10);

impl Settling {
    pub(super) fn new(pool: SettlePool) -> Self {
        Self { pool, emits: AtomicBool::new(true), careful: Period::default(), kept: Period::default() }
    }

    pub(super) fn is_careful(&self) -> bool {
        self.careful.is_running()
    }

    pub(super) fn note_lock(&self) {
        self.careful.run_for(CAREFUL_FOR);
    }

    /// A statement that writes something, so that its commit waits for everything that its connection has shown before.
    pub(super) fn confirmation(&self) -> String {
        let barrier = if self.emits.load(Ordering::Relaxed) { EMIT } else { LOCK };
        format!("WITH {} SELECT FROM durable", durable(&format!(", {barrier}")))
    }

    /// Finds out what this role may write; see [`confirmation`](Self::confirmation).
    pub(super) async fn detect_privileges(&self) -> Result<()> {
        self.write_and_wait(|barrier| async move {
            let sql = format!("WITH {} SELECT FROM durable", durable(&format!(", {barrier}")));
            self.query("confirm the recorded state", sql, vec![]).await.map(drop)
        })
        .await
    }

    /// Runs a statement that always writes something: a message or, if the role may not emit messages, a row lock.
    pub(super) async fn write_and_wait<T, F>(&self, statement: impl Fn(&'static str) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        if self.emits.load(Ordering::Relaxed) {
            match statement(EMIT).await {
                Err(StoreError::Refused { sqlstate, reason, .. }) if NOT_ALLOWED.contains(&&*sqlstate) => {
                    self.emits.store(false, Ordering::Relaxed);
                    tracing::debug!(sqlstate, reason, "logical messages refused; using a row lock instead");
                }
                answer => return answer,
            }
        }
        statement(LOCK).await
    }
}

const EMIT: &str = "pg_logical_emit_message(true, 'actix-outbox', '')";
const LOCK: &str = "(SELECT count(*) FROM (SELECT 1 FROM outbox_meta FOR SHARE) held)";

/// No privilege, no such function, not supported.
const NOT_ALLOWED: [&str; 3] = ["42501", "42883", "0A000"];

/// `set_config` makes the commit durable for this statement only, so neither a pooler nor another setting can undo it.
pub(super) fn durable(also: &str) -> String {
    format!(
        "durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true), \
            set_config('lock_timeout', '{LOCK_WAIT}', true){also})"
    )
}

/// Records that the backends have accepted events.
pub(super) async fn published(store: &PostgresStore, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>> {
    let settling = &store.settling;
    record_and_delete(&settling.kept, events, |events| async move { record(settling, &events, care).await }).await
}

async fn record(settling: &Settling, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>> {
    divide(events, |events| async move {
        if care == Care::Usual && !settling.is_careful() && settling.is_all_recorded(&events).await? {
            return Ok(vec![Settled::Recorded.into(); events.len()]);
        }
        accepted::record(settling, &events).await
    })
    .await
}

/// Records that the backend has accepted those of the sent events that an operator failed meanwhile.
pub(super) async fn sent_but_failed(store: &PostgresStore, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>> {
    divide(sent, |sent| async move { store.settling.record_sent(&sent).await }).await
}

impl Settling {
    /// Publishes or deletes events without locking them first; returns whether all were changed. Rows that stay locked or are not where they were read,
    /// events that are owed to handlers elsewhere, and those whose acceptance was recorded before are not changed.
    async fn is_all_recorded(&self, events: &[Acceptance]) -> Result<bool> {
        let deletes = events.iter().filter(|event| event.deletes).count();
        if events.iter().any(|event| !event.left.is_empty()) || (1..events.len()).contains(&deletes) {
            return Ok(false);
        }
        let mut parameters = accepted::parameters(events);
        let places = accepted::places(events);
        let statement = Usual { deletes: deletes > 0, by_place: places.is_some() };
        parameters.extend(places);
        let written = self.pool.run(PUBLISHED, |connection| {
            async move { connection.settle(statement, &references(&parameters)).await }.boxed()
        });
        match written.await {
            Err(StoreError::Locked { .. }) => {
                self.note_lock();
                Ok(false)
            }
            written => Ok(written? == events.len() as u64),
        }
    }

    /// Locks the rows, skips those that other transactions hold, and returns the outcome of each.
    async fn record_sent(&self, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>> {
        self.write_and_wait(|barrier| async move {
            let rows = self.query("mark failed events as sent", sent_sql(barrier), ids_and_seqs(sent)).await?;
            Ok(rows.iter().map(found).collect())
        })
        .await
    }

    /// Runs a statement like [`query`](Self::query), and returns the number of changed rows.
    pub(super) async fn write(&self, operation: &'static str, sql: String, parameters: Vec<Parameter>) -> Result<u64> {
        self.pool
            .run(operation, |connection| {
                async move { connection.execute(&sql, &references(&parameters)).await }.boxed()
            })
            .await
    }

    pub(super) async fn query(
        &self,
        operation: &'static str,
        sql: String,
        parameters: Vec<Parameter>,
    ) -> Result<Vec<Row>> {
        self.pool
            .run(operation, |connection| async move { connection.query(&sql, &references(&parameters)).await }.boxed())
            .await
    }
}

/// A row lock is a write, so the commit waits even if nothing is left to change. A row that the lock skipped and the
/// snapshot still shows counts as locked: it is checked again. No handler was asked, so a retry must ask all announced ones.
fn sent_sql(barrier: &str) -> String {
    format!(
        "WITH {}, s AS MATERIALIZED (SELECT * FROM unnest($1, $2) WITH ORDINALITY AS s(id, seq, n)), \
         mine AS MATERIALIZED (SELECT e.id, e.seq FROM s, durable, outbox_events e WHERE e.id = s.id AND e.seq = s.seq \
            FOR NO KEY UPDATE OF e SKIP LOCKED), \
         written AS (UPDATE outbox_events e SET published_at = now(), updated_at = now(), \
            pending_handlers = coalesce(e.pending_handlers, outbox_announced_for(e.event_type)) \
            FROM mine WHERE e.id = mine.id AND e.seq = mine.seq AND e.status = 'failed' AND e.published_at IS NULL) \
         SELECT mine.id IS NOT NULL AS held, e.id IS NOT NULL AS there FROM durable, s \
            LEFT JOIN mine ON mine.id = s.id AND mine.seq = s.seq \
            LEFT JOIN outbox_events e ON e.id = s.id AND e.seq = s.seq ORDER BY s.n",
        durable(&format!(", {barrier}")),
    )
}

/// The outcome of an event in a result row with `held` and `there`.
pub(super) fn found(row: &Row) -> Settled {
    match (row.get("held"), row.get("there")) {
        (true, _) => Settled::Recorded,
        (false, true) => Settled::Locked,
        (false, false) => Settled::Superseded,
    }
}

pub(super) type Parameter = (Box<dyn ToSql + Send + Sync>, Type);

fn ids_and_seqs(events: &[(Uuid, i64)]) -> Vec<Parameter> {
    let (ids, seqs): (Vec<Uuid>, Vec<i64>) = events.iter().copied().unzip();
    vec![(Box::new(ids), Type::UUID_ARRAY), (Box::new(seqs), Type::INT8_ARRAY)]
}

fn references(parameters: &[Parameter]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    parameters.iter().map(|(value, of)| (&**value as &(dyn ToSql + Sync), of.clone())).collect()
}

/// Raises a lease's epoch if a restored database is behind the epochs in Redis.
pub(super) async fn raise_epoch(
    store: &PostgresStore,
    owner: Uuid,
    shard: &Shard,
    epoch: i64,
    above: i64,
) -> Result<bool> {
    let sql = format!(
        "WITH {} UPDATE outbox_leases l SET epoch = greatest(l.epoch, $1) + 1 FROM durable \
         WHERE l.backend = $2 AND l.shard = $3 AND l.owner = $4 AND l.epoch = $5 AND l.expires_at > clock_timestamp()",
        durable("")
    );
    let parameters: Vec<Parameter> = vec![
        (Box::new(above), Type::INT8),
        (Box::new(shard.lane.to_string()), Type::TEXT),
        (Box::new(shard.number), Type::INT2),
        (Box::new(owner), Type::UUID),
        (Box::new(epoch), Type::INT8),
    ];
    Ok(store.settling.write("raise a lease's epoch", sql, parameters).await? == 1)
}
