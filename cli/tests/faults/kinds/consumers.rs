//! Faults of consumers, and of their database.

use rand::Rng;
use rand::rngs::StdRng;
use tokio::task::block_in_place;

use super::pass;
use crate::consumers::{CONSUMERS, GUESTS, SLOW};
use crate::deployment::{Deployment, LEASE};
use crate::support::postgres::Stop;
use crate::support::process::Signal;
use crate::support::proxy::Passage;

/// The next consumer starts sometimes immediately, sometimes only after the others have taken over.
pub(super) async fn kill(deployment: &Deployment, rng: &mut StdRng) {
    let (slot, mut consumer) = deployment.consumer_at(rng.random_range(0..CONSUMERS)).await;
    deployment.end(&mut consumer, Signal::KILL).await;
    if rng.random() {
        let lease = LEASE.as_millis() as u64;
        pass(rng, lease / 2, lease + 1_000).await;
    }
    *consumer = Some(deployment.consumer(slot));
}

pub(super) async fn terminate(deployment: &Deployment, rng: &mut StdRng) {
    let (slot, mut consumer) = deployment.consumer_at(rng.random_range(0..CONSUMERS)).await;
    deployment.end(&mut consumer, Signal::TERM).await;
    pass(rng, 0, 500).await;
    *consumer = Some(deployment.consumer(slot));
}

/// Longer than its leases, and than entries stay with a consumer that is silent.
pub(super) async fn stop(deployment: &Deployment, rng: &mut StdRng) {
    let (_, mut consumer) = deployment.consumer_at(rng.random_range(0..CONSUMERS)).await;
    let Some(consumer) = consumer.as_mut() else { return };
    consumer.running.signal(Signal::STOP);
    let lease = LEASE.as_millis() as u64;
    pass(rng, lease + 100, lease + 2_500).await;
    consumer.running.signal(Signal::CONT);
}

/// Between a consumer and Redis, or its database.
pub(super) async fn cut(deployment: &Deployment, rng: &mut StdRng) {
    let slot = &deployment.consumers().slots[rng.random_range(0..CONSUMERS)];
    let (way, before) = if rng.random_bool(0.7) {
        (slot.to_redis.lock().await, Passage::Open)
    } else {
        (slot.to_postgres.lock().await, SLOW)
    };
    let share = rng.random();
    let passage = match rng.random_range(0..6) {
        0 => Passage::CutInRequest(share),
        1 => Passage::CutInReply(share),
        2 => Passage::LoseReplies,
        3 => Passage::CutAtReply,
        4 => Passage::HoldRequests,
        _ => Passage::HoldReplies,
    };
    way.set(passage);
    pass(rng, 50, LEASE.as_millis() as u64 + 2_500).await;
    way.set(before);
}

/// A consumer's requests arrive after it is dead and others have its partitions.
pub(super) async fn deliver_late_what_a_dead_one_sent(deployment: &Deployment, rng: &mut StdRng) {
    let (slot, mut consumer) = deployment.consumer_at(rng.random_range(0..CONSUMERS)).await;
    let way = slot.to_redis.lock().await;
    way.set(Passage::HoldRequests);
    pass(rng, 50, 800).await;
    deployment.end(&mut consumer, Signal::KILL).await;
    let lease = LEASE.as_millis() as u64;
    pass(rng, lease / 2, lease + 2_000).await;
    way.set(Passage::Open);
    *consumer = Some(deployment.consumer(slot));
}

/// A guest starts or stops.
pub(super) async fn add_or_remove(deployment: &Deployment, rng: &mut StdRng) {
    let (slot, mut consumer) = deployment.consumer_at(CONSUMERS + rng.random_range(0..GUESTS)).await;
    if consumer.is_none() {
        *consumer = Some(deployment.consumer(slot));
    } else {
        deployment.end(&mut consumer, if rng.random() { Signal::TERM } else { Signal::KILL }).await;
    }
}

pub(super) async fn restart_the_database(deployment: &Deployment, rng: &mut StdRng) {
    let mut postgres = deployment.consumers().postgres.lock().await;
    let how = if rng.random() { Stop::Fast } else { Stop::Immediate };
    block_in_place(|| postgres.stop(how));
    pass(rng, 0, 2_500).await;
    block_in_place(|| postgres.start_again());
}
