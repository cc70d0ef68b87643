//! The rows of deliveries that answers are about.

use diesel::sql_types::{BigInt, Integer, Text};
use uuid::Uuid;

use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::statement::{Statement, Value, list};

/// A delivery of an event, by the handler's name.
pub(super) struct Delivery {
    pub(super) id: Uuid,
    pub(super) seq: i64,
    pub(super) handler: String,
    pub(super) attempts: i32,
}

/// The deliveries of events, sorted by handler.
pub(super) async fn deliveries(session: &mut Session<'_>, ids: &[Uuid]) -> Result<Vec<Delivery>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT CAST(d.event_id AS char), d.seq, d.handler, d.attempts \
         FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) WHERE d.event_id IN {} ORDER BY d.handler",
        list(ids.len())
    );
    let values: Vec<Value> = ids.iter().map(|id| Value::from(*id)).collect();
    let rows: Vec<(String, i64, String, i32)> =
        session.load(Statement::<(Text, BigInt, Text, Integer)>::built(sql, values)).await?;
    rows.into_iter()
        .map(|(id, seq, handler, attempts)| {
            Ok(Delivery { id: Uuid::try_parse(&id).map_err(Failure::client)?, seq, handler, attempts })
        })
        .collect()
}

/// The most deliveries that one statement names.
const MOST_NAMED: usize = 200;

/// Deletes deliveries by event, `seq` and handler.
pub(super) async fn delete_deliveries(
    session: &mut Session<'_>,
    deliveries: &[(Uuid, i64, &str)],
) -> Result<(), Failure> {
    const ONE: &str = "(d.event_id = ? AND d.seq = ? AND d.handler = ?)";
    for part in deliveries.chunks(MOST_NAMED) {
        let sql = format!(
            "DELETE d FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) WHERE {}",
            vec![ONE; part.len()].join(" OR ")
        );
        let values: Vec<Value> =
            part.iter().flat_map(|(id, seq, handler)| [(*id).into(), (*seq).into(), (*handler).into()]).collect();
        session.execute(Statement::<()>::built(sql, values)).await?;
    }
    Ok(())
}
