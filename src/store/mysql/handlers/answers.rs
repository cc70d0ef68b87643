//! Records that handlers have handled events. The last answer publishes an event: that is decided under its row's lock, in a
//! snapshot from after the lock was taken, which each statement of a transaction has.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::sql_types::{BigInt, Text};
use uuid::Uuid;

use super::owing::decide;
use super::rows::delete_deliveries;
use crate::store::mysql::MysqlStore;
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::{Session, in_transaction, on_session};
use crate::store::mysql::settle::{Found, confirm};
use crate::store::mysql::statement::Statement;
use crate::store::{Care, HandledDelivery, Result, Settled, divide, record_and_delete};

/// The most answers in one transaction.
const AT_ONCE: usize = 500;

/// Handlers of one event often answer together, so an event that is locked is tried again after this time.
const PAUSE: Duration = Duration::from_millis(5);
const TRIES: usize = 3;

pub(super) async fn record_handled(
    store: &MysqlStore,
    handled: &[HandledDelivery],
    care: Care,
) -> Result<Vec<Settled>> {
    let mut outcomes = record_once(store, handled, care).await?;
    for _ in 1..TRIES {
        let locked = |(index, outcome): (usize, &Settled)| (*outcome == Settled::Locked).then_some(index);
        let locked: Vec<usize> = outcomes.iter().enumerate().filter_map(locked).collect();
        if locked.is_empty() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        let again: Vec<HandledDelivery> = locked.iter().map(|&index| handled[index].clone()).collect();
        for (index, outcome) in locked.into_iter().zip(record_once(store, &again, care).await?) {
            outcomes[index] = outcome;
        }
    }
    Ok(outcomes)
}

async fn record_once(store: &MysqlStore, handled: &[HandledDelivery], care: Care) -> Result<Vec<Settled>> {
    let mut outcomes = Vec::with_capacity(handled.len());
    for part in handled.chunks(AT_ONCE) {
        let record = |part: Vec<HandledDelivery>| async move {
            divide(&part, |part| async move { transact(store, &part, care).await }).await
        };
        outcomes.extend(record_and_delete(&store.settling.kept, part, record).await?);
    }
    Ok(outcomes)
}

async fn transact(store: &MysqlStore, handled: &[HandledDelivery], care: Care) -> Result<Vec<Settled>> {
    in_transaction!(store.pool, "record handlers' answers", |session| record(session, handled, care))
}

async fn record(session: &mut Session<'_>, handled: &[HandledDelivery], care: Care) -> Result<Vec<Settled>, Failure> {
    let mut events: Vec<(Uuid, i64)> = handled.iter().map(|answer| (answer.id, answer.seq)).collect();
    events.sort_unstable();
    events.dedup();
    let found = Found::lock(session, &events).await?;
    let outcomes = handled.iter().map(|answer| found.outcome(answer.id, answer.seq));
    let outcomes: Vec<Settled> = outcomes.collect();
    let answered = handled.iter().zip(&outcomes).filter(|(_, outcome)| **outcome != Settled::Locked);
    let answered: Vec<_> = answered.map(|(answer, _)| (answer.id, answer.seq, answer.handler.as_str())).collect();
    delete_deliveries(session, &answered).await?;
    let mut deletes = BTreeMap::new();
    for answer in handled {
        *deletes.entry((answer.id, answer.seq)).or_insert(false) |= answer.deletes;
    }
    let owing = deletes.into_iter().filter_map(|((id, seq), deletes)| Some((id, found.row(id, seq)?, deletes)));
    let owing: Vec<_> = owing.filter(|(_, row, _)| row.status == "processing" && row.published).collect();
    decide(session, &owing).await?;
    if care == Care::AfterDoubt {
        confirm(session).await?;
    }
    Ok(outcomes)
}

/// Ends a handler's deliveries of these generations as if they were handled, except of locked events; returns how many.
pub(super) async fn end(store: &MysqlStore, handler: &str, (from, to): (i64, i64), most: i64) -> Result<usize> {
    const FIND: &str = "SELECT CAST(d.event_id AS char), d.seq \
        FROM outbox_handler_deliveries d FORCE INDEX (outbox_handler_deliveries_due) \
        WHERE d.handler = ? AND d.generation BETWEEN ? AND ? ORDER BY d.generation, d.shard, d.next_at LIMIT ?";
    let query = || Statement::<(Text, BigInt)>::new(FIND, [handler.into(), from.into(), to.into(), most.into()]);
    let rows: Vec<(String, i64)> =
        async { on_session!(store.pool, "find deliveries to end", |session| session.load(query())) }.await?;
    let answer = |(id, seq): (String, i64)| Some(HandledDelivery::kept(handler, Uuid::try_parse(&id).ok()?, seq));
    let answers: Vec<_> = rows.into_iter().filter_map(answer).collect();
    let outcomes = record_handled(store, &answers, Care::Usual).await?;
    Ok(outcomes.iter().filter(|outcome| matches!(outcome, Settled::Recorded | Settled::Superseded)).count())
}
