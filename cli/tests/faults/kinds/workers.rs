//! Faults of workers.

use rand::Rng;
use rand::rngs::StdRng;

use super::pass;
use crate::deployment::{Deployment, GUESTS, LEASE, WORKERS};
use crate::support::process::Signal;

const HOUR: i64 = 3_600;

/// The next worker starts sometimes immediately, sometimes only after the others have taken over.
pub(super) async fn kill(deployment: &Deployment, rng: &mut StdRng) {
    let (slot, mut worker) = deployment.at(rng.random_range(0..WORKERS)).await;
    let owner = match worker.as_ref() {
        Some(worker) => deployment.owner(worker).await,
        None => None,
    };
    deployment.end(&mut worker, Signal::KILL).await;
    if rng.random() {
        *worker = Some(deployment.worker(slot, 0, &[]));
    }
    deployment.watch_takeover(owner).await;
    worker.get_or_insert_with(|| deployment.worker(slot, 0, &[]));
}

pub(super) async fn terminate(deployment: &Deployment, rng: &mut StdRng) {
    let (slot, mut worker) = deployment.at(rng.random_range(0..WORKERS)).await;
    deployment.end(&mut worker, Signal::TERM).await;
    pass(rng, 0, 500).await;
    *worker = Some(deployment.worker(slot, 0, &[]));
}

pub(super) async fn stop_for_longer_than_the_lease(deployment: &Deployment, rng: &mut StdRng) {
    let (_, mut worker) = deployment.at(rng.random_range(0..WORKERS)).await;
    let Some(worker) = worker.as_mut() else { return };
    worker.running.signal(Signal::STOP);
    let lease = LEASE.as_millis() as u64;
    pass(rng, lease + 100, lease + 2_500).await;
    worker.running.signal(Signal::CONT);
}

pub(super) async fn set_a_clock_wrong(deployment: &Deployment, rng: &mut StdRng) {
    let (slot, mut worker) = deployment.at(rng.random_range(0..WORKERS)).await;
    deployment.end(&mut worker, Signal::KILL).await;
    let ahead = if rng.random() { HOUR } else { -HOUR };
    *worker = Some(deployment.worker(slot, ahead, &[]));
    pass(rng, 1_000, 4_000).await;
    deployment.end(&mut worker, Signal::TERM).await;
    *worker = Some(deployment.worker(slot, 0, &[]));
}

/// A guest starts or stops.
pub(super) async fn add_or_remove(deployment: &Deployment, rng: &mut StdRng) {
    let (slot, mut worker) = deployment.at(WORKERS + rng.random_range(0..GUESTS)).await;
    if worker.is_none() {
        *worker = Some(deployment.worker(slot, 0, &[]));
    } else {
        deployment.end(&mut worker, if rng.random() { Signal::TERM } else { Signal::KILL }).await;
    }
}
