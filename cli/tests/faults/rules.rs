//! Tests that the suite can fail: with one rule of the protocol switched off in the workers, the fault that the rule
//! prevents occurs and is reported; with all rules on, the same steps have no findings.

use std::time::Duration;

use crate::deployment::{Deployment, LEASES};
use crate::mixed::{self, handlers};
use crate::reconcile::Reconciliation;
use crate::steps::*;
use crate::support::process::Signal;
use crate::support::proxy::Passage;
use crate::support::{PATIENCE, eventually};
use crate::writers::{Committed, Writers};

const EVENTS: i32 = 200;
/// Attempts of random writing within which a switched-off rule must show.
const TRIES: u64 = 120;
const TRY: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_fencing_switched_off_what_a_dead_worker_sent_arrives_twice() {
    assert!(what_was_sent_arrives_late(None).await.is_even());
    assert!(what_was_sent_arrives_late(Some("fencing")).await.duplicated > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_journal_switched_off_unsettled_events_arrive_twice() {
    assert!(a_worker_dies_before_it_hears_the_answer(None).await.is_even());
    assert!(a_worker_dies_before_it_hears_the_answer(Some("journal")).await.duplicated > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_r1_switched_off_a_fetch_of_a_lost_shard_sends_events_again() {
    assert!(an_answer_comes_when_the_shards_were_lost_and_are_back(None).await.is_even());
    // On a busy machine the steps may last longer than the ten seconds of a fetch.
    for _ in 0..3 {
        if an_answer_comes_when_the_shards_were_lost_and_are_back(Some("openings")).await.duplicated > 0 {
            return;
        }
    }
    panic!("no event was sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_r2_switched_off_an_old_fetch_brings_a_settled_event_again() {
    assert!(answers_come_late_by_different_times(None, 5).await.is_even());
    assert!(answers_come_late_by_different_times(Some("lingering"), TRIES).await.duplicated > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_r3_switched_off_an_event_overtakes_one_that_was_committed_late() {
    assert!(answers_come_late_by_different_times(Some("key-order"), TRIES).await.disordered > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_fenced_settle_switched_off_a_late_one_fails_a_retried_event() {
    assert!(a_failure_is_recorded_after_a_person_retried_the_event(None).await.is_even());
    assert_eq!(a_failure_is_recorded_after_a_person_retried_the_event(Some("fenced-settle")).await.lost, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_handlers_rule_switched_off_a_remote_handler_misses_events() {
    assert!(each_handler_is_in_a_service_of_its_own(None).await.is_even());
    assert!(each_handler_is_in_a_service_of_its_own(Some("every-handler")).await.lost > 0);
}

/// The events of the handler in one of three services.
async fn each_handler_is_in_a_service_of_its_own(off: Option<&'static str>) -> Reconciliation {
    let deployment = Deployment::of_services(off).await;
    deployment.start_workers().await;
    let sql = deployment.sql().await;
    handlers::wait_until_announced(&sql).await;
    // One that had all shards would miss nothing with the rule off.
    let owners = "SELECT count(DISTINCT owner) FROM outbox_running_leases WHERE backend = ''";
    eventually("every service has shards", PATIENCE, async || deployment.number(owners).await == 3).await;
    let insert = "INSERT INTO outbox_events (id, event_type, source, data, partition_key)
        SELECT gen_random_uuid(), $2, 'faults', '{}', 'key ' || n % 50 FROM generate_series(1, $1) n
        RETURNING id, partition_key";
    let rows = sql.query(insert, &[&EVENTS, &handlers::HANDLED_TYPE]).await.unwrap();
    let committed = rows.iter().map(|row| Committed { id: row.get(0), key: row.get(1) }).collect();
    assert_eq!(deployment.drain(PATIENCE).await, 0);
    Reconciliation::of(&[committed], &mixed::handled(&deployment)["auditor"])
}

async fn what_was_sent_arrives_late(off: Option<&'static str>) -> Reconciliation {
    let deployment = Deployment::new(off).await;
    let [first, second, ..] = &deployment.slots[..] else { unreachable!() };
    start(&deployment, first, &[]).await;
    let mut committed = vec![insert(&deployment, EVENTS).await];
    settle_all(&deployment).await;
    let way = first.to_redis.lock().await;
    let held = way.held();
    way.set(Passage::HoldRequests);
    committed.push(insert(&deployment, EVENTS).await);
    eventually("a batch is being sent", PATIENCE, async || way.held() > held).await;
    deployment.end(&mut *first.worker.lock().await, Signal::KILL).await;

    start(&deployment, second, &[]).await;
    assert_eq!(deployment.drain(PATIENCE).await, 0);
    let replies = way.replies();
    way.set(Passage::Open);
    eventually("Redis has answered the dead worker's requests", PATIENCE, async || way.replies() > replies).await;
    Reconciliation::of(&committed, &deployment.stream().await)
}

/// If the reply to something else is lost first, such as a health check, no batch is sent: then the steps are repeated.
async fn a_worker_dies_before_it_hears_the_answer(off: Option<&'static str>) -> Reconciliation {
    for _ in 0..5 {
        if let Some(reconciliation) = try_to_lose_the_answer(off).await {
            return reconciliation;
        }
    }
    panic!("no batch was sent without its answer");
}

async fn try_to_lose_the_answer(off: Option<&'static str>) -> Option<Reconciliation> {
    let deployment = Deployment::new(off).await;
    let [first, second, ..] = &deployment.slots[..] else { unreachable!() };
    start(&deployment, first, &[]).await;
    let mut committed = vec![insert(&deployment, EVENTS).await];
    settle_all(&deployment).await;
    first.to_redis.lock().await.set(Passage::LoseReplies);
    let before = deployment.stream().await.len();
    committed.push(insert(&deployment, EVENTS).await);
    let sent = async {
        while deployment.stream().await.len() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), sent).await.ok()?;
    deployment.end(&mut *first.worker.lock().await, Signal::KILL).await;

    start(&deployment, second, &[]).await;
    assert_eq!(deployment.drain(PATIENCE).await, 0);
    Some(Reconciliation::of(&committed, &deployment.stream().await))
}

/// Random writers, and answers of PostgreSQL that overtake each other.
async fn answers_come_late_by_different_times(off: Option<&'static str>, tries: u64) -> Reconciliation {
    let deployment = Deployment::new(off).await;
    let slot = &deployment.slots[0];
    slot.to_postgres.lock().await.set(Passage::Delay(Duration::from_millis(80)));
    start(&deployment, slot, &[]).await;
    let mut committed = Vec::new();
    for seed in 0..tries {
        let writers = Writers::start(deployment.url(), seed);
        tokio::time::sleep(TRY).await;
        committed.extend(writers.finish().await);
        assert_eq!(deployment.drain(PATIENCE).await, 0);
        let reconciliation = Reconciliation::of(&committed, &deployment.stream().await);
        if !reconciliation.is_even() {
            return reconciliation;
        }
    }
    Reconciliation::of(&committed, &deployment.stream().await)
}

/// PostgreSQL has answered a worker's fetch, and the answer is delayed while another worker owns all shards, sends the
/// events and stops. The answer arrives when the first worker owns the shards again.
async fn an_answer_comes_when_the_shards_were_lost_and_are_back(off: Option<&'static str>) -> Reconciliation {
    let deployment = Deployment::new(off).await;
    let [first, second, ..] = &deployment.slots[..] else { unreachable!() };
    start(&deployment, first, &[]).await;
    eventually("the first worker has opened every shard", PATIENCE, async || {
        deployment.journal().await.len() == LEASES
    })
    .await;
    let (mut committed, locking) = insert_under_a_fetch(&deployment, EVENTS).await;
    let way = first.to_postgres.lock().await;
    let (known, replies) = (way.connections(), way.replies());
    way.set(Passage::HoldReplies);
    locking.batch_execute("ROLLBACK").await.unwrap();
    eventually("the fetch is answered", PATIENCE, async || way.replies() > replies).await;
    forget_the_workers(&deployment).await;

    start(&deployment, second, &[]).await;
    settle_all(&deployment).await;
    deployment.end(&mut *second.worker.lock().await, Signal::TERM).await;
    let tokens = deployment.journal().await;
    way.set(Passage::HoldRepliesOfFirst(known));
    eventually("the first worker has opened every shard again", PATIENCE, async || {
        deployment.journal().await.iter().all(|(field, token)| tokens.get(field) != Some(token))
    })
    .await;
    hear_the_heart_of_the_first(&deployment, 1).await;
    way.set(Passage::Open);
    // A later fetch reads them; they are sent after the events of the delayed fetch.
    committed.push(insert(&deployment, EVENTS).await);
    assert_eq!(deployment.drain(PATIENCE).await, 0);
    Reconciliation::of(&committed, &deployment.stream().await)
}

/// One worker has rejected an event, and its settle is delayed; another worker rejects it too and settles it; an operator
/// fixes it; then the first worker's settle arrives.
async fn a_failure_is_recorded_after_a_person_retried_the_event(off: Option<&'static str>) -> Reconciliation {
    let deployment = Deployment::new(off).await;
    let [first, second, third, ..] = &deployment.slots[..] else { unreachable!() };
    start(&deployment, first, &[]).await;
    let mut committed = vec![insert(&deployment, EVENTS).await];
    settle_all(&deployment).await;
    let (to_redis, to_postgres) = (first.to_redis.lock().await, first.to_postgres.lock().await);
    let held = to_redis.held();
    to_redis.set(Passage::HoldRequests);
    let events = insert_with_one_that_cannot_be_sent(&deployment).await;
    let broken = events[1].id;
    committed.push(events);
    eventually("a batch is being sent", PATIENCE, async || to_redis.held() > held).await;
    to_postgres.set(Passage::HoldRequests);
    forget_the_workers(&deployment).await;

    // It holds its leases while it is stopped, so that no other worker fetches the event.
    start(&deployment, second, &[("OUTBOX__WORKER__LEASE", "60s")]).await;
    let all = "SELECT count(*) FROM outbox_running_leases l JOIN outbox_workers w ON w.id = l.owner
        JOIN outbox_heartbeats h ON h.worker = w.id
        WHERE w.name LIKE 'worker-1%' AND h.ends_at > clock_timestamp() + interval '30 s'";
    eventually("the second worker owns every shard", PATIENCE, async || deployment.number(all).await == 64).await;
    let failed = format!("SELECT count(*) FROM outbox_events WHERE id = '{broken}' AND status = 'failed'");
    eventually("it has rejected the event", PATIENCE, async || deployment.number(&failed).await == 1).await;
    second.worker.lock().await.as_mut().unwrap().running.signal(Signal::STOP);
    fix_and_retry(&deployment, third, broken).await;

    to_redis.set(Passage::Open);
    to_postgres.set(Passage::Open);
    hear_the_heart_of_the_first(&deployment, 3).await;
    deployment.end(&mut *first.worker.lock().await, Signal::KILL).await;
    second.worker.lock().await.as_mut().unwrap().running.signal(Signal::CONT);
    let waiting = "SELECT count(*) FROM outbox_events WHERE status IN ('pending', 'retry')";
    eventually("no event waits", PATIENCE, async || deployment.number(waiting).await == 0).await;
    Reconciliation::of(&committed, &deployment.stream().await)
}
