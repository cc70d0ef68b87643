//! Changes of events in a lane whose leases all belong to the caller.

use diesel::dsl::sql;
use diesel::sql_types::{Array, BigInt, Bool, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::FutureExt;
use uuid::Uuid;

use super::schema_connection::SchemaConnection;
use super::{PostgresStore, Result, audit};
use crate::event::Status;
use crate::store::{Action, AuditNote, LaneClaim};

/// The lane of each of these events that exists.
pub(super) async fn lanes_of(store: &PostgresStore, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>> {
    let ids = ids.to_vec();
    store
        .run("read events' backends", |conn| {
            sql::<(SqlUuid, Text)>("SELECT id, publisher_backend FROM outbox_events WHERE id = ANY (")
                .bind::<Array<SqlUuid>, _>(ids)
                .sql(")")
                .load(conn)
                .boxed()
        })
        .await
}

pub(super) async fn delete(
    store: &PostgresStore,
    claim: &LaneClaim,
    statuses: &[Status],
    ids: &[Uuid],
    note: &AuditNote,
) -> Result<Option<Vec<Uuid>>> {
    change(store, claim, (statuses, ids), &Action::Delete, note).await
}

pub(super) async fn transfer(
    store: &PostgresStore,
    claim: &LaneClaim,
    to: &str,
    statuses: &[Status],
    ids: &[Uuid],
    note: &AuditNote,
) -> Result<Option<Vec<Uuid>>> {
    change(store, claim, (statuses, ids), &Action::Move { to: to.to_owned() }, note).await
}

/// Locks the leases first: until the commit no other worker can take one, and so read the events.
async fn change(
    store: &PostgresStore,
    claim: &LaneClaim,
    (statuses, ids): (&[Status], &[Uuid]),
    action: &Action,
    note: &AuditNote,
) -> Result<Option<Vec<Uuid>>> {
    let LaneClaim { lane, owner, leases } = claim.clone();
    let (shards, epochs): (Vec<i16>, Vec<i64>) = leases.into_iter().unzip();
    let (statement, to) = match action {
        Action::Move { to } => (TRANSFER, to.clone()),
        _ => (DELETE, String::new()),
    };
    let (ids, action, note) = (ids.to_vec(), action.clone(), note.clone());
    let statuses: Vec<String> = statuses.iter().map(ToString::to_string).collect();
    let (held, changed): (bool, Vec<Uuid>) = store
        .run("change events of a claimed backend", |conn| {
            let change_and_note = async move |conn: &mut SchemaConnection| {
                let (held, changed): (bool, Vec<Uuid>) = sql::<(Bool, Array<SqlUuid>)>(
                "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true), \
                    set_config('idle_in_transaction_session_timeout', '5000', true)), \
                 claim AS MATERIALIZED (SELECT ",
            )
            .bind::<Text, _>(lane.to_string())
            .sql("::text AS lane, ")
            .bind::<SqlUuid, _>(owner)
            .sql(" AS owner, ")
            .bind::<Array<SmallInt>, _>(shards)
            .sql(" AS shards, ")
            .bind::<Array<BigInt>, _>(epochs)
            .sql(" AS epochs, ")
            .bind::<Text, _>(to)
            .sql("::text AS destination, ")
            .bind::<Array<Text>, _>(statuses)
            .sql(" AS statuses), given AS MATERIALIZED (SELECT unnest(")
            .bind::<Array<SqlUuid>, _>(ids)
            .sql(
                ") AS id), leases AS MATERIALIZED (SELECT l.shard FROM claim c CROSS JOIN durable \
                    CROSS JOIN LATERAL unnest(c.shards, c.epochs) AS s(shard, epoch) \
                    JOIN outbox_leases l ON l.backend = c.lane AND l.shard = s.shard AND l.owner = c.owner AND l.epoch = s.epoch \
                    FOR SHARE OF l), \
                 held AS MATERIALIZED (SELECT cardinality(c.shards) = (SELECT count(*) FROM leases) AS all FROM claim c), ",
            )
            .sql(statement)
            .sql(" SELECT held.all, ARRAY(SELECT id FROM changed) FROM held")
            .get_result(conn).await?;
                if !changed.is_empty() {
                    audit::write(conn, note.row(&action, &changed)).await?;
                }
                Ok((held, changed))
            };
            conn.transaction(change_and_note).boxed()
        })
        .await?;
    Ok(held.then_some(changed))
}

/// Events whose rows another transaction has locked are left.
const DELETE: &str = "chosen AS MATERIALIZED (SELECT e.id FROM held, claim c, given g JOIN outbox_events e ON e.id = g.id \
        WHERE held.all AND e.publisher_backend = c.lane AND e.status = ANY (c.statuses) FOR UPDATE OF e SKIP LOCKED), \
    ended AS (DELETE FROM outbox_handler_deliveries d USING chosen WHERE d.event_id = chosen.id), \
    changed AS (DELETE FROM outbox_events e USING chosen WHERE e.id = chosen.id RETURNING e.id)";

/// Draws a new `seq`: a late settle by the former backend finds another event. New `seq` values are drawn in the old order.
const TRANSFER: &str = "chosen AS MATERIALIZED (SELECT e.id, e.scheduled_at, e.seq FROM held, claim c, given g \
        JOIN outbox_events e ON e.id = g.id \
        WHERE held.all AND e.publisher_backend = c.lane AND e.publisher_backend <> c.destination AND e.status = ANY (c.statuses) \
            AND e.published_at IS NULL AND e.status <> 'published' FOR UPDATE OF e SKIP LOCKED), \
    placed AS MATERIALIZED (SELECT id, nextval('outbox_events_seq') AS seq \
        FROM (SELECT id FROM chosen ORDER BY scheduled_at, seq) old), \
    changed AS (UPDATE outbox_events e SET publisher_backend = c.destination, seq = placed.seq, updated_at = now() \
        FROM placed, claim c WHERE e.id = placed.id RETURNING e.id)";
