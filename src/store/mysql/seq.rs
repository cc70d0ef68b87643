//! New `seq` values for rows that exist. Only an INSERT draws from the table's counter, so rows are inserted, their values are
//! read, and the INSERT is undone, which leaves the counter as it is.

use diesel::sql_types::BigInt;
use uuid::Uuid;

use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value, list};

/// Draws new values, in ascending order.
pub(super) async fn draw(session: &mut Session<'_>, count: usize) -> Result<Vec<i64>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let ids: Vec<Value> = (0..count).map(|_| Value::from(Uuid::now_v7())).collect();
    let rows = vec!["(?, '', '', 'published')"; count].join(", ");
    let insert = format!("INSERT INTO outbox_events (id, event_type, source, status) VALUES {rows}");
    session.run("SAVEPOINT outbox_draw").await?;
    session.execute(Statement::<()>::built(insert, ids.clone())).await?;
    let list = list(count);
    let read = format!("SELECT e.seq FROM outbox_events e FORCE INDEX (PRIMARY) WHERE e.id IN {list} ORDER BY e.seq");
    let drawn = session.load(Statement::<BigInt>::built(read, ids)).await?;
    // A deleted row would keep its entry in the index of `seq`: to use the value again, the server would lock the entry after
    // it, which may be another transaction's.
    session.run("ROLLBACK TO SAVEPOINT outbox_draw").await?;
    Ok(drawn)
}

/// Gives rows new values in place of their old ones, together with other columns.
pub(super) async fn replace(
    session: &mut Session<'_>,
    old: &[i64],
    also_set: &str,
    also_values: &[Value],
) -> Result<(), Failure> {
    if old.is_empty() {
        return Ok(());
    }
    let new = draw(session, old.len()).await?;
    let pairs: Vec<String> = old.iter().zip(new).map(|(old, new)| format!("WHEN {old} THEN {new}")).collect();
    let olds: Vec<String> = old.iter().map(i64::to_string).collect();
    let sql = format!(
        "UPDATE outbox_events FORCE INDEX (outbox_events_seq) SET {also_set}, seq = CASE seq {} END WHERE seq IN ({})",
        pairs.join(" "),
        olds.join(", ")
    );
    session.execute(Statement::<()>::built(sql, also_values)).await.map(drop)
}
