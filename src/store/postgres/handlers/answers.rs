//! Records answers of handlers.

use serde_json::{Value, json};
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::error::StoreError;
use crate::store::postgres::settle::{Parameter, Settling, durable, found, kept_error, rejection};
use crate::store::postgres::{PostgresStore, Result};
use crate::store::{Care, HandledDelivery, RejectedDelivery, Settled, divide, record_and_delete};

const HANDLED: &str = "record handlers' answers";

/// The usual way waits for row locks for a short time: handlers of one event often answer together.
pub(in crate::store::postgres) async fn handled(
    store: &PostgresStore,
    handled: &[HandledDelivery],
    care: Care,
) -> Result<Vec<Settled>> {
    let settling = &store.settling;
    record_and_delete(&settling.kept, handled, |handled| async move { answered(settling, &handled, care).await }).await
}

async fn answered(settling: &Settling, handled: &[HandledDelivery], care: Care) -> Result<Vec<Settled>> {
    divide(handled, |handled| async move {
        if care == Care::Usual && !settling.is_careful() {
            match record(settling, &handled, true).await {
                Err(StoreError::Locked { .. }) => settling.note_lock(),
                answer => return answer,
            }
        }
        record(settling, &handled, false).await
    })
    .await
}

async fn record(settling: &Settling, handled: &[HandledDelivery], waits: bool) -> Result<Vec<Settled>> {
    settling
        .write_and_wait(|barrier| async move {
            let sql = format!(
                "WITH {} SELECT f.held, f.there FROM (SELECT count(*) AS n FROM durable) d CROSS JOIN LATERAL \
                    outbox_record_handled(CASE WHEN d.n > 0 THEN $1 END, $2, $3, $5, $4) f",
                durable(&format!(", {barrier}"))
            );
            let mut parameters = columns(handled);
            parameters.push((Box::new(waits), Type::BOOL));
            let rows = settling.query(HANDLED, sql, parameters).await?;
            Ok(rows.iter().map(found).collect())
        })
        .await
}

fn columns(handled: &[HandledDelivery]) -> Vec<Parameter> {
    let handlers: Vec<String> = handled.iter().map(|answer| answer.handler.clone()).collect();
    let ids: Vec<Uuid> = handled.iter().map(|answer| answer.id).collect();
    let seqs: Vec<i64> = handled.iter().map(|answer| answer.seq).collect();
    let deletes: Vec<bool> = handled.iter().map(|answer| answer.deletes).collect();
    vec![
        (Box::new(ids), Type::UUID_ARRAY),
        (Box::new(seqs), Type::INT8_ARRAY),
        (Box::new(handlers), Type::VARCHAR_ARRAY),
        (Box::new(deletes), Type::BOOL_ARRAY),
    ]
}

/// Ends a handler's deliveries of these generations as if they were handled, except of locked events; returns how many.
pub(super) async fn end(store: &PostgresStore, handler: &str, from: i64, to: i64, most: i64) -> Result<usize> {
    let sql = format!(
        "WITH {}, batch AS MATERIALIZED (SELECT d.event_id, d.seq FROM outbox_handler_deliveries d, durable \
            WHERE d.handler = $1 AND d.generation BETWEEN $2 AND $3 ORDER BY d.generation, d.shard, d.next_at LIMIT $4) \
         SELECT f.held, f.there FROM (SELECT array_agg(event_id) AS ids, array_agg(seq) AS seqs, count(*)::integer AS n \
                FROM batch) b \
            CROSS JOIN LATERAL outbox_record_handled(b.ids, b.seqs, array_fill($1, ARRAY[b.n]), false) f WHERE b.n > 0",
        durable("")
    );
    let parameters: Vec<Parameter> = vec![
        (Box::new(handler.to_owned()), Type::VARCHAR),
        (Box::new(from), Type::INT8),
        (Box::new(to), Type::INT8),
        (Box::new(most), Type::INT8),
    ];
    let rows = store.settling.query("end deliveries", sql, parameters).await?;
    Ok(rows.iter().filter(|row| found(row) != Settled::Locked).count())
}

/// Records rejections, each under the lease of its handler's lane; a repeated call finds and reports its own work.
pub(in crate::store::postgres) async fn rejected(
    store: &PostgresStore,
    owner: Uuid,
    rejected: &[RejectedDelivery],
) -> Result<Vec<Settled>> {
    divide(rejected, |rejected| async move { reject(&store.settling, owner, &rejected).await }).await
}

async fn reject(settling: &Settling, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Vec<Settled>> {
    settling
        .write_and_wait(|barrier| async move {
            let sql = format!(
                "WITH {} SELECT f.recorded, f.held, f.there FROM (SELECT count(*) AS n FROM durable) d \
                    CROSS JOIN LATERAL outbox_record_rejected(CASE WHEN d.n > 0 THEN $1 END, $2) f",
                durable(&format!(", {barrier}"))
            );
            let rejections: Vec<Value> = (0_i64..).zip(rejected).map(|(n, rejected)| json_of(n, rejected)).collect();
            let parameters: Vec<Parameter> =
                vec![(Box::new(owner), Type::UUID), (Box::new(json!(rejections)), Type::JSONB)];
            let rows = settling.query("record rejections by handlers", sql, parameters).await?;
            Ok(rows.iter().map(rejection).collect())
        })
        .await
}

fn json_of(n: i64, rejected: &RejectedDelivery) -> Value {
    json!({
        "n": n,
        "id": rejected.id,
        "seq": rejected.seq,
        "handler": rejected.handler,
        "lane": &*rejected.shard.lane,
        "shard": rejected.shard.number,
        "epoch": rejected.epoch,
        "fetched": rejected.fetched_attempts,
        "attempts": rejected.attempts,
        "delay": i64::try_from(rejected.delay.as_micros()).unwrap_or(i64::MAX),
        "error": kept_error(&rejected.error),
        "gives_up": rejected.gives_up,
        "holds": rejected.holds,
    })
}
