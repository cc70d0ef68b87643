//! Tests that the suite can fail: with one rule switched off in the consumers, or without their inbox, the fault that the
//! rule prevents is reported; with all rules on, the same steps have no findings.

use std::time::{Duration, Instant};

use super::PARTITIONS;
use crate::deployment::{Deployment, LEASE, Pace};
use crate::reconcile::Reconciliation;
use crate::steps::{insert, start};
use crate::support::process::Signal;
use crate::support::proxy::Passage;
use crate::support::{PATIENCE, eventually};
use crate::worker_slots::WorkerSlot;

const EVENTS: i32 = 200;
/// How long the group may take to handle a few events if it does not have to wait for a lease.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_the_inbox_an_event_committed_and_not_acknowledged_has_two_effects() {
    assert!(a_consumer_dies_before_it_acknowledges(true).await.is_even());
    assert!(a_consumer_dies_before_it_acknowledges(false).await.duplicated > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_renewal_switched_off_an_event_in_a_slow_handler_is_handled_twice() {
    assert_eq!(handlers_take_longer_than_reclaim_after(None).await.duplicated, 0);
    // On a busy machine the second consumer may start too late.
    for _ in 0..3 {
        if handlers_take_longer_than_reclaim_after(Some("renewal")).await.duplicated > 0 {
            return;
        }
    }
    panic!("no event was handled twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_fence_of_reads_switched_off_a_dead_consumers_read_hides_events() {
    assert!(a_read_arrives_when_another_consumer_has_the_lease(None).await.is_even());
    // On a busy machine the second consumer's lease may end as well; then it claims what is pending.
    for _ in 0..3 {
        if a_read_arrives_when_another_consumer_has_the_lease(Some("read-fencing")).await.lost > 0 {
            return;
        }
    }
    panic!("no event was lost");
}

async fn launch(deployment: &Deployment, slot: &WorkerSlot) {
    *slot.worker.lock().await = Some(deployment.consumer(slot));
}

/// Waits until every event is published and handled.
async fn handle_all(deployment: &Deployment) {
    assert_eq!(deployment.drain(PATIENCE).await, 0);
    assert_eq!(deployment.drain_consumers(PATIENCE).await, 0);
}

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
const COUNT: &str = "SELECT count(*) FROM effects";

async fn a_consumer_dies_before_it_acknowledges(has_inbox: bool) -> Reconciliation {
    let deployment = Deployment::consumed(None, Pace::Short, PARTITIONS).await;
    let consumers = deployment.consumers();
    if !has_inbox {
        consumers.go_without_inbox();
    }
    let [first, second, ..] = &consumers.slots[..] else { unreachable!() };
    start(&deployment, &deployment.slots[0], &[]).await;
    launch(&deployment, first).await;
    let mut committed = vec![insert(&deployment, EVENTS).await];
    handle_all(&deployment).await;
    let lock = consumers.effects.connect().await;
    lock.batch_execute("BEGIN; LOCK TABLE effects IN ACCESS EXCLUSIVE MODE").await.unwrap();
    committed.push(insert(&deployment, EVENTS).await);
    eventually("a handler waits", PATIENCE, async || consumers.effects.number(WAITING).await > 0).await;
    first.to_redis.lock().await.set(Passage::HoldRequests);
    lock.batch_execute("COMMIT").await.unwrap();
    let effects = async || consumers.effects.number(COUNT).await > i64::from(EVENTS);
    eventually("an effect is committed", PATIENCE, effects).await;
    deployment.end(&mut *first.worker.lock().await, Signal::KILL).await;

    launch(&deployment, second).await;
    handle_all(&deployment).await;
    Reconciliation::of(&committed, &consumers.effects.events().await)
}

/// Two consumers share one stream, and have no inbox. The second one starts while the handlers of the first one wait, so it has
/// room for what it may claim.
async fn handlers_take_longer_than_reclaim_after(off: Option<&'static str>) -> Reconciliation {
    let deployment = Deployment::consumed(off, Pace::Short, 1).await;
    let consumers = deployment.consumers();
    consumers.go_without_inbox();
    let [first, second, ..] = &consumers.slots[..] else { unreachable!() };
    start(&deployment, &deployment.slots[0], &[]).await;
    launch(&deployment, first).await;
    let mut committed = vec![insert(&deployment, EVENTS).await];
    handle_all(&deployment).await;
    let lock = consumers.effects.connect().await;
    lock.batch_execute("BEGIN; LOCK TABLE effects IN ACCESS EXCLUSIVE MODE").await.unwrap();
    committed.push(insert(&deployment, EVENTS).await);
    eventually("a handler waits", PATIENCE, async || consumers.effects.number(WAITING).await > 0).await;
    tokio::time::sleep(2 * LEASE).await;
    let waiting = consumers.effects.number(WAITING).await;
    launch(&deployment, second).await;
    // If the first one has read all events and renews them, the handlers of the second one get none.
    let started = Instant::now();
    while consumers.effects.number(WAITING).await <= waiting && started.elapsed() < SOON {
        tokio::time::sleep(LEASE / 10).await;
    }
    lock.batch_execute("COMMIT").await.unwrap();
    handle_all(&deployment).await;
    deployment.stop_consumers().await;
    Reconciliation::of(&committed, &consumers.effects.events().await)
}

/// A consumer's read is held until it is dead and another one has its partitions; it is executed while that one is stopped
/// for a moment, and there are new events.
async fn a_read_arrives_when_another_consumer_has_the_lease(off: Option<&'static str>) -> Reconciliation {
    let deployment = Deployment::consumed(off, Pace::Short, PARTITIONS).await;
    let consumers = deployment.consumers();
    let [first, second, ..] = &consumers.slots[..] else { unreachable!() };
    start(&deployment, &deployment.slots[0], &[]).await;
    launch(&deployment, first).await;
    let mut committed = vec![insert(&deployment, EVENTS).await];
    handle_all(&deployment).await;
    let way = first.to_redis.lock().await;
    let held = way.held();
    way.set(Passage::HoldRequests);
    // It is told of them, and asks for them.
    committed.push(insert(&deployment, EVENTS).await);
    assert_eq!(deployment.drain(PATIENCE).await, 0);
    eventually("a read is held", PATIENCE, async || way.held() > held + 1).await;
    deployment.end(&mut *first.worker.lock().await, Signal::KILL).await;
    launch(&deployment, second).await;
    handle_all(&deployment).await;

    second.worker.lock().await.as_mut().unwrap().running.signal(Signal::STOP);
    committed.push(insert(&deployment, EVENTS).await);
    assert_eq!(deployment.drain(PATIENCE).await, 0);
    let replies = way.replies();
    way.set(Passage::Open);
    eventually("Redis has answered the dead consumer", PATIENCE, async || way.replies() > replies + 1).await;
    second.worker.lock().await.as_mut().unwrap().running.signal(Signal::CONT);
    committed.push(insert(&deployment, EVENTS).await);
    assert_eq!(deployment.drain(PATIENCE).await, 0);
    deployment.drain_consumers(SOON).await;
    Reconciliation::of(&committed, &consumers.effects.events().await)
}
