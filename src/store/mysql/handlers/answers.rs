//! Records that handlers have handled events. The last answer publishes an event: that is decided under its row's lock, in a
//! snapshot from after the lock was taken, which each statement of a transaction has.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::sql_types::{BigInt, Text};
use uuid::Uuid;

use super::events::{delete_deliveries, find, lock, write_something};
use super::owing::decide;
use super::recording::record_each;
use crate::store::mysql::MysqlStore;
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::{Session, in_transaction, on_session};
use crate::store::mysql::statement::Statement;
use crate::store::{Care, HandledDelivery, Result, Settled};

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
        outcomes.extend(transact(store, part, care).await?);
    }
    Ok(outcomes)
}

async fn transact(store: &MysqlStore, handled: &[HandledDelivery], care: Care) -> Result<Vec<Settled>> {
    in_transaction!(store.pool, "record handlers' answers", |session| record(session, handled, care))
}

async fn record(session: &mut Session<'_>, handled: &[HandledDelivery], care: Care) -> Result<Vec<Settled>, Failure> {
    if care == Care::AfterDoubt {
        write_something(session).await?;
    }
    session.run("SAVEPOINT before_all").await?;
    match write(session, handled).await {
        Err(failure) if failure.is_refusal() => session.run("ROLLBACK TO SAVEPOINT before_all").await?,
        written => return written,
    }
    record_each!(session, handled, |answer| write_one(session, answer))
}

async fn write_one(session: &mut Session<'_>, answer: &HandledDelivery) -> Result<Settled, Failure> {
    write(session, std::slice::from_ref(answer))
        .await
        .map(|outcomes| outcomes.into_iter().next().unwrap_or(Settled::Untried))
}

async fn write(session: &mut Session<'_>, handled: &[HandledDelivery]) -> Result<Vec<Settled>, Failure> {
    let mut ids: Vec<Uuid> = handled.iter().map(|answer| answer.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let events = lock(session, &ids).await?;
    ids.retain(|id| !events.contains_key(id));
    let others = find(session, &ids).await?;
    let is_locked = |answer: &HandledDelivery| events.get(&answer.id).is_some_and(|event| event.seq == answer.seq);
    let is_held = |answer: &HandledDelivery| others.contains(&(answer.id, answer.seq));
    let answered = handled.iter().filter(|answer| !is_held(answer));
    let answered: Vec<_> = answered.map(|answer| (answer.id, answer.seq, answer.handler.as_str())).collect();
    delete_deliveries(session, &answered).await?;
    let mut decided = BTreeMap::new();
    for answer in handled.iter().filter(|answer| is_locked(answer)) {
        *decided.entry(answer.id).or_insert(false) |= answer.deletes;
    }
    let owing = decided.into_iter().filter_map(|(id, deletes)| Some((id, events.get(&id)?, deletes)));
    let owing: Vec<_> = owing.filter(|(_, event, _)| event.is_owing()).collect();
    decide(session, &owing).await?;
    Ok(handled
        .iter()
        .map(|answer| match (is_locked(answer), is_held(answer)) {
            (true, _) => Settled::Recorded,
            (false, true) => Settled::Locked,
            (false, false) => Settled::Superseded,
        })
        .collect())
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
