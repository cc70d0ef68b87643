//! Faults of the network between a worker and a server.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::MutexGuard;

use super::pass;
use crate::deployment::{Deployment, LEASE, WORKERS};
use crate::support::process::Signal;
use crate::support::proxy::{Passage, Proxy};

/// The proxies of one worker to a server, or of every worker.
async fn ways<'a>(deployment: &'a Deployment, rng: &mut StdRng) -> Vec<MutexGuard<'a, Proxy>> {
    let slots = if rng.random_bool(0.7) {
        let slot = rng.random_range(0..WORKERS);
        &deployment.slots[slot..=slot]
    } else {
        &deployment.slots[..]
    };
    let to_postgres = rng.random();
    let mut ways = Vec::new();
    for slot in slots {
        ways.push(if to_postgres { slot.to_postgres.lock().await } else { slot.to_redis.lock().await });
    }
    ways
}

async fn for_a_while(ways: &[MutexGuard<'_, Proxy>], passage: Passage, rng: &mut StdRng, most: u64) {
    ways.iter().for_each(|way| way.set(passage));
    pass(rng, 50, most).await;
    ways.iter().for_each(|way| way.set(Passage::Open));
}

pub(super) async fn cut(deployment: &Deployment, rng: &mut StdRng) {
    let ways = ways(deployment, rng).await;
    let share = rng.random();
    let passage = if rng.random() { Passage::CutInRequest(share) } else { Passage::CutInReply(share) };
    for_a_while(&ways, passage, rng, 500).await;
}

pub(super) async fn lose_replies(deployment: &Deployment, rng: &mut StdRng) {
    let ways = ways(deployment, rng).await;
    let passage = if rng.random() { Passage::LoseReplies } else { Passage::CutAtReply };
    for_a_while(&ways, passage, rng, 2_000).await;
}

pub(super) async fn stall(deployment: &Deployment, rng: &mut StdRng) {
    let ways = ways(deployment, rng).await;
    let passage = if rng.random() { Passage::HoldRequests } else { Passage::HoldReplies };
    for_a_while(&ways, passage, rng, 5_000).await;
}

pub(super) async fn delay(deployment: &Deployment, rng: &mut StdRng) {
    let ways = ways(deployment, rng).await;
    let most = Duration::from_millis(rng.random_range(10..300));
    for_a_while(&ways, Passage::Delay(most), rng, 4_000).await;
}

pub(super) async fn deliver_late_what_a_dead_worker_sent(deployment: &Deployment, rng: &mut StdRng) {
    let (slot, mut worker) = deployment.at(rng.random_range(0..WORKERS)).await;
    let way = if rng.random_bool(0.7) { slot.to_redis.lock().await } else { slot.to_postgres.lock().await };
    way.set(Passage::HoldRequests);
    pass(rng, 50, 800).await;
    deployment.end(&mut worker, Signal::KILL).await;
    let lease = LEASE.as_millis() as u64;
    pass(rng, lease / 2, lease + 2_000).await;
    way.set(Passage::Open);
    *worker = Some(deployment.worker(slot, 0, &[]));
}
