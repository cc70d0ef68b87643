//! A rolling upgrade: workers of an older version next to those of this one, and back.

use std::path::PathBuf;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::pass;
use crate::deployment::{Deployment, LEASES, WORKERS};
use crate::support::process::Signal;
use crate::support::{PATIENCE, eventually};
use crate::worker_slots::WorkerSlot;

/// The variable with the path of the program `outbox` of a version that knows only the first protocol.
const VARIABLE: &str = "OUTBOX_FAULTS_OLDER";

/// Slots in which older workers run for a while.
const OLDER: usize = 2;

pub(crate) fn older_program() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

/// Older and newer workers together, a downgrade, the end of the older workers, and their return, which is too late.
pub(super) async fn roll(deployment: &Deployment, rng: &mut StdRng) {
    go_back_to_the_first_protocol(deployment).await;
    for slot in &deployment.slots[..OLDER] {
        seat_older(deployment, slot).await;
    }
    // A newer worker without others would begin the newer rules.
    wait_for_shards(deployment, &deployment.slots[..OLDER]).await;
    seat_newer(deployment, &deployment.slots[OLDER]).await;
    side_by_side(deployment, rng).await;

    // The downgrade: the newer worker stops, the older workers own all shards, and the newer one starts again.
    end(deployment, &deployment.slots[OLDER], rng).await;
    pass(rng, 500, 3_000).await;
    note_unless(deployment, "the older ones work alone", protocol(deployment).await == 1);
    seat_newer(deployment, &deployment.slots[OLDER]).await;
    side_by_side(deployment, rng).await;

    for slot in &deployment.slots[..OLDER] {
        end(deployment, slot, rng).await;
        pass(rng, 0, 1_000).await;
    }
    eventually("the newer workers begin the newer rules", PATIENCE, async || protocol(deployment).await == 2).await;
    for slot in &deployment.slots[..OLDER] {
        seat_older(deployment, slot).await;
    }
    watch_that_older_ones_own_nothing(deployment, rng).await;
    for slot in &deployment.slots[..OLDER] {
        end(deployment, slot, rng).await;
        seat_newer(deployment, slot).await;
    }
}

/// Restores the state before the first newer worker: no workers and no leases.
async fn go_back_to_the_first_protocol(deployment: &Deployment) {
    for slot in 0..deployment.slots.len() {
        let (_, mut worker) = deployment.at(slot).await;
        deployment.end(&mut worker, Signal::TERM).await;
    }
    let back = "DELETE FROM outbox_workers; UPDATE outbox_meta SET protocol = 1;
        UPDATE outbox_leases SET owner = NULL, epoch = epoch + 1, expires_at = clock_timestamp()";
    deployment.sql().await.batch_execute(back).await.unwrap();
}

async fn seat_older(deployment: &Deployment, slot: &WorkerSlot) {
    let Some(program) = older_program() else { return };
    *slot.worker.lock().await = Some(deployment.worker_of(&program, slot, 0, &[]));
}

async fn seat_newer(deployment: &Deployment, slot: &WorkerSlot) {
    *slot.worker.lock().await = Some(deployment.worker(slot, 0, &[]));
}

async fn end(deployment: &Deployment, slot: &WorkerSlot, rng: &mut StdRng) {
    let signal = if rng.random() { Signal::TERM } else { Signal::KILL };
    deployment.end(&mut *slot.worker.lock().await, signal).await;
}

/// Workers of both versions share the work by the older rules, also when one of them dies.
async fn side_by_side(deployment: &Deployment, rng: &mut StdRng) {
    wait_for_shards(deployment, &deployment.slots[..=OLDER]).await;
    pass(rng, 500, 3_000).await;
    let victim = &deployment.slots[rng.random_range(0..WORKERS)];
    deployment.end(&mut *victim.worker.lock().await, Signal::KILL).await;
    pass(rng, 0, 3_000).await;
    note_unless(deployment, "older ones are alive, and the older rules hold", protocol(deployment).await == 1);
    if victim.number < OLDER { seat_older(deployment, victim).await } else { seat_newer(deployment, victim).await }
}

async fn wait_for_shards(deployment: &Deployment, slots: &[WorkerSlot]) {
    for slot in slots {
        let name = name(slot).await;
        eventually("each worker owns shards", PATIENCE, async || running_leases(deployment, &name).await > 0).await;
    }
}

async fn watch_that_older_ones_own_nothing(deployment: &Deployment, rng: &mut StdRng) {
    let names = [name(&deployment.slots[0]).await, name(&deployment.slots[1]).await];
    let known =
        format!("SELECT count(*) FROM outbox_workers WHERE name IN ('{}') AND protocol IS NULL", names.join("', '"));
    eventually("the older workers have started", PATIENCE, async || deployment.number(&known).await == OLDER as i64)
        .await;
    let watches = rng.random_range(100..150);
    for _ in 0..watches {
        for name in &names {
            let taken = owned_leases(deployment, name).await;
            note_unless(deployment, &format!("an older worker owns no shard: {name} owns {taken}"), taken == 0);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let running = deployment.number("SELECT count(*) FROM outbox_running_leases").await;
    note_unless(
        deployment,
        &format!("the newer worker owns every shard: {running} are owned"),
        running == LEASES as i64,
    );
    note_unless(deployment, "the newer rules stay", protocol(deployment).await == 2);
}

fn note_unless(deployment: &Deployment, what: &str, holds: bool) {
    if !holds {
        deployment.notes().findings.push(format!("not true: {what}"));
    }
}

async fn name(slot: &WorkerSlot) -> String {
    slot.worker.lock().await.as_ref().unwrap().name.clone()
}

async fn protocol(deployment: &Deployment) -> i64 {
    deployment.number("SELECT protocol::bigint FROM outbox_meta").await
}

async fn owned_leases(deployment: &Deployment, name: &str) -> i64 {
    let owned = "SELECT count(*) FROM outbox_leases l JOIN outbox_workers w ON w.id = l.owner WHERE w.name";
    deployment.number(&format!("{owned} = '{name}'")).await
}

async fn running_leases(deployment: &Deployment, name: &str) -> i64 {
    let running = "SELECT count(*) FROM outbox_running_leases l JOIN outbox_workers w ON w.id = l.owner WHERE w.name";
    deployment.number(&format!("{running} = '{name}'")).await
}
